"""Compiled loops for packed history on a CPU: decoding into scratch, encoding into pages.

`harness.cache.compiled.pages` needs numba, so import it where it is called. This file does not:
`missing` must work on a machine without numba.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

from harness.system.paths import CACHE

# What numba compiled: a child process loads it instead of compiling for seconds.
FOLDER = CACHE / "compiled"


@cache
def missing() -> str | None:
    """Return why the loops cannot run here, in one phrase; None if they can."""
    # Asked for without importing it, which takes most of a second.
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed"
    # Without a folder every child would compile again.
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"numba cannot keep what it compiles in {FOLDER} ({error.strerror})"
    if not os.access(FOLDER, os.W_OK | os.X_OK):
        return f"numba cannot keep what it compiles in {FOLDER} (not writable)"
    return None
