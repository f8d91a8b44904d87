"""What parent and child of any process need: where modules lie, and an end that is shared."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from harness.system.paths import ROOT

_SET_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def search_path() -> str:
    """Where a child finds its modules: the harness that this process has, wherever it runs.

    A worker of Ray's runs in a folder of its own, from where another copy may be found.
    """
    known = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(ROOT), *([known] if known else [])])


def die_with(parent: int) -> None:
    """End when the parent ends, however it does: nobody would wait for the rows.

    Where the kernel does not offer this (macOS), the run's lock keeps others out until the end.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before
            os.kill(os.getpid(), signal.SIGKILL)
