"""Writes results with small real videos and hostile texts, for tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from harness.benchmarks.made_up import FPS, NUM_PIXEL_FRAMES, write_results
from harness.results.observations import OBSERVATIONS
from harness.results.video_files import write_mp4
from harness.system import parquet

EVIL = "</script><img src=x onerror=\"alert('x')\">&'\"{{ 7 * 7 }}"
NUM_METHODS, NUM_PROMPTS, NUM_FILMED = 6, 6, 2
FAILED = 1  # the prompt whose video failed for one method
HEIGHT, WIDTH = 48, 64


def write_filmed(top: Path) -> None:
    """Write six methods and six prompts: videos of two prompts, hostile texts, one failure."""
    write_results(top, NUM_METHODS * NUM_PROMPTS, NUM_METHODS)
    for place, path in enumerate(sorted(top.glob(f"**/{OBSERVATIONS}"))):
        table = parquet.read(path, None, "")
        rows = table.to_pandas().astype(object).where(lambda x: x.notna(), None)
        is_last = place == NUM_METHODS - 1
        rows["prompt"] = [f"{EVIL} {i}" for i in rows["prompt_index"]]
        rows["height"], rows["width"] = HEIGHT, WIDTH
        rows["video"] = [f"videos/{i:04d}-0" for i in rows["prompt_index"]]
        if is_last:
            rows["settings"] = EVIL
            rows.loc[FAILED, ["failure", "failure_reason", "video"]] = ["oom", EVIL, None]
        parquet.write(path, pa.Table.from_pandas(rows, table.schema, preserve_index=False))
        for index in range(NUM_FILMED):
            if not (is_last and index == FAILED):
                write_mp4(path.parent / f"videos/{index:04d}-0.mp4", frames(place), FPS)


def frames(place: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Draw a bar that moves across a grey picture; the grey depends on the method."""
    film = np.full((NUM_PIXEL_FRAMES, HEIGHT, WIDTH, 3), 40 + 30 * place, np.uint8)
    for i, frame in enumerate(film):
        frame[:, i * WIDTH // NUM_PIXEL_FRAMES :][:, :4] = 255
    return film
