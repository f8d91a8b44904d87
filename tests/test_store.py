from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness import store
from harness.errors import UserError
from harness.store import Observation, Rows, Score


def observation(index: int, **changes: object) -> Observation:
    base = {
        "run_id": "abc",
        "suite": "s",
        "model": "m",
        "method": "x",
        "settings": "",
        "prompt_index": index,
        "sample": 0,
        "seed": index,
        "prompt": "p",
        "prompt_source": "bundled",
        "num_latent_frames": 3,
    }
    return Observation(**{**base, **changes})  # type: ignore[arg-type]


def folder_with(tmp_path: Path, name: str, num_rows: int = 3) -> Path:
    folder = tmp_path / "s" / "m" / name
    folder.mkdir(parents=True)
    rows = Rows(folder / store.OBSERVATIONS, Observation)
    for index in range(num_rows):
        rows.put(observation(index, run_id=name, generate_s=1.5 if index else None))
    return folder


def test_every_row_is_on_disk_before_the_next(tmp_path: Path) -> None:
    path = tmp_path / store.OBSERVATIONS
    rows = Rows(path, Observation)
    for index in range(3):
        rows.put(observation(index))
        assert len(Rows(path, Observation)) == index + 1
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_video_tried_again_replaces_its_row(tmp_path: Path) -> None:
    rows = Rows(tmp_path / store.OBSERVATIONS, Observation)
    rows.put(observation(0))
    rows.put(observation(1, failure="oom"))
    assert store.made(tmp_path) == {(0, 0)}
    rows.put(observation(1))
    assert len(rows) == 2
    assert store.made(tmp_path) == {(0, 0), (1, 0)}


def test_columns_keep_their_types_when_all_values_are_null(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a", num_rows=1)
    types = {f.name: str(f.type) for f in pq.read_schema(folder / store.OBSERVATIONS)}
    assert types["generate_s"] == "double"
    assert types["failure"] == "string"
    assert types["kv_stored_bytes"] == "int64"


def test_load_joins_scores_and_keeps_unscored_videos(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a")
    folder_with(tmp_path, "b", num_rows=2)
    scores = Rows(folder / store.SCORES, Score)
    scores.put(Score("a", 1, 0, psnr_db=30.0, psnr_windows_db=[31.0, 29.0]))
    table = store.load(tmp_path)
    assert len(table) == 5
    assert table["psnr_db"].notna().sum() == 1
    assert list(table.loc[table["psnr_db"].notna(), "psnr_windows_db"].iloc[0]) == [31.0, 29.0]


def test_the_wide_table_is_read_by_pandas_and_duckdb(tmp_path: Path) -> None:
    folder_with(tmp_path, "a")
    folder_with(tmp_path, "b")
    store.write_wide(tmp_path)
    assert len(pd.read_parquet(tmp_path / store.WIDE)) == 6
    count = f"select count(*) from '{tmp_path}/**/{store.OBSERVATIONS}'"
    assert duckdb.sql(count).fetchall() == [(6,)]


def test_a_file_cut_in_half_is_named_and_the_others_stay_readable(tmp_path: Path) -> None:
    whole, cut = folder_with(tmp_path, "a"), folder_with(tmp_path, "b")
    path = cut / store.OBSERVATIONS
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for attempt in (lambda: store.load(tmp_path), lambda: store.made(cut)):
        with pytest.raises(UserError, match=f"{path} is damaged .* move it away"):
            attempt()
    assert len(store.load_run(whole)) == 3


def test_rows_of_another_version_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a")
    path = folder / store.OBSERVATIONS
    pd.read_parquet(path).drop(columns="seed").to_parquet(path)
    with pytest.raises(UserError, match="another version of the harness"):
        store.load(tmp_path)


def test_an_empty_results_folder_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run python -m harness first"):
        store.load(tmp_path)
