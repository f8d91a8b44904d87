"""The clip-to-clip part of VBench-Long's consistency: its weight, and its table of percentiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from harness.scoring.metrics.metric import Unscorable


@dataclass(frozen=True)
class ClipToClip:
    """The part of a dimension that compares the first frames of a video's clips.

    weight: its share of the value; the rest is the mean of the clips.
    table: name of the file in `conf/weights` that maps it to the scale of the other part.
    network: which network compares the frames: that of the dimension inside clips.

    Source  VBench-Long, `--dev_flag`: weights of its `slow_fast_params.yaml`; features `dino` and
            `clip`, which its settings offer beside their defaults DINOv2 and DreamSim.
    """

    weight: float
    table: str
    network: str


CLIP_TO_CLIP = {
    "subject_consistency": ClipToClip(0.3, "vbench/long_subject_table", "DINO"),
    "background_consistency": ClipToClip(0.2, "vbench/long_background_table", "CLIP"),
}


def read_table(path: Path) -> list[tuple[float, float]]:
    """Return the rows of a table: clip-to-clip scores, ascending, and what each is mapped to.

    Raises  Unscorable: the file is no table of numbers.
    """
    # The release publishes no checksum of it, so any file may lie here.
    try:
        content = yaml.safe_load(path.read_text())
        rows = sorted((float(key), float(value)) for key, value in content.items())
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise Unscorable(f"{path} is no table of numbers ({error}): fetch it again") from error
    if len(rows) < 2 or not all(math.isfinite(number) for row in rows for number in row):
        raise Unscorable(f"{path} is no table of numbers: fetch it again")
    return rows


def mapped(score: float, table: Sequence[tuple[float, float]]) -> float:
    """Return a clip-to-clip score on the scale of the in-clip part.

    It is interpolated linearly between two rows of the table; scores outside take its ends.
    """
    # Linear between rows, as in the newest release that was read; an older one used deviations.
    scores, values = zip(*table, strict=True)
    return float(np.interp(score, scores, values))
