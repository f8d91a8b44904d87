"""Prune and soft prune: keep the recent and the important frames, drop or pool the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import Fate, History, Retention


@dataclass(frozen=True)
class Prune(Retention):
    """Keeps a share `recent` of all frames and, of the older ones, the share `keep` that matters.

    A frame matters by 0.7 * novelty + 0.3 * recency. Novelty is the relative change of its
    activation profile (mean |K| + mean |V| a head) against the frame just before it; the first
    frame has none before it and counts as wholly new, which makes it a sink on purpose. A frame
    that left does not come back.

    Source  the FLOWCACHE_PRUNE rows of arXiv 2603.27469 as an idea. Theirs compares a frame with
    the one three before it and leaves zeroed tokens in the attention; here they are gone.
    Raises  ValueError: a share outside 0..1.
    """

    recent: float = 0.25
    keep: float = 0.5
    novelty_weight: float = 0.7

    def __post_init__(self) -> None:
        """Refuse shares outside 0..1."""
        for name in ("recent", "keep", "novelty_weight"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                kind = type(self).__name__
                raise ValueError(f"{kind}.{name}={share}: choose a share from 0 to 1")

    def observe(self, k_BHTD: Tensor, v_BHTD: Tensor) -> Tensor:
        """The activation profile of a frame [H] fp32, averaged over the batch."""
        return k_BHTD.float().abs().mean((0, 2, 3)) + v_BHTD.float().abs().mean((0, 2, 3))

    def most_kept(self, num_frames: int) -> int:
        """The share, at its largest: rounding makes it waver as history grows."""
        return max(sum(self._shares(n)) for n in range(1, num_frames + 1))

    def decide(self, history: History) -> dict[int, Fate]:
        """Let the least important old frames go until the share is met."""
        num_recent, num_kept = self._shares(history.num_frames)
        old = list(history.frames[:-num_recent])
        surplus = len(old) - num_kept
        if surplus <= 0:
            return {}
        return {frame: self._fate() for frame in self._rank(old, history)[:surplus]}

    def _shares(self, num_frames: int) -> tuple[int, int]:
        """How many recent and how many older frames stay of a history."""
        num_recent = max(1, round(self.recent * num_frames))
        return num_recent, round(self.keep * max(0, num_frames - num_recent))

    def _fate(self) -> Fate:
        return Fate.DROP

    def _rank(self, frames: list[int], history: History) -> list[int]:
        """Frames from the least to the most important; of equals the older one goes first."""
        newest = max(history.notes)
        novelty = _novelty(frames, history).tolist()
        score = {
            frame: self.novelty_weight * new + (1 - self.novelty_weight) * frame / max(1, newest)
            for frame, new in zip(frames, novelty, strict=True)
        }
        return sorted(frames, key=lambda frame: (score[frame], frame))


@dataclass(frozen=True)
class SoftPrune(Prune):
    """As `Prune`, but a frame that leaves stays as one token, the mean of its keys and values.

    The token carries the logit bias log(n) of the n tokens it stands for, so it draws as much
    attention as n copies of it would.

    Source  the FLOWCACHE_SOFT_PRUNE rows of arXiv 2603.27469, which hold the n copies.
    """

    def _fate(self) -> Fate:
        return Fate.POOL


def _novelty(frames: list[int], history: History) -> Tensor:
    """Mean relative change over heads against the previous frame [len(frames)]; 1 for the first."""
    profile = torch.stack([history.notes[f] for f in frames])
    before = torch.stack(
        [history.notes[f - 1] if f else torch.zeros_like(profile[0]) for f in frames]
    )
    change = (profile - before).abs().mean(1) / before.abs().mean(1).clamp_min(1e-6)
    return change.clamp_max(1.0)
