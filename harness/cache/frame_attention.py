"""Measures how much of the attention each stored frame draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from harness.cache.attention.base import Segment
from harness.cache.layer import Chunk, Plan


def frame_mass(
    history: Sequence[tuple[tuple[int, ...], Segment]], chunk: Chunk, plan: Plan, num_queries: int
) -> dict[int, float]:
    """Return the share of attention by frame, mean over heads and queries of the newest frame.

    history: segments without pooled frames, each with the frames that it holds.
    num_queries: evenly spaced queries of the newest frame, at the same places in every head.
    """
    num_frames, num_heads = len(plan.frames), chunk.rotated_key.shape[1]
    newest = chunk.rotated_query.unflatten(2, (num_frames, -1))[:, :, -1]
    # A sample of the queries is enough for a mean, and bounds the logits that are held at once.
    places = torch.linspace(0, newest.shape[2] - 1, min(num_queries, newest.shape[2])).long()
    query = newest[:, :, places.to(newest.device)].float() / newest.shape[3] ** 0.5
    # Group query heads by the head of keys that they share.
    query = query.unflatten(1, (num_heads, -1)).flatten(2, 3)
    frames = [frame for held, _ in history for frame in held] + list(plan.frames)
    total = torch.zeros(len(frames), device=query.device)
    # Decode the keys of one head at a time, which bounds the memory of the decoded keys.
    for head in range(num_heads):
        heads = slice(head, head + 1)
        logits = [_logits(query[:, heads], s, heads, len(held)) for held, s in history]
        own = chunk.rotated_key[:, heads].unflatten(2, (num_frames, -1))
        logits.append(torch.einsum("bhod,bhftd->bhoft", query[:, heads], own.float()))
        # The sum over the tokens of a frame first: a softmax over frames then gives their shares.
        by_frame = torch.cat([x.logsumexp(4) for x in logits], 3)
        total += by_frame.softmax(3).mean((0, 1, 2))
    mass: dict[int, float] = defaultdict(float)
    for frame, share in zip(frames, (total / num_heads).tolist(), strict=True):
        mass[frame] += share  # the tokens of a split frame lie in two segments
    return mass


def _logits(query_BhOD: Tensor, segment: Segment, heads: slice, num_frames: int) -> Tensor:
    """Return the logits of a segment's tokens by frame [B, h, O, F, T], for O queries."""
    # A function of its own, so that the decoded keys are freed before the next segment's are made.
    batch, num_heads, _, width = query_BhOD.shape
    k = query_BhOD.new_empty(batch, num_heads, segment.num_tokens, width)
    segment.load_keys(heads, slice(0, len(segment.pages.slots)), k, None)
    logits = torch.einsum("bhod,bhftd->bhoft", query_BhOD, k.unflatten(2, (num_frames, -1)))
    if segment.bias is None:
        return logits
    # The bias hides frames that the pass does not see.
    hidden: Tensor = segment.bias[:, heads, None].unflatten(3, (num_frames, -1))
    return logits + hidden
