"""Compiles loops once per machine, in a process of its own, and keeps what numba compiled.

Files of loops take `njit` from here, so that numba knows the folder when it reads them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import numba
from llvmlite.binding import get_host_cpu_name

from harness.cache.compiled import FOLDER
from harness.system.logs import log

numba.config.CACHE_DIR = str(FOLDER / f"numba-{numba.__version__}")
njit = numba.njit


def mark_of(*files: ModuleType) -> Path:
    """Return the file that exists once an earlier process compiled the loops of these modules."""
    # numba compiles again if any of these changes.
    paths = [Path(str(file.__file__)) for file in files]
    state = [(str(path), path.stat().st_mtime_ns) for path in paths], get_host_cpu_name()
    return FOLDER / f"numba-{numba.__version__}-{sha256(repr(state).encode()).hexdigest()[:16]}"


def load_once(mark: Path, module: str, compile_loops: Callable[[], None]) -> None:
    """Load loops into this process, after compiling them if no earlier process did.

    module: what to execute to compile them; it calls `compile_loops` and creates `mark`.
    """
    # A compiler leaves 70 MiB in its process, and they would count in the peaks of the videos that
    # the process makes. So another process compiles. If that fails, this one does.
    if not mark.exists():
        log.info("compiling loops for this processor, once on this machine: 10 to 15 s")
        subprocess.run([sys.executable, "-m", module], check=False)
    compile_loops()
