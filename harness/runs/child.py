"""Runs each stage in a child process of its own, and finds out why a child died.

A child frees all memory, of the device too, by exiting.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.results.run import Run
from harness.results.scores import Key
from harness.runs.lease import Grant, leased
from harness.system import child_process, logs
from harness.system.child_process import report_lines, search_path
from harness.system.errors import INTERRUPTED, USER_ERROR, AlreadySaid, Cause, RunFailed

PATIENCE_S = 10  # between interrupting a child and killing it
SLURM_WARNS = (signal.SIGUSR1, signal.SIGUSR2)  # sent shortly before a job's time limit
# Signals that people, schedulers and terminals send. A program that fails by itself dies from
# others, such as SIGSEGV or SIGABRT; that is a crash, which is not retried without being asked.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, *SLURM_WARNS)


def run_stage(stage: str, run: Run, lock: int, videos: Sequence[Key]) -> None:
    """Run `generate` or `score` on some videos of a run in a child, and wait for it.

    lock: file descriptor of the run's lock, which the child inherits.
    Raises  AlreadySaid: the child has printed what to fix. RunFailed: the child died; the rows of
    finished videos stay.
    """
    # The child keeps the lock open: if this process is killed, the folder stays locked until the
    # child has ended too.
    num = len(videos)
    what = f"{run.folder.name}: {stage} {num} video{'s' * (num != 1)}"
    with leased(run.execution, stage) as grant, logs.stage(what):
        _Child(stage, run, grant, (lock, *grant.files)).watch(videos)


class Reports:
    """The child's end of the pipe to its parent; writes one JSON line per report.

    `{"video": [prompt index, sample]}`   a video begins
    `{"ends": sentence}`                  the end; the sentence is empty, or says what to fix
    `{"cause": ..., "reason": ...}`       the end by an error
    """

    def __init__(self, file: int) -> None:
        # Programs that this process starts must not keep the pipe open after its death.
        os.set_inheritable(file, False)
        self._file = file

    def begins(self, video: Key) -> None:
        """Report that a video begins."""
        self._send({"video": video})

    def ends(self, refusal: str = "") -> None:
        """Report the end: success, or a sentence about what the user has to fix.

        The parent takes an end without this report as a crash.
        """
        self._send({"ends": refusal})

    def dies(self, cause: Cause, reason: str) -> None:
        """Report the error that ends the process."""
        self._send({"cause": cause, "reason": reason})

    def _send(self, report: object) -> None:
        # Unbuffered: a buffer of Python would be lost in a crash, and with it the video's key.
        os.write(self._file, f"{json.dumps(report)}\n".encode())


class _Child:
    """The parent's view of a child process: sends its videos, reads its `Reports`."""

    def __init__(self, stage: str, run: Run, grant: Grant, files: tuple[int, ...]) -> None:
        self._what = f"{run.folder.name}: {stage}"
        self._timeout_s = run.execution.timeout_s
        self._kills = kernel_kills()  # before the child starts, to see whether it was one of them
        self._at: Key | None = None
        self._verdict: dict[str, Any] | None = None
        self._ended, self._refusal = False, ""
        reader, writer = os.pipe()
        words = [stage, str(run.folder), "--device", grant.device]
        words += ["--reports", str(writer), "--parent", str(os.getpid())]
        variables = {**os.environ, "PYTHONPATH": search_path(), **grant.variables}
        files = (writer, *files)
        self._process = child_process.start("harness.runs.worker", words, files, variables)
        os.close(writer)  # else the pipe would not end when the child dies
        self._reports = report_lines(reader)

    def watch(self, videos: Sequence[Key]) -> None:
        """Send the videos, follow the reports, and raise an error if the child failed."""
        try:
            assert self._process.stdin is not None
            # A child that died early has closed the pipe; its exit code tells why.
            with suppress(BrokenPipeError), self._process.stdin as stdin:
                json.dump({"videos": videos}, stdin)
            # A report comes when a video begins, so the time to the next report is that of one
            # video; that of the first one includes imports, weights and warm-up.
            while (line := self._reports.get(timeout=self._timeout_s)) is not None:
                with suppress(json.JSONDecodeError):  # a dying child may leave an incomplete line
                    report = json.loads(line)
                    if "video" in report:
                        index, sample = report["video"]
                        self._at = index, sample
                    elif "ends" in report:
                        self._ended, self._refusal = True, report["ends"]
                    else:
                        self._verdict = report
            code = self._process.wait()
        except queue.Empty:
            self._stop()
            limit = f"run.timeout_s={self._timeout_s:g} a video"
            raise RunFailed("timeout", f"{self._what} took longer than {limit}", self._at) from None
        except KeyboardInterrupt:
            self._stop()
            raise
        self._judge(code)

    def _stop(self) -> None:
        """Interrupt the child; kill it if it does not end within PATIENCE_S."""
        # An interrupted child removes its unfinished files; a killed one leaves them.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _judge(self, code: int) -> None:
        """Raise the error that the exit code and the last report stand for."""
        # The order matters: a report is more specific than an exit code.
        if self._ended and code == USER_ERROR:
            raise AlreadySaid(self._refusal)
        if self._verdict is not None:
            reason = f"{self._what} failed: {self._verdict['reason']}"
            raise RunFailed(self._verdict["cause"], reason, self._at)
        # A negative code is the number of the signal that ended the child.
        if code == INTERRUPTED or -code in FROM_OUTSIDE:
            name = signal.Signals(-code if code < 0 else signal.SIGINT).name
            # The kernel's out-of-memory killer sends SIGKILL as people do; only its counter tells.
            if -code == signal.SIGKILL and kernel_kills() > self._kills:
                reason = f"{self._what} was killed by the kernel, which had no memory left"
                raise RunFailed("oom", reason, self._at)
            raise RunFailed("killed", f"{self._what} was killed by {name}", self._at)
        if code < 0:
            name = signal.Signals(-code).name
            raise RunFailed("crash", f"{self._what} crashed with {name}", self._at)
        if code or not self._ended:  # a method may call os._exit, even with code 0
            reason = f"{self._what} ended with exit code {code} and no word"
            raise RunFailed("crash", reason, self._at)


def kernel_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory; 0 if unknown."""
    # The kernel counts for the whole machine: it does not say which process it killed. Other
    # systems than Linux have no such file, and there the cause of a SIGKILL is `killed`.
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0
