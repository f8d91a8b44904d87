"""What files of a run say of their own columns, and the list that is made from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from harness.commands.ls import main
from harness.config.compose import choices
from harness.results import all_runs, observations
from harness.results.observation import Observation, TracePoint, described, over_videos
from harness.results.scores import Scored
from harness.system import parquet
from tests.support.observations import folder_with

ROW_TYPES = [Observation, TracePoint, Scored]
UNITS = {"_s": "s", "_bytes": "bytes", "_frames": "frames", "_passes": "passes"}


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_every_column_says_what_it_means_and_in_which_unit(row_type: type) -> None:
    columns = list(described(row_type))
    assert [name for name, _, _ in columns] == [x.name for x in dataclasses.fields(row_type)]
    for name, unit, meaning in columns:
        assert meaning, name
        for ending, expected in UNITS.items():
            if name.endswith(ending) and not name.startswith("kv_ratio_"):
                assert unit.endswith(expected), (name, unit)


@pytest.mark.parametrize("row_type", ROW_TYPES)
def test_parquet_fields_carry_the_same_words(row_type: type) -> None:
    schema = parquet.schema(row_type)
    for name, unit, meaning in described(row_type):
        about = schema.field(name).metadata
        assert (about[b"unit"].decode(), about[b"meaning"].decode()) == (unit, meaning)


def test_files_on_disk_carry_them_too(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "a")
    all_runs.write_wide(tmp_path)
    for path in (folder / observations.OBSERVATIONS, tmp_path / all_runs.WIDE):
        about = pq.read_schema(path).field("generate_s").metadata
        assert about[b"unit"] == b"s" and b"four phases" in about[b"meaning"]


def test_who_a_video_is_has_no_mean() -> None:
    overs = over_videos()
    identity = ("seed", "prompt_index", "sample", "schema_version", "num_latent_frames", "fps")
    assert not any(overs[name] for name in identity)
    assert {over for name, over in overs.items() if name.startswith("peak_")} == {"max"}
    assert overs["generate_s"] == overs["kv_stored_bytes"] == overs["skip_ratio"] == "mean"


def test_ls_columns_lists_all_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["columns"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    listed = {line[0] for line in lines if len(line) > 1}
    assert {name for row_type in ROW_TYPES for name, _, _ in described(row_type)} <= listed
    of_metrics = {name.replace("/", "_") for name in choices("metrics") if "vbench16" not in name}
    assert {f"{name}_reason" for name in of_metrics - {"vbench"}} <= listed
    assert "[dB/s]" in next(line for line in lines if line[0] == "drift_psnr_slope_db_per_s")


@pytest.mark.parametrize("words", [["columns", "more"], ["column"]])
def test_other_words_are_refused_with_the_choices(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert "|columns, or ls alone" in capsys.readouterr().err
