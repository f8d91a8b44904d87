"""Computes VBench's quality, semantic and total scores from values of single videos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.scoring.vbench.dimensions import DIMENSIONS

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1


@dataclass(frozen=True)
class Range:
    """The published extremes of a dimension's mean, and the weight of the dimension."""

    lowest: float = 0.0
    highest: float = 1.0
    weight: float = 1.0

    def normalised(self, mean: float) -> float:
        """Map a mean from the published range to 0..1; means outside the range map outside."""
        return (mean - self.lowest) / (self.highest - self.lowest)


# Dimensions that are not named below have the range 0..1 and the weight 1.
RANGES = {name: Range() for name in DIMENSIONS} | {
    "subject_consistency": Range(0.1462),
    "background_consistency": Range(0.2615),
    "temporal_flickering": Range(0.6293),
    "motion_smoothness": Range(0.706, 0.9975),
    "dynamic_degree": Range(weight=0.5),
    "scene": Range(highest=0.8222),
    "appearance_style": Range(0.0009, 0.2855),
    "temporal_style": Range(highest=0.364),
    "overall_consistency": Range(highest=0.364),
}
QUALITY = tuple(name for name, each in DIMENSIONS.items() if each.group == "quality")
SEMANTIC = tuple(name for name, each in DIMENSIONS.items() if each.group == "semantic")


@dataclass(frozen=True)
class Score:
    """A score, with its available and missing dimensions; value is None if one is missing."""

    value: float | None
    has: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Totals:
    """The three scores of a method, 0..1, higher is better."""

    quality: Score
    semantic: Score
    total: Score


def totals(means: Mapping[str, float | None], as_published: bool = False) -> Totals:
    """Return the scores, 0..1, from the mean of each dimension over videos.

    means: by name of dimension, on 0..1.
    as_published: count a missing dimension as a mean of 0, like VBench's `cal_final_score.py`, even
    if that is below the lowest of its range. `missing` still lists it.
    Source  Huang et al. 2024; ranges and weights of the project's `scripts/constant.py`.
    """
    # A total without one of its dimensions would be a mean of other things: it is None.
    quality = _weighted(QUALITY, means, as_published)
    semantic = _weighted(SEMANTIC, means, as_published)
    value = None
    if quality.value is not None and semantic.value is not None:
        sum_of_weights = QUALITY_WEIGHT + SEMANTIC_WEIGHT
        weighted = QUALITY_WEIGHT * quality.value + SEMANTIC_WEIGHT * semantic.value
        value = weighted / sum_of_weights
    has, missing = quality.has + semantic.has, quality.missing + semantic.missing
    return Totals(quality, semantic, Score(value, has, missing))


def dimension_means(
    rows: Iterable[Mapping[str, Any]], official: Mapping[str, frozenset[str]] | None = None
) -> dict[str, float]:
    """Return the mean over videos of each dimension that has a value in any row.

    rows: rows of scores, with `vbench_<dimension>` and, if `official` is given, `prompt`.
    official: the prompts of each dimension (`official_prompts`); videos of other prompts do not
    count, as in the published protocol. None counts every video, for a custom prompt list.
    """
    # The package aggregates some dimensions over frames, and differently on several GPUs. A mean
    # over videos counts every video once.
    values: dict[str, list[float]] = {}
    for row in rows:
        for name in DIMENSIONS:
            value = row.get(f"vbench_{name}")
            counts = official is None or row["prompt"] in official[name]
            if counts and value is not None and math.isfinite(value):
                values.setdefault(name, []).append(float(value))
    return {name: math.fsum(each) / len(each) for name, each in values.items()}


def official_prompts(entries: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """Return the prompts of each dimension, from the entries of VBench_full_info.json."""
    prompts: dict[str, set[str]] = {name: set() for name in DIMENSIONS}
    for entry in entries:
        for name in entry["dimension"]:
            prompts[name].add(entry["prompt_en"])
    return {name: frozenset(texts) for name, texts in prompts.items()}


def _weighted(names: Iterable[str], means: Mapping[str, float | None], as_published: bool) -> Score:
    """Return the weighted mean of the normalised dimensions of one group."""
    has = tuple(name for name in names if means.get(name) is not None)
    missing = tuple(name for name in names if means.get(name) is None)
    if missing and not as_published:
        return Score(None, has, missing)
    # A missing one counts as 0 here, as in VBench's script; without `as_published` none is missing.
    counted = {name: means.get(name) or 0.0 for name in (*has, *missing)}
    weighted = math.fsum(
        RANGES[name].weight * RANGES[name].normalised(mean) for name, mean in counted.items()
    )
    return Score(weighted / math.fsum(RANGES[name].weight for name in counted), has, missing)
