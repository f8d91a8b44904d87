"""Results that were damaged on purpose: each damage is named, and what is printed fixes it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.checks import results as integrity
from harness.results import all_runs, manifest, observations
from harness.results.run import Run
from harness.results.scores import SCORES
from harness.results.video_files import read_frames, write_lossless
from harness.system import parquet
from harness.system.files import locked, sha256, write_json
from tests.conftest import ROOT, Sweep
from tests.support import forks
from tests.support.commands import command, one_sentence

WORDS = ["suite=moviegen", "suite.frames=3", "suite.source=bundled", "track=disabled"]
VIDEO = "videos/0001-0"


@pytest.fixture
def made(short_sweep: Sweep) -> Path:
    """Two methods and their reference, two videos each."""
    return short_sweep.results


@pytest.fixture
def results(short_sweep: Sweep, tmp_path: Path) -> Path:
    """A copy to damage: results may be moved, with a space and a comma in the folder's name."""
    return short_sweep.copied(tmp_path / "the results, moved")


def folder(results: Path, method: str = "rtn_int4") -> Path:
    (found,) = results.glob(f"*/*/{method}-*")
    return found


def checked(results: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = integrity.check([results])
    return code, capsys.readouterr().out.splitlines()


def fix(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Type every command that is printed; then nothing is wrong, and no bit of a video differs."""
    code, lines = checked(results, capsys)
    assert code == 1
    typed = [re.search("type `(.*)` to fix it$", line) for line in lines if "; type " in line]
    path, said = os.pathsep.join([str(forks.folder()), os.environ["PATH"]]), []
    for each in typed:
        assert each is not None, lines
        done = subprocess.run(
            ["bash", "-c", each[1]], cwd=ROOT, capture_output=True, text=True,
            env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        said += [each[1], done.stderr]
    code, lines = checked(results, capsys)
    assert (code, lines[-1]) == (0, "3 runs: 3 complete, 0 unfinished, 0 with problems"), said


def edit(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change a parquet file and keep its schema."""
    schema = pq.read_schema(path)
    table = pq.ParquetFile(path).read().to_pandas()
    parquet.write(path, store_table(change(table), schema))


def store_table(table: pd.DataFrame, schema: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_pandas(table, schema=schema, preserve_index=False)


def sealed(run: Path) -> None:
    """Let the manifest agree with the files, so that only what they hold can give them away."""
    content = json.loads((run / manifest.MANIFEST).read_text())
    content["files"] |= {name: sha256(run / name) for name in (observations.OBSERVATIONS, SCORES)}
    write_json(run / manifest.MANIFEST, manifest.sealed(content))


def set_value(run: Path, name: str, value: object, file: str = observations.OBSERVATIONS) -> None:
    """Change a value of the second video's row, and the digest with it."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table[name] = table[name].astype(object)
        table.loc[1, name] = value
        return table

    edit(run / file, change)
    sealed(run)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path: Path, **changes: object) -> None:
    """As somebody might edit it: with content and digest in agreement, where it has one."""
    content = json.loads(path.read_text()) | changes
    content.pop("sha256", None)
    write_json(path, content)


def other_frames(run: Path) -> None:
    frames = read_frames(run / VIDEO)
    (run / VIDEO).with_suffix(".mkv").unlink()
    write_lossless((run / VIDEO).with_suffix(".mkv"), 255 - frames[1:], 8)
    set_value(run, "video_sha256", sha256(run / f"{VIDEO}.mkv"), SCORES)


def test_results_that_nobody_touched_are_complete(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(made, capsys) == (0, ["3 runs: 3 complete, 0 unfinished, 0 with problems"])


def test_the_verb_needs_no_torch_and_takes_any_number_of_folders(
    made: Path, results: Path, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('checking needs no torch')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    (folder(results) / f"{VIDEO}.mkv").unlink()
    done = command("check", str(made), str(results), PYTHONPATH=path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("6 runs: 5 complete, 0 unfinished, 1 with problems\n")
    (tmp_path / "empty").mkdir()
    lost = command("check", str(tmp_path / "empty"))
    assert lost.returncode == 2 and "no runs below" in one_sentence(lost)


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    (
        "rows cut",
        lambda run: cut(run / observations.OBSERVATIONS),
        "observations.parquet is damaged",
    ),
    ("scores cut", lambda run: cut(run / SCORES), "scores.parquet is damaged"),
    (
        "a row twice",
        lambda run: edit(run / observations.OBSERVATIONS, lambda rows: pd.concat([rows, rows[1:]])),
        "observations.parquet has more than one row of video 0001-0",
    ),
    (
        "a row of another run",
        lambda run: set_value(run, "run_id", "0badc0de"),
        "1 rows of another run (found 0badc0de, expected ",
    ),
    (
        "a changed time",
        lambda run: edit(run / observations.OBSERVATIONS, lambda rows: rows.assign(generate_s=1.0)),
        "observations.parquet is not what the finished run left (found digest ",
    ),
    (
        "a changed score",
        lambda run: edit(run / SCORES, lambda rows: rows.assign(psnr_db=99.0)),
        "scores.parquet is not what the finished run left (found digest ",
    ),
    (
        "no rows",
        lambda run: (run / observations.OBSERVATIONS).unlink(),
        "(found digest no file, expected",
    ),
    ("no scores", lambda run: (run / SCORES).unlink(), "(found digest no file, expected"),
    (
        "a row less",
        lambda run: (edit(run / observations.OBSERVATIONS, lambda rows: rows[:1]), sealed(run)),
        "run.json says done, but only 1 of 2 videos made, 1 scored; type",
    ),
    (
        "a score less",
        lambda run: (edit(run / SCORES, lambda rows: rows[:1]), sealed(run)),
        "run.json says done, but only 2 of 2 videos made, 1 scored; type",
    ),
    ("manifest cut", lambda run: cut(run / "run.json"), "run.json is damaged ("),
    (
        "another run's manifest",
        lambda run: rewrite(run / "run.json", run_id="0badc0de"),
        "run.json is not of this run (found 0badc0de, expected ",
    ),
    (
        "another method in the manifest",
        lambda run: rewrite(run / "run.json", method={"name": "x"}),
        "run.json tells another method than request.json",
    ),
    (
        "a count",
        lambda run: rewrite(run / "run.json", num_videos=3),
        "run.json counts 3 videos, its rows 2",
    ),
    (
        "request flipped",
        lambda run: write_json(
            run / "request.json", json.loads((run / "request.json").read_text()) | {"metrics": {}}
        ),
        "request.json is damaged (",
    ),
    ("request cut", lambda run: cut(run / "request.json"), "request.json is damaged ("),
    ("no request", lambda run: (run / "request.json").unlink(), "request.json is missing"),
    (
        "another request",
        lambda run: rewrite(run / "request.json", seed=7),
        "request.json asks for another run (found ",
    ),
    ("video gone", lambda run: (run / f"{VIDEO}.mkv").unlink(), "0001-0: its frames are missing"),
    ("video bit", lambda run: flip(run / f"{VIDEO}.mkv"), "0001-0: its .mkv is not the one scored"),
    ("other frames", other_frames, "its .mkv holds other frames than were made (found "),
    ("other shape", other_frames, "(found 8 frames of 128x128 at 8 a second, expected 9 frames of"),
    (
        "trace gone",
        lambda run: (run / "trace" / "0001-0.parquet").unlink(),
        "0001-0: the trace of its memory is missing",
    ),
    (
        "trace of another",
        lambda run: shutil.copy(run / "trace" / "0000-0.parquet", run / "trace" / "0001-0.parquet"),
        "the trace of its memory is another video's",
    ),
    (
        "stored bytes",
        lambda run: set_value(run, "kv_stored_bytes", 2**18),
        "its kv_stored_bytes is not the sum of its trace (found 262144, expected ",
    ),
    (
        "peak of a phase",
        lambda run: set_value(run, "peak_commit_bytes", 7),
        "its peak_commit_bytes is not the sum of its trace (found 7, expected ",
    ),
    (
        "nominal bytes",
        lambda run: set_value(run, "kv_nominal_bytes", 2**40),
        "its KV bytes do not grow from nominal to stored to peak",
    ),
    (
        "a ratio",
        lambda run: set_value(run, "kv_ratio_same_frames", 9.9),
        "its kv_ratio_same_frames is not that of its bytes (found 9.9000, expected 3.2000)",
    ),
    (
        "a peak lost",
        lambda run: set_value(run, "peak_bytes", None),
        "its row has no peak_bytes",
    ),
    ("a seed", lambda run: set_value(run, "seed", 4), "its seed is not what the request says"),
    ("a prompt", lambda run: set_value(run, "prompt", "x"), "its prompt is not what the request"),
    (
        "a score of nobody's",
        lambda run: (
            edit(run / SCORES, lambda s: s.assign(prompt_index=[0, 5])),
            sealed(run),
        ),
        "scores.parquet has scores of 1 videos that have no row",
    ),
    (
        "raw frames",
        lambda run: (run / f"{VIDEO}.npy").touch(),
        "videos/0001-0.npy: nothing needs what was left here; type `rm -f ",
    ),
    (
        "a video of nobody's",
        lambda run: (run / "videos" / "0005-0.mkv").touch(),
        "videos/0005-0.mkv: nothing needs what was left here; type `rm -f ",
    ),
]


@pytest.mark.parametrize(
    ("damage", "said"), [pytest.param(*rest, id=name) for name, *rest in DAMAGES]
)
def test_a_damage_is_named_in_a_line_of_its_own(
    results: Path,
    damage: Callable[[Path], object],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = folder(results)
    damage(run)
    code, lines = checked(results, capsys)
    assert code == 1
    (line, last) = lines
    assert line.startswith(f"{run}: ") and said in line
    assert line.endswith("` to fix it")
    assert last == "3 runs: 2 complete, 0 unfinished, 1 with problems"


BY_RUN = [
    {"rtn_int4": ["video gone"], "rtn_int8": ["scores cut", "half a file"], "bf16": ["trace gone"]},
    {"rtn_int4": ["rows cut"], "rtn_int8": ["video bit", "raw frames"], "bf16": ["a row twice"]},
    {"rtn_int4": ["no request"], "rtn_int8": ["manifest cut"], "bf16": ["a row of another run"]},
]


def half_a_file(run: Path) -> None:
    (run / "videos" / ".0001-0.mkv.4194305.unfinished").touch()


@pytest.mark.parametrize(
    "damages", [BY_RUN[0], *(pytest.param(each, marks=pytest.mark.slow) for each in BY_RUN[1:])]
)
def test_what_is_printed_fixes_it(
    results: Path,
    made: Path,
    damages: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    how = {name: damage for name, damage, _ in DAMAGES} | {"half a file": half_a_file}
    for method, names in damages.items():
        for name in names:
            how[name](folder(results, method))
    fix(results, capsys)
    same = ["prompt_index", "frames_sha256", "kv_stored_bytes", "psnr_db", "video_sha256"]
    for method in damages:
        for each in (folder(results, method), folder(made, method)):
            assert len(all_runs.load_run(each)) == 2
        rows = [
            all_runs.load_run(folder(root, method)).sort_values("prompt_index", ignore_index=True)
            for root in (results, made)
        ]
        pd.testing.assert_frame_equal(rows[0][same], rows[1][same])


def test_a_run_that_is_not_finished_says_how_far_it_is(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(results)
    (run / "run.json").unlink()
    edit(run / SCORES, lambda scores: scores[:1])
    code, (line, last) = checked(results, capsys)
    assert (code, last) == (1, "3 runs: 2 complete, 1 unfinished, 0 with problems")
    assert "unfinished, 2 of 2 videos made, 1 scored; type `python -m harness method=rtn" in line
    request = Run.from_folder(run)
    failed = request.row(request.items[1], failure="oom", failure_reason="no room")
    observations.Rows(run / observations.OBSERVATIONS).put(failed)
    shutil.rmtree(run / "trace")
    (run / "trace").mkdir()
    for path in (run / "videos").iterdir():
        path.unlink()
    code, lines = checked(results, capsys)
    assert "unfinished, 1 of 2 videos made, 1 scored, 1 failed (1 oom)" in lines[1]
    assert "run.retry=oom" in lines[1]
    fix(results, capsys)


def test_more_prompts_than_a_request_asks_for_are_no_error(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(results)
    request = Run.from_folder(run)
    fewer = replace(request.suite, prompts=request.suite.prompts[:1])
    write_json(run / "request.json", asdict(replace(request, suite=fewer)))
    assert checked(results, capsys)[0] == 0
    (run / f"{VIDEO}.mkv").unlink()
    code, (line, _) = checked(results, capsys)
    assert code == 1 and "suite.prompts=1:2" in line


def test_scores_against_a_reference_that_is_gone(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = folder(results, "bf16")
    shutil.rmtree(reference)
    code, lines = checked(results, capsys)
    assert code == 1 and len(lines) == 3
    expected = f"holds 0000-0 against a video of {reference.name.removeprefix('bf16-')}"
    assert all(expected in line for line in lines[:2])
    fix(results, capsys)


@pytest.mark.parametrize("file", ["run.json", "rows"])
def test_a_newer_schema_is_said_and_nothing_else(
    results: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(results)
    if file == "run.json":
        rewrite(run / file, schema_version=99, later={"more": 1})
    else:
        edit(run / observations.OBSERVATIONS, lambda rows: rows.assign(schema_version=99))
    _, (line, last) = checked(results, capsys)
    assert "was written by a newer harness (found schema 99, expected " in line
    assert "git pull" in line
    assert last == "3 runs: 2 complete, 0 unfinished, 1 with problems"


def test_a_command_that_would_make_another_run_is_not_shown(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its method's file lies elsewhere, and what it says decides."""
    run = folder(results)
    rewrite(run / "request.json", method_name="mine")
    (run / f"{VIDEO}.mkv").unlink()
    (tmp_path / "own" / "method").mkdir(parents=True)
    for bits in (4, 2):
        (tmp_path / "own" / "method" / "mine.yaml").write_text(
            f"defaults: [rtn_int4, _self_]\nkey: {{bits: {bits}}}\n"
        )
        integrity.check([results], tmp_path / "own")
        (line, _) = capsys.readouterr().out.splitlines()
        command = f"python -m harness --config-dir {tmp_path / 'own'} method=mine suite=moviegen "
        assert (command in line) == (bits == 4)
    _, (line, _) = checked(results, capsys)
    assert "python -m harness" not in line
    assert "the command that made it" in line


def test_a_run_in_work_is_left_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(results)
    cut(run / observations.OBSERVATIONS)
    with locked(run, "waiting"):
        code, (line, last) = checked(results, capsys)
    assert code == 1 and "another command works on it now" in line
    assert last == "3 runs: 2 complete, 1 unfinished, 0 with problems"


def test_mixed_machines_and_versions_are_said_but_no_problem(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(results)
    set_value(run, "device", "NVIDIA H200")
    set_value(folder(results, "rtn_int8"), "code_version", "0badc0de")
    code, lines = checked(results, capsys)
    assert code == 0
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 4  # each run, and their table for both
    assert f"note: {run}: rows of 2 machines: " in lines[0] and "NVIDIA H200 (1 rows)" in lines[0]
    shared = [note for note in notes if note.startswith(f"note: {run.parent}: ")]
    assert len(shared) == 2 and "(5 rows), 0badc0de (1 rows)" in shared[1]


def test_a_damaged_run_does_no_harm_to_the_commands_of_others(results: Path) -> None:
    cut(folder(results, "rtn_int8") / SCORES)
    root = f"results_dir='{results}'"
    done = command("method=rtn_int4", "suite.num_prompts=2", *WORDS, root)
    assert done.returncode == 0, done.stderr
    assert "rtn_int4" in done.stdout
    assert "results.parquet stays as it was (" in one_sentence_of(done.stderr, "results.parquet")


def one_sentence_of(stderr: str, words: str) -> str:
    """The only line with these words; no traceback."""
    assert "Traceback" not in stderr
    (line,) = [line for line in stderr.splitlines() if words in line]
    return line
