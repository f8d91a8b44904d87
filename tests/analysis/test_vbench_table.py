"""VBench's scores of runs, against cells worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.vbench import LISTING, tables
from harness.scoring.vbench.totals import QUALITY, RANGES, SEMANTIC
from harness.system.errors import UserError
from tests.support.observations import observation


def rows(method: str, *videos: dict[str, float], suite: str = "mine", **more: Any) -> pd.DataFrame:
    made = [
        vars(observation(i, method=method, run_id=method, suite=suite, prompt=f"p{i}", **more))
        | {f"vbench_{name}": value for name, value in video.items()}
        for i, video in enumerate(videos)
    ]
    return pd.DataFrame(made)


def at(share: float, *names: str) -> dict[str, float]:
    """Values that lie at this share of their published ranges."""
    return {x: RANGES[x].lowest + share * (RANGES[x].highest - RANGES[x].lowest) for x in names}


def test_scores_of_runs_stand_beside_their_dimensions() -> None:
    whole = rows("a", at(0.2, *QUALITY, *SEMANTIC), at(0.4, *QUALITY, *SEMANTIC))
    some = rows("b", at(0.5, *QUALITY))
    ((grid, notes),) = tables(pd.concat([whole, some], ignore_index=True))
    assert grid.header[-3:] == ["quality", "semantic", "total"]
    first, second = grid.lines
    assert first[:2] == ["a", "2"] and list(first[-3:]) == ["0.3000", "0.3000", "0.3000"]
    assert second[:2] == ["b", "1"] and list(second[-3:]) == ["0.5000", "-", "-"]
    assert any(note.startswith("total is left open, it lacks: ") for note in notes)
    assert not any(note.startswith("quality is left open") for note in notes)


def test_a_dimension_of_no_run_has_no_column() -> None:
    ((grid, notes),) = tables(rows("a", {"imaging_quality": 0.25}, {"imaging_quality": 0.75}))
    assert grid.header == ["method", "n", "imaging quality", "quality", "semantic", "total"]
    assert list(grid.lines[0]) == ["a", "2", "0.5000", "-", "-", "-"]
    assert any("subject_consistency" in note for note in notes)


def test_on_the_official_suite_a_dimension_counts_its_own_prompts(tmp_path: Path) -> None:
    table = rows("a", {"imaging_quality": 0.25}, {"imaging_quality": 0.75}, suite="vbench")
    with pytest.raises(UserError, match="fetch prompts suite=vbench"):
        tables(table, str(tmp_path))
    (tmp_path / LISTING).parent.mkdir()
    listed = [{"prompt_en": "p1", "dimension": ["imaging_quality"]}]
    (tmp_path / LISTING).write_text(json.dumps(listed))
    ((grid, notes),) = tables(table, str(tmp_path))
    assert grid.lines[0][2] == "0.7500" and "official prompts" in notes[0]


def test_videos_of_an_extended_wording_count_as_the_prompts_that_it_extends(tmp_path: Path) -> None:
    videos = [{"imaging_quality": 0.25}, {"imaging_quality": 0.75}]
    table = rows("a", *videos, suite="vbench_extended")
    folder = tmp_path / "prompts" / "vbench"
    folder.mkdir(parents=True)
    (folder / "all_dimension.txt").write_text("a cat\na dog\n")  # p0 and p1 extend them
    listed = [{"prompt_en": "a dog", "dimension": ["imaging_quality"]}]
    (tmp_path / LISTING).write_text(json.dumps(listed))
    ((grid, notes),) = tables(table, str(tmp_path))
    assert grid.lines[0][2] == "0.7500"
    assert any(
        note.endswith("imaging_quality has 1 videos of a prompt, published totals 5")
        for note in notes
    )


def test_rows_without_any_say_what_to_type() -> None:
    with pytest.raises(UserError, match=r"score <results> metrics=\[vbench\]"):
        tables(rows("a", {}))
    with pytest.raises(UserError, match="no VBench value among 1 rows"):
        tables(rows("a", {"imaging_quality": 0.5}, failure="oom"))
