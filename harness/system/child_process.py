"""Starts child processes and connects them with their parent: reports, and ending together."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from harness.system.paths import ROOT

_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def start(
    module: str, words: Sequence[str], files: Sequence[int], variables: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start `python -m <module> <words>` with a pipe as its input; every child is started here.

    files: file descriptors that the child inherits. variables: its environment.
    """
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdin=subprocess.PIPE,
        pass_fds=files,
        env=variables,
        text=True,
    )


def search_path() -> str:
    """Return PYTHONPATH for a child, so that it imports the same harness as this process."""
    # A worker of Ray runs in another folder, where Python could find another copy first. The user's
    # own folder is in PYTHONPATH already (`expose`).
    known = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([known] if known else [])])


def report_lines(reader: int) -> queue.SimpleQueue[str | None]:
    """Read a child's reports in a thread; return the queue of their lines, None after the last.

    reader: the reading end of a pipe. A queue lets the parent wait for a line with a time limit.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def listen() -> None:
        with os.fdopen(reader) as pipe:
            for line in pipe:
                lines.put(line)
        lines.put(None)

    # A daemon: a child that never closes its end must not keep this process alive.
    threading.Thread(target=listen, daemon=True).start()
    return lines


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, even if that is killed.

    Only Linux can do this. Elsewhere the process goes on, and the run's lock keeps other commands
    out until it ends.
    """
    # A child holds the run's lock: one that outlived its parent would keep other commands waiting.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        # If the parent ended before the signal was set, the kernel will never send it.
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
