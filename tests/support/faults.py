"""Faults for tests: commands that can be killed, and methods that misbehave."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch

from harness.api import FramePolicy, History, Placement
from harness.models.preset import VideoModel
from harness.sampling.sampler import Sampler
from tests.conftest import ROOT
from tests.support import forks

SHORT = ("suite.frames=3", "suite.source=bundled", "track=disabled", "run.device=cpu")
MIB = 2**20
PATIENCE_S = 240.0  # after which a waiting test fails


def until(what: Callable[[], bool], why: str) -> None:
    """Wait until a condition is true; fail after `PATIENCE_S`."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, f"it did not come: {why}"
        time.sleep(0.01)


@dataclass
class Running:
    """A running command; its stderr goes to a file, so that tests can read it meanwhile."""

    process: subprocess.Popen[str]
    log: Path

    @property
    def said(self) -> str:
        """The standard error so far."""
        return self.log.read_text()

    @property
    def progress(self) -> list[str]:
        """The progress lines so far, one per finished video, by run and stage."""
        return re.findall(r"^([\w ]+): \d+/\d+ videos, ", self.said, re.MULTILINE)

    def children(self) -> list[psutil.Process]:
        """Return the command's workers that are alive."""
        found = []
        for child in _descendants(self.process.pid):
            try:
                if (
                    "harness.runs.worker" in child.cmdline()
                    and child.status() != psutil.STATUS_ZOMBIE
                ):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def ended(self) -> bool:
        """Whether the command has ended."""
        return self.process.poll() is not None

    def wait(self) -> int:
        """Wait for the end and return the exit code."""
        return self.process.wait(PATIENCE_S)


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended, even as a zombie."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@dataclass
class Place:
    """A results folder with its own leases, and hooks that run when Python starts."""

    root: Path
    hook: str = ""
    started: list[Running] = field(default_factory=list)

    @property
    def results(self) -> Path:
        """The folder of the runs."""
        return self.root / "results"

    def start(self, *words: str, limits: Sequence[str] = (), **env: str) -> Running:
        """Start a command; limits: options of prlimit(1)."""
        return self._start([sys.executable], *words, limits=limits, **env)

    def _start(
        self, python: Sequence[str], *words: str, limits: Sequence[str] = (), **env: str
    ) -> Running:
        hooks, leases = self.root / "hooks", self.root / "leases"
        for folder in (hooks, leases):
            folder.mkdir(exist_ok=True)
        (hooks / "sitecustomize.py").write_text(self.hook)
        full = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(leases), **env}
        full["PYTHONPATH"] = os.pathsep.join([str(hooks), str(ROOT)])
        for name in ("HARNESS_DATA", "TRITON_INTERPRET"):
            full.pop(name, None)
        log = self.root / f"log-{len(self.started)}"
        prefix = ["prlimit", *limits, "--"] if limits else []
        into = [] if any("results_dir=" in word for word in words) else [self.results]
        typed = [*words, *SHORT, *(f"results_dir={folder}" for folder in into)]
        with log.open("w") as file:
            process = subprocess.Popen(
                [*prefix, *python, "-m", "harness", *typed],
                stdout=subprocess.DEVNULL,
                stderr=file,
                text=True,
                cwd=ROOT,
                env=full,
            )
        self.started.append(Running(process, log))
        return self.started[-1]

    def run(self, *words: str, limits: Sequence[str] = (), **env: str) -> Running:
        """Run a command to its end; it is forked if it needs no hook and no limit."""
        python = [sys.executable] if self.hook or limits else forks.python()
        done = self._start(python, *words, limits=limits, **env)
        done.wait()
        return done


def errors(done: Running) -> list[str]:
    """Return the command's error lines; fail on a traceback."""
    assert "Traceback" not in done.said, done.said
    return [line for line in done.said.splitlines() if line.startswith("error: ")]


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a tmpfs and yield a function that remounts it; skip where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"no mount(8) here: {error}")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")

    def again(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)

    try:
        yield again
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@dataclass(frozen=True)
class Trouble(FramePolicy):
    """Policy that keeps all frames and suffers one trouble per video, in the order of a file.

    A trouble is removed from the file before it strikes, so that no video suffers it twice. The
    first video of a process is its warm-up and suffers none.
    """

    plan: str = ""

    def decide(self, history: History) -> dict[int, Placement]:
        if history.layer == 0:
            _Calls.count += 1
            if _Calls.count > 1:
                strike(Path(self.plan))
        return {}


class _Calls:
    count = 0


def strike(plan: Path) -> None:
    """Remove the next trouble from the list and cause it."""
    trouble, _, rest = plan.read_text().partition("\n")
    plan.write_text(rest)
    if trouble == "abort":
        os.abort()
    elif trouble == "segv":
        ctypes.string_at(0)
    elif trouble == "raise":
        raise KeyError("boom")
    elif trouble.startswith("sys.exit"):
        sys.exit(int(trouble.split()[1]))
    elif trouble.startswith("os._exit"):
        os._exit(int(trouble.split()[1]))
    elif trouble == "sleep":
        time.sleep(PATIENCE_S)
    elif trouble.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[trouble])
        time.sleep(PATIENCE_S)
    elif trouble == "memory":
        with memory_limit(64):
            torch.ones(512 * MIB)
    else:
        assert not trouble, trouble


@contextmanager
def memory_limit(spare_mib: int) -> Iterator[None]:
    """Limit this process to `spare_mib` MiB more address space than it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + spare_mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass(frozen=True)
class Cramped(VideoModel):
    """A model that loads with almost no memory left."""

    def build(self, device: torch.device, data_dir: Path) -> Sampler:
        with memory_limit(1):
            return super().build(device, data_dir)
