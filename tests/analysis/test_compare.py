"""Published numbers against ours: the files, the rules, and the verb."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from analysis.compare import COUNTED, Counted, Ours, count, judged, reasons, verdicts
from analysis.section import Method, Section, Setting
from analysis.settings import built
from analysis.sources.published.papers import FOLDER, Number, names, paper, parsed
from harness.cache import Packed
from harness.config.compose import choices
from tests.conftest import SHARED
from tests.support.commands import command
from tests.support.runs import run

STUDY = paper("longhorizon")
TRUE = Setting("self_forcing", "official", ["NVIDIA RTX A5000"], 165, 480, 832)


def study(name: str) -> Path:
    path = SHARED / "published" / name
    if not path.is_file():
        pytest.skip(f"the study's data is not there: {path}")
    return path


def number(row: str, column: str, suite: str = "moviegen") -> Number:
    (found,) = [
        each
        for each in STUDY.numbers
        if (each.row, each.column.name, each.suite) == (row, column, suite)
    ]
    return found


def run_of(
    setting: Setting = TRUE, build: str = "published", num: int = 10, **values: float
) -> Section:
    """A section with one run of rtn_int4 as published, the same in each of its videos but a bit."""
    name = "published/rtn_int4"
    index = pd.MultiIndex.from_product(
        [[name], range(num), [0]], names=["method", "prompt_index", "sample"]
    )
    spread = np.linspace(-0.01, 0.01, num)
    videos = pd.DataFrame({key: value + spread for key, value in values.items()}, index=index)
    return Section(
        title="t",
        suite="moviegen",
        is_published=False,
        methods={name: Method(name, "RTN_INT4", "RTN", num, build=build, run_id="abc")},
        values=pd.DataFrame(values, index=[name]),
        videos=videos,
        reference=None,
        setting=setting,
    )


def verdict_on(section: Section, column: str) -> tuple[str, str]:
    """What is said of RTN_INT4's number."""
    (found,) = [
        each for each in verdicts(STUDY, [section], []) if each.number == number("RTN_INT4", column)
    ]
    return found.word, found.reason


@pytest.mark.parametrize("name", names())
def test_every_paper_names_methods_that_exist(name: str) -> None:
    methods = [each.method for each in paper(name).numbers if each.method is not None]
    assert set(methods) <= set(choices("method"))
    assert paper(name).numbers
    models = {model for each in paper(name).numbers for model in each.setup.models}
    assert models <= set(choices("model"))


def test_the_studys_numbers_are_its_summaries_rounded() -> None:
    table = pd.read_csv(study("summaries.csv")).set_index(["benchmark", "method"])
    theirs = {
        "ratio": "compression_ratio",
        "peak_gib": "peak_vram_gb",
        "psnr_db": "psnr",
        "background": "background_consistency",
        "imaging": "imaging_quality",
        "subject": "subject_consistency",
        "aesthetic": "aesthetic_quality",
    }
    wanted = {
        (*key, name): value
        for key, row in table.iterrows()
        for name, value in row.items()  # type: ignore[misc]
    }
    for each in STUDY.numbers:
        column = theirs.get(each.column.name, each.column.name)
        value = wanted.pop((each.suite, each.row, column))
        assert each.value == pytest.approx(value, abs=each.half_unit * 1.001)
        assert each.setup.num_videos == table.loc[(each.suite, each.row), "n_videos"]
    left = {key for key, value in wanted.items() if pd.notna(value)}
    assert {key[2] for key in left} == {"family", "n_videos"}


def broken(**changes: Any) -> dict[str, Any]:
    content = yaml.safe_load((FOLDER / "deepforcing.yaml").read_text())
    return {**copy.deepcopy(content), **changes}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (broken(more=1), "unknown keys"),
        (broken(methods={}), "not among the methods"),
        (broken(setup={"modle": "x"}), "unknown keys"),
        (broken(columns={"fps": {"unit": "", "decimals": 1}}), "why there is none"),
        (broken(columns={"fps": {"unit": "", "decimals": 1, "quantity": "sim"}}), "no quantity"),
        (broken(tables=broken()["tables"] * 2), "stands twice"),
        (broken(tables=[{"id": "x", "columns": ["fps"], "rows": {"Deep Forcing": [1, 2]}}]), "2"),
    ],
)
def test_a_file_that_is_wrong_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parsed("x", content)


def test_the_same_setting_is_compared_and_rounding_is_allowed_for() -> None:
    assert verdict_on(run_of(ratio=3.2049), "ratio")[0] == "agrees"
    assert verdict_on(run_of(ratio=3.2051), "ratio")[0] == "differs"
    assert verdict_on(run_of(peak_gib=19.983), "peak_gib")[0] == "agrees"
    assert verdict_on(run_of(peak_gib=9.7), "peak_gib")[0] == "differs"


def test_means_are_held_against_with_their_interval() -> None:
    printed = number("RTN_INT4", "ssim").value
    assert verdict_on(run_of(ssim=printed + 0.002), "ssim")[0] == "agrees"
    assert verdict_on(run_of(ssim=printed + 0.02), "ssim")[0] == "differs"
    word, reason = verdict_on(run_of(ssim=printed, num=3), "ssim")
    assert word == "not comparable"
    assert "fewer than 4 prompts" in reason
    assert "3 official, not 10 official" in reason


@pytest.mark.parametrize(
    ("setting", "column", "said"),
    [
        (Setting("small", "official", [], 165, 480, 832), "ratio", "other model (small"),
        (Setting("self_forcing", "official", [], 81, 480, 832), "ratio", "other length (81"),
        (Setting("self_forcing", "bundled", [], 165, 480, 832), "ssim", "10 bundled, not 10"),
        (Setting("self_forcing", "official", [], 165, 64, 128), "ssim", "other size (64x128"),
        (Setting("self_forcing", "official", ["H200"], 165, 480, 832), "runtime_s", "(H200, not"),
    ],
)
def test_what_is_not_the_same_is_said(setting: Setting, column: str, said: str) -> None:
    word, reason = verdict_on(run_of(setting, **{column: 1.0}), column)
    assert word == "not comparable"
    assert said in reason


def test_packed_codes_are_not_held_against_unpacked_ones() -> None:
    word, reason = verdict_on(run_of(build="packed", peak_gib=19.98), "peak_gib")
    assert word == "not comparable"
    assert "integration=packed, not published" in reason


def test_every_number_gets_a_verdict_and_what_is_not_run_says_how() -> None:
    found = verdicts(STUDY, [], [Counted("moviegen", "RTN_INT4", {"ratio": 3.2})])
    assert len(found) == len(STUDY.numbers)
    assert count(found)["agrees"] == 1
    (counted,) = [each for each in found if each.ours]
    assert counted.ours is not None and counted.ours.source == COUNTED
    assert count(found)["not run"] == len(STUDY.numbers) - 1


def test_an_infinite_value_equals_itself() -> None:
    infinite = number("BF16", "psnr_db")
    assert judged(infinite, Ours("x", "", np.inf, None)).word == "agrees"
    assert judged(infinite, Ours("x", "", 40.0, None)).word == "differs"


def test_the_study_agrees_with_its_own_data() -> None:
    data = str(study("observations.parquet"))
    words = ["--source", "published", "--observations", data, "--format", "md"]
    done = command("compare", *words, module="analysis")
    assert done.returncode == 0, done.stderr
    assert "agrees: 690, differs: 0, not comparable: 0, not run: 0" in done.stdout


def test_without_results_the_planner_still_counts_what_the_study_printed(tmp_path: Path) -> None:
    words = ["--source", str(tmp_path / "none"), "--row", "rtn_int4", "--suite", "moviegen"]
    done = command("compare", *words, "--format", "md", module="analysis")
    assert done.returncode == 0, done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()]
    peak = next(row for row in rows if row[2:4] == ["RTN_INT4", "peak_gib GiB"])
    assert peak[4] == "19.98" == peak[6]
    assert "agrees" in peak
    assert "- no runs of ours: no results below" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--published", "flowcash"], "did you mean flowcache"),
        (["--row", "nosuch"], "no row of suite any that holds nosuch"),
        (["--source", "published", "--observations", "nosuch.parquet"], "no such file"),
    ],
)
def test_what_can_be_fixed_ends_with_two(words: list[str], said: str) -> None:
    done = command("compare", *words, module="analysis")
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_papers_are_listed() -> None:
    done = command("compare", "--published", "list", module="analysis")
    assert done.returncode == 0
    assert all(name in done.stdout for name in names())


@pytest.mark.parametrize("name", ["flowcache", "motioncache", "tempcache"])
def test_every_row_says_what_does_the_same_work_or_why_nothing_does(name: str) -> None:
    for each in paper(name).numbers:
        work = each.work
        assert work is not None and (work.words or work.said)
        if work.words:
            model, parts = built(each.setup.models[0], tuple(work.words))
            model.loop.check(Packed(), parts, model.decoder, model.guidance)


def test_a_distance_to_other_videos_is_not_comparable(tmp_path: Path) -> None:
    """Theirs is to the vanilla video, ours to BF16 of the same order of passes."""
    row, found = "FlowCache fast", []
    for each in paper("flowcache").numbers:
        if (each.table, each.row) == ("main, SkyReels-V2", row) and each.column.quantity:
            assert each.work is not None
            request = run(tmp_path, "model=skyreels_v2", *each.work.words)
            method = Method(row, "", "x", 4, build="packed", folder=tmp_path, request=request)
            setting = Setting("skyreels_v2", "", ["NVIDIA A800"], 177, 544, 960)
            said = reasons(each, run_of(setting, runtime_s=1), method)
            found.append((each.column.name, any("vanilla's videos" in why for why in said)))
    assert found == [("runtime_s", False), ("lpips", True), ("ssim", True), ("psnr_db", True)]


def test_a_run_of_other_work_is_not_comparable(tmp_path: Path) -> None:
    """The same method and size on the model as released, whose window FlowCache takes off."""
    (printed,) = [
        each
        for each in paper("flowcache").numbers
        if (each.table, each.row, each.column.name) == ("main, MAGI-1", "vanilla", "runtime_s")
    ]
    assert printed.work is not None
    setting = Setting("magi_4.5b_distill", "bundled", ["NVIDIA A800"], 240, 720, 720)
    said = []
    for words in (["method=bf16"], printed.work.words):
        request = run(tmp_path, "model=magi_4.5b_distill", *words)
        method = Method("bf16", "", "x", 4, build="packed", folder=tmp_path, request=request)
        alone = replace(run_of(setting, runtime_s=2873), methods={"bf16": method})
        said.append(reasons(printed, alone, method))
    released, theirs = said
    assert released == [
        "other work (theirs is method=bf16 model.window=null model.loop.reach=null)"
    ]
    assert theirs == []


def test_the_verb_says_of_each_row_what_does_the_same_work() -> None:
    done = command(
        "compare", "--published", "flowcache", "--source", "/nowhere", "--row", "teacache slow",
        "--format", "md", module="analysis",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "TeaCache slow" in line]
    assert [line.split(" | ")[2] for line in lines] == ["no", "yes"]
