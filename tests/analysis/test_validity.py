"""Ranks of the published methods, ours against the study's: nothing is left out unsaid."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis.__main__ import main
from analysis.pages import BEGIN, END
from analysis.sources.published.fidelity import Published, fidelity
from analysis.sources.published.observations import sections
from analysis.sources.study_methods import by_suite, one_sweep, published_names
from analysis.validity import LPIPS, PSNR, SSIM, agreement, correlation, halves, listing, pairs
from harness.results import observations
from harness.results.observation import Observation
from harness.results.observations import Rows
from harness.results.scores import SCORES, Scored
from harness.system import parquet
from harness.system.errors import UserError
from tests.conftest import SHARED
from tests.support.observations import observation
from tests.support.study_observations import row, written

METHODS = {
    "published/rtn_int4": "RTN_INT4",
    "published/rtn_int2": "RTN_INT2",
    "published/kivi_int2": "KIVI_INT2",
    "published/prq_int4": "PRQ_INT4",
}
QUALITY = {"PRQ_INT4": 4.0, "RTN_INT4": 3.0, "RTN_INT2": 2.0, "KIVI_INT2": 1.0}
SUITES = ("moviegen", "storyeval")


# ---- the published side ------------------------------------------------------------------------


def study(folder: Path, infinite: tuple[tuple[str, int], ...] = ()) -> Path:
    """Two prompts a suite; RTN_INT2 has one video of two in the second."""
    videos = []
    for suite in SUITES:
        for name, quality in {"BF16": math.inf, **QUALITY}.items():
            partial = (name, suite) == ("RTN_INT2", "storyeval")
            for prompt in range(1 if partial else 2):
                psnr = math.inf if (name, prompt) in infinite else quality + prompt
                values = {"ssim_agg": quality / 10, "lpips_agg": -quality, "psnr": psnr}
                names = {"benchmark": suite, "family": name.split("_")[0]}
                videos.append(row(name, prompt, **names, **values))
    return written(folder, *videos)


def read(path: Path) -> dict[str, Published]:
    return fidelity(sections(path))


def test_a_prompt_on_which_any_method_is_infinite_counts_for_none(tmp_path: Path) -> None:
    found = read(study(tmp_path, infinite=(("KIVI_INT2", 1),)))["moviegen"]
    assert found.infinite_prompts == [1]
    assert dict(found.methods["psnr"]) == QUALITY  # prompt 0 alone; both would add a half


def test_the_reference_is_no_method_and_partial_rows_are_known(tmp_path: Path) -> None:
    found = read(study(tmp_path))
    assert list(found) == list(SUITES)
    assert set(found["moviegen"].methods.index) == set(QUALITY)
    assert found["moviegen"].infinite_prompts == []  # BF16 is infinite on both
    assert found["moviegen"].methods["psnr"]["RTN_INT4"] == 3.5
    assert list(found["moviegen"].partial) == []
    assert list(found["storyeval"].partial) == ["RTN_INT2"]


def test_the_study_itself_is_finite_and_equals_its_summaries() -> None:
    path = SHARED / "published" / "observations.parquet"
    if not path.is_file():
        pytest.skip(f"the study's data not found: {path}")
    found = read(path)
    assert {suite: len(each.methods) for suite, each in found.items()} == {
        "moviegen": 32,
        "storyeval": 29,
    }
    assert [each.infinite_prompts for each in found.values()] == [[6], [0, 1, 6, 8]]
    assert [len(each.partial) for each in found.values()] == [3, 0]
    for each in found.values():
        assert np.isfinite(each.methods[["psnr", "ssim", "lpips"]]).all(axis=None)
    assert set(found["moviegen"].methods.index) | {"BF16"} == set(published_names().values())


# ---- our side ----------------------------------------------------------------------------------


def rows(suites: tuple[str, ...] = SUITES, num_prompts: int = 2) -> pd.DataFrame:
    """Every method on every prompt, at the study's order of qualities."""
    found = []
    for suite in suites:
        for method, name in METHODS.items():
            for prompt in range(num_prompts):
                seen = observation(prompt, suite=suite, method=method, run_id=f"{suite}-{name}")
                found.append(vars(seen) | scores(QUALITY[name] + prompt))
    return pd.DataFrame(found)


def scores(quality: float) -> dict[str, Any]:
    return {
        "psnr_frame_mean_db": 10 * quality,
        "psnr_rest_db": 9 * quality,
        "ssim": quality / 10,
        "lpips": None,
        "lpips_reason": "no weights",
        "psnr_reason": None,
    }


def test_names_come_from_the_files() -> None:
    names = published_names()
    assert len(names) == len(set(names.values())) == 33
    assert names["published/rtn_int4_refresh"] == "RTN_INT4_REFRESH"
    assert METHODS.items() <= names.items()


def test_rows_of_another_model_are_left_out_and_said() -> None:
    other = rows(("moviegen",), 1).assign(model="large")
    kept, notes = one_sweep(pd.concat([other, rows()]), METHODS)
    assert set(kept["model"]) == {"m"}
    assert notes == ["left out: 4 rows of another sweep (model=large)"]


def test_without_any_published_method_there_is_nothing_to_select() -> None:
    with pytest.raises(UserError, match="none of the 2 rows"):
        one_sweep(rows(("moviegen",)).head(2).assign(method="rtn_int4"), METHODS)


def test_a_method_that_misses_a_prompt_is_left_out_with_its_reason() -> None:
    table = rows(("moviegen",))
    lost = (table["method"] == "published/rtn_int2") & (table["prompt_index"] == 1)
    table.loc[lost, ["psnr_frame_mean_db", "ssim"]] = None
    table.loc[lost, "failure_reason"] = "out of memory"
    found = by_suite(table, METHODS)["moviegen"]
    assert found.names == ["KIVI_INT2", "PRQ_INT4", "RTN_INT4"]
    assert found.left_out == {"RTN_INT2": "1 of 2 videos (out of memory)"}
    assert found.values["ssim"].shape == (2, 3)


def test_more_prompts_of_one_method_are_not_compared() -> None:
    more = rows(("moviegen",), 5)
    table = more[(more["prompt_index"] < 2) | (more["method"] == "published/rtn_int4")]
    found = by_suite(table, METHODS)["moviegen"]
    assert list(found.values["ssim"].index) == [(0, 0), (1, 0)]
    assert len(found.names) == 4 and not found.left_out


def test_a_metric_that_is_not_there_for_all_is_not_there() -> None:
    found = by_suite(rows(("moviegen",)), METHODS)["moviegen"]
    assert "lpips" not in found.values
    assert found.reasons == {"lpips": "8 of 8 videos without it; no weights"}


def test_one_video_of_two_runs_is_refused() -> None:
    with pytest.raises(UserError, match=r"several runs \(moviegen-RTN_INT4, other\)"):
        by_suite(pd.concat([rows(("moviegen",)), again()]), METHODS)


def again() -> pd.DataFrame:
    table = rows(("moviegen",))
    return table[table["method"] == "published/rtn_int4"].assign(run_id="other")


# ---- together ----------------------------------------------------------------------------------


def test_the_same_order_correlates_fully_and_the_reverse_negatively(tmp_path: Path) -> None:
    published = read(study(tmp_path))
    table = rows()
    found = pairs(published, by_suite(table, METHODS))
    names = list(QUALITY)
    for metric in (PSNR, SSIM):
        assert correlation(found[:1], names, metric) == pytest.approx((1, 1, 1))
    table["ssim"] *= -1
    found = pairs(published, by_suite(table, METHODS))
    assert correlation(found, names, SSIM) == pytest.approx((-1, -1, -1))
    assert math.isnan(correlation(found, names, LPIPS)[0])


def test_suites_are_redrawn_apart_from_each_other(tmp_path: Path) -> None:
    first, second = pairs(read(study(tmp_path)), by_suite(rows(num_prompts=8), METHODS))
    draws = [pair.ours(SSIM, ["RTN_INT4"], 100) for pair in (first, second)]
    assert draws[0][0] == draws[1][0]
    assert not np.array_equal(*draws)


def test_partial_rows_are_ranked_only_where_said(tmp_path: Path) -> None:
    grid = agreement(pairs(read(study(tmp_path)), by_suite(rows(), METHODS)))
    counts = {line[0]: line[1] for line in grid.lines}
    assert counts["moviegen"] == "4"
    assert (counts["storyeval"], counts["storyeval, partial rows too"]) == ("3", "4")
    assert counts["both"] == "3"


def test_two_halves_of_the_methods_are_ranked_apart(tmp_path: Path) -> None:
    design, held_out = halves().values()
    assert not set(design) & set(held_out)
    assert {*design, *held_out} == {*published_names().values()} - {"BF16"}
    # Each half has its share of the rows that the first small model ranked wrongly.
    for word in ("QAQ", "KIVI", "NATIVE"):
        counts = [sum(word in name for name in half) for half in (design, held_out)]
        assert min(counts) >= 1 and max(counts) - min(counts) <= 1
    grid = agreement(pairs(read(study(tmp_path)), by_suite(rows(), METHODS)))
    counts = {line[0]: line[1] for line in grid.lines}
    assert (counts["moviegen, design half"], counts["moviegen, held out half"]) == ("2", "2")
    assert counts["both, design half"] == "1"


def test_one_prompt_has_no_interval(tmp_path: Path) -> None:
    published = read(study(tmp_path))
    for num_prompts, text in ((1, "1.000"), (2, "1.000 [1.000, 1.000]")):
        grid = agreement(pairs(published, by_suite(rows(num_prompts=num_prompts), METHODS)))
        assert grid.lines[0][2] == text


def test_the_list_begins_with_the_farthest_apart(tmp_path: Path) -> None:
    table = rows(("moviegen",)).assign(lpips=0.5)
    best = table["method"] == "published/prq_int4"
    table.loc[best, ["psnr_frame_mean_db", "ssim", "lpips"]] = (0.0, 0.0, 0.9)
    grid = listing(pairs(read(study(tmp_path)), by_suite(table, METHODS))[0])
    assert grid.lines[0][0] == "PRQ_INT4"
    assert grid.lines[0][2:5] == ["4.50", "0.00", "1 / 4"]
    assert grid.lines[0][-2:] == ["1 / 4", "+3.0"]  # lower LPIPS is closer
    assert grid.lines[1][0] == "KIVI_INT2" and grid.lines[1][-2] == "4 / 2"


# ---- the verb ----------------------------------------------------------------------------------


def on_disk(folder: Path, table: pd.DataFrame) -> None:
    """Rows as runs leave them: observations, and scores beside them."""
    of_videos = parquet.schema(Observation).names
    for run_id, part in table.groupby("run_id"):
        place = folder / str(run_id)
        place.mkdir(parents=True)
        written = Rows(place / observations.OBSERVATIONS)
        seen = part[[name for name in of_videos if name in part]]
        for record in seen.astype(object).where(seen.notna(), None).to_dict("records"):
            written.put(Observation(**record))
        scored = part[[*observations.KEY, *(name for name in part if name not in of_videos)]]
        identity = {
            name: None for name in parquet.schema(Scored).names if name not in observations.KEY
        }
        ordered = scored.assign(**identity)[[*parquet.schema(Scored).names, *scored.columns[3:]]]
        types = pa.Schema.from_pandas(ordered, preserve_index=False)
        known = [x for x in types if x.name not in parquet.schema(Scored).names]
        schema = pa.schema([*parquet.schema(Scored), *known])
        parquet.write(place / SCORES, pa.Table.from_pandas(ordered, schema, preserve_index=False))


def validity(monkeypatch: pytest.MonkeyPatch, *words: Path | str) -> int:
    return main(["validity", *map(str, words)])


def test_the_verb_prints_draws_and_writes_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_disk(tmp_path / "results", rows())
    page, drawn = tmp_path / "page.md", tmp_path / "new" / "validity.svg"
    page.write_text(f"before\n{BEGIN}\nstale\n{END}\nafter\n")
    words = (tmp_path / "results", "--observations", study(tmp_path), "--page", page)
    assert validity(monkeypatch, *words, "--picture", drawn) == 0
    text = capsys.readouterr().out
    assert "1.000 [1.000, 1.000]" in text
    assert "2000 draws" in text and "no lpips: 8 of 8 videos without it; no weights" in text
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("after\n")
    assert "stale" not in written and "| KIVI_INT2 | 2 |" in written
    assert len(list(ElementTree.fromstring(drawn.read_text()).iter())) > 50
    assert written.count("(new/validity.svg)") == 1
    assert validity(monkeypatch, *words, "--picture", drawn) == 0  # once more into the same page
    assert page.read_text() == written


@pytest.mark.parametrize("wrong", ["nothing", "page", "marks"])
def test_what_can_be_fixed_ends_with_two(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = rows()
    if wrong == "nothing":
        table = table[table["method"].isin(["published/rtn_int4", "published/rtn_int2"])]
    on_disk(tmp_path / "results", table)
    page = tmp_path / "page.md"
    if wrong == "marks":
        page.write_text("no marks")
    words = (tmp_path / "results", "--observations", study(tmp_path), "--page", page)
    assert validity(monkeypatch, *words) == 2
    said = {"nothing": "nothing to compare", "page": "cannot read", "marks": "has no lines"}
    assert said[wrong] in capsys.readouterr().err
