"""What a parent and its child process share: a module path, reports, and a common end."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import sys
import threading

from harness.system.paths import ROOT

_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def search_path() -> str:
    """Where a child finds its modules: the harness that this process has, wherever it runs.

    A worker of Ray's runs in a folder of its own, from where another copy may be found.
    """
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

    threading.Thread(target=listen, daemon=True).start()
    return lines


def die_with(parent: int) -> None:
    """End when the parent ends, however it does: nobody would wait for the rows.

    Where the kernel does not offer this (macOS), the run's lock keeps others out until the end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before
            os.kill(os.getpid(), signal.SIGKILL)
