"""How much a frame matters: what is measured of it, and how that is weighed against its age."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from harness.api import History
from methods.retention.bounds import require_choice, require_counts, require_shares

UNKNOWN = 1.0  # of a frame that could not be measured: as if wholly new, nothing speaks against it


class Importance(ABC):
    """What is measured of a frame. A leaf gives `of`; the rest is as in `FramePolicy`."""

    queries: int = 0
    observes_noisy: bool = False

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor | None:
        """A small note on a new frame."""
        return None

    @abstractmethod
    def of(self, frames: Sequence[int], history: History) -> list[float]:
        """A number for each frame, larger for what matters more, in the order of `frames`."""


class Change(Importance):
    """Relative change of a frame's activation profile against a reference.

    mean over heads of |u - r| divided by mean |r| (at least 1e-6), with u the profile of the frame
    and r its reference. A frame without a reference counts 1: wholly new.
    """

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        """The profile of a frame, mean |K| + mean |V| of each head [H] fp32, over the batch."""
        return k_BHTD.float().abs().mean((0, 2, 3)) + v_BHTD.float().abs().mean((0, 2, 3))

    @abstractmethod
    def references(self, history: History) -> Mapping[int, Tensor]:
        """What each frame is compared with [H]; frames without a reference are absent."""

    def of(self, frames: Sequence[int], history: History) -> list[float]:
        """The change of each frame."""
        references = self.references(history)
        found = [f for f in frames if f in references and f in history.notes]
        if not found:
            return [UNKNOWN] * len(frames)
        now = torch.stack([history.notes[f] for f in found])
        then = torch.stack([references[f] for f in found])
        change = (now - then).abs().mean(1) / then.abs().mean(1).clamp_min(1e-6)
        known = dict(zip(found, change.tolist(), strict=True))
        return [known.get(f, UNKNOWN) for f in frames]


@dataclass(frozen=True)
class Drift(Change):
    """Change of a frame between two passes: how far its activations were from settled.

    align: which earlier profile is a frame's reference. `frame`: its own, of the pass before the
    commit. `tail` (as published): the two lists of profiles are laid side by side at their ends,
    so that, when a chunk of three was added, every frame is compared with the one three before it
    and the first three have no reference.

    Source  the FLOWCACHE rows of arXiv 2603.27469, which mean `frame` and do `tail`.
    Raises  ValueError: another word.
    """

    align: Literal["frame", "tail"] = "frame"
    observes_noisy = True  # no field: it follows from what is compared

    def __post_init__(self) -> None:
        """Refuse other words."""
        require_choice(self, "align", "frame", "tail")

    def references(self, history: History) -> Mapping[int, Tensor]:
        """Profiles of the pass before."""
        if self.align == "frame":
            return history.noisy_notes
        now, then = sorted(history.frames), sorted(history.noisy_notes)
        pairs = zip(reversed(now), reversed(then), strict=False)
        return {frame: history.noisy_notes[other] for frame, other in pairs}


@dataclass(frozen=True)
class Novelty(Change):
    """Change of a frame against the frame just before it, dropped or not.

    The first frame of a video has none before it, which makes it a sink on purpose.
    """

    def references(self, history: History) -> Mapping[int, Tensor]:
        """Profiles of the neighbours."""
        return {f: history.notes[f - 1] for f in history.frames if f - 1 in history.notes}


@dataclass(frozen=True)
class Mass(Importance):
    """The share of attention that a frame draws from queries of the newest frame.

    queries: how many of them, evenly spaced. A frame that was not measured counts 1.

    Source  the importance term of FlowCache (arXiv 2602.10825), over whole frames.
    Raises  ValueError: no queries.
    """

    queries: int = 64

    def __post_init__(self) -> None:
        """Refuse to measure without queries."""
        require_counts(self, "queries", least=1)

    def of(self, frames: Sequence[int], history: History) -> list[float]:
        """As measured."""
        return [history.mass.get(f, UNKNOWN) for f in frames]


@dataclass(frozen=True)
class Score:
    """weight * importance + (1 - weight) * recency, for frames that compete with one another.

    Recency runs from 0 for the oldest frame that history can hold to 1 for the newest. mix: what is
    summed. `ranks`: the rank of a frame among its competitors in each, from 0 to 1, equal ones
    sharing theirs, so that the weight means what it says; drifts are of the order of 0.04, and
    summed as they are recency alone would decide. `values` (as published): as they are.

    Raises  ValueError: a weight outside 0..1, another word.
    """

    importance: Importance = field(default_factory=Drift)
    weight: float = 0.7
    mix: Literal["ranks", "values"] = "ranks"

    def __post_init__(self) -> None:
        """Refuse what is no share, and other words."""
        require_shares(self, "weight")
        require_choice(self, "mix", "ranks", "values")

    def of(self, frames: Sequence[int], history: History) -> dict[int, float]:
        """The score of each frame."""
        span, newest = max(1, history.num_frames - 1), history.frames[-1]
        importance = self.importance.of(frames, history)
        recency = [max(0.0, 1 - (newest - f) / span) for f in frames]
        if self.mix == "ranks":
            importance, recency = ranks(importance), ranks(recency)
        pairs = zip(frames, importance, recency, strict=True)
        return {f: self.weight * i + (1 - self.weight) * r for f, i, r in pairs}


def ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0 (smallest) to 1 (largest); equal values share the mean of theirs."""
    ordered = sorted(values)
    first = {value: len(values) - 1 - i for i, value in enumerate(reversed(ordered))}
    last = {value: i for i, value in enumerate(ordered)}
    top = max(1, len(values) - 1)
    return [(first[value] + last[value]) / 2 / top for value in values]
