"""Writes a results folder of any size with made-up rows, without generating videos.

Every run has all files of a real run except videos, so readers meet the true schema. Values are
drawn around one level per method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.config.compose import composing, method_files
from harness.prompts.suite import Prompt, Suite
from harness.results.observation import PHASES, Observation, TracePoint
from harness.results.observations import OBSERVATIONS
from harness.results.run import Execution, Run
from harness.results.scores import SCORES, Scored, fields
from harness.scoring.metrics.drift_published import DriftPublished
from harness.scoring.metrics.lpips import Lpips
from harness.scoring.metrics.metric import Metric
from harness.scoring.metrics.psnr import Psnr
from harness.scoring.metrics.signals import Signals
from harness.scoring.metrics.ssim import Ssim
from harness.scoring.metrics.vbench import Dimension
from harness.system import parquet

REFERENCE = "bf16"
SCORED = ("background_consistency", "imaging_quality", "subject_consistency", "aesthetic_quality")
NUM_FRAMES, NUM_PIXEL_FRAMES, FPS, SECONDS = 42, 165, 16, 10
# Bytes of one latent frame of BF16 history: any number serves, since no reader knows the model.
FRAME_BYTES = 2**20


def write_results(folder: Path, num_rows: int, num_methods: int) -> int:
    """Write runs of BF16 and other methods; return the number of rows, equal for all methods."""
    names = [REFERENCE, *(name for name in method_files(None) if name != REFERENCE)][:num_methods]
    # Rounded up: every method has all prompts, as in a sweep, so that rows can be paired.
    num_prompts = -(-num_rows // len(names))
    prompts = tuple(Prompt(i, f"a red ball bounces {i} times") for i in range(num_prompts))
    suite = Suite("moviegen", prompts, source="official", sha256="", num_frames=NUM_FRAMES)
    metrics = [Psnr(), Ssim(), Lpips(), Signals(), DriftPublished(), *map(Dimension, SCORED)]
    with composing(None) as composer:
        requests = [
            request(folder, name, composer.resolved([f"method={name}"]), suite) for name in names
        ]
    # BF16 comes first in `names`; all other runs are scored against it.
    reference = requests[0].run_id
    for place, run in enumerate(requests):
        # loss: 0 for BF16, larger for later methods, so that tables have something to rank. Seeded
        # by the place, so that the same call writes the same numbers.
        rng, loss = np.random.default_rng(place), place / len(names)
        run.make_folders()
        replace(run, reference_id=reference).leave_request()
        parquet.write(run.folder / OBSERVATIONS, _observations(run, rng, loss))
        parquet.write(run.folder / SCORES, _scores(run, reference, metrics, rng, loss))
        # Only the first video has a memory trace.
        points = [
            TracePoint(run.run_id, 0, 0, "chunk", "commit", chunk, 0.1 * chunk, name, size)
            for chunk in range(NUM_FRAMES // 3)
            for name, size in (("codes", FRAME_BYTES * chunk), ("in_use", 2**30))
        ]
        table = pa.Table.from_pylist([asdict(each) for each in points], parquet.schema(TracePoint))
        parquet.write(run.trace(run.items[0]), table)
    return num_prompts * len(names)


def request(folder: Path | str, name: str, resolved: Mapping[str, Any], suite: Suite) -> Run:
    """Return a run of the small model; resolved: its configuration."""
    return Run(
        results_dir=str(folder),
        model_name="small",
        method_name=name,
        model=resolved["model"],
        method=resolved["method"],
        attention=resolved["attention"],
        integration=resolved["integration"],
        suite=suite,
        seed=0,
        samples=1,
        data_dir=str(folder),
        execution=Execution(),
        track={"mode": "disabled"},
    )


def _observations(run: Run, rng: np.random.Generator, loss: float) -> pa.Table:
    """Draw the observations of each video."""
    num, items = len(run.items), run.items
    # Bytes are counted, so they are equal for all videos of a method; times and peaks vary.
    stored = np.full(num, round(NUM_FRAMES * FRAME_BYTES / (1 + 8 * loss)))
    # Whole columns instead of a row object per video: there are 100,000 of them.
    values: dict[str, Any] = {name: [None] * num for name in parquet.schema(Observation).names}
    values |= {name: [value] * num for name, value in asdict(run.row(items[0])).items()}
    values |= {
        "prompt_index": [item.prompt.index for item in items],
        "sample": [item.sample for item in items],
        "seed": [item.seed for item in items],
        "prompt": [item.prompt.text for item in items],
        "num_pixel_frames": [NUM_PIXEL_FRAMES] * num,
        "fps": [FPS] * num,
        "contract": ["full"] * num,
        "integration": ["packed"] * num,
        "device": ["made up"] * num,
        "peak_bytes": rng.integers(2**33, 2**34, num),
        "kv_stored_bytes": stored,
        "kv_ratio_same_frames": NUM_FRAMES * FRAME_BYTES / stored,
        "kv_ratio_full_length": NUM_FRAMES * FRAME_BYTES / stored,
        "frames_sha256": [f"{run.run_id}{i}" for i in range(num)],
    }
    values |= {f"{phase}_s": rng.normal(10 + loss, 0.1, num) for phase in PHASES}
    values["generate_s"] = sum(values[f"{phase}_s"] for phase in PHASES)
    return pa.table(values, schema=parquet.schema(Observation))


def _scores(
    run: Run, reference: str, metrics: list[Metric], rng: np.random.Generator, loss: float
) -> pa.Table:
    """Draw the scores of each video; BF16 gets none from metrics against BF16."""
    # The columns come from the metrics themselves, so a new one is written here too.
    num, items = len(run.items), run.items
    identity = parquet.schema(Scored)
    values: dict[str, Any] = {
        "run_id": [run.run_id] * num,
        "prompt_index": [item.prompt.index for item in items],
        "sample": [item.sample for item in items],
        "reference_run_id": [reference] * num,
        "frames_sha256": [f"{run.run_id}{i}" for i in range(num)],
        "reference_frames_sha256": [f"{reference}{i}" for i in range(num)],
        "video_sha256": [None] * num,
        "scores_version": [asdict(Scored("", 0, 0, "", None, None, None))["scores_version"]] * num,
    }
    more = [field for metric in metrics for field in fields(metric)]
    # All columns of a video lie near its level, as a bad video is bad by every metric.
    level = rng.normal(1 - 0.3 * loss, 0.05, num)
    for metric in metrics:
        absent = metric.against_reference and run.run_id == reference
        for field in fields(metric):
            if absent:
                values[field.name] = [None] * num
            elif pa.types.is_list(field.type):
                values[field.name] = list(level[:, None] + rng.normal(0, 0.01, (num, SECONDS)))
            elif pa.types.is_float64(field.type):
                values[field.name] = level + rng.normal(0, 0.01, num)
            else:  # the version of a metric, or its reason for a missing value
                values[field.name] = [None if field.name.endswith("_reason") else "1"] * num
    return pa.table(values, schema=pa.schema([*identity, *more]))
