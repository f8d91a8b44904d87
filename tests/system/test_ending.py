"""How a program ends whose streams, folder or temporary folder are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import ROOT

ONE_VIDEO = [
    *("method=bf16", "suite.frames=3", "suite.num_prompts=1", "suite.source=bundled"),
    *("track=disabled", "metrics=[psnr]"),
]


def shell(line: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which $H is the program."""
    full = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": ""}
    full["H"] = f"{sys.executable} -m harness"
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**full, **env})


@pytest.mark.slow
def test_a_run_whose_reader_left_does_all_its_work(tmp_path: Path) -> None:
    words = " ".join([*ONE_VIDEO, f"results_dir={tmp_path}"])
    done = shell(f"$H {words} 2>{tmp_path}/said | head -1")
    assert done.returncode == 141  # as of any program whose reader left
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 1
    again = shell(f"$H {words} >&- 2>&- <&-")  # nothing to do, and nobody to tell
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "2>&1 | true"])
def test_streams_that_are_closed_are_no_error(closed: str) -> None:
    done = shell(f"$H ls suites {closed}")
    assert done.returncode in (0, 141) and done.stderr == ""


def test_a_full_disk_behind_standard_output_is_one_sentence() -> None:
    done = shell("$H ls suites > /dev/full")
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


@pytest.mark.parametrize("words", ["ls suites", "results_dir=new run.dry=true", "score new"])
def test_a_folder_that_was_removed_is_one_sentence(words: str, tmp_path: Path) -> None:
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && $H {words}", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: the current folder was removed: cd to one that is there\n"


def test_a_temporary_folder_that_takes_no_files_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    (tmp_path / "temporary" / "video-kv-bench-leases").write_text("no folder")
    words = " ".join([*ONE_VIDEO, f"results_dir={tmp_path / 'results'}"])
    done = shell(f"$H {words}", TMPDIR=str(tmp_path / "temporary"))
    assert done.returncode == 2
    (line,) = [x for x in done.stderr.splitlines() if not x.startswith("warning: ")]
    assert "TMPDIR=<a folder of yours>" in line
