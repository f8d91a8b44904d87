"""Drift tables: means, intervals and pairs against hand-worked rows; curves that can be read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from analysis import drift as drifts
from analysis.drift import MEASURES, drift, over_prompts, svg
from analysis.statistics import FEWEST
from harness.system.errors import UserError
from tests.support.commands import command

SVG = "{http://www.w3.org/2000/svg}"


def rows(run_id: str, changes: Sequence[float | None], method: str = "m", **more: Any) -> Any:
    """A row a prompt, whose brightness changes by so much from the first second to the last."""
    made = {
        "run_id": run_id, "method": method, "settings": "", "suite": "s", "model": "small",
        "contract": "full", "prompt_source": "bundled", "sample": 0, "failure": None,
        "reference_run_id": "ref",
    }  # fmt: skip
    return pd.DataFrame(
        [
            {
                **made,
                "prompt_index": i,
                "drift_signals_brightness_last_minus_first": change,
                "drift_signals_brightness_slope_per_s": None if change is None else change / 10,
                "signals_brightness_windows": None if change is None else [5.0, 5.0 + change],
                "signals_reason": "no frames" if change is None else None,
                **more,
            }
            for i, change in enumerate(changes)
        ]
    )


def cells(table: pd.DataFrame) -> dict[str, list[str]]:
    """The cells of the brightness table, by method."""
    (section,) = drift(table)
    (grid,) = section.grids
    return {line[0]: list(line[1:]) for line in grid.lines}


def test_names_of_columns_are_those_of_the_metrics() -> None:
    for measure in MEASURES:
        columns = [column.name for column in measure.quantity.columns()]
        parts = ("last_minus_first", "slope", "reason")
        assert {measure.windows, *map(measure.quantity.drift_column, parts)} <= set(columns)


def test_a_mean_and_its_interval_are_those_of_prompts() -> None:
    values = np.random.default_rng(0).normal(3, 2, 40)
    index = pd.MultiIndex.from_product([range(40), [0]], names=drifts.VIDEO)
    found = over_prompts(pd.Series(values, index))
    assert found is not None and found.bounds is not None
    assert found.mean == pytest.approx(values.mean())
    error = values.std() / np.sqrt(40)
    assert found.bounds == pytest.approx(
        (found.mean - 1.96 * error, found.mean + 1.96 * error), abs=0.1 * error
    )
    assert over_prompts(pd.Series(values, index)) == found  # the same draws whenever asked


def test_samples_of_a_prompt_are_no_new_prompts() -> None:
    index = pd.MultiIndex.from_product([range(4), [0, 1]], names=drifts.VIDEO)
    twice = over_prompts(pd.Series([1.0, 3, 2, 4, 3, 5, 4, 6], index))
    once = over_prompts(pd.Series([2.0, 3, 4, 5], index[::2]))
    assert twice == once


def test_few_prompts_have_a_mean_and_no_interval() -> None:
    table = pd.concat([rows("ref", [1.0] * (FEWEST - 1), "bf16"), rows("x", [2.0, 3, 4])])
    assert cells(table)["m"] == ["3", "3.00", "2.00", "0.300", "0.200"]


def test_pairs_are_of_the_same_prompt() -> None:
    """BF16 drifts very differently from prompt to prompt, and the method always by 1 more."""
    own = [-40.0, 0, 10, 50, 80]
    table = pd.concat([rows("x", [x + 1 for x in own]), rows("ref", own, "bf16")])
    found = cells(table)
    assert list(found) == ["bf16", "m"]  # BF16 first
    assert found["bf16"][1].startswith("20.0 [") and found["bf16"][2] == "-"
    assert found["m"][2] == "1.00 [1.00, 1.00]"
    assert found["m"][4] == "0.100 [0.100, 0.100]"


def test_a_prompt_that_one_side_lacks_is_in_no_pair() -> None:
    table = pd.concat([rows("ref", [0.0, 100, None, 0], "bf16"), rows("x", [2.0, None, 50, 4])])
    found = cells(table)
    assert found["m"][0] == "3" and found["m"][2] == "3.00"  # of prompts 0 and 3
    (section,) = drift(table)
    (note,) = (note for note in section.notes if "no frames" in note)
    assert "bf16 (1 of 4 videos), m (1 of 4 videos)" in note


def test_what_is_against_bf16_has_no_row_of_it_and_no_difference() -> None:
    of_method = {
        "drift_psnr_last_minus_first_db": -3.0, "drift_psnr_slope_db_per_s": -0.5,
        "psnr_windows_db": [30.0, 27.0],
    }  # fmt: skip
    table = pd.concat([rows("ref", [0.0] * 4, "bf16"), rows("x", [0.0] * 4)]).astype(
        {"run_id": str}
    )
    for name, value in of_method.items():
        table[name] = [value if run == "x" else None for run in table["run_id"]]
    (section,) = drift(table)
    grid = section.grids[1]
    assert grid.header == ["method", "n", "last less first second", "slope per second"]
    assert grid.lines == [["m", "4", "-3.00 [-3.00, -3.00]", "-0.500 [-0.500, -0.500]"]]
    assert not any("psnr" in note for note in section.notes)
    assert any("metrics=[lpips]" in note for note in section.notes)


def test_a_reference_elsewhere_is_said() -> None:
    (section,) = drift(rows("x", [1.0] * 4))
    assert any("not below this folder" in note for note in section.notes)
    assert section.grids[0].lines[0][3] == "-"


def test_failed_videos_are_counted_and_other_models_apart() -> None:
    table = pd.concat([rows("x", [1.0, 2.0]), rows("y", [3.0], model="big")], ignore_index=True)
    table.loc[0, "failure"] = "oom"
    small, big = drift(table)
    assert any("1 videos failed" in note for note in small.notes)
    assert small.grids[0].lines[0][1] == "1"
    assert big.title.startswith("s, big")


def test_nothing_scored_is_a_sentence_with_what_to_type() -> None:
    unscored = rows("x", [1.0]).drop(columns=[c for c in rows("x", [1.0]) if "signals" in c])
    with pytest.raises(UserError, match=r"metrics=\[signals\]"):
        drift(unscored)


def test_a_picture_has_a_line_a_method_and_bf16_in_black() -> None:
    table = pd.concat(
        [rows("ref", [1.0, 3], "bf16"), *(rows(f"r{i}", [i, 0.0], f"m{i}") for i in range(20))]
    )
    drawn = svg(drift(table))
    root = ElementTree.fromstring(drawn)
    texts = [element.text for element in root.iter(f"{SVG}text")]
    names = {"bf16", *(f"m{i}" for i in range(20))}
    assert {*names, "brightness", "levels", "seconds of the video"} <= set(texts)
    strokes = re.findall(r'd="([^"]*)" clip-path="[^"]*" style="fill: none; ([^"]*)"', drawn)
    looks = [
        (re.findall(r"stroke: (#\w+)", style)[0], re.findall(r"stroke-dasharray: ([^;]+)", style))
        for _, style in strokes
        if "stroke-width: 1.3" in style
    ]
    assert len(looks) == 20 and len({str(look) for look in looks}) == 20
    (black,) = (path for path, style in strokes if "#000000; stroke-width: 2.2" in style)
    heights = [float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", black)]
    assert len(heights) == 2 and heights[1] < heights[0]  # from 5 to 7, upwards


def test_the_command_ends_in_a_sentence_where_there_is_nothing(tmp_path: Path) -> None:
    done = command("drift", str(tmp_path), module="analysis")
    assert done.returncode == 2 and done.stderr.startswith("error: no results below")
