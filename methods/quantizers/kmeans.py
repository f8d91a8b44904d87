"""K-means over the tokens of a head: for every head and page at once, without random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

TILE = 2**24  # distances at a time: 64 MiB


def cluster(tokens_PTD: Tensor, count: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Centroids [P, C, D] fp16 of P sets of tokens fp32, and the nearest of each token [P, T] u8.

    Lloyd's iterations from tokens that lie evenly spaced, which in a frame means everywhere in the
    picture. A centroid that no token is nearest to stays where it was.
    """
    num_sets, num_tokens, width = tokens_PTD.shape
    centroids = tokens_PTD.new_empty(num_sets, count, width, dtype=torch.float16)
    nearest = tokens_PTD.new_empty(num_sets, num_tokens, dtype=torch.uint8)
    step = max(1, TILE // (num_tokens * count))
    for start in range(0, num_sets, step):
        tile = slice(start, start + step)
        centroids[tile], nearest[tile] = _cluster(tokens_PTD[tile], count, iterations)
    return centroids, nearest


def _cluster(x: Tensor, count: int, iterations: int) -> tuple[Tensor, Tensor]:
    num_tokens = x.shape[1]
    spaced = (torch.arange(count, device=x.device) * 2 + 1) * num_tokens // (2 * count)
    centroids = x[:, spaced]
    for _ in range(iterations):
        closeness = _closeness(x, centroids)
        nearest = closeness.argmax(-1, keepdim=True)
        # Sums as a product with zeros and ones: on a GPU the order of additions is then fixed.
        member = closeness.zero_().scatter_(2, nearest, 1)
        number = member.sum(1)[..., None]
        centroids = torch.where(number > 0, member.mT @ x / number.clamp_min(1), centroids)
    stored = centroids.half()
    return stored, _closeness(x, stored.float()).argmax(-1).to(torch.uint8)


def _closeness(x: Tensor, centroids: Tensor) -> Tensor:
    """Larger the nearer [P, T, C]: minus half the squared distance, up to what tokens share."""
    return torch.baddbmm(centroids.square().sum(-1)[:, None], x, centroids.mT, beta=-0.5)
