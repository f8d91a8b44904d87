"""MemRoPE: what leaves the recent frames lives on in two moving averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import Revision, Tokens
from methods.retention.tokens.budgeted import Budgeted, everything
from methods.retention.tokens.order import picked

NUM_MEMORIES = 2  # a slow and a fast one, each of one frame


@dataclass(frozen=True, kw_only=True)
class MemRoPE(Budgeted):
    """Sink frames, a long-term and a short-term memory of one frame each, and the recent frames.

    The recent frames are what the budget, in whole frames, has left. Frames that leave them are
    folded into both memories, place by place, keys (which must be stored without positions, `keys:
    pre_rope`) and values alike:

        memory = (1 - rate) * memory + rate * (mean of the frames that leave with one chunk)

    and both begin as the mean of the first frames that leave. In time the sink, then the long-term,
    then the short-term memory stand right before the recent frames (`times`), which is, as only
    differences matter, the paper's counting of positions from the start of the cache.

    A memory token counts once: it is one plausible token of that place, as in the paper, not a
    stand-in for all it has seen, whose weight would drown the recent frames. Counts are left as
    they are. In the store, memories are the frames behind the sink, and bear notes 1 and 2.

    sink: frames. long, short: rates.

    Source  MemRoPE (arXiv 2603.12513) and its release: 3 + 2 + 4 frames of history, rates 0.01 and
    0.1. Its default averages the leaving frames over all places too and copies that to each; here
    as its adaptive variant, place by place, but with constant rates. Averages are taken in fp32 and
    stored in the model's dtype, as there: in BF16 a step below 0.2 to 0.4 % of a value is lost,
    which at a rate of 0.01 is what a mean that differs by 20 to 40 % makes.
    Raises  ValueError: a negative sink, a rate outside 0..1, a budget too small.
    """

    rewrites: ClassVar[bool] = True

    sink: int = 3
    long: float = 0.01
    short: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a negative sink and rates outside 0..1."""
        super().__post_init__()
        if self.sink < 0:
            raise ValueError(f"MemRoPE.sink={self.sink}: choose 0 or more frames")
        for name in ("long", "short"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"MemRoPE.{name}={getattr(self, name)}: choose a rate from 0 to 1")

    @property
    def recent(self) -> int:
        """Frames that the budget has left beside sink and memories."""
        return self.num_frames - self.sink - NUM_MEMORIES

    def _least(self, chunk_frames: int) -> int:
        """Sink, memories and the new chunk."""
        return self.sink + NUM_MEMORIES + chunk_frames

    def _revised(self, tokens: Tokens) -> Revision:
        """Sink, memories, recent frames: the same tokens in every head."""
        size = self._room.tokens_per_frame
        if tokens.frame.shape[2] <= self.num_frames * size:
            return everything(tokens)
        frame, note = tokens.frame[0, 0], tokens.note[0, 0]
        start = int((frame < self.sink).sum())  # of the memories, or of what the first are made of
        stop = start + NUM_MEMORIES * size
        recent = int((frame < tokens.num_frames - self.recent).sum())
        place = torch.arange(len(frame), device=frame.device)
        index = torch.cat([place[:stop], place[recent:]]).expand(*tokens.frame.shape[:2], -1)
        marks = torch.zeros_like(note)[index]
        numbers = torch.arange(1, 1 + NUM_MEMORIES, device=frame.device)
        marks[:, :, start:stop] = numbers.repeat_interleave(size).to(marks.dtype)
        parts = []
        for x in (tokens.key, tokens.value):
            if bool((note > 0).any()):
                memories = self._folded(x[:, :, start:stop], x[:, :, stop:recent])
            else:
                memories = _mean_frame(x[:, :, start:recent], size).repeat(1, 1, NUM_MEMORIES, 1)
            kept = picked(x, index)
            kept[:, :, start:stop] = memories
            parts.append(kept)
        return Revision(index.contiguous(), note=marks, key=parts[0], value=parts[1])

    def _folded(self, memories: Tensor, leaving: Tensor) -> Tensor:
        """Both memories [B, H, 2 T, D] after the frames [B, H, F T, D] that leave, fp32."""
        size = memories.shape[2] // NUM_MEMORIES
        mean = _mean_frame(leaving, size)
        long, short = memories.float().split(size, 2)
        return torch.cat([long.lerp(mean, self.long), short.lerp(mean, self.short)], 2)

    def times(self, frame_BHN: Tensor, num_frames: int) -> Tensor:
        """Everything before the recent frames moves up to them."""
        recent = num_frames - self.recent
        gap = max(0, recent - self.sink - NUM_MEMORIES)
        return torch.where(frame_BHN < recent, frame_BHN + gap, frame_BHN)


def _mean_frame(x_BHND: Tensor, size: int) -> Tensor:
    """The mean over frames, place by place [B, H, T, D] fp32."""
    frames: Tensor = x_BHND.float().unflatten(2, (-1, size))
    return frames.mean(2)
