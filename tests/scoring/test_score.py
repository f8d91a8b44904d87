"""The second stage: what is lacking, what a score says when there is none, the `score` verb."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.checks import results
from harness.results import all_runs, manifest, scores
from harness.results.all_runs import load_run
from harness.results.scores import CONSTANT, SCORES, Value
from harness.results.summary_table import notes, summarize
from harness.results.video_files import write_lossless
from harness.scoring.metrics.metric import Clip, Frames, Unscorable
from harness.scoring.score import IS_REFERENCE, NO_REFERENCE, Task, lacking, score
from harness.system.files import LOCK
from tests.conftest import ROOT
from tests.support import forks
from tests.support.made_up_frames import moving, noisy
from tests.support.metrics import Broken, Grey
from tests.support.scored import FAITHFUL, finish, leave, pair, row, with_metrics

GREY = {"grey": {"_target_": "tests.support.metrics.Grey"}}
AGAINST = {"grey": {"_target_": "tests.support.metrics.Grey", "against": True}}


# What is lacking


def test_a_metric_is_given_the_wording_that_the_prompt_is_scored_as(tmp_path: Path) -> None:
    this, _ = pair(tmp_path, {"grey": {"_target_": "tests.support.metrics.Prompted"}})
    extended, other = this.suite.prompts[:2]
    prompts = (replace(extended, scored_as="a cat"), other)
    finish(replace(this, suite=replace(this.suite, prompts=prompts)))
    assert row(this)["grey"] == len("a cat")
    assert row(this, 1)["grey"] == len(other.text)


def test_only_what_is_missing_is_scored(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, GREY)
    assert finish(reference, this) == ["0 grey", "1 grey"] * 2
    assert finish(reference, this) == []
    more = with_metrics(this, {**GREY, **FAITHFUL})
    assert finish(more) == ["0 psnr", "0 ssim", "1 psnr", "1 ssim"]
    assert row(this)["grey"] == pytest.approx(128, abs=5) and row(this)["psnr_db"] > 20
    leave(this, 2, moving(22))
    assert finish(more) == ["2 grey", "2 psnr", "2 ssim"]
    assert row(this, 2)["psnr_reason"] == NO_REFERENCE, "nobody made that of the reference"


def test_another_version_of_a_metric_is_scored_again_alone(tmp_path: Path) -> None:
    this, _ = pair(tmp_path, {**GREY, **FAITHFUL})
    finish(this)
    newer = {**FAITHFUL, "grey": {"_target_": "tests.support.metrics.Grey", "version": "2"}}
    assert finish(with_metrics(this, newer)) == ["0 grey", "1 grey"]
    assert row(this)["grey_version"] == "2" and row(this)["psnr_db"] > 20


def test_other_frames_are_scored_again(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, {**GREY, **FAITHFUL})
    finish(reference, this)
    before = row(this)
    leave(reference, 0, noisy(moving(20), 2.0))
    assert finish(this) == ["0 psnr", "0 ssim"], "grey knows no reference"
    assert row(this)["psnr_db"] != before["psnr_db"] and row(this)["grey"] == before["grey"]
    leave(this, 1, moving(21))
    assert finish(this) == ["1 grey", "1 psnr", "1 ssim"]
    assert row(this, 1)["psnr_db"] == 100


def test_a_metric_that_could_not_be_tried_is_as_soon_as_it_can(tmp_path: Path) -> None:
    needs = {"grey": {"_target_": "tests.support.metrics.Grey", "needs": "grey needs eyes"}}
    this, _ = pair(tmp_path, needs)
    assert finish(this) == ["0 grey", "1 grey"]
    assert row(this)["grey_reason"] == "grey needs eyes" and row(this)["grey"] is None
    assert finish(this) == [], "it still cannot"
    assert finish(with_metrics(this, GREY)) == ["0 grey", "1 grey"]
    assert row(this)["grey_reason"] is None and row(this)["grey"] > 0


def test_a_reference_that_comes_later_is_met_and_one_that_goes_takes_nothing(
    tmp_path: Path,
) -> None:
    this, reference = pair(tmp_path, AGAINST)
    hidden = reference.folder.rename(tmp_path / "elsewhere")
    finish(this)
    assert row(this)["grey_reason"] == NO_REFERENCE and row(this)["grey"] is None
    assert finish(this) == []
    hidden.rename(reference.folder)
    assert finish(this) == ["0 grey", "1 grey"]
    found = row(this)["grey"]
    reference.folder.rename(hidden)
    assert finish(this) == [] and row(this)["grey"] == found


# No value, with its reason


def test_the_reference_itself_and_a_video_of_another_length_say_so(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, FAITHFUL)
    leave(this, 0, moving(19))
    finish(reference, this)
    assert row(reference)["psnr_reason"] == IS_REFERENCE
    for name in ("psnr", "ssim"):
        assert "19 frames of 40x48, its reference 20 frames" in row(this)[f"{name}_reason"]
    assert row(this)["psnr_db"] is None and row(this, 1)["psnr_db"] > 20


def test_a_video_that_cannot_be_read_has_a_row_with_the_reason(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, {**GREY, **FAITHFUL})
    finish(reference, this)
    (this.folder / SCORES).unlink()
    for each, index in ((this, 0), (reference, 1)):
        path = each.packed(each.items[index])
        path.write_bytes(path.read_bytes()[:-400])
    finish(this)
    assert "not a whole lossless video" in row(this)["grey_reason"]
    assert "not a whole lossless video" in row(this)["psnr_reason"]
    assert row(this, 1)["psnr_reason"].startswith("the reference: ")
    assert row(this, 1)["grey"] > 0
    write_lossless(this.packed(this.items[0]), noisy(moving(20)), 16)
    assert [word for word in finish(this) if word.startswith("0")] == ["0 grey", "0 psnr", "0 ssim"]
    assert row(this)["psnr_db"] > 20, "it was fixed"


@pytest.mark.parametrize("colour", [0, 128, 255])
@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("whose", ["both", "video", "reference"])
def test_constant_videos_are_named_beside_their_scores(
    tmp_path: Path, colour: int, changes: bool, whose: str
) -> None:
    """Two black videos have the best scores there are; so have two that flicker alike."""
    this, reference = pair(tmp_path, FAITHFUL, num_videos=1)
    flat = np.full_like(moving(20), colour)
    flat[1::2] += np.uint8(7 if changes else 0)
    for name, each in (("video", this), ("reference", reference)):
        if whose in ("both", name):
            leave(each, 0, flat)
    finish(reference, this)
    for metric, value in (("psnr", "psnr_db"), ("ssim", "ssim")):
        said = str(row(this)[f"{metric}_reason"])
        assert (row(this)[value] == (100.0 if metric == "psnr" else 1.0)) == (whose == "both")
        assert "constant, every frame is one flat colour" in said
        assert said.startswith(
            {"both": "the video and its reference", "video": "the video:"}.get(
                whose, "its reference"
            )
        )
    told = str(row(reference)["psnr_reason"])
    assert told.startswith(IS_REFERENCE)
    assert (CONSTANT in told) == (whose != "video")
    assert not lacking(this), "a reason beside values is no lack"
    assert any(CONSTANT in note for note in notes(summarize([load_run(this.folder)])))


def test_a_video_with_one_other_pixel_is_not_constant(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, FAITHFUL, num_videos=1)
    flat = np.zeros_like(moving(20))
    flat[-1, -1, -1, -1] = 1
    for each in (reference, this):
        leave(each, 0, flat)
    finish(reference, this)
    assert row(this)["psnr_reason"] is None


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        (Broken(), "not finite: grey, grey_by_frame"),
        (Broken(Unscorable("it is too dark")), "it is too dark"),
        (Broken(KeyError("lamp")), "grey failed: KeyError: 'lamp' ("),
    ],
)
def test_a_metric_that_fails_is_null_and_the_others_go_on(
    tmp_path: Path, metric: Broken, reason: str
) -> None:
    this, _ = pair(tmp_path, {})
    item = this.items[0]
    score([Task(this, item, (metric, Grey("other")))], lambda key: None, "cpu", 1, "score")
    assert row(this)["grey_reason"].startswith(reason)
    assert row(this)["grey"] is None and row(this)["grey_by_frame"] is None
    assert row(this)["grey_version"] == "1", "the same again would fail again"
    assert row(this)["other"] > 0


def test_a_video_that_is_packed_is_not_read_by_another_thread_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference is scored beside the run that is held against it."""
    this, reference = pair(tmp_path, FAITHFUL)
    packed: list[Path] = []

    def slowly(stem: Path, frames: Frames, fps: float) -> None:
        packed.append(stem)
        stem.with_suffix(".mkv").write_bytes(b"half of it")
        time.sleep(0.3)
        write_lossless(stem.with_suffix(".mkv"), frames, fps)
        stem.with_suffix(".npy").unlink()

    monkeypatch.setattr("harness.scoring.score.pack_frames", slowly)
    finish(reference, this)
    assert len(packed) == len(set(packed)) == 4
    assert [row(this, index)["psnr_reason"] for index in range(2)] == [None, None]
    assert row(this)["psnr_db"] > 20


def test_running_out_of_memory_is_no_score(tmp_path: Path) -> None:
    this, _ = pair(tmp_path, {})
    metric = Broken(MemoryError("no more"))
    with pytest.raises(MemoryError):
        score([Task(this, this.items[0], (metric,))], lambda key: None, "cpu", 1, "score")
    assert not (this.folder / SCORES).exists()


class Watched(Grey):
    """How many of it ever measure at once."""

    def __init__(self, one_at_a_time: bool) -> None:
        super().__init__()
        self.one_at_a_time = one_at_a_time  # type: ignore[misc]
        self.now, self.most, self._lock = 0, 0, threading.Lock()

    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.2)
        with self._lock:
            self.now -= 1
        return super().measure(clip, reference, device)


@pytest.mark.parametrize(("alone", "most"), [(False, 2), (True, 1)])
def test_two_videos_at_once_unless_a_metric_wants_one(
    tmp_path: Path, alone: bool, most: int
) -> None:
    this, _ = pair(tmp_path, {}, num_videos=3)
    metric = Watched(alone)
    score([Task(this, x, (metric,)) for x in this.items], lambda key: None, "cpu", 2, "score")
    assert metric.most == most
    assert len(scores.rows(this.folder)) == 3


# The verb


def verb(*words: Path | str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [*forks.python(), "-m", "harness", "score", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}
    )


def test_the_verb_scores_everything_below_a_folder_and_only_once(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, {})
    for each in (reference, this):
        finish(each)
        (each.folder / SCORES).unlink(missing_ok=True)
    done = verb(tmp_path, "metrics=[psnr,ssim]")
    assert done.returncode == 0, done.stderr
    assert "4 videos scored; now in 2 runs" in done.stdout
    assert "psnr: 2 videos" in done.stdout and IS_REFERENCE in done.stdout
    before = pd.read_parquet(tmp_path / all_runs.WIDE)
    assert before["psnr_db"].notna().sum() == 2
    assert "0 videos scored" in verb(tmp_path, "metrics=psnr,ssim").stdout
    twice = verb(tmp_path, this.folder, "metrics=[psnr,ssim]")
    assert "0 videos scored; now in 2 runs" in twice.stdout, "a run named twice is one run"
    for each in (reference, this):
        (each.folder / SCORES).unlink()
    assert verb(tmp_path, "metrics=[psnr,ssim]").returncode == 0
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / all_runs.WIDE), before)


SLOW = """
import time
from tests.support.metrics import Grey

class Slow(Grey):
    def measure(self, clip, reference, device):
        values = super().measure(clip, reference, device)
        time.sleep(0.5)
        return values
"""


@pytest.mark.slow
def test_killed_and_typed_again_it_ends_complete_and_the_manifest_is_true(tmp_path: Path) -> None:
    own = tmp_path / "own"
    (own / "metrics").mkdir(parents=True)
    (own / "slow.py").write_text(SLOW)
    told = "# @package metrics.grey\n# Slow\n_target_: slow.Slow\n"
    (own / "metrics" / "slow.yaml").write_text(told)
    this, reference = pair(tmp_path / "results", FAITHFUL, num_videos=3)
    finish(reference, this)
    for each in (reference, this):
        manifest.write(each)
    words = [tmp_path / "results", "metrics=[slow]", "--config-dir", own, "run.threads=1"]
    command = [sys.executable, "-m", "harness", "score", *map(str, words)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    child.stderr.readline()  # one video has its row
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 1 <= sum("grey" in x and x["grey"] is not None for x in all_rows(tmp_path)) < 6
    done = verb(*words)
    assert done.returncode == 0, done.stderr
    assert all(x["grey"] is not None and "psnr_version" in x for x in all_rows(tmp_path))
    assert manifest.is_whole(this.folder)
    report = results.examine(this.folder, None)
    assert not [finding for finding in report.findings if "digest" in str(finding)]


def test_a_reference_is_free_while_the_verb_waits_for_a_run_of_it(tmp_path: Path) -> None:
    """A job holds its run and then waits for its reference; both must not wait for each other."""
    this, reference = pair(tmp_path / "results", FAITHFUL)
    command = [sys.executable, "-m", "harness", "score", tmp_path / "results", "metrics=[psnr]"]
    with this.held():
        child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert child.stderr is not None
        assert str(this.folder) in child.stderr.readline()
        with open(reference.folder / LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert child.wait() == 0, child.stderr.read()


def all_rows(tmp_path: Path) -> list[dict[str, Any]]:
    found = (tmp_path / "results").glob(f"**/{SCORES}")
    return [each for path in found for each in scores.read(path).to_pylist()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "no folder of results to score"),
        (("nothing",), "no runs below nothing"),
        (("results", "metrics=[psnr,sim]"), "unknown metrics sim, did you mean ssim"),
        (("results", "metrics=[]"), "no metrics: type metrics=[psnr,ssim]"),
        (("results", "metrics.psnr.bits=3"), "there is no setting metrics.psnr.bits"),
    ],
)
def test_bad_words_are_one_sentence(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    pair(tmp_path / "results", {}, num_videos=1)
    named = [str(tmp_path / word) if word == "results" else word for word in words]
    done = verb(*named)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {said}"), line


def test_nothing_that_can_be_had_is_said_by_the_exit_code(tmp_path: Path) -> None:
    pair(tmp_path / "results", {}, num_videos=1)
    (tmp_path / "data").mkdir()
    where = {"HARNESS_DATA": str(tmp_path / "data"), "TORCH_HOME": str(tmp_path)}
    done = verb(tmp_path / "results", "metrics=lpips", **where)
    assert done.returncode == 1
    assert "2 without it: LPIPS has no backbone" in done.stdout


def test_frames_are_never_touched(tmp_path: Path) -> None:
    this, reference = pair(tmp_path, FAITHFUL)
    finish(reference, this)
    kept = {path: path.read_bytes() for path in this.folder.glob("videos/*.mkv")}
    (this.folder / SCORES).unlink()
    finish(this)
    assert kept == {path: path.read_bytes() for path in this.folder.glob("videos/*.mkv")}
    assert np.isfinite(row(this)["psnr_db"])
