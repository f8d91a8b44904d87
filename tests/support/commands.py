"""Runs commands as a user types them, in a new process or in this one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest.mock import patch

import pytest

from harness.__main__ import main
from tests.conftest import ROOT
from tests.support import forks

SHORT = ["suite.frames=12", "suite.source=bundled"]
SWEEP = "bf16,rtn_int8,rtn_int4,rtn_int2,softprune_int4"
Done = subprocess.CompletedProcess[str]


def command(*words: str, module: str = "harness", cwd: Path = ROOT, **env: str) -> Done:
    """Run `python -m <module> ...` in a folder, with one thread and without account or cache.

    The process is forked from one that has imported the harness, unless `env` holds a variable that
    Python reads at start.
    """
    python = (sys.executable,) if forks.READ_AT_START & env.keys() else forks.python()
    full = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **env}
    for name in {"HARNESS_DATA", "TRITON_INTERPRET"} - env.keys():
        full.pop(name, None)
    return subprocess.run(
        [*python, "-m", module, *words], capture_output=True, text=True, cwd=cwd, env=full
    )


def within(*words: str, cwd: Path = ROOT) -> Done:
    """Run a command in this process, for tests of its answer rather than its process."""
    said, erred = StringIO(), StringIO()
    with (
        pytest.MonkeyPatch.context() as here,
        patch.dict(os.environ),  # commands add a user's folder to both
        patch.object(sys, "path", [*sys.path]),
        redirect_stdout(said),
        redirect_stderr(erred),
    ):
        here.setattr(sys, "argv", ["harness", *words])
        here.delenv("HARNESS_DATA", raising=False)
        here.chdir(cwd)
        code = main()
    return Done(words, code, said.getvalue(), erred.getvalue())


def one_sentence(done: Done) -> str:
    """Return the only error line of a failed command."""
    lines = [x for x in done.stderr.splitlines() if not x.startswith("warning: ")]
    assert "Traceback" not in done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]
