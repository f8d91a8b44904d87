"""Figures of sections: the study's as it has them, and what is said where something lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.__main__ import main
from analysis.figures.catalogue import FIGURES, chosen, drawn
from analysis.figures.figure import Absent, Bars, Curves, Panels, Scatter
from analysis.section import Method, Section, Trace
from analysis.sources.published.observations import sections
from harness.system.errors import UserError
from tests.conftest import SHARED

OBSERVATIONS = SHARED / "published" / "observations.parquet"
FRONTIERS = {
    "frontier-balanced": "balanced_practical",
    "frontier-quality": "quality_preserving_compression",
    "frontier-systems": "systems_efficiency",
    "frontier-quality-first": "quality_first",
}


def section(
    values: dict[str, dict[str, float]], reference: str | None = "bf16", **more: Any
) -> Section:
    """Methods by name; a prompt of every quantity moved a little up, another down."""
    table = pd.DataFrame(values).T
    again = {*more.get("floors", ()), *more.get("reruns", ())}
    methods = {
        name: Method(
            name, "", "BF16" if name in again else "RTN", 8, num_wanted=8,
            reasons={"drift_last": "not scored: type this"},
        )
        for name in values
    }  # fmt: skip
    steps = np.linspace(-0.1, 0.1, 8)
    videos = {(name, i, 0): table.loc[name] + steps[i] for name in table.index for i in range(8)}
    frame = pd.DataFrame(videos).T
    frame.index.names = ["method", "prompt_index", "sample"]
    return Section("t", "moviegen", False, methods, table, frame, reference, **more)


def ours(**more: Any) -> Section:
    """Without LPIPS and VBench, as most users see it at first."""
    seen = {"ratio": 1.0, "peak_gib": 2.0, "runtime_s": 3.0}
    return section(
        {
            "bf16": seen,
            "floor": {**seen, "ssim": 0.99, "psnr_rest_db": 50.0, "psnr_db": 52.0},
            "a": {**seen, "ratio": 4.0, "ssim": 0.8, "psnr_rest_db": 20.0, "psnr_db": 22.0},
            "b": {**seen, "ratio": 3.0, "ssim": 0.7, "psnr_rest_db": 18.0, "psnr_db": 19.0},
        },
        floors=["floor"],
        **more,
    )


def one(made: Section, name: str) -> Any:
    (found,) = drawn(made, [name])
    return found


# ---- the study -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study() -> Sequence[Section]:
    if not OBSERVATIONS.is_file():
        pytest.skip(f"the study's data is not here: {OBSERVATIONS}")
    return sections(OBSERVATIONS)


def test_every_figure_of_the_study_is_there(study: Sequence[Section]) -> None:
    for each in study:
        absent = [found.name for found in drawn(each) if isinstance(found, Absent)]
        assert absent == ["components", "over-time"]  # ours; the study has none


def test_the_frontiers_are_the_published_ones(study: Sequence[Section]) -> None:
    table = pd.read_csv(SHARED / "published" / "frontiers.csv")
    for each in study:
        flags = table[table["benchmark"] == each.suite].set_index("method")
        for name, column in FRONTIERS.items():
            found = one(each, name)
            placed = {point.name for point in found.points}
            wanted = set(flags.index[flags[f"pareto_{column}"]]) & placed
            assert set(found.frontier) == wanted
            (base,) = (point for point in found.points if point.is_reference)
            assert base.name == "BF16"


def test_what_the_study_kept_of_traces_are_bars_and_it_is_said(study: Sequence[Section]) -> None:
    found = one(study[0], "kv-trace")
    assert isinstance(found, Bars) and "only the largest" in found.note
    lengths = {bar.name: bar.total for bar in found.bars}
    assert lengths["BF16"] == pytest.approx(11.2472534) and len(lengths) == 33


def test_numbers_and_rows_of_the_decks_figures(study: Sequence[Section]) -> None:
    peaks, ratios = one(study[0], "deck-bars").figures
    assert len(peaks.bars) == 5
    lengths = {bar.name: round(bar.total, 2) for bar in peaks.bars}
    assert lengths["BF16"] == 19.28 and lengths["FLOWCACHE_SOFT_PRUNE_INT4"] == 11.71
    assert [bar.name for bar in ratios.bars] == [bar.name for bar in peaks.bars]
    assert all(bar.low is None for bar in ratios.bars)  # the same in all videos
    assert len(one(study[0], "experiments-drift").figures[0].bars) == 14
    assert "StoryEval" not in one(study[0], "deck-drift").title
    assert "KIVI_K2_V4" in one(study[1], "experiments-vbench").note  # not run there


def test_partial_rows_are_hollow_and_infinite_ones_are_said(study: Sequence[Section]) -> None:
    found = one(study[0], "peak-runtime")
    hollow = {point.name for point in found.points if point.hollow}
    assert hollow == {"KIVI_K2_V4", "RTN_K2_V4", "QUAROT_KV_INT4_REFRESH"}
    psnr = one(study[1], "experiments-fidelity").figures[0]
    assert "no finite value: BF16, KIVI_INT2" in psnr.note
    assert all(np.isfinite(bar.total) for bar in psnr.bars)


# ---- ours ----------------------------------------------------------------------------------------


def test_without_weights_another_quality_stands_in_and_it_is_said() -> None:
    found = one(ours(), "frontier-balanced")
    assert isinstance(found, Scatter) and found.y.title == "PSNR rest dB"
    assert "in place of drift last (not scored: type this)" in found.note
    assert "without LPIPS, drift last" in found.frontier_said
    assert found.title == "MovieGen: ratio and PSNR rest, frontier: balanced"
    assert "bf16" in found.note  # infinite to itself
    quality = one(ours(), "frontier-quality")
    assert {point.name for point in quality.points} == {"bf16", "a", "b"}  # no floor
    assert set(quality.frontier) == {"bf16", "a"}


def test_fidelity_has_intervals_and_the_floor() -> None:
    found = one(ours(), "fidelity")
    assert [panel.title for panel in found.figures] == ["PSNR rest", "PSNR", "SSIM"]
    ssim = found.figures[-1]
    assert [bar.name for bar in ssim.bars] == ["a", "b"]
    assert ssim.mark == 0.99 and ssim.mark_said == "noise floor"
    assert all(bar.low < bar.total < bar.high for bar in ssim.bars)
    assert "LPIPS" in found.note


def test_an_interval_of_another_mean_is_not_drawn() -> None:
    made = ours()
    made.values.loc["a", "ssim"] = 0.5  # as where videos were lost
    bars = {bar.name: bar for bar in one(made, "fidelity").figures[-1].bars}
    assert bars["a"].low is None and bars["b"].low is not None


def test_curves_leave_gaps_and_what_is_bf16_again_out() -> None:
    curves = pd.DataFrame(
        {"bf16": [1.0, 2.0], "floor": [1.0, 2.0], "a": [np.nan, 3.0], "b": [np.nan, np.nan]},
        index=[0.5, 1.5],
    )
    made = ours(curves={"signals_flicker": curves, "imaging": curves})
    found = one(made, "drift")
    assert isinstance(found, Curves)
    assert {each.name: list(each.xs) for each in found.curves} == {"bf16": [0.5, 1.5], "a": [1.5]}
    assert [each.is_reference for each in found.curves] == [True, False]
    (flicker,) = one(made, "over-time").figures
    assert flicker.y.title == "flicker, levels" and flicker.y.better is None


def test_traces_and_parts_of_the_peak() -> None:
    trace = Trace(np.array([0.0, 1.0]), np.array([0.5, 1.5]))
    parts = pd.DataFrame(
        {"weights": [4.0, 4.0, 4.0], "codes": [0.0, 2.0, np.nan], "zero": [0.01, 0.01, 0.01]},
        index=["bf16", "a", "floor"],
    )
    made = ours(
        traces={"kv": {"a": trace, "floor": trace, "bf16": trace}}, components=parts, traced="p 0"
    )
    found = one(made, "kv-trace")
    assert [each.name for each in found.curves] == ["a", "bf16"] and found.steps
    stacked = one(made, "components")
    assert stacked.part_names == ["weights", "codes", "smaller parts"]
    assert {bar.name: list(bar.parts) for bar in stacked.bars} == {
        "bf16": [4.0, 0.0, 0.01], "a": [4.0, 2.0, 0.01],
    }  # fmt: skip
    assert "smaller parts: zero" in stacked.note
    assert "no run left a trace" in one(made, "memory-trace").reason


def test_nothing_measured_is_a_reason_for_every_figure() -> None:
    made = section({"bf16": {"ratio": np.nan}})
    found = drawn(made)
    assert len(found) == len(FIGURES)
    assert all(isinstance(each, Absent) and each.reason for each in found)
    assert [each.name for each in found] == list(FIGURES)


def test_peaks_of_another_program_are_said() -> None:
    made = ours()
    methods = {**made.methods, "b": replace(made.methods["b"], build="published")}
    for name in ("ratio-peak", "registry-performance"):
        assert "another program (published): b" in one(replace(made, methods=methods), name).note
        assert "another program" not in one(made, name).note
    assert "another program" not in one(replace(made, methods=methods), "frontier-quality").note


def test_one_method_and_no_reference() -> None:
    made = section({"a": {"ratio": 2.0, "peak_gib": 1.0}}, reference=None)
    found = {each.name: each for each in drawn(made)}
    assert isinstance(found["ratio-peak"], Scatter) and isinstance(found["registry-memory"], Panels)
    assert not any(point.is_reference for point in found["ratio-peak"].points)
    assert "PRQ_INT4" in found["deck-bars"].reason


# ---- the verb ------------------------------------------------------------------------------------


def test_names_are_chosen_and_mistakes_met() -> None:
    assert chosen(None) == list(FIGURES)
    assert chosen("drift, kv-trace,drift") == ["drift", "kv-trace"]
    for words in ("drfit", " , "):
        with pytest.raises(UserError, match="there are frontier-balanced"):
            chosen(words)
    with pytest.raises(UserError, match="did you mean drift"):
        chosen("drfit")


@pytest.mark.usefixtures("study")
@pytest.mark.parametrize("form", ["svg", "pdf"])
def test_the_verb_writes_a_file_a_figure_and_says_what_lacks(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--source", "published", "--observations", str(OBSERVATIONS), "--format", form]
    names = ["--figure", "deck-drift,components", "--out", str(tmp_path / "new")]
    assert main(["figures", *words, *names]) == 0
    written = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert written == [f"moviegen-deck-drift.{form}", f"storyeval-deck-drift.{form}"]
    said = capsys.readouterr().out
    assert f"moviegen-deck-drift.{form}  MovieGen: terminal drift of five methods" in said
    assert "not drawn: components: no component was published (moviegen, storyeval)" in said
    assert main(["figures", *words, "--figure", "components", "--out", str(tmp_path)]) == 2
    assert "no figure could be drawn" in capsys.readouterr().err


def test_no_results_are_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["figures", "--source", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: no results below")
