"""Finds methods that no other beats: frontiers over any quantities, and the study's four.

A method is beaten by another that is no worse on every axis and better on one, by more than
rounding. A method with a missing or infinite value on an axis cannot be compared, so it is on no
frontier of that axis.

Source  arXiv 2603.27469, the study's dashboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from analysis.section import Section
from harness.results.quantities import QUANTITIES
from harness.system.paths import shipped

# Data and not code, since they are the study's choices and not ours.
PRESETS = shipped("analysis.choosing", "presets.yaml")
EPSILON = 1e-9  # the study's; equal numbers differ by rounding
# Fidelity of a video compared with itself. All other quantities are of a single video, so BF16 has
# measured values of them.
OF_ITSELF = {
    **dict.fromkeys(("psnr_db", "psnr_frame_mean_db", "psnr_rest_db"), np.inf),
    "psnr_drift": 0.0,
    "ssim": 1.0,
    "lpips": 0.0,
}


@dataclass(frozen=True)
class Frontier:
    """One frontier of a section.

    axes: quantities that were used.
    left_out: axes of its definition that no method has a value of, with the reason.
    members: best on the first axis first.
    unplaced: methods that cannot be placed, with the reason.
    """

    name: str
    title: str
    axes: tuple[str, ...]
    members: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    unplaced: Mapping[str, str] = field(default_factory=dict)


@cache
def presets() -> Mapping[str, Any]:
    """Read the study's frontiers, presets, thresholds, cards and tables from their file."""
    found: Mapping[str, Any] = yaml.safe_load(PRESETS.read_text())
    return found


def objectives(section: Section) -> pd.DataFrame:
    """Return the values that methods are chosen by: one row per method, one column per quantity.

    Reruns of BF16 and noise-floor runs are no choices and are left out. BF16 gets the fidelity of a
    video to itself, for every fidelity that was measured.
    """
    # `drop` returns a copy, so the assignment below leaves the section unchanged.
    values = section.values.drop(index=section.again, errors="ignore")
    # Without these BF16 would miss a value and be on no frontier of fidelity.
    if section.reference in values.index:
        for quantity, value in OF_ITSELF.items():
            if section.has(quantity):
                values.loc[section.reference, quantity] = value
    return values


def frontier(values: pd.DataFrame, axes: Sequence[str]) -> list[str]:
    """Return the methods that no other beats, best on the first axis first.

    values: one row per method, one column per quantity, from `objectives`.
    """
    if not len(values):
        return []
    without = unplaced(values, axes)
    kept = values.loc[[name for name in values.index if str(name) not in without]]
    # Turned around so that more is better on every axis.
    signs = [1.0 if QUANTITIES[axis].better == "higher" else -1.0 for axis in axes]
    points = kept.reindex(columns=list(axes)).to_numpy(float) * signs
    members = np.flatnonzero(~dominated(points))
    ordered = members[np.argsort(-points[members, 0], kind="stable")]
    return [str(kept.index[i]) for i in ordered]


def unplaced(values: pd.DataFrame, axes: Sequence[str]) -> dict[str, str]:
    """Explain for each method without a finite value why it is on no frontier of these axes."""
    found: dict[str, list[str]] = {}
    # Every axis is looked at, so that a reader learns of all gaps at once.
    for axis in axes:
        column = values[axis] if axis in values else pd.Series(np.nan, values.index)
        for name, value in column.astype(float).items():
            if not np.isfinite(value):
                title = QUANTITIES[axis].title
                said = f"no {title}" if np.isnan(value) else f"{title} is infinite"
                found.setdefault(str(name), []).append(said)
    return {name: ", ".join(said) for name, said in found.items()}


def dominated(points: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points are beaten by another, where higher is better on every axis.

    Shapes  [M, K] -> [M].
    """
    # lead[i, j] is how far method j is ahead of method i, on each axis.
    lead = points[None] - points[:, None]
    beats = np.all(lead >= -EPSILON, axis=-1) & np.any(lead > EPSILON, axis=-1)
    found: NDArray[np.bool_] = np.any(beats, axis=1)
    return found


def usable(section: Section, axes: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the axes that have values, and why others have none."""
    # A method without a value on an axis cannot be on the frontier, so skip empty axes.
    left_out = {axis: section.why_not(axis) for axis in axes if not section.has(axis)}
    return tuple(axis for axis in axes if axis not in left_out), left_out


def of_axes(section: Section, axes: Sequence[str], name: str = "", title: str = "") -> Frontier:
    """Compute a frontier of a section over the axes that have values."""
    # The frontier is then over fewer axes than its definition; `left_out` says which.
    kept, left_out = usable(section, axes)
    values = objectives(section)
    members = tuple(frontier(values, kept)) if kept else ()
    words = title or " and ".join(QUANTITIES[axis].title for axis in axes)
    return Frontier(name, words, kept, members, left_out, unplaced(values, kept))


def frontiers(section: Section) -> list[Frontier]:
    """Compute the study's four frontiers."""
    return [
        of_axes(section, tuple(each["axes"]), name, each["title"])
        for name, each in presets()["frontiers"].items()
    ]


def flags(section: Section) -> pd.DataFrame:
    """Return whether methods are on the study's four: a row per method, a column per frontier."""
    found = {each.name: each.members for each in frontiers(section)}
    return pd.DataFrame(
        {name: [each in members for each in section.methods] for name, members in found.items()},
        index=list(section.methods),
    )
