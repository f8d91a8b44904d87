"""Measures the importance of frames and combines it with their age into a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from harness.api import History
from methods.retention.bounds import require_choice, require_counts, require_shares

UNKNOWN = 1.0  # importance of a frame without a measurement: the same as a completely new one


class Importance(ABC):
    """Measures frames. Subclasses define `of`; the other members are those of `FramePolicy`."""

    queries: int = 0
    observes_noisy: bool = False

    def observe(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Tensor | None:
        """Return small notes on new frames [F, ...], or None."""
        return None

    @abstractmethod
    def of(self, frames: Sequence[int], history: History) -> list[float]:
        """Return the importance of each frame, larger is more important, in order of `frames`."""


class Change(Importance):
    """Relative change of a frame's activation profile from a reference profile.

    The change is mean |u - r| / max(mean |r|, 1e-6) over heads, where u is the profile of the frame
    and r its reference.
    """

    def observe(self, k_BHFTD: Tensor, v_BHFTD: Tensor) -> Tensor:
        """Return the profiles of frames, mean |K| + mean |V| of each head [F, H] fp32."""
        # One number a head: notes of all frames stay for the whole video.
        k, v = (x.abs().mean((0, 3, 4), dtype=torch.float32) for x in (k_BHFTD, v_BHFTD))
        return (k + v).T

    @abstractmethod
    def references(self, history: History) -> Mapping[int, Tensor]:
        """Return the reference profile of each frame [H]; frames without one are absent."""

    def of(self, frames: Sequence[int], history: History) -> list[float]:
        """Return the change of each frame."""
        references = self.references(history)
        found = [f for f in frames if f in references and f in history.notes]
        if not found:
            return [UNKNOWN] * len(frames)
        now = torch.stack([history.notes[f] for f in found])
        then = torch.stack([references[f] for f in found])
        change = (now - then).abs().mean(1) / then.abs().mean(1).clamp_min(1e-6)
        # All frames at once: `tolist` makes the host wait for the device.
        known = dict(zip(found, change.tolist(), strict=True))
        return [known.get(f, UNKNOWN) for f in frames]


@dataclass(frozen=True)
class Drift(Change):
    """Change of a frame between the last noisy pass and the commit.

    align: choice of the reference. `frame`: the frame's own profile in the pass before the commit.
    `tail` (as published): the lists of old and new profiles are aligned at their ends.

    Source  the FLOWCACHE rows of arXiv 2603.27469, which intend `frame` and compute `tail`.
    Raises  ValueError: an unknown word for `align`.
    """

    align: Literal["frame", "tail"] = "frame"
    observes_noisy = True  # not a field: the comparison always needs the noisy pass

    def __post_init__(self) -> None:
        require_choice(self, "align", "frame", "tail")

    def references(self, history: History) -> Mapping[int, Tensor]:
        """Return the profiles of the noisy pass."""
        if self.align == "frame":
            return history.noisy_notes
        # After a chunk of three frames, each frame is compared with the one three before it, and
        # the first three have no reference.
        now, then = sorted(history.frames), sorted(history.noisy_notes)
        pairs = zip(reversed(now), reversed(then), strict=False)
        return {frame: history.noisy_notes[other] for frame, other in pairs}


@dataclass(frozen=True)
class Novelty(Change):
    """Change of a frame from the previous frame of the video, even if that frame was dropped."""

    def references(self, history: History) -> Mapping[int, Tensor]:
        """Return the profile of the previous frame."""
        # The first frame has none and gets UNKNOWN, the most. This makes it a sink on purpose.
        return {f: history.notes[f - 1] for f in history.frames if f - 1 in history.notes}


@dataclass(frozen=True)
class Mass(Importance):
    """Share of attention that a frame receives from queries of the newest frame.

    A frame without a measurement gets 1.

    queries: number of queries, evenly spaced over the newest frame, at least 1.

    Source  the importance term of FlowCache (arXiv 2602.10825), over whole frames.
    Raises  ValueError: fewer than one query.
    """

    queries: int = 64

    def __post_init__(self) -> None:
        require_counts(self, "queries", least=1)

    def of(self, frames: Sequence[int], history: History) -> list[float]:
        """Return the measured share of each frame."""
        return [history.mass.get(f, UNKNOWN) for f in frames]


@dataclass(frozen=True)
class Score:
    """Score of competing frames: weight * importance + (1 - weight) * recency.

    Recency is 0 for the oldest frame that history can hold and 1 for the newest.

    importance: the measure of importance.
    weight: weight of importance, 0 to 1.
    mix: quantities to add. `ranks`: ranks among the competing frames, from 0 to 1; equal values
    share a rank. `values` (as published): the values themselves.

    Raises  ValueError: a weight outside 0..1; an unknown word for `mix`.
    """

    # The default is ranks: drifts are near 0.04, so with plain values recency alone would decide.

    importance: Importance = field(default_factory=Drift)
    weight: float = 0.7
    mix: Literal["ranks", "values"] = "ranks"

    def __post_init__(self) -> None:
        require_shares(self, "weight")
        require_choice(self, "mix", "ranks", "values")

    def of(self, frames: Sequence[int], history: History) -> dict[int, float]:
        """Return the score of each frame."""
        # Of a full history, dropped frames included: recency does not depend on what has left.
        span, newest = max(1, history.num_frames - 1), history.frames[-1]
        importance = self.importance.of(frames, history)
        recency = [max(0.0, 1 - (newest - f) / span) for f in frames]
        if self.mix == "ranks":
            importance, recency = ranks(importance), ranks(recency)
        pairs = zip(frames, importance, recency, strict=True)
        return {f: self.weight * i + (1 - self.weight) * r for f, i, r in pairs}


def ranks(values: Sequence[float]) -> list[float]:
    """Return ranks from 0 (smallest) to 1 (largest); equal values share their mean rank."""
    # Equal values lie side by side: `first` and `last` are the ends of their run. A dict keeps the
    # last entry of a key, so the run is walked backwards for `first`.
    ordered = sorted(values)
    first = {value: len(values) - 1 - i for i, value in enumerate(reversed(ordered))}
    last = {value: i for i, value in enumerate(ordered)}
    top = max(1, len(values) - 1)
    return [(first[value] + last[value]) / 2 / top for value in values]
