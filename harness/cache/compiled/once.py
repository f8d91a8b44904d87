"""Compiles loops once per machine, in a process of its own, and keeps what numba compiled.

Files of loops take `njit` from here, so that numba knows the folder when it reads them.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numba
from llvmlite.binding import get_host_cpu_name

from harness.cache.compiled import FOLDER
from harness.system.files import open_lock
from harness.system.logs import log

# numba compiles again if the file of a loop changes, but not if that of a function changes which
# the loop calls. A change to any file of this package therefore leads to another folder.
_FILES = [(str(p), p.stat().st_mtime_ns) for p in sorted(Path(__file__).parent.rglob("*.py"))]
_STATE = sha256(repr((_FILES, get_host_cpu_name())).encode()).hexdigest()[:16]
COMPILED = FOLDER / f"numba-{numba.__version__}-{_STATE}"

numba.config.CACHE_DIR = str(COMPILED)
njit = numba.njit


def load_once(module: str, compile_loops: Callable[[], None]) -> None:
    """Load loops into this process, after compiling them if no earlier process did.

    module: what to execute to compile them; it calls `compile_loops`.
    """
    mark = COMPILED / module
    if not mark.exists():
        COMPILED.mkdir(parents=True, exist_ok=True)
        lock = open_lock(COMPILED)
        try:
            # Processes that start together wait here for the first one, which compiles.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not mark.exists():
                # A compiler leaves 70 MiB in its process, and they would count in the peaks of the
                # videos that the process makes. So another process compiles. If that fails, this
                # one does.
                log.info(
                    "compiling loops for this processor, once on this machine: up to half a minute"
                )
                subprocess.run([sys.executable, "-m", module], check=False)
                compile_loops()
                mark.touch()
                return
        finally:
            os.close(lock)
    compile_loops()
