"""Named experiments: every job composes, and the published ones are the study's."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import OmegaConf

from harness.commands.run import Command, conclude_sweep
from harness.config.compose import choices, described, method_files
from harness.downloads import data_folder
from harness.prompts import suite as suites
from harness.prompts.suite import SuiteConfig
from harness.runs.sweep import Job
from harness.system.errors import UserError
from tests.conftest import SHARED
from tests.support.commands import command
from tests.support.experiments import composed

COUNTS = {
    "smoke": 16,
    "paper_moviegen": 33,
    "paper_storyeval": 30,
    "frontier": 18,
    "noise_floor": 2,
    "flowcache_skyreels": 9,
    "flowcache_skyreels_tiny": 9,
    "flowcache_small_forcing": 9,
    "flowcache_magi": 14,
    "flowcache_magi_tiny": 14,
}


@cache
def jobs(name: str) -> list[list[str]]:
    """The words of every job, as the sweeper expands them."""
    sweeper = instantiate(composed(f"experiment={name}").hydra.sweeper)
    parsed = OverridesParser.create().parse_overrides(sweeper._parse_config())
    sweeper.overrides = sweeper.split_arguments(parsed, None)
    return [list(job) for job in sweeper.get_job_batch()]


def methods(name: str) -> list[str]:
    words = [word for job in jobs(name) for word in job if word.startswith("method=")]
    return [word.removeprefix("method=") for word in words]


def test_the_counts_are_of_all_that_ship() -> None:
    assert set(choices("experiment")) == set(COUNTS)


# The jobs of the study's two differ in nothing but the method, which test_methods.py composes.
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] * x.startswith("paper_")) for x in COUNTS],
)
def test_every_job_composes_and_is_another(name: str) -> None:
    sweep = jobs(name)
    assert len(sweep) == len({tuple(job) for job in sweep}) == COUNTS[name]
    assert set(methods(name)) <= set(method_files())
    for job in sweep:
        config = composed(f"experiment={name}", *job)
        chosen = config.hydra.runtime.choices
        assert config.hydra.mode == RunMode.MULTIRUN
        assert [f"method={chosen.method}"] == [word for word in job if word.startswith("method=")]
        assert config.method._target_ and config.integration._target_


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_the_published_rows_are_all_there(suite: str) -> None:
    path = SHARED / "published" / "summaries.csv"
    if not path.is_file():
        pytest.skip(f"the study's tables not found: {path}")
    published = pd.read_csv(path).query("benchmark == @suite")["method"]
    rows = [name.removeprefix("published/").upper() for name in methods(f"paper_{suite}")]
    assert sorted(rows) == sorted(published)


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_the_published_setting_is_kept_whatever_the_defaults_become(suite: str) -> None:
    config = composed(f"experiment=paper_{suite}", "method=published/rtn_int4")
    chosen = config.hydra.runtime.choices
    assert (chosen.model, chosen.suite) == ("self_forcing", suite)
    assert (chosen.integration, chosen.attention) == ("published", "auto")
    asked: dict[str, Any] = {
        "source": "official", "num_prompts": 10, "prompts": None, "seconds": 10, "frames": None,
        "seed": 0, "samples": 1,
    }  # fmt: skip
    assert {name: config.suite[name] for name in asked} == asked
    assert (config.model.window, config.model.sink, config.model.weights) == (21, 0, "checkpoint")


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_flowcache_has_the_factors_of_its_suite(suite: str) -> None:
    path = SHARED / "published" / "flowcache_layer_budgets.csv"
    if not path.is_file():
        pytest.skip(f"the study's tables not found: {path}")
    table = pd.read_csv(path).query("benchmark == @suite").sort_values("layer")
    rows = [name for name in methods(f"paper_{suite}") if "flowcache" in name]
    assert len(rows) == 8
    for name in set(rows) - {"published/flowcache_native"}:
        config = composed(f"experiment=paper_{suite}", f"method={name}")
        assert list(config.method.retention.layers) == pytest.approx(
            list(table["budget_scale"]), abs=6e-4
        )


def test_the_frontier_is_of_methods_done_right() -> None:
    assert not any(name.startswith("published/") for name in methods("frontier"))
    config = composed("experiment=frontier", "method=rtn_int4")
    assert (config.suite.num_prompts, config.hydra.runtime.choices.model) == (32, "self_forcing")


def test_a_published_row_is_rehearsed_on_the_small_model(tmp_path: Path) -> None:
    done = command(
        "experiment=paper_storyeval", "method=published/flowcache_prune_int2", "model=small",
        "suite.source=bundled", "suite.num_prompts=1", "suite.frames=9", "run.threads=1",
        "track=disabled", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(tmp_path / "results.parquet").set_index("method")
    row = rows.loc["published/flowcache_prune_int2"]
    assert (row["suite"], row["integration"], row["seed"]) == ("storyeval", "published", 0)
    assert row["prompt_source"] == "bundled" and row["psnr_db"] > 10


def test_other_prompts_are_never_taken_for_the_studys(tmp_path: Path) -> None:
    done = command(
        "experiment=paper_moviegen", "method=published/rtn_int4", "model=small",
        "suite.file=prompts/none.txt", "suite.url=null", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode != 0
    assert "put the file there" in done.stderr
    assert not list(tmp_path.glob("**/*.parquet"))


def test_an_experiment_is_a_sweep_with_and_without_the_flag(tmp_path: Path) -> None:
    """Settings that no job can run with: all jobs are tried, none costs a child."""
    for flag in ([], ["-m"]):
        results = tmp_path / f"results{len(flag)}"
        done = command(*flag, "experiment=smoke", "model.fps=0", f"results_dir={results}")
        assert done.returncode == 1
        records = sorted(results.glob(".sweeps/*/job-*.json"))
        names = [json.loads(path.read_text())["name"] for path in records]
        assert len(set(names)) == COUNTS["smoke"]
        assert sum("suite=storyeval" in name for name in names) == 8


def test_a_word_that_listed_jobs_set_themselves_is_refused(tmp_path: Path) -> None:
    done = command("experiment=flowcache_magi_tiny", "method=bf16", f"results_dir={tmp_path}")
    assert done.returncode == 2
    assert "method=bf16: every job of this experiment sets method itself" in done.stderr
    assert not list(tmp_path.glob("moviegen/*"))


def test_a_word_that_no_listed_job_sets_goes_to_all(tmp_path: Path) -> None:
    words = ("suite.frames=12", "run.dry=true", f"results_dir={tmp_path}")
    done = command("experiment=flowcache_magi_tiny", *words)
    assert done.returncode == 0, done.stderr
    assert "left: 56 videos" in done.stdout


def test_ls_gives_every_experiment_its_line() -> None:
    done = command("ls", "experiments")
    lines = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(lines) == set(COUNTS)
    assert not any(line.startswith("@") for line in lines.values())


def without_network(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    """An empty data folder, and no way to fill it."""

    def refuse(config: SuiteConfig, folder: Path) -> None:
        raise OSError("cannot reach example.org")

    monkeypatch.setattr(suites, "_download", refuse)
    monkeypatch.setattr(data_folder, "CACHE", data)
    monkeypatch.delenv("HARNESS_DATA", raising=False)


@pytest.mark.parametrize("name", COUNTS)
def test_an_experiment_runs_out_of_the_box_or_its_first_line_says_what_to_fetch(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Prompts and weights that ship with the package need no word."""
    without_network(monkeypatch, tmp_path)
    lacks = set()
    others = {tuple(x for x in words if not x.startswith("method")) for words in jobs(name)}
    for words in others:
        config = composed(f"experiment={name}", *words)
        suite: Any = OmegaConf.to_container(config.suite, resolve=False)
        chosen = config.hydra.runtime.choices
        if config.model.weights == "checkpoint":
            lacks.add(f"fetch weights model={chosen['model']}")
        try:
            suites.resolve(chosen["suite"], SuiteConfig(**suite), None, 3, 16)
        except UserError:
            lacks.add("fetch prompts")
    first = described(choices("experiment")[name])
    assert all(each in first for each in lacks), (first, lacks)


@pytest.mark.parametrize("num_prompts", [25, 32, 1003])
@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_more_prompts_than_are_bundled_says_what_to_fetch(
    suite: str, num_prompts: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    without_network(monkeypatch, tmp_path)
    shipped: Any = OmegaConf.to_container(composed(f"suite={suite}").suite, resolve=True)
    config = SuiteConfig(**{**shipped, "num_prompts": num_prompts})
    with pytest.raises(UserError, match=f"fetch prompts suite={suite}.* or suite.num_prompts=24"):
        suites.resolve(suite, config, None, 3, 16)


def job(number: int, state: Any, cause: str | None = None, reason: str | None = None) -> Job:
    return Job(number, f"run {number}", state=state, cause=cause, reason=reason)


LONG = "the list of prompts is neither here nor to be had, " * 4 + "so put it there"


@pytest.mark.parametrize("said_before", [False, True])
@pytest.mark.parametrize(
    ("jobs_done", "reasons"),
    [
        (0, [LONG] * 33),
        (3, [LONG] * 2),
        (3, [LONG, "another reason"]),
        (1, ["another reason", LONG, LONG, "another reason", LONG]),
    ],
)
def test_a_cause_that_jobs_share_is_told_once_with_how_many_share_it(
    jobs_done: int, reasons: list[str], said_before: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [job(i, "done") for i in range(jobs_done)]
    found += [job(i + jobs_done, "failed", "settings", reason) for i, reason in enumerate(reasons)]
    assert conclude_sweep(found, set(reasons) if said_before else ()) == 1
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("failed")]
    assert len(lines) == len(set(reasons))
    is_shortened = said_before and reasons.count(LONG) > 1  # its beginning is enough
    assert said.err.count(LONG) == (0 if is_shortened else reasons.count(LONG) > 0)
    for reason in set(reasons):
        sharing = reasons.count(reason)
        who = f"{sharing} of {len(found)} jobs" if sharing > 1 else "run "
        assert any(who in line and reason[:20] in line for line in lines)
    assert ("jobs: " in said.out) == bool(jobs_done), "a table of one line is none"


def test_jobs_of_one_process_complain_once(capsys: pytest.CaptureFixture[str]) -> None:
    told = Command()
    for reason in (LONG, LONG, "another", LONG):
        told._complain(UserError(reason))
    assert capsys.readouterr().err.splitlines() == [f"error: {LONG}", "error: another"]
