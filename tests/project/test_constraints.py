"""What must hold and who is left, the nearest miss, and how sure a first place is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.choosing.choices import Question, ask, preset, shown
from analysis.choosing.constraints import fixed, parse
from analysis.statistics import between
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from tests.support.choices import SMALL, section


def videos(**of_methods: list[float]) -> pd.DataFrame:
    """SSIM of a video a prompt, by method."""
    rows = {
        (name.replace("_", " "), i, 0): {"ssim": value}
        for name, values in of_methods.items()
        for i, value in enumerate(values)
    }
    table = pd.DataFrame(rows).T
    table.index.names = ["method", "prompt_index", "sample"]
    return table


# ---- constraints ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "base", "limit"),
    [
        ("peak_gib<=8", 20.0, 8.0),
        (" runtime_s <= 1.1X ", 10.0, 11.0),
        ("ssim>=bf16-0.05", 1.0, 0.95),
        ("lpips<bf16 + .05", 0.0, 0.05),
        ("psnr_db>3e1", np.nan, 30.0),
        ("imaging_drift>=-0.1", np.nan, -0.1),
    ],
)
def test_bounds_are_read(word: str, base: float, limit: float) -> None:
    found = parse(word, QUANTITIES)
    assert found.limit(pd.Series({found.quantity: base})) == pytest.approx(limit)
    assert parse(str(found), QUANTITIES) == found


@pytest.mark.parametrize("word", ["peak_gib", "peak_gib=8", "<=8", "ratio>=two", "ratio>=1.1y", ""])
def test_what_is_no_bound_is_refused(word: str) -> None:
    with pytest.raises(UserError, match="is no constraint: give"):
        parse(word, QUANTITIES)


def test_an_unknown_quantity_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'pek_gib', did you mean peak_gib.*: choose ratio, ssim$"):
        parse("pek_gib<=8", ["ratio", "ssim"])


def test_only_what_keeps_to_all_bounds_is_left() -> None:
    question = Question("q", fixed(["peak_gib<=10", "runtime_s<=1.2x"]), ("ssim",))
    found = ask(section(SMALL), question)
    assert list(found.values.index) == ["b", "a"]
    assert found.reference is not None and found.reference["ssim"] == 1.0
    assert "peak_gib<=10 excludes 1 of 4, 1 of them by itself" in found.notes
    assert "runtime_s<=1.2x (12.0) excludes 1 of 4, 1 of them by itself" in found.notes
    assert "bf16 itself misses peak_gib<=10" in found.notes


def test_what_a_bound_costs_by_itself_is_told() -> None:
    question = Question("q", fixed(["peak_gib<=6.5", "runtime_s<=1.1x"]))
    said = ask(section(SMALL), question).notes
    assert "peak_gib<=6.5 excludes 3 of 4, 2 of them by itself" in said  # b misses both
    assert "runtime_s<=1.1x (11.0) excludes 2 of 4, 1 of them by itself" in said


def test_nothing_left_tells_the_nearest_miss() -> None:
    found = ask(section(SMALL), Question("q", fixed(["peak_gib<=8", "runtime_s<=1.1x"]), ("ssim",)))
    assert found.values.empty
    # a misses memory by 1/8; b misses time by 1/11 and is nearer.
    assert "nearest miss: b, runtime 12.0 (by 1)" in found.notes


def test_a_missing_value_keeps_to_no_bound() -> None:
    found = ask(section(SMALL), Question("q", fixed(["ssim>=0.1"]), ("ratio",)))
    assert "d" not in found.values.index
    assert "ssim>=0.1 excludes 1 of 4, 1 for want of a value" in found.notes


def test_bounds_told_by_bf16_need_it_but_for_fidelity() -> None:
    others = {name: row for name, row in SMALL.items() if name != "bf16"}
    alone = section(others, reference=None)
    with pytest.raises(UserError, match="there is no BF16 run here"):
        ask(alone, Question("q", fixed(["runtime_s<=1.1x"])))
    assert list(ask(alone, Question("q", fixed(["ssim>=bf16-0.05"]))).values.index) == ["b"]


def test_a_quantity_that_nothing_has_is_refused_unless_a_preset_asks() -> None:
    with pytest.raises(UserError, match=r"no LPIPS \(not measured\): choose of ratio, .*ssim"):
        ask(section(SMALL), Question("q", (), ("lpips",)))
    found = ask(section(SMALL), preset("quality_in_memory"))
    assert list(found.values.index) == ["b", "a", "c"]
    assert "left out: LPIPS: not measured" in found.notes


def test_values_are_never_rounded_away() -> None:
    assert shown("peak_gib", 0.0123) == "0.0123"
    assert shown("peak_gib", 19.283) == "19.28"
    # Of small sizes and times three digits, in a column as many decimals as its largest has.
    assert (shown("runtime_s", 1.534), shown("runtime_s", 58.64)) == ("1.53", "58.6")
    assert (shown("peak_gib", 0.6512), shown("runtime_s", 1.534, 1)) == ("0.651", "1.5")
    assert (shown("ssim", np.nan), shown("psnr_db", np.inf)) == ("-", "inf")


# ---- how sure ------------------------------------------------------------------------------------


def test_the_difference_of_two_methods_by_hand() -> None:
    table = videos(a=[0.9, 0.8, 0.9, 0.7, 0.5], b=[0.8, 0.6, 0.8, 0.6])
    found = between(section({"a": {}, "b": {}}, videos=table), "ssim", "a", "b")
    assert found is not None and found.n == 4  # the fifth prompt has no b
    assert found.mean == pytest.approx(0.125)
    assert found.p == pytest.approx(2 / 2**4)
    assert between(section({"a": {}}, videos=table), "ssim", "a", "none") is None


def _notes(a: list[float], b: list[float], **more: Any) -> str:
    """What is said of two methods of these SSIM, a before b."""
    table = videos(a=a, b=b, **more)
    means = table["ssim"].groupby(level="method").mean()
    rows = {"bf16": {"ssim": np.nan}, **{str(n): {"ssim": float(v)} for n, v in means.items()}}
    ours = section(rows, videos=table, floors=["floor"] if more else [])
    return "\n".join(ask(ours, Question("q", (), ("ssim",))).notes)


def test_first_and_second_are_told_apart_only_where_prompts_agree() -> None:
    step = [0.001 * i for i in range(8)]
    agreed = _notes([0.9 + x for x in step], [0.8 + 2 * x for x in step])
    assert "a less b" in agreed and ": told apart" in agreed
    mixed = _notes([0.9, 0.7, 0.9, 0.7, 0.9, 0.7, 0.9, 0.72], [0.7, 0.9] * 4)
    assert "not told apart" in mixed
    few = _notes([0.9, 0.8, 0.85, 0.9], [0.5, 0.6, 0.55, 0.6])
    assert "which no difference could be with 4 prompts" in few


def test_the_first_is_held_against_the_noise_floor() -> None:
    floor = [0.99, 0.98, 0.99, 0.98, 0.99, 0.98, 0.99, 0.98]
    near = _notes([0.98, 0.99] * 4, [0.5] * 8, floor=floor)
    assert (
        "a less the noise floor (floor)" in near and "not told apart from the noise floor" in near
    )
    far = _notes([0.9, 0.91] * 4, [0.5] * 8, floor=floor)
    assert "worse than the noise floor" in far


def test_seconds_are_held_against_bf16_made_again() -> None:
    rows = {"bf16": 10.0, "again": 11.0, "a": 9.0, "b": 9.5}
    table = videos(
        **{name: [value + i / 100 * len(name) for i in range(8)] for name, value in rows.items()}
    ).rename(columns={"ssim": "runtime_s"})
    values = {name: {"runtime_s": value} for name, value in rows.items()}
    question = Question("q", (), ("runtime_s",))
    said = "\n".join(ask(section(values, videos=table, reruns=["again"]), question).notes)
    assert "runtime: a less b -0.5" in said
    assert "BF16 made again differs from BF16 by 1, so this may be chance" in said
    del values["again"]
    assert "chance" not in "\n".join(ask(section(values, videos=table), question).notes)
