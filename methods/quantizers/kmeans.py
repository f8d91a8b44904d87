"""Deterministic k-means over tokens, batched over heads and pages."""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 2**24  # distances computed at a time: 64 MiB in fp32


def cluster(tokens_PTD: Tensor, count: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Return centroids [P, C, D] fp16 and the index of each token's nearest one [P, T] u8.

    tokens_PTD: P independent sets of tokens, fp32. count: centroids C per set, at most 256.

    Runs Lloyd iterations that start from evenly spaced tokens.
    """
    num_sets, num_tokens, width = tokens_PTD.shape
    stored = tokens_PTD.new_empty(num_sets, count, width, dtype=torch.float16)
    nearest = tokens_PTD.new_empty(num_sets, num_tokens, dtype=torch.uint8)
    # Start from the tokens in the middles of `count` equal parts, which cover the whole picture of
    # a frame. Without random numbers, the same tokens give the same codes again.
    spaced = torch.arange(count, device=tokens_PTD.device)
    spaced = (spaced * 2 + 1) * num_tokens // (2 * count)
    # Sets are independent, so their number at a time only bounds the memory of the distances.
    step = max(1, TILE // (num_tokens * count))
    for start in range(0, num_sets, step):
        tile = slice(start, start + step)
        x = tokens_PTD[tile]
        centroids = x[:, spaced]
        for _ in range(iterations):
            closeness = _closeness(x, centroids)
            closest = closeness.argmax(-1, keepdim=True)
            # Sum with a product of zeros and ones: a scattered sum on a GPU adds in any order. The
            # matrix takes over the memory of the distances.
            member = closeness.zero_().scatter_(2, closest, 1)
            # An empty cluster keeps its centroid.
            number = member.sum(1)[..., None]
            centroids = torch.where(number > 0, member.mT @ x / number.clamp_min(1), centroids)
        # Assign tokens to the centroids as stored, after rounding to fp16.
        stored[tile] = centroids.half()
        nearest[tile] = _closeness(x, stored[tile].float()).argmax(-1).to(torch.uint8)
    return stored, nearest


def _closeness(x: Tensor, centroids: Tensor) -> Tensor:
    """Return minus half the squared distance, plus a constant per token [P, T, C]."""
    # |x - c|^2 = |x|^2 - 2 x c + |c|^2: the first term is the same for all centroids of a token.
    return torch.baddbmm(centroids.square().sum(-1)[:, None], x, centroids.mT, beta=-0.5)
