"""The commands as a user types them, on short clips of the small model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from harness.results.video_files import frames_file, read_frames
from tests.conftest import ROOT, Sweep
from tests.support.commands import SHORT, SWEEP, Done, command, one_sentence

ONE_CHUNK = ["suite.frames=3", "suite.source=bundled"]


@pytest.fixture(scope="module")
def sweep(readme_sweep: Sweep, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """The sweep of the README, on 12 frames."""
    results = readme_sweep.linked(tmp_path_factory.mktemp("sweep"))
    return results, Done((), 0, readme_sweep.stdout, readme_sweep.stderr)


def test_a_sweep_is_one_table_of_fifteen_rows(sweep: tuple[Path, Done]) -> None:
    results, _ = sweep
    table = pd.read_parquet(results / "results.parquet")
    assert len(table) == 15
    assert table.groupby("method").size().to_dict() == dict.fromkeys(SWEEP.split(","), 3)
    assert set(table["prompt_source"]) == {"bundled"}
    glob = f"{results}/**/observations.parquet"
    assert duckdb.sql(f"select count(*) from '{glob}'").fetchall() == [(15,)]


def test_more_bits_are_closer_to_bf16(sweep: tuple[Path, Done]) -> None:
    psnr = pd.read_parquet(sweep[0] / "results.parquet").groupby("method")["psnr_db"].mean()
    assert psnr["rtn_int8"] > psnr["rtn_int4"] > psnr["rtn_int2"]


def test_rows_hold_what_they_promise(sweep: tuple[Path, Done]) -> None:
    table = pd.read_parquet(sweep[0] / "results.parquet")
    assert table["failure"].isna().all()
    phases = table[["text_s", "denoise_s", "commit_s", "decode_s"]]
    assert (phases > 0).all().all()
    assert np.allclose(phases.sum(axis=1), table["generate_s"])
    assert (table["num_passes"] == 20).all()
    assert (table["kv_nominal_bytes"] <= table["kv_stored_bytes"]).all()
    assert (table["kv_stored_bytes"] < table["kv_peak_bytes"]).all()
    one = table.set_index("method")
    assert np.allclose(one.loc["bf16", "kv_ratio_full_length"], 1)
    assert np.allclose(one.loc["rtn_int4", "kv_ratio_same_frames"], 3.2)
    assert (one.loc["softprune_int4", "kv_ratio_full_length"] > 3.2).all()
    assert one.loc["bf16", "psnr_reason"].notna().all()
    compared = table[table["method"] != "bf16"]
    assert compared["ssim"].between(0, 1).all()
    assert np.isfinite(compared["psnr_first_chunk_db"]).all()
    assert (compared["psnr_first_chunk_db"] == 100).all()  # exact: no history yet; the cap
    assert (compared["lpips"].notna() | compared["lpips_reason"].notna()).all()
    assert all(len(windows) == 2 for windows in compared["psnr_windows_db"])


def test_a_run_leaves_its_files(sweep: tuple[Path, Done]) -> None:
    (folder,) = (sweep[0] / "storyeval" / "small").glob("rtn_int2-*")
    manifest = json.loads((folder / "run.json").read_text())
    assert manifest["state"] == "done"
    assert manifest["method"]["key"]["bits"] == 2
    assert manifest["environment"]["packages"]["torch"]
    videos = sorted(path.name for path in (folder / "videos").iterdir())
    assert videos == sorted(f"{i:04d}-0{end}" for i in range(3) for end in (".mkv", ".mp4", ".png"))
    trace = pd.read_parquet(folder / "trace")
    sampled = trace[trace["moment"] == "chunk"]
    assert set(sampled["component"]) == {"codes", "scale", "scratch", "in_use"}
    codes = sampled[sampled["component"] == "codes"].pivot(index="chunk", columns="prompt_index")
    assert codes["bytes"].shape == (4, 3)
    assert (codes["bytes"] == codes["bytes"].iloc[0]).all().all()  # one arena, taken once
    row = pd.read_parquet(folder / "observations.parquet").iloc[0]
    peak = trace[(trace["moment"] == "peak") & (trace["prompt_index"] == row["prompt_index"])]
    for phase, parts in peak.groupby("phase"):
        assert parts["bytes"].sum() == row[f"peak_{phase}_bytes"]  # the parts are the peak
    assert set(peak["phase"]) == {"text", "denoise", "commit", "decode"}
    assert not {"codes", "cross_attention"} & set(peak[peak["phase"] == "decode"]["component"])


def test_the_table_is_printed_with_its_notes(sweep: tuple[Path, Done]) -> None:
    _, done = sweep
    for method in SWEEP.split(","):
        assert method in done.stdout
    assert "ratio same" in done.stdout
    assert "text, denoise, commit and decode" in done.stdout
    assert done.stderr.count("prompts of our own") == 1  # said once, not once a job
    again = command("table", str(sweep[0]), "--format", "md", module="analysis")
    assert again.returncode == 0
    assert again.stdout.count("| rtn_int4 |") == 1


def test_sheets_show_every_method_of_a_prompt(sweep: tuple[Path, Done], tmp_path: Path) -> None:
    done = command("sheets", str(sweep[0]), "--out", str(tmp_path), module="analysis")
    assert done.returncode == 0, done.stderr
    paths = [Path(line) for line in done.stdout.split()]
    assert [path.name for path in paths] == [f"storyeval-{i:03d}.png" for i in range(3)]
    height, width = 64 * 2, 6 * 128 * 2  # rows of five methods, six enlarged frames
    with Image.open(paths[0]) as picture:
        assert picture.height > 5 * height and picture.width > width
    lost = command("sheets", str(tmp_path), module="analysis")
    assert lost.returncode == 2 and "no results below" in lost.stderr


def test_the_same_command_again_makes_nothing_anew(sweep: tuple[Path, Done]) -> None:
    results, _ = sweep
    before = {path: path.stat().st_mtime_ns for path in results.glob("**/videos/*")}
    done = command(
        "method=rtn_int4", "suite=storyeval", "suite.num_prompts=3", *SHORT,
        "track=disabled", f"results_dir={results}",
    )  # fmt: skip
    assert done.returncode == 0
    assert {path: path.stat().st_mtime_ns for path in results.glob("**/videos/*")} == before


def test_another_results_folder_repeats_every_bit_and_asking_for_more_continues(
    sweep: tuple[Path, Done], tmp_path: Path
) -> None:
    words = ["method=rtn_int2", "suite=storyeval", *SHORT, "track=disabled"]
    for count in (1, 2):
        done = command(*words, f"suite.num_prompts={count}", f"results_dir={tmp_path}")
        assert done.returncode == 0, done.stderr
    for method in ("rtn_int2", "bf16"):
        (first,) = (sweep[0] / "storyeval" / "small").glob(f"{method}-*")
        (second,) = (tmp_path / "storyeval" / "small").glob(f"{method}-*")
        assert first.name == second.name
        for stem in ("videos/0000-0", "videos/0001-0"):
            assert np.array_equal(read_frames(first / stem), read_frames(second / stem))
    assert frames_file(second / "videos" / "0002-0") is None
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 4


def test_a_parquet_cut_in_half_is_named_and_other_rows_stay(tmp_path: Path) -> None:
    words = ["method=bf16", *ONE_CHUNK, "suite.num_prompts=1", "track=disabled"]
    words += [f"results_dir={tmp_path}"]
    assert command(*words).returncode == 0
    (path,) = tmp_path.glob("**/observations.parquet")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for done in (command(*words), command("table", str(tmp_path), module="analysis")):
        assert done.returncode == 2
        assert one_sentence(done).startswith(f"error: {path} is damaged")
        assert "move it away" in done.stderr
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 1
    path.unlink()
    assert command(*words).returncode == 0
    assert len(pd.read_parquet(path)) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=softprun_int4"], "did you mean softprune_int4"),
        (["suite.file=prompts/none.txt", "suite.source=official"], "put the file there"),
        (["method=rtn_int4", "method.key.bits=3"], "RTN.bits=3: choose 2, 4 or 8"),
        (["method=window_bf16", "method.retention.budget=2 frames"], "choose at least 3"),
        (["model=self_forcing"], "hf download gdhe17/Self-Forcing"),
        (["run.device=cuda:99"], "run.device=cuda:99: "),
        (["attention=staged", "run.device=cpu"], "no CUDA device; type attention=portable"),
        (["attention=fused", "run.device=cpu"], "no CUDA device; type attention=portable"),
    ],
)
def test_bad_input_ends_with_one_sentence(words: list[str], message: str, tmp_path: Path) -> None:
    """One input for each place that refuses; `bad_inputs.yaml` has the others."""
    base = [f"results_dir={tmp_path}"] if not any("results_dir" in w for w in words) else []
    source = [] if any("source=" in w for w in words) else ["suite.source=bundled"]
    done = command(*base, *source, "suite.num_prompts=null", *words)
    assert done.returncode == 2
    assert message in one_sentence(done)
    assert not list(tmp_path.glob("**/request.json"))  # nothing of it stays


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "moviegen.txt").write_text("not the official list\n")
    done = command(f"results_dir={tmp_path}", HARNESS_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "expected 50293c2717c8" in one_sentence(done)


def test_a_bad_job_does_not_end_a_sweep(tmp_path: Path) -> None:
    done = command(
        "-m", "method=rtn_int4", "method.key.bits=3,8", *ONE_CHUNK, "suite.num_prompts=1",
        "track=disabled", f"results_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 1
    assert "settings: RTN.bits=3: choose 2, 4 or 8" in done.stderr.splitlines()[-1]
    assert "2 jobs: 1 done, 1 failed" in done.stdout
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == 2


def test_a_broken_file_of_the_users_own_is_named(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    for content, message in (("key: [", "while parsing"), ("- a\n", "_target_"), ("", "_target_")):
        (tmp_path / "method" / "mine.yaml").write_text(content)
        done = command("--config-dir", str(tmp_path), "method=mine", f"results_dir={tmp_path}")
        assert done.returncode == 2
        assert message in one_sentence(done)


@pytest.mark.slow  # test_faults.py deletes one too
def test_a_deleted_video_is_made_again(tmp_path: Path) -> None:
    words = ["method=bf16", *ONE_CHUNK, "suite.num_prompts=1", f"results_dir={tmp_path}"]
    assert command(*words, "track=disabled").returncode == 0
    (video,) = tmp_path.glob("**/*.mkv")
    before = read_frames(video.with_suffix(""))
    video.unlink()
    assert command(*words, "track=disabled").returncode == 0
    assert np.array_equal(read_frames(video.with_suffix("")), before)
    assert not list(tmp_path.glob("**/*.npy"))


@pytest.mark.slow
def test_two_commands_at_once_on_one_run_both_get_their_videos(tmp_path: Path) -> None:
    base = ["method=rtn_int8", *SHORT, "track=disabled", f"results_dir={tmp_path}"]
    with ThreadPoolExecutor(2) as pool:
        asked = ["suite.prompts=[0]", "suite.prompts=[1]"]
        done = list(pool.map(lambda words: command(*base, words), asked))
    assert [each.returncode for each in done] == [0, 0], [each.stderr for each in done]
    rows = pd.read_parquet(tmp_path / "results.parquet")
    assert rows.groupby("method")["prompt_index"].apply(sorted).to_dict() == {
        "bf16": [0, 1],
        "rtn_int8": [0, 1],
    }


def test_a_killed_child_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal, sys\n"
        "if 'generate' in sys.orig_argv: os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    results = tmp_path / "results"
    done = command(
        *SHORT, f"results_dir={results}", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])
    )
    assert done.returncode == 1
    assert "was killed by SIGKILL" in one_sentence(done)


@pytest.mark.parametrize("what", ["suites", "models", "attentions", "integrations", "metrics"])
def test_ls_gives_each_a_line(what: str) -> None:
    done = command("ls", what)
    known = {"suites": "moviegen", "models": "small", "metrics": "ssim"}
    known |= {"attentions": "portable", "integrations": "packed"}
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert any(line.startswith(known[what] + " ") for line in lines)
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)


def test_ls_alone_lists_everything_at_once(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('ls needs no torch')\n")
    done = command("ls", PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)]))
    assert done.returncode == 0, done.stderr
    assert "\nrtn_int4 " in done.stdout and "\nmetrics:\n" in done.stdout


def test_help_teaches_and_ls_refuses_nonsense() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "method=softprune_int4 suite=moviegen" in done.stdout
    assert "softprune_int4, softprune_mass_int4" in done.stdout
    assert command("ls", "nonsense").returncode == 2
    assert command("bench", "nonsense").returncode == 2


def test_wandb_mirrors_offline_and_its_failure_fails_nothing(tmp_path: Path) -> None:
    words = ["method=bf16", *ONE_CHUNK, "suite.num_prompts=1", "track.mode=offline"]
    done = command(*words, f"results_dir={tmp_path / 'good'}")
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "good").glob("**/run-*.wandb")
    assert log.stat().st_size > 0
    (tmp_path / "wandb.py").write_text("raise RuntimeError('no tracker today')\n")
    done = command(*words, f"results_dir={tmp_path / 'bad'}", cwd=tmp_path)  # imports from there
    assert done.returncode == 0
    assert "warning: wandb mirror failed (RuntimeError: no tracker today)" in done.stderr
    assert len(pd.read_parquet(tmp_path / "bad" / "results.parquet")) == 1


@pytest.mark.parametrize("words", [["harness", "ls", "metrics"], ["analysis", "--help"]])
def test_a_reader_that_leaves_early_is_no_error(words: list[str]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()  # nobody reads from the start on
    said = child.stderr.read().decode()
    assert child.wait() in (0, 141)
    assert said == ""
