"""Measures how much of the attention each stored frame draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.cache.attention.base import Segment, heads_in
from harness.cache.layer import Chunk, Plan
from harness.cache.pages import Stage, stage_by_torch

AT_ONCE_MIB = 32  # of keys, or of logits, that are computed at a time


def frame_mass(
    history: Sequence[tuple[tuple[int, ...], Segment]],
    chunk: Chunk,
    plan: Plan,
    num_queries: int,
    stage: Stage = stage_by_torch,
) -> dict[int, float]:
    """Return the share of attention by frame, mean over heads and queries of the newest frame.

    history: segments without pooled frames, each with the frames that it holds.
    num_queries: evenly spaced queries of the newest frame, at the same places in every head.
    stage: decodes pages; a backend's may be faster.
    """
    num_frames, num_heads = len(plan.frames), chunk.rotated_key.shape[1]
    newest = chunk.rotated_query.unflatten(2, (num_frames, -1))[:, :, -1]
    # A sample of the queries is enough for a mean, and bounds the logits that are held at once.
    places = torch.linspace(0, newest.shape[2] - 1, min(num_queries, newest.shape[2])).long()
    query = newest[:, :, places.to(newest.device)].float() / newest.shape[3] ** 0.5
    # Group query heads by the head of keys that they share.
    query = query.unflatten(1, (num_heads, -1)).flatten(2, 3)
    frames = [frame for held, _ in history for frame in held] + list(plan.frames)
    sizes = [len(held) for held, _ in history] + [num_frames]
    total = torch.zeros(len(frames), device=query.device)
    # Decode the keys of a few heads at a time, which bounds the memory of keys and logits.
    batch, _, num_rows, width = query.shape
    num_tokens = chunk.rotated_key.shape[2] + sum(segment.num_tokens for _, segment in history)
    head_bytes = batch * num_tokens * max(width, num_rows) * query.itemsize
    group = heads_in(num_heads, head_bytes, AT_ONCE_MIB)
    for first in range(0, num_heads, group):
        heads = slice(first, min(first + group, num_heads))
        logits = [_logits(query[:, heads], segment, heads, stage) for _, segment in history]
        logits.append(query[:, heads] @ chunk.rotated_key[:, heads].float().mT)
        # A share of the attention for each token; a frame's share is the sum over its tokens.
        shares = torch.cat(logits, 3).softmax(3).split([x.shape[3] for x in logits], 3)
        by_frame = [
            x.mean(2).unflatten(2, (count, -1)).sum(3)
            for x, count in zip(shares, sizes, strict=True)
        ]
        total += torch.cat(by_frame, 2).mean(0).sum(0)
    mass: dict[int, float] = defaultdict(float)
    for frame, share in zip(frames, (total / num_heads).tolist(), strict=True):
        mass[frame] += share  # the tokens of a split frame lie in two segments
    return mass


def _logits(query_BhOD: Tensor, segment: Segment, heads: slice, stage: Stage) -> Tensor:
    """Return the logits of a segment's tokens [B, h, O, N], for O queries."""
    # A function of its own, so that the decoded keys are freed before the next segment's are made.
    batch, num_heads, _, width = query_BhOD.shape
    k = query_BhOD.new_empty(batch, num_heads, segment.num_tokens, width)
    segment.load_keys(heads, slice(0, len(segment.pages.slots)), k, None, stage)
    logits = query_BhOD @ k.mT
    # The bias hides frames that the pass does not see.
    return logits if segment.bias is None else logits + segment.bias[:, heads, None]
