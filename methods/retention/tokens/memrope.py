"""MemRoPE: averages the frames that leave the recent ones into two memory frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import Revision, Tokens, rows_at
from methods.retention.tokens.budgeted import Budgeted, everything

NUM_MEMORIES = 2  # a slow and a fast one, each of one frame


@dataclass(frozen=True, kw_only=True)
class MemRoPE(Budgeted):
    """Keeps sink frames, a long-term and a short-term memory frame, and the recent frames.

    The recent frames fill the rest of the budget, in whole frames. Frames that leave them update
    both memories, place by place, for keys and values:

        memory = (1 - rate) * memory + rate * (mean of the frames that leave with one chunk)

    Both memories start as the mean of the first frames that leave. Keys must be stored without
    positions (`keys: pre_rope`). The time positions of sink, long-term memory and short-term memory
    directly precede the recent frames (`times`).

    In storage, the memories follow the sink and have the notes 1 and 2.

    sink: frames, at least 0.
    long, short: update rates of the memories, 0 to 1.

    Source  MemRoPE (arXiv 2603.12513) and its release: 3 + 2 + 4 frames of history, rates 0.01 and
    0.1. The paper's default also averages over all places; this class works place by place, like
    the paper's adaptive variant, but with constant rates.
    Raises  ValueError: a negative sink; a rate outside 0..1; a budget that is too small.
    """

    rewrites: ClassVar[bool] = True

    sink: int = 3
    long: float = 0.01
    short: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sink < 0:
            raise ValueError(f"MemRoPE.sink={self.sink}: choose 0 or more frames")
        for name in ("long", "short"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"MemRoPE.{name}={getattr(self, name)}: choose a rate from 0 to 1")

    @property
    def recent(self) -> int:
        """Return the frames of the budget that sink and memories do not use."""
        return self.num_frames - self.sink - NUM_MEMORIES

    def _least(self, chunk_frames: int) -> int:
        """Return the frames of the sink, the memories and the new chunk."""
        return self.sink + NUM_MEMORIES + chunk_frames

    def _revised(self, tokens: Tokens) -> Revision:
        """Keep sink, memories and recent frames: the same tokens in every head."""
        size = self._room.tokens_per_frame
        # In whole frames, as a budget in tokens may have a rest that no frame fills.
        if tokens.frame.shape[2] <= self.num_frames * size:
            return everything(tokens)
        frame, note = tokens.frame[0, 0], tokens.note[0, 0]
        # Tokens are sorted and all heads hold the same ones, so slices of the first head's serve.
        start = int((frame < self.sink).sum())  # first token of the memories
        stop = start + NUM_MEMORIES * size
        recent = int((frame < tokens.num_frames - self.recent).sum())
        # The memories take the places of the first tokens behind the sink.
        place = torch.arange(len(frame), device=frame.device)
        index = torch.cat([place[:stop], place[recent:]]).expand(*tokens.frame.shape[:2], -1)
        marks = torch.zeros_like(note)[index]
        numbers = torch.arange(1, 1 + NUM_MEMORIES, device=frame.device)
        marks[:, :, start:stop] = numbers.repeat_interleave(size).to(marks.dtype)
        parts = []
        for x in (tokens.key, tokens.value):
            # Notes mark existing memories. Without any, the leaving frames create them.
            if bool((note > 0).any()):
                # In fp32, then stored in the model's dtype, as in the release. BF16 loses a step
                # below 0.2 to 0.4 % of a value: at a rate of 0.01, a mean that differs by 20 to
                # 40 %.
                leaving = _mean_frame(x[:, :, stop:recent], size)
                long, short = x[:, :, start:stop].float().split(size, 2)
                memories = torch.cat(
                    [long.lerp(leaving, self.long), short.lerp(leaving, self.short)], 2
                )
            else:
                memories = _mean_frame(x[:, :, start:recent], size).repeat(1, 1, NUM_MEMORIES, 1)
            # A new tensor, so that the memories are written over copies.
            kept = rows_at(x, index)
            kept[:, :, start:stop] = memories
            parts.append(kept)
        # A memory token keeps count 1, as in the paper: it is one plausible token of its place. A
        # count of all averaged tokens would outweigh the recent frames.
        return Revision(index.contiguous(), note=marks, key=parts[0], value=parts[1])

    def times(self, frame_BHN: Tensor, num_frames: int) -> Tensor:
        """Return time positions [B, H, N] in which sink and memories directly precede the rest."""
        # Memories keep the frame numbers of the first tokens that they replaced, which follow the
        # sink: both move forward together. Only differences matter, so this equals the paper's
        # positions, which count from the start of the cache.
        recent = num_frames - self.recent
        gap = max(0, recent - self.sink - NUM_MEMORIES)
        return torch.where(frame_BHN < recent, frame_BHN + gap, frame_BHN)


def _mean_frame(x_BHND: Tensor, size: int) -> Tensor:
    """Return the mean over frames at each place [B, H, T, D] fp32."""
    frames: Tensor = x_BHND.float().unflatten(2, (-1, size))
    return frames.mean(2)
