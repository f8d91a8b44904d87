"""Compiled loops for packed history on a CPU: decoding into scratch, encoding into pages.

`harness.cache.compiled.pages` needs numba, so import it where it is called. This file does not:
`missing` must work on a machine without numba.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import cache

from harness.system.logs import log
from harness.system.paths import CACHE

FOLDER = CACHE / "compiled"  # what numba compiled; a child then loads it instead of compiling


@cache
def missing() -> str | None:
    """Return why the loops cannot run here, in one phrase; None if they can."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"numba cannot keep what it compiles in {FOLDER} ({error.strerror})"
    if not os.access(FOLDER, os.W_OK | os.X_OK):
        return f"numba cannot keep what it compiles in {FOLDER} (not writable)"
    return None


@cache
def load() -> None:
    """Load the loops into this process, after compiling them if no earlier process did."""
    from harness.cache.compiled.pages import are_compiled, compile_loops  # needs numba

    # A compiler leaves 70 MiB in its process, and they would count in the peaks of the videos that
    # the process makes. So another process compiles. If that fails, this one does.
    if not are_compiled():
        log.info("compiling the loops of the cache, once on this machine: about 10 s")
        subprocess.run([sys.executable, "-m", "harness.cache.compiled.pages"], check=False)
    compile_loops()
