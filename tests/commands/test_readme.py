"""What the README says, done: its commands and its example of a method."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from harness.api import Method
from harness.cache import compiled
from harness.config.compose import method_files
from harness.planning.forecast import Setting, forecast
from harness.planning.predicted import Forecast
from tests.conftest import ROOT, Sweep
from tests.support.commands import SWEEP, command, within
from tests.support.geometry import method_names

README = (ROOT / "README.md").read_text()
OWN = (ROOT / "docs" / "your-own.md").read_text()  # files and commands that need them
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README + OWN, re.DOTALL)
COMMANDS = [
    line.removeprefix("python -m ")
    for language, block in BLOCKS
    if not language
    for line in block.splitlines()
    if line.startswith("python -m ")
]


def words_of(line: str) -> set[str]:
    """Keys' values of a command line."""
    return {word.rpartition("=")[2] for word in line.split()}


VERBS = ("ls", "check", "score")  # they make no videos

# Settings that come last win: the same commands on short clips, where no checkpoint is needed.
QUICK = ["suite.source=bundled", "suite.num_prompts=1", "suite.prompts=null", "track=disabled"]


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6
    assert len(README.splitlines()) < 200


def test_the_sweep_is_the_one_that_the_command_tests_run() -> None:
    assert f"harness -m method={SWEEP} suite=storyeval suite.num_prompts=3" in COMMANDS


RUNS = [c for c in COMMANDS if not {"plan", "fetch"} & set(c.split()) and SWEEP not in words_of(c)]


SWEEPS = [c for c in RUNS if {"-m", "method.key.bits=8"} & set(c.split()) or "experiment=" in c]
# test_check.py runs a method of one's own; that of the page is checked here.
OWN_RUN = [c for c in RUNS if "--config-dir mine method=" in c]


@pytest.mark.parametrize("line", SWEEPS)
def test_readme_sweep_is_valid(line: str, tmp_path: Path) -> None:
    """All its jobs compose; the slow tier runs them."""
    words = [*shlex.split(line)[1:], *QUICK, "run.dry=true", f"results_dir={tmp_path}"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left: " in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=[pytest.mark.slow] * (line in [*SWEEPS, *OWN_RUN]), id=line)
        for line in RUNS
        if "self_forcing" not in words_of(line)
    ],
)
def test_readme_command(line: str, tmp_path: Path, readme_sweep: Sweep) -> None:
    module, *words = shlex.split(line)
    results = tmp_path / "results"
    for language, block in BLOCKS:  # the example's files, where the README puts them
        name = re.match(r"# (\S+\.(?:py|yaml))\n", block)
        if language in ("python", "yaml") and name:
            (tmp_path / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name[1]).write_text(block)
    if module == "analysis" or words[0] == "score":
        readme_sweep.linked(results)
    elif words[0] not in VERBS:
        # Two chunks, of which the second reads the first; a third where frames leave the history.
        frames = 9 if "budget" in line or "mine" in line else 6
        short = [f"suite.frames={frames}"]
        if "model=skyreels_tiny" in line:  # two of its chunks, and few of its steps
            short = ["suite.frames=10", "model.schedule.num_steps=4"]
        words += [*QUICK, *short, f"results_dir={results}"]
    done = command(*words, module=module, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    if module == "harness" and words[0] not in VERBS:
        rows = pd.read_parquet(results / "results.parquet")
        assert rows["failure"].isna().all()
        if "integration=packed,published" in line:
            built = rows.set_index(["method", "integration"])["attention_backend"].to_dict()
            assert built["rtn_int4", "published"] == "published dense"
            here = "portable/heads" if compiled.missing() else "compiled/heads"
            assert built["rtn_int4", "packed"] == built["bf16", "packed"] == here


PLANS = [c for c in COMMANDS if "plan" in c.split()]


@pytest.mark.parametrize("line", [c for c in PLANS if "all" not in words_of(c)])
def test_readme_plans(line: str, tmp_path: Path) -> None:
    done = within(*line.split()[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "GiB" in done.stdout


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_readme_plan_of_all_methods(
    every: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all methods there are; the quick tier leaves one of every third family."""
    files = method_files()
    families = {yaml.safe_load(files[n].read_text()).get("family"): n for n in method_names()}
    names = method_names() if every else sorted(families.values())[::3]
    (line,) = [c for c in PLANS if "all" in words_of(c)]
    rows: list[Forecast] = []

    def noted(name: str, method: Method, setting: Setting) -> Forecast:
        rows.append(forecast(name, method, setting))
        return rows[-1]

    monkeypatch.setattr("harness.planning.forecast.forecast", noted)
    monkeypatch.setattr("harness.planning.rows.recall", lambda *_: None)  # compute every row
    monkeypatch.setattr(ConfigLoaderImpl, "get_group_options", lambda *_: names)
    done = within(*line.split()[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "GiB" in done.stdout
    assert [row.method for row in rows] == names
    assert all(row.dit_s is not None and row.dit_s > 0 for row in rows)
    assert all(row.best_peak_bytes > 0 for row in rows)
    shown = [row.split()[0] for row in done.stdout.splitlines() if row.strip()]
    assert [name for name in shown if name in method_names()] == names


def test_the_checkpoint_commands_say_what_is_missing(tmp_path: Path) -> None:
    (line,) = [c for c in RUNS if "self_forcing" in words_of(c)]
    (tmp_path / "data").mkdir()
    words = [*line.split()[1:], "suite.source=bundled", f"results_dir={tmp_path}"]
    done = command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "found no checkpoint at" in done.stderr


def test_the_command_that_fetches_names_what_cannot_be_had(tmp_path: Path) -> None:
    (line,) = [c for c in COMMANDS if "fetch" in c.split()]
    done = command(*line.split()[1:], cwd=tmp_path, HARNESS_FETCH_BASE=str(tmp_path / "copy"))
    assert done.returncode == 2
    assert "weights/checkpoints/self_forcing_dmd.pt" in done.stdout
    assert "files are still missing" in done.stderr.splitlines()[-1]
