"""Rates of a model's videos with their intervals, and statistics of pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.scoring.metrics import signals
from harness.small_model.scenes.clip import FPS

# Numbers of a picture that need no scene: they notice a video that fades, blurs or turns to noise.
STATISTICS = ("contrast", "edges", "colourfulness")
BAND = (5, 95)  # percentiles of the world's own clips
COLUMNS = ("question", "rate", "n", "95 % interval", "by chance", "n", "what is right")
Row = tuple[str, ...]
Frames = NDArray[np.uint8]
Curve = NDArray[np.float64]


def curve(keyframes: Frames) -> Curve:
    """Return contrast, edges and colourfulness per second of a video [seconds, 3], of 255.

    Contrast and colourfulness are those of the metric `signals`. Edges are the mean length of the
    gradient of luma.
    """
    rgb = keyframes.astype(np.float32)
    luma = signals.luma(rgb)
    # Edges see blur, which contrast and colourfulness hardly do.
    edges = np.hypot(*np.gradient(luma, axis=(1, 2))).mean((1, 2))
    values = np.stack([signals.contrast(luma), edges, signals.colourfulness(rgb)], 1)
    # Keyframes are four pixel frames apart.
    seconds = np.arange(len(rgb)) * TEMPORAL_STRIDE // FPS
    return np.stack([values[seconds == s].mean(0) for s in range(seconds[-1] + 1)])


def collapse(curves: Sequence[Curve], truth: Sequence[Curve]) -> list[Row]:
    """Return how often the first and last second look like those of the world, by statistic.

    curves, truth: of the videos, and of the world's clips for the same prompts (`curve`).
    """
    rows = []
    for when, second in (("first", 0), ("last", -1)):
        # Of the same second of the true clips, since the light of a scene may change.
        low, high = np.percentile([each[second] for each in truth], BAND, axis=0)
        for i, name in enumerate(STATISTICS):
            answers = [bool(low[i] <= each[second, i] <= high[i]) for each in curves]
            meaning = f"{low[i]:.1f} to {high[i]:.1f}, the middle 90 % of the world's own clips"
            rows.append((f"{name}, {when} second", *rate(answers), "-", "-", meaning))
    return rows


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927); (0, 1) of nothing."""
    # Of no answers nothing is known.
    if n == 0:
        return 0.0, 1.0
    z2 = 1.959964**2  # two-sided 95 % of the normal distribution
    # Wilson's interval is not empty at rates of 0 and 1, which small samples often show.
    middle = (right + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (right * (n - right) / n + z2 / 4)) / (n + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def rate(answers: Sequence[bool]) -> Row:
    """Return rate, count and interval."""
    low, high = wilson(sum(answers), len(answers))
    return *share(answers), f"{low:.2f} to {high:.2f}" if answers else "-"


def share(answers: Sequence[bool]) -> Row:
    """Return rate and count."""
    return f"{sum(answers) / len(answers):.2f}" if answers else "-", str(len(answers))
