"""Runs of an earlier version are left out, and named once with the command for them."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import main as analysis
from harness.checks.results import check
from harness.commands.run import _write_wide
from harness.commands.score import main as score
from harness.config.compose import configured
from harness.results import all_runs, observations, older
from harness.results.run import Run
from harness.system.errors import UserError
from tests.support.observations import observation
from tests.support.runs import run

NEW = ("chunk_s", "skip_ratio", "kv_stored_bytes_by_branch", "first_chunk_pixel_frames")


def put(results: Path, method: str, *words: str, schema: int | None = None) -> Run:
    """A run with one finished row; schema: as an earlier version left it, without our columns."""
    this = run(results, f"method={method}", *words)
    this = replace(
        this,
        method_name=method,
        settings=" ".join(words),
        suite=replace(this.suite, name="moviegen"),
    )
    with this.prepared():
        pass
    observations.Rows(this.folder / observations.OBSERVATIONS).put(
        observation(0, run_id=this.run_id, method=method, contract="full", fps=16,
                    num_pixel_frames=33, generate_s=1.0, integration="packed")
    )  # fmt: skip
    if schema is not None:
        path = this.folder / observations.OBSERVATIONS
        pd.read_parquet(path).drop(columns=list(NEW)).assign(schema_version=schema).to_parquet(path)
    return this


@pytest.fixture(autouse=True)
def _not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test is a process of its own as far as what has been said goes."""
    monkeypatch.setattr(older, "_told", set())


READERS: dict[str, Callable[[Path], object]] = {
    "load": all_runs.load,
    "end of a run": _write_wide,
    "table": lambda results: analysis(["table", str(results)]),
    "choose": lambda results: analysis(["choose", "--source", str(results)]),
    "tables": lambda results: analysis(["tables", "--source", str(results)]),
    "figures": lambda results: analysis(
        ["figures", "--source", str(results), "--out", str(results / "figures")]
    ),
    "drift": lambda results: analysis(["drift", str(results)]),
    "vbench": lambda results: analysis(["vbench", str(results)]),
    "sheets": lambda results: analysis(["sheets", str(results), "--out", str(results / "out")]),
}


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_names_older_runs_once_and_reads_the_others(
    tmp_path: Path, reader: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new, old = put(tmp_path, "rtn_int4"), put(tmp_path, "rtn_int8", schema=4)
    READERS[reader](tmp_path)
    said = capsys.readouterr()
    assert said.err.count("earlier version") == 1, said.err
    assert f"({old.folder.name})" in said.err and "schema 4" in said.err
    assert "`python -m harness method=rtn_int8 suite=" in said.err
    (note,) = (line for line in said.err.splitlines() if "earlier version" in line)
    assert new.folder.name not in note
    assert set(all_runs.load(tmp_path)["run_id"]) == {new.run_id}
    assert not capsys.readouterr().err, "it was said before"


@pytest.mark.parametrize("schemas", [(4,), (3, 4), (1, 2, 3, 4, 4)])
def test_a_folder_of_older_runs_alone_is_a_sentence(
    tmp_path: Path, schemas: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("bf16", "rtn_int8", "rtn_int4", "rtn_int2", "mxfp4")
    for name, schema in zip(names, schemas, strict=False):
        put(tmp_path, name, schema=schema)
    with pytest.raises(UserError, match="earlier version") as refused:
        all_runs.load(tmp_path)
    assert len(str(refused.value).splitlines()) == 1
    assert all(str(schema) in str(refused.value) for schema in schemas)
    for verb in (["table", str(tmp_path)], ["choose", "--source", str(tmp_path)]):
        assert analysis(verb) == 2
    assert score([str(tmp_path), "metrics=[psnr]"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and all("earlier version" in line for line in errors)


def test_runs_that_differ_in_the_method_alone_share_a_command(tmp_path: Path) -> None:
    runs = [put(tmp_path, name, schema=4) for name in ("rtn_int4", "rtn_int8")]
    other = put(tmp_path, "rtn_int4", "model.window=9", schema=4)
    both, single = older.commands_of([each.folder for each in (*runs, other)])
    assert "-m method=rtn_int4,rtn_int8 suite=" in both
    assert "-m method" not in single.replace("python -m", "")
    for command, this in ((both, runs[0]), (single, other)):
        _, _, _, *words = shlex.split(command)
        settings = [word for word in words if word != "-m" and not word.startswith("method=")]
        assert configured(*settings)["model"] == this.model, "it composes"


def test_check_names_each_with_its_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = put(tmp_path, "rtn_int8", schema=4)
    assert check([tmp_path]) == 1
    (line, _) = capsys.readouterr().out.splitlines()
    assert "written by an older harness (found schema 4, expected 5)" in line
    assert f"rm -r {old.folder} && python -m harness method=rtn_int8 suite=" in line


def test_a_damaged_or_newer_file_is_not_taken_for_an_older_one(tmp_path: Path) -> None:
    this = put(tmp_path, "rtn_int4")
    path = this.folder / observations.OBSERVATIONS
    assert older.schema_of(this.folder) is None
    rows = pd.read_parquet(path)
    rows.assign(schema_version=99, more=1).to_parquet(path)
    assert older.schema_of(this.folder) is None
    path.write_bytes(b"PAR1")
    assert older.schema_of(this.folder) is None
    path.unlink()
    assert older.schema_of(this.folder) is None
