"""Frontiers, presets and constraints: the study's own answers, and what a plain reading says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.choosing.choices import ask, ordered, preset
from analysis.choosing.constraints import fixed
from analysis.choosing.frontiers import dominated, flags, frontier, frontiers, objectives, unplaced
from analysis.choosing.recommendations import calibrated, cards, cautions, labels, plainly
from analysis.section import Method, Section
from analysis.sources.published.observations import sections
from harness.results.quantities import QUANTITIES
from tests.conftest import SHARED
from tests.support.choices import SMALL, section

SUITES = ("moviegen", "storyeval")
FOLDER = SHARED / "published"


@pytest.fixture(scope="module")
def study() -> dict[str, Section]:
    """The published study by suite, or skip."""
    if not FOLDER.is_dir():
        pytest.skip(f"the study's data is not here: {FOLDER}")
    return {each.suite: each for each in sections(FOLDER / "observations.parquet")}


def printed(suite: str) -> pd.DataFrame:
    """The study's own frontiers and labels, in the order of its default preset."""
    table = pd.read_csv(FOLDER / "frontiers.csv")
    return table[table["benchmark"] == suite].set_index("method")


# ---- frontiers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_all_flags_of_the_study(study: dict[str, Section], suite: str) -> None:
    wanted, found = printed(suite), flags(study[suite])
    assert sorted(found.index) == sorted(wanted.index)
    for name in found:
        assert found[name].tolist() == wanted[f"pareto_{name}"].loc[found.index].tolist(), name


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ("moviegen", "PRUNE_INT2 SOFT_PRUNE_INT2 PRUNE_INT4 SOFT_PRUNE_INT4 PRQ_INT2"),
        ("storyeval", "PRUNE_INT2 SOFT_PRUNE_INT2 PRUNE_INT4 QUAROT_KV_INT4 PRQ_INT2 PRQ_INT4"),
    ],
)
@pytest.mark.parametrize("quality", ["imaging", "drift_last"])
def test_the_two_objective_fronts_of_table_6(
    study: dict[str, Section], suite: str, names: str, quality: str
) -> None:
    found = frontier(study[suite].values, ["ratio", quality])
    assert [name.removeprefix("FLOWCACHE_") for name in found] == names.split()


@pytest.mark.parametrize("seed", range(5))
def test_a_member_is_never_beaten_and_any_other_always(seed: int) -> None:
    rng = np.random.default_rng(seed)
    axes = ["ratio", "lpips", "peak_gib"][: 1 + seed % 3]
    table = pd.DataFrame(rng.integers(0, 6, (60, len(axes))) / 3, columns=axes)
    table.index = pd.Index([f"m{i}" for i in range(60)])
    table.iloc[3, 0], table.iloc[4, -1] = np.nan, np.inf
    signs = [1 if QUANTITIES[axis].better == "higher" else -1 for axis in axes]

    def beats(a: str, b: str) -> bool:
        pairs = list(zip(table.loc[a] * signs, table.loc[b] * signs, strict=True))
        return all(x >= y for x, y in pairs) and any(x > y for x, y in pairs)

    members, finite = frontier(table, axes), [n for n in table.index if n not in ("m3", "m4")]
    for name in finite:
        assert (name in members) != any(beats(other, name) for other in finite)
    assert set(members) <= set(finite) and unplaced(table, axes).keys() == {"m3", "m4"}
    ordered = table["ratio"].loc[members].tolist()
    assert ordered == sorted(ordered, reverse=True)


def test_rounding_beats_nothing() -> None:
    assert dominated(np.array([[1.0, 2.0], [1.0 + 1e-12, 2.0]])).tolist() == [False, False]
    assert dominated(np.array([[1.0, 2.0], [1.0 + 1e-6, 2.0]])).tolist() == [True, False]


def test_bf16_has_the_fidelity_of_a_video_to_itself_and_its_like_are_no_choice() -> None:
    table = SMALL | {"again": SMALL["bf16"], "floor": SMALL["bf16"] | {"ssim": 0.99}}
    found = objectives(section(table, floors=["floor"], reruns=["again"]))
    assert list(found.index) == list(SMALL)
    assert found.loc["bf16", "ssim"] == 1.0
    assert frontier(found, ["ratio", "ssim"]) == ["c", "a", "b", "bf16"]
    unscored = section({name: row | {"ssim": np.nan} for name, row in SMALL.items()})
    assert objectives(unscored)["ssim"].isna().all()


def test_an_axis_that_nothing_has_is_left_out_and_said() -> None:
    reasons = {"lpips": "no weights"}
    methods = {name: Method(name, "", "RTN", 8, reasons=reasons) for name in SMALL}
    ours = Section("t", "s", False, methods, pd.DataFrame(SMALL).T, pd.DataFrame(), "bf16")
    quality = next(each for each in frontiers(ours) if each.name == "quality_first")
    assert quality.axes == ("ssim", "runtime_s")
    assert quality.left_out == {"lpips": "no weights", "drift_last": "not measured"}
    assert quality.unplaced == {"d": "no SSIM"}
    assert flags(ours)["quality_first"].to_dict() == {
        "bf16": True, "a": False, "b": False, "c": False, "d": False
    }  # fmt: skip


# ---- the study's orders, labels and warnings -----------------------------------------------------


@pytest.mark.parametrize("suite", SUITES)
def test_order_and_labels_of_the_study(study: dict[str, Section], suite: str) -> None:
    wanted = printed(suite)
    found = ordered(objectives(study[suite]), preset("single_gpu").by)
    assert list(found.index) == list(wanted.index)
    assert labels(study[suite]) == wanted["recommended_for"].fillna("").to_dict()


def test_what_the_rules_come_to_is_said(study: dict[str, Section]) -> None:
    said = plainly(study["moviegen"])
    assert "no method keeps to ssim>=bf16-0.05: nearest is PRQ_INT4 with 0.824" in said
    assert "no method keeps to all tolerances at once" in said
    default = cards(study["moviegen"])[0]
    assert default.how == "of the 14 on the frontier 'balanced', peak first"
    assert default.fell_back[-1] == "within all tolerances"


def test_a_method_without_values_keeps_to_no_tolerance_by_construction() -> None:
    failed = dict.fromkeys(SMALL["a"], np.nan)
    said = plainly(section({name: SMALL[name] for name in ("bf16", "a", "b")} | {"failed": failed}))
    assert said[-1].endswith("which b, a then keep to by construction")


def test_calibrated_tolerances_let_the_first_three_pass(study: dict[str, Section]) -> None:
    values = objectives(study["moviegen"]).drop(index="BF16")
    best = ordered(values, preset("single_gpu").by).iloc[:3]
    found = calibrated(values, "single_gpu")
    assert found["ssim"] == best["ssim"].min() and found["lpips"] == best["lpips"].max()
    assert found["ratio"] == best["ratio"].min()


def test_cautions() -> None:
    found = cautions(section(SMALL), fixed(["runtime_s<=1.1x"]))
    assert "bf16" not in found
    assert found["a"] == ["misses ssim>=bf16-0.05: 0.900"]
    assert found["b"] == ["misses runtime_s<=1.1x: 12.0"]
    assert "SSIM falls by more than 0.20" in found["c"]
    assert found["d"] == ["compresses, and its peak is not below that of BF16"]


def test_the_densest_may_be_a_little_less_dense_and_smaller() -> None:
    rows = {"bf16": (1.0, 20.0), "x": (8.0, 9.0), "y": (7.9, 8.0), "z": (7.7, 7.0)}
    table = {name: {"ratio": ratio, "peak_gib": peak} for name, (ratio, peak) in rows.items()}
    found = {card.label: card.method for card in cards(section(table))}
    assert found["Best aggressive-compression option"] == "y"
    assert "Fastest option" not in found  # nothing has seconds


def test_a_method_that_made_nothing_is_not_recommended() -> None:
    made, failed = SMALL["bf16"], dict.fromkeys(SMALL["bf16"], np.nan)
    found = cards(section({"bf16": made, "failed": failed}))
    assert [card.method for card in found] == ["bf16"]
    found = cards(section({"bf16": made, "failed": failed, "a": SMALL["a"]}))
    assert {card.method for card in found} == {"bf16", "a"}


def test_a_peak_as_large_as_that_of_bf16_is_no_gain() -> None:
    table = {"bf16": {"ratio": 1.0, "peak_gib": 20.0}, "x": {"ratio": 4.0, "peak_gib": 20.0}}
    assert cautions(section(table))["x"] == ["compresses, and its peak is not below that of BF16"]


def test_every_preset_speaks_of_quantities(study: dict[str, Section]) -> None:
    from analysis.choosing.frontiers import presets

    for name in presets()["presets"]:
        assert set(preset(name).quantities) <= set(QUANTITIES)
        assert ask(study["storyeval"], preset(name)).reference is not None


def test_equal_values_are_ordered_by_the_next_and_none_comes_last() -> None:
    rows = {"x": [1.0 + 1e-13, 5.0], "y": [1.0, 4.0], "z": [np.nan, 1.0], "w": [2.0, 9.0]}
    table = pd.DataFrame(rows, index=["ratio", "runtime_s"]).T
    assert list(ordered(table, ["ratio", "runtime_s"]).index) == ["w", "y", "x", "z"]
