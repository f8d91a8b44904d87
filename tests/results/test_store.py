from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.results import all_runs, observations
from harness.results.observations import Rows
from harness.results.run_state import RunState
from harness.results.scores import SCORES, Result, Scored, Scores
from harness.system.errors import UserError
from tests.support.metrics import Grey
from tests.support.observations import folder_with, observation


def scored(run_id: str, index: int, **changes: str | None) -> Scored:
    given: dict[str, str | None] = {"frames_sha256": "ours", "reference_frames_sha256": "theirs"}
    return Scored(run_id, index, 0, "ref", video_sha256=None, **{**given, **changes})  # type: ignore[arg-type]


def test_every_row_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / observations.OBSERVATIONS
    rows = Rows(path)
    for index in range(3):
        rows.put(observation(index))
        assert len(Rows(path)) == index + 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_video_tried_again_replaces_its_row(tmp_path: Path) -> None:
    rows = Rows(tmp_path / observations.OBSERVATIONS)
    rows.put(observation(0))
    rows.put(observation(1, failure="oom"))
    assert set(RunState.read(tmp_path).made) == {(0, 0)}
    rows.put(observation(1))
    assert len(rows) == 2
    assert set(RunState.read(tmp_path).made) == {(0, 0), (1, 0)}


def test_columns_keep_their_types_when_all_values_are_null(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a", num_rows=1)
    types = {f.name: str(f.type) for f in pq.read_schema(folder / observations.OBSERVATIONS)}
    assert types["generate_s"] == "double"
    assert types["failure"] == "string"
    assert types["kv_stored_bytes"] == "int64"


def test_load_joins_scores_and_keeps_unscored_videos(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a")
    folder_with(tmp_path, "b", num_rows=2)
    values = {"grey": 30.0, "grey_by_frame": [31.0, 29.0]}
    scores = Scores(folder / SCORES)
    scores.put(scored("a", 1), {Grey(): Result(values, None, "1", None)})
    table = all_runs.load(tmp_path)
    assert list(table["run_id"]) == ["a"] * 3 + ["b"] * 2
    assert list(table["prompt_index"]) == [0, 1, 2, 0, 1]
    assert table["grey"].notna().tolist() == [False, True, False, False, False]
    assert list(table.loc[1, "grey_by_frame"]) == [31.0, 29.0]


def test_a_file_of_scores_describes_its_columns_and_keeps_those_of_other_metrics(
    tmp_path: Path,
) -> None:
    path = tmp_path / SCORES
    grey, other = Grey(), Grey("other")
    Scores(path).put(scored("a", 1), {grey: Result({"grey": 1.5}, None, "1", "file 0123")})
    Scores(path).put(scored("a", 1), {other: Result({}, "no eyes", None, None)})
    Scores(path).put(scored("a", 0), {other: Result({"other": 2.0}, None, "1", None)})
    rows = pd.read_parquet(path)
    assert rows["prompt_index"].tolist() == [0, 1]
    assert rows.loc[1, ["grey", "grey_version", "grey_weights"]].tolist() == [1.5, "1", "file 0123"]
    assert rows.loc[1, "other_reason"] == "no eyes" and pd.isna(rows.loc[1, "other_version"])
    assert pd.isna(rows.loc[0, "grey"]) and rows.loc[0, "other"] == 2.0
    told = pq.read_schema(path).field("grey").metadata
    assert told[b"unit"] == b"levels" and told[b"better"] == b"neither" and b"meaning" in told


def test_scores_of_other_frames_are_gone(tmp_path: Path) -> None:
    path = tmp_path / SCORES
    Scores(path).put(scored("a", 1), {Grey(): Result({"grey": 1.5}, None, "1", None)})
    now = scored("a", 1, frames_sha256="other frames")
    Scores(path).put(now, {Grey("other"): Result({"other": 2.0}, None, "1", None)})
    (row,) = pd.read_parquet(path).to_dict("records")
    assert row["other"] == 2.0 and pd.isna(row["grey"]) and pd.isna(row["grey_version"])


def test_a_reference_that_is_gone_takes_nothing_with_it(tmp_path: Path) -> None:
    path = tmp_path / SCORES
    Scores(path).put(scored("a", 1), {Grey(): Result({"grey": 1.5}, None, "1", None)})
    now = scored("a", 1, reference_frames_sha256=None)
    Scores(path).put(now, {Grey("other"): Result({"other": 2.0}, None, "1", None)})
    (row,) = pd.read_parquet(path).to_dict("records")
    assert row["grey"] == 1.5 and row["reference_frames_sha256"] == "theirs"


def test_columns_of_an_earlier_version_of_a_metric_are_gone(tmp_path: Path) -> None:
    path = tmp_path / SCORES
    Scores(path).put(scored("a", 1), {Grey(): Result({"grey": 1.5}, None, "1", None)})
    renamed = Grey(columns=("grey_level",))
    Scores(path).put(scored("a", 0), {renamed: Result({"grey_level": 2.0}, None, "2", None)})
    rows = pd.read_parquet(path)
    assert "grey" not in rows and rows["grey_level"].tolist()[0] == 2.0
    assert rows.loc[1, "grey_version"] == "1", "another than the metric has: scored again"


def test_scores_that_another_program_wrote_anew_are_read_and_joined(tmp_path: Path) -> None:
    folders = [folder_with(tmp_path, name, num_rows=1) for name in ("a", "b")]
    for folder in folders:
        result = Result({"grey": 1.5, "grey_by_frame": [1.0, 2.0]}, None, "1", None)
        Scores(folder / SCORES).put(scored(folder.name, 0), {Grey(): result})
    path = folders[0] / SCORES
    pd.read_parquet(path).to_parquet(path, index=False)
    assert all_runs.load(tmp_path)["grey"].tolist() == [1.5, 1.5]
    again = Result({"grey": 2.5}, None, "2", None)
    Scores(path).put(scored("a", 0), {Grey(version="2"): again})
    assert all_runs.load(tmp_path)["grey"].tolist() == [2.5, 1.5]


def test_scores_of_another_layout_say_what_to_type(tmp_path: Path) -> None:
    path = tmp_path / SCORES
    pd.DataFrame({"run_id": ["a"], "prompt_index": [0], "sample": [0]}).to_parquet(path)
    with pytest.raises(UserError, match="another version of the harness: remove it and type"):
        Scores(path)


def test_the_wide_table_is_read_by_pandas_and_duckdb(tmp_path: Path) -> None:
    folder_with(tmp_path, "a")
    folder_with(tmp_path, "b")
    all_runs.write_wide(tmp_path)
    assert len(pd.read_parquet(tmp_path / all_runs.WIDE)) == 6
    count = f"select count(*) from '{tmp_path}/**/{observations.OBSERVATIONS}'"
    assert duckdb.sql(count).fetchall() == [(6,)]


def test_a_file_cut_in_half_is_named_and_the_others_stay_readable(tmp_path: Path) -> None:
    whole, cut = folder_with(tmp_path, "a"), folder_with(tmp_path, "b")
    path = cut / observations.OBSERVATIONS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for attempt in (lambda: all_runs.load(tmp_path), lambda: set(RunState.read(cut).made)):
        with pytest.raises(UserError, match=f"{path} is damaged .* move it away"):
            attempt()
    assert len(all_runs.load_run(whole)) == 3


def test_rows_of_another_version_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a")
    path = folder / observations.OBSERVATIONS
    pd.read_parquet(path).drop(columns="seed").to_parquet(path)
    with pytest.raises(UserError, match="another version of the harness"):
        all_runs.load(tmp_path)


def test_an_empty_results_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run python -m harness first"):
        all_runs.load(tmp_path)


def test_a_file_of_scores_does_not_depend_on_the_order_of_metrics(tmp_path: Path) -> None:
    grey, other = Grey(), Grey("other")
    done = {each: Result({each.name: 1.5}, None, "1", None) for each in (grey, other)}
    for folder, metrics in ("one", (grey, other)), ("two", (other, grey)):
        for metric in metrics:
            Scores(tmp_path / f"{folder}.parquet").put(scored("a", 1), {metric: done[metric]})
    one, two = (pd.read_parquet(tmp_path / f"{folder}.parquet") for folder in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
