"""Forked commands end, print and see what started ones do, so tests may use either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.support import forks
from tests.support.faults import until

ENDS = """
import os, signal, sys, tempfile
print("folder", os.getcwd(), "words", sys.argv[1:], "variable", os.environ.get("SOME"))
print("path", sys.path[0], "input", sys.stdin.read())
print("temporary", tempfile.gettempdir(), flush=True)
print("said", file=sys.stderr)
how = sys.argv[1]
if how == "exit":
    sys.exit(int(sys.argv[2]))
if how == "words":
    sys.exit("these are the last")
if how == "signal":
    os.kill(os.getpid(), int(sys.argv[2]))
if how == "raise":
    raise KeyError("boom")
"""


@pytest.mark.parametrize(
    "words",
    [
        ["well"],
        ["exit", "0"],
        ["exit", "2"],
        ["exit", "141"],
        ["words"],
        ["raise"],
        ["signal", str(int(signal.SIGKILL))],
        ["signal", str(int(signal.SIGTERM))],
        ["signal", str(int(signal.SIGABRT))],
    ],
    ids=" ".join,
)
def test_a_forked_program_is_as_a_started_one(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ENDS)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SOME": "thing", "TMPDIR": str(tmp_path)}
    started, forked = (
        subprocess.run(
            [*python, "-m", "program", *words],
            cwd=tmp_path, env=env, input="typed", capture_output=True, text=True,
        )
        for python in ((sys.executable,), forks.python())
    )  # fmt: skip
    assert forked.returncode == started.returncode
    assert forked.stdout == started.stdout
    last = [done.stderr.splitlines()[-1:] for done in (started, forked)]
    assert last[0] == last[1] != []


def test_a_client_that_is_killed_takes_its_command_with_it(tmp_path: Path) -> None:
    program = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
    (tmp_path / "sleeper.py").write_text(program)
    client = subprocess.Popen([*forks.python(), "-m", "sleeper"], cwd=tmp_path)
    written = tmp_path / "pid"
    until(lambda: written.exists() and written.read_text() != "", "the command's start")
    client.kill()
    client.wait()
    until(lambda: not psutil.pid_exists(int(written.read_text())), "the command's end")


def test_python_on_the_path_is_forked_for_what_a_shell_is_told(tmp_path: Path) -> None:
    path = os.pathsep.join([str(forks.folder()), os.environ["PATH"]])
    told = "python -m harness ls suites | head -n 1; exit ${PIPESTATUS[0]}"
    done = subprocess.run(
        ["bash", "-c", told], cwd=tmp_path, env={**os.environ, "PATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 141)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == ""
