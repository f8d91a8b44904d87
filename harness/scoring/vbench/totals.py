"""VBench's quality, semantic and total score, recomputed from values of single videos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.scoring.vbench.dimensions import DIMENSIONS

QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4, 1


@dataclass(frozen=True)
class Range:
    """Where a dimension's mean lies between the published extremes, and how much it counts."""

    lowest: float = 0.0
    highest: float = 1.0
    weight: float = 1.0

    def normalised(self, mean: float) -> float:
        """The mean on the published range; outside 0..1 if it is outside the range."""
        return (mean - self.lowest) / (self.highest - self.lowest)


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
    """A score, and which dimensions it has. None if one is missing: it is not taken for zero."""

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
    """The scores from the means over videos of each dimension, by name, on 0..1.

    Source  Huang et al. 2024; ranges and weights of the project's `scripts/constant.py`.
            as_published: a missing dimension counts as a mean of 0, as `cal_final_score.py` there
            has it, below the lowest of the range even. `missing` still names it.
    """
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
    """Mean over videos of each dimension that any row has a value of.

    The package's own aggregate is a mean over frames for some dimensions, and another one on
    several GPUs; a mean over videos counts every video once.

    rows: of scores, with `vbench_<dimension>` and, where official is given, `prompt`. official: the
    prompts of each dimension (`official_prompts`); a video of another prompt does not count, as in
    the published protocol. Without it every video counts, as with a prompt list of one's own.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        for name in DIMENSIONS:
            value = row.get(f"vbench_{name}")
            counts = official is None or row["prompt"] in official[name]
            if counts and value is not None and math.isfinite(value):
                values.setdefault(name, []).append(float(value))
    return {name: math.fsum(each) / len(each) for name, each in values.items()}


def official_prompts(entries: Iterable[Mapping[str, Any]]) -> dict[str, frozenset[str]]:
    """The prompts of each dimension, from the entries of VBench_full_info.json."""
    prompts: dict[str, set[str]] = {name: set() for name in DIMENSIONS}
    for entry in entries:
        for name in entry["dimension"]:
            prompts[name].add(entry["prompt_en"])
    return {name: frozenset(texts) for name, texts in prompts.items()}


def _weighted(names: Iterable[str], means: Mapping[str, float | None], as_published: bool) -> Score:
    """The weighted mean of one group's normalised dimensions."""
    has = tuple(name for name in names if means.get(name) is not None)
    missing = tuple(name for name in names if means.get(name) is None)
    if missing and not as_published:
        return Score(None, has, missing)
    counted = {name: means.get(name) or 0.0 for name in (*has, *missing)}
    weighted = math.fsum(
        RANGES[name].weight * RANGES[name].normalised(mean) for name, mean in counted.items()
    )
    return Score(weighted / math.fsum(RANGES[name].weight for name in counted), has, missing)
