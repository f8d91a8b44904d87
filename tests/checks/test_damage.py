"""Damage is found before anything is added to a finished run, and never taken into new digests."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.benchmarks.made_up import write_results
from harness.checks import results as integrity
from harness.commands import score
from harness.results import all_runs, manifest, observation, observations
from harness.results.observation import TracePoint
from harness.results.observations import OBSERVATIONS, Rows, write_trace
from harness.results.run import ENVIRONMENT, Run
from harness.results.run_state import RunState
from harness.results.scores import SCORES
from harness.runs import job
from harness.system import parquet
from harness.system.errors import UserError
from harness.system.files import write_json
from tests.support.scored import FAITHFUL, finish, pair, with_metrics

BYTES = {
    **dict.fromkeys([f"peak_{phase}_bytes" for phase in observation.PHASES], 0),
    **dict.fromkeys(["kv_nominal_bytes", "kv_stored_bytes", "kv_peak_bytes"], 0),
    **dict.fromkeys(["kv_bf16_same_frames_bytes", "kv_bf16_full_length_bytes"], 0),
    **{"peak_text_bytes": 7, "peak_bytes": 0, "scratch_bytes": 0},
}
FLIPS = 400  # of each file
STEM = "0001-0"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    """A finished run, and a copy of the results folder that holds it and its reference."""
    top = tmp_path_factory.mktemp("finished")
    this = finished_run(top / "results")
    return this, Path(shutil.copytree(top / "results", top / "whole"))


@pytest.fixture
def finished(whole: tuple[Run, Path]) -> Run:
    """A run of two videos beside its reference, both with every kind of file, both sealed.

    It lies where it was made, since a request names its folder; only the files are put back.
    """
    this, kept = whole
    shutil.rmtree(this.results_dir)
    shutil.copytree(kept, this.results_dir)
    return this


def finished_run(results: Path) -> Run:
    this, reference = pair(results, FAITHFUL)
    finish(reference, this)
    for run in (reference, this):
        write_json(run.folder / ENVIRONMENT, {"packages": {"torch": "2"}})
        rows = {(x["prompt_index"], x["sample"]): x for x in observations.observations(run.folder)}
        for item in run.items[:2]:
            known = ("frames_sha256", "num_pixel_frames", "height", "width")
            made = {name: rows[item.key][name] for name in known}
            Rows(run.folder / OBSERVATIONS).put(
                run.row(item, fps=run.model["fps"], **made, **BYTES)
            )
            points = [TracePoint(run.run_id, *item.key, "peak", "text", None, None, "in_use", 7)]
            write_trace(run.trace(item), points)
        manifest.write(run)
    return this


def flip(path: Path, offset: int | None = None, bit: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if offset is None else offset] ^= bit
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def snapshot(run: Run) -> dict[str, bytes]:
    files = (path for path in run.folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in files}


# Parquet


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind that the project writes."""
    top = tmp_path_factory.mktemp("tables")
    write_results(top, 24, 2)
    all_runs.write_wide(top)
    run = next(top.glob(f"**/{OBSERVATIONS}")).parent
    found = {name: run / name for name in (OBSERVATIONS, SCORES)}
    return {**found, "trace": next((run / "trace").iterdir()), all_runs.WIDE: top / all_runs.WIDE}


@pytest.mark.parametrize("kind", [OBSERVATIONS, SCORES, "trace", all_runs.WIDE])
def test_a_flipped_bit_is_said_or_changes_no_value(
    kind: str, tables: dict[str, Path], tmp_path: Path
) -> None:
    whole = tables[kind].read_bytes()
    expected, path = parquet.checked(tables[kind]), tmp_path / "x.parquet"
    chosen = random.Random(kind)
    ends = [*range(40), *range(len(whole) - 80, len(whole))]
    said = 0
    for offset in [*ends, *(chosen.randrange(len(whole)) for _ in range(FLIPS))]:
        path.write_bytes(whole)
        flip(path, offset, 1 << chosen.randrange(8))
        try:
            found = parquet.read(path, None, "type this")
        except UserError as error:
            said += 1
            assert f"{path} is damaged (" in str(error) and "\n" not in str(error)
        else:
            assert found.equals(expected) and found.schema.equals(expected.schema, True)
    assert said > FLIPS


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_file_cut_anywhere_is_damaged(
    share: float, tables: dict[str, Path], tmp_path: Path
) -> None:
    for whole in tables.values():
        content = whole.read_bytes()
        (tmp_path / "x.parquet").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UserError, match="is damaged"):
            parquet.read(tmp_path / "x.parquet", None, "type this")


def test_other_programs_read_what_is_written_and_ours_reads_theirs(
    tables: dict[str, Path], tmp_path: Path
) -> None:
    for path in tables.values():
        table = parquet.checked(path)
        assert pq.read_table(path, page_checksum_verification=True).equals(table)
        assert len(pd.read_parquet(path)) == table.num_rows
        assert duckdb.sql(f"select count(*) from '{path}'").fetchall() == [(table.num_rows,)]
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), foreign, write_page_checksum=True)
    assert parquet.checked(foreign).num_rows == 1000
    flip(foreign, foreign.read_bytes().rindex(b"PAR1") // 2)
    with pytest.raises(ValueError):
        parquet.checked(foreign)


# A finished run

SEALED = [
    OBSERVATIONS,
    SCORES,
    ENVIRONMENT,
    f"videos/{STEM}.mkv",
    f"videos/{STEM}.mp4",
    f"videos/{STEM}.png",
    f"trace/{STEM}.parquet",
]
GONE_FOR_GOOD = {f"trace/{STEM}.parquet"}  # while its video is there


def test_every_file_has_a_digest(finished: Run) -> None:
    content = json.loads((finished.folder / manifest.MANIFEST).read_text())
    assert set(SEALED) <= set(content["files"]) and manifest.is_sealed(content)
    assert job.is_done(replace(finished, suite=first_two(finished)))


def first_two(run: Run) -> object:
    return replace(run.suite, prompts=run.suite.prompts[:2])  # those that were made


@pytest.mark.parametrize("damage", [flip, cut, empty, longer])
@pytest.mark.parametrize("name", SEALED)
def test_nothing_is_added_to_a_damaged_run(
    finished: Run, name: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    damage(finished.folder / name)
    before = snapshot(finished)
    with pytest.raises(UserError) as refused:  # one more prompt
        job.carry_out(finished, finished)
    said = str(refused.value)
    assert name in said and "\n" not in said
    assert re.search("is damaged|is not what the finished run left", said)
    results = finished.results_dir
    words = [results, "metrics=[psnr,ssim,signals]", "track=disabled"]
    assert score.main(words) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert name in line and "type " in line
    assert snapshot(finished) == before, "nothing is overwritten"


@pytest.mark.parametrize("damage", [flip, cut, empty, longer, Path.unlink])
@pytest.mark.parametrize("name", SEALED)
def test_check_names_every_file(
    finished: Run, name: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = lines_of_check(finished, capsys)
    damage(finished.folder / name)
    lines = lines_of_check(finished, capsys)
    new = [line for line in lines if line not in whole and finished.folder.name in line]
    assert any(Path(name).stem in line and "to fix it" in line for line in new), new


def lines_of_check(run: Run, capsys: pytest.CaptureFixture[str]) -> list[str]:
    integrity.check([Path(run.results_dir)])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", SEALED)
def test_what_is_deleted_comes_back_or_is_said(finished: Run, name: str) -> None:
    asked = replace(finished, suite=first_two(finished))
    (finished.folder / name).unlink()
    assert not job.is_done(asked)
    if name in GONE_FOR_GOOD:
        with pytest.raises(UserError, match=f"{STEM}.parquet is gone, .* rm -f .*{STEM}"):
            manifest.verify(finished.folder)
        (finished.folder / f"videos/{STEM}.mkv").unlink()  # as the sentence says
    manifest.verify(finished.folder)
    if name.endswith((".mp4", ".png", SCORES)):
        finish(asked)
        assert (finished.folder / name).exists()
    if name == ENVIRONMENT:
        assert json.loads((finished.folder / name).read_text())["packages"] == {"torch": "2"}
    if name.endswith((".mkv", OBSERVATIONS)):
        assert RunState.read(asked.folder).missing(asked)


def test_every_flip_in_the_manifest_is_said(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished.folder / manifest.MANIFEST
    whole, before = path.read_bytes(), lines_of_check(finished, capsys)
    chosen = random.Random(0)
    for _ in range(60):
        path.write_bytes(whole)
        offset = chosen.randrange(len(whole))
        flip(path, offset, 1 << chosen.randrange(7))
        try:
            same = json.loads(path.read_text()) == json.loads(whole)
        except ValueError:
            same = False
        if not same:
            new = [line for line in lines_of_check(finished, capsys) if line not in before]
            assert any("run.json" in line for line in new), (offset, new)


@pytest.mark.parametrize("name", ["/etc/passwd", "../../x", "videos/../../x", ".."])
def test_a_manifest_names_no_file_outside(finished: Run, name: str) -> None:
    path = finished.folder / manifest.MANIFEST
    content = json.loads(path.read_text())
    content["files"][name] = "0" * 64
    write_json(path, manifest.sealed(content))
    with pytest.raises(UserError, match="names files outside its folder"):
        manifest.verify(finished.folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", '{"a": '])
def test_a_cut_environment_is_no_traceback(
    finished: Run, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.clear(finished.folder)  # of a run that was not finished, so nobody knows its digest
    (finished.folder / ENVIRONMENT).write_text(content)
    manifest.write(finished)
    if content not in ("[]", "null"):
        assert f"{ENVIRONMENT} cannot be read" in capsys.readouterr().err
    assert manifest.is_whole(finished.folder)


def test_scoring_that_was_killed_is_neither_done_nor_damage(
    finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest.begin_scoring(finished.folder)
    more = with_metrics(finished, {**FAITHFUL, "grey": {"_target_": "tests.support.metrics.Grey"}})
    finish(more)
    assert not manifest.is_whole(finished.folder)
    assert any("scores were being added" in line for line in lines_of_check(finished, capsys))
    words = [finished.results_dir, "metrics=[psnr,ssim]", "track=disabled"]
    assert score.main(words) == 0
    assert manifest.is_whole(finished.folder)
    flip(finished.folder / f"videos/{STEM}.mkv")
    assert score.main(words) == 2, "what scoring does not write is sealed all the time"


# What killed processes leave

DEAD = 4194305  # above the largest process id


@pytest.mark.parametrize(
    "place", ["", "videos", "trace"], ids=["run", "videos", "trace"]
)  # fmt: skip
@pytest.mark.parametrize("pid", [DEAD, 1], ids=["dead", "another that took its number"])
def test_halves_of_files_go_with_the_next_command_and_fail_nothing(
    finished: Run, place: str, pid: int, capsys: pytest.CaptureFixture[str]
) -> None:
    half = finished.folder / place / f".x.mkv.{pid}.unfinished"
    before = lines_of_check(finished, capsys)
    half.write_bytes(b"half")
    after = lines_of_check(finished, capsys)
    new = [line for line in after if line not in before]
    assert [line.startswith("note: ") and half.name in line for line in new] == [True] * (
        pid == DEAD
    )
    with finished.held():
        assert not half.exists()
        own = finished.folder / f".y.{os.getpid()}.unfinished"
        own.touch()
    with finished.held():
        assert own.exists(), "this process may be writing it"


def test_halves_of_the_wide_table_go_too(finished: Run) -> None:
    top = Path(finished.results_dir)
    dead, alive = (top / f".{all_runs.WIDE}.{pid}.unfinished" for pid in (DEAD, 1))
    dead.touch(), alive.touch()
    all_runs.write_wide(top)
    assert alive.exists() and not dead.exists()


@pytest.mark.parametrize("damage", [flip, cut, empty])
def test_a_damaged_wide_table_is_said(
    finished: Run, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    top = Path(finished.results_dir)
    all_runs.write_wide(top)
    assert not any(all_runs.WIDE in line for line in lines_of_check(finished, capsys))
    damage(top / all_runs.WIDE)
    assert integrity.check([top]) == 1
    (line,) = [x for x in capsys.readouterr().out.splitlines() if all_runs.WIDE in x]
    assert "is damaged" in line and "type `rm -f " in line
