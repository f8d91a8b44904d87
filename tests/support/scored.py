"""Finished videos for tests of scoring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.results import observations, scores
from harness.results.observations import Rows
from harness.results.run import Run
from harness.results.video_files import digest, write_raw
from harness.scoring.metrics.metric import Frames
from harness.scoring.score import lacking, score
from tests.support.made_up_frames import moving, noisy
from tests.support.observations import observation
from tests.support.runs import run

FAITHFUL = {
    "psnr": {"_target_": "harness.scoring.metrics.psnr.Psnr"},
    "ssim": {"_target_": "harness.scoring.metrics.ssim.Ssim"},
}


def leave(this: Run, index: int, frames: Frames) -> None:
    """Write the files that generating a video leaves."""
    item = this.items[index]
    for stale in this.video(item).parent.glob(f"{item.stem}.*"):
        stale.unlink()
    write_raw(this.video(item).with_suffix(".npy"), frames)
    made = {"run_id": this.run_id, "frames_sha256": digest(frames), "seed": item.seed, "fps": 16}
    size = dict(zip(("num_pixel_frames", "height", "width"), frames.shape, strict=False))
    Rows(this.folder / observations.OBSERVATIONS).put(observation(index, **made, **size))


def pair(tmp_path: Path, metrics: Mapping[str, Any], num_videos: int = 2) -> tuple[Run, Run]:
    """Make a run and its reference, each with `num_videos` videos and no scores."""
    reference = run(tmp_path, "method=bf16", method_name="bf16", metrics=metrics)
    reference = run(
        tmp_path, "method=bf16", method_name="bf16", metrics=metrics, reference_id=reference.run_id
    )
    this = run(tmp_path, "method=rtn_int4", metrics=metrics, reference_id=reference.run_id)
    for each, sigma in ((reference, 0.0), (this, 8.0)):
        with each.prepared():
            for index in range(num_videos):
                leave(each, index, noisy(moving(20 + index), sigma))
    return this, reference


def finish(*runs: Run) -> list[str]:
    """Score what runs lack; return one word per video and metric."""
    tasks = [task for each in runs for task in lacking(each)]
    score(tasks, lambda key: None, "cpu", 2, "score")
    return [f"{task.item.prompt.index} {m.name}" for task in tasks for m in task.metrics]


def with_metrics(this: Run, metrics: Mapping[str, Any]) -> Run:
    return Run(**{**vars_of(this), "metrics": dict(metrics)})


def vars_of(this: Run) -> dict[str, Any]:
    return {name: getattr(this, name) for name in Run.__dataclass_fields__}


def row(this: Run, index: int = 0) -> dict[str, Any]:
    return scores.rows(this.folder)[index, 0]
