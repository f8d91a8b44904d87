"""Starts VBench's child process, sends it requests and reports how it ended."""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import signal
import subprocess
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from harness.downloads import weights
from harness.scoring.metrics.metric import Unscorable
from harness.scoring.vbench.dimensions import Dimension
from harness.scoring.vbench.environment import bare
from harness.scoring.vbench.staging import Stage
from harness.system.errors import cause_of
from harness.system.paths import shipped

RUNNER = shipped("harness.scoring.vbench", "runner.py")
PATIENCE_S = 5  # between closing the child's input and killing it
LAST_WORDS = 300  # characters of the child's last output
# Libraries then use local files at once, and do not first try the network, which the child refuses.
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Reply:
    """The package's value of one video. frames: value per frame, only for imaging quality."""

    value: float
    frames: tuple[float, ...]


class Runner:
    """One child process for one environment and one folder of weights; starts at first use.

    Requests of several threads are answered one after the other. After a crash, the next request
    starts a new child.
    """

    def __init__(self, python: Path, data_dir: str | None) -> None:
        self.stage = Stage()
        self._python, self._data_dir = python, data_dir
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._printed: IO[str] | None = None

    def ask(self, dimension: Dimension, video: Path, prompt: str, device: str) -> Reply:
        """Return the value of one video in one dimension.

        Raises  Unscorable: the video has no value, or the child crashed twice. MemoryError: there
        is not enough memory. KeyboardInterrupt: the child was interrupted.
        """
        asked = {
            "dimension": dimension.name,
            "device": device,
            "video": str(video),
            "prompt": prompt,
        }
        # One request at a time: the child has one pipe for answers.
        with self._lock:
            self._lay_out(dimension.weights)
            # Try twice: the cause may lie outside, such as another process that used the memory.
            answered = self._answer(asked) or self._answer(asked)
            if not answered:
                assert self._process is not None and self._printed is not None
                code = self._process.wait()
                ended = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                self._printed.seek(0)
                words = " ".join(self._printed.read().split())[-LAST_WORDS:]
                after = f" after: {words}" if words else ""
                raise Unscorable(
                    f"vbench.{dimension.name}: VBench's process ended with {ended}{after}"
                )
        reply: dict[str, Any] = json.loads(answered)
        if "reason" in reply:
            # A lack of memory is not the video's fault, so it must not become its reason.
            if reply["memory"] or cause_of(RuntimeError(reply["reason"])) == "oom":
                raise MemoryError(reply["reason"])
            raise Unscorable(reply["reason"])
        return Reply(float(reply["value"]), tuple(map(float, reply["frames"] or ())))

    def close(self) -> None:
        """End the child and free its memory."""
        with self._lock:
            if self._process is None:
                return
            assert self._process.stdin is not None
            # The child ends with its input.
            with suppress(BrokenPipeError):
                self._process.stdin.close()
            try:
                self._process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._forget()

    def _answer(self, asked: dict[str, str]) -> str:
        """Return the child's line, or "" if it crashed.

        Raises  KeyboardInterrupt: the child was interrupted.
        """
        if self._process is None or self._process.poll() is not None:
            self._forget()
            cache, home = self.stage.folder / "cache", self.stage.folder / "torch"
            cache.mkdir(exist_ok=True)
            told = {"VBENCH_CACHE_DIR": str(cache), "TORCH_HOME": str(home)}
            # A file, not a pipe, for what the package prints: nobody reads it while it runs, and a
            # full pipe would stop the child.
            self._printed = (self.stage.folder / "printed").open("w+", errors="replace")
            self._process = subprocess.Popen(
                [str(self._python), str(RUNNER), str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._printed,
                cwd=cache,  # where transformers finds the folder bert-base-uncased
                env=bare() | OFFLINE | told,
                text=True,
            )
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        # A child that crashed has closed the pipe; the reply that does not come says so.
        with suppress(BrokenPipeError):
            print(json.dumps(asked), file=process.stdin, flush=True)
        # A child that dies while it writes leaves a part of a line.
        line = process.stdout.readline()
        if line.endswith("\n"):
            return line
        # Ctrl-C reaches the child too. It is passed on, where a crash would be tried again.
        if process.wait() == -signal.SIGINT:
            raise KeyboardInterrupt
        return ""

    def _lay_out(self, names: Iterable[str]) -> None:
        """Link files of weights into the package's cache and, for DINO, into torch's."""
        # The package reads DINO's weights from its own cache, but torch's hub loads them once more.
        cache, home = self.stage.folder / "cache", self.stage.folder / "torch"
        for name in names:
            place = weights.path(name, self._data_dir)
            inside = Path(weights.read(name).path).relative_to("vbench")
            for link in (cache / inside, home / "hub" / "checkpoints" / place.name):
                if not link.is_symlink():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(place.absolute())

    def _forget(self) -> None:
        """Close the files of a child that has ended."""
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()
        if self._printed is not None:
            self._printed.close()
        self._process = self._printed = None


@functools.cache
def runner(python: Path, data_dir: str | None) -> Runner:
    """Return this process's only runner for an environment and a data folder."""
    # Cached: all dimensions share one child. Ended at exit too, if nobody closes the metrics.
    child = Runner(python, data_dir)
    atexit.register(child.close)
    return child


def mean(values: Iterable[float]) -> float:
    """Return the mean over a video's clips."""
    # `fsum` rounds once, so the order of clips does not matter.
    numbers = list(values)
    return math.fsum(numbers) / len(numbers)


def digests(names: Iterable[str], data_dir: str | None) -> dict[str, str]:
    """Return the SHA-256 of the existing files of weights, by name."""
    found = {name: weights.digest(name, data_dir) for name in names}
    return {name: digest for name, digest in found.items() if digest is not None}
