"""Clusters similar tokens and quantizes only their residuals from the cluster centroids."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Centroids, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, staged
from methods.quantizers.kmeans import cluster
from methods.quantizers.nested import inner_of, joined, named, named_in, refuse_rotation


@dataclass(frozen=True)
class Clustered(Quantizer):
    """x = centroid of the token's cluster + quantized residual.

    A `Clustered` as the residual of another gives progressive stages.

    centroids: maximum number per head and page, 1 to 256.
    tokens_each: minimum number of tokens of a page per centroid; limits the centroids of small
    pages.
    iterations: number of Lloyd iterations.

    Source  Quant VideoGen (arXiv 2602.02958): semantic-aware smoothing and, if nested, progressive
    residual quantization. The paper shares centroids between several chunks and seeds them at
    random.
    Shapes  residual parts; centroids [B, H, F, C, D] fp16; nearest [B, H, F, T] u8.
    Raises  ValueError: centroids not 1 to 256, numbers not positive; a page smaller than
    tokens_each; a residual that rotates.
    """

    residual: Quantizer
    centroids: int = 256
    tokens_each: int = 32
    iterations: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.centroids <= 256:
            raise ValueError(f"Clustered.centroids={self.centroids}: choose 1 to 256")
        for name in ("tokens_each", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"Clustered.{name}={getattr(self, name)}: choose 1 or more")

    def check(self, spec: CacheSpec) -> None:
        """Check that a frame has `tokens_each` tokens and that the residual does not rotate."""
        refuse_rotation(self, self.residual, spec, "RTNE4M3 or RTN")
        if spec.tokens_per_frame < self.tokens_each:
            raise ValueError(
                f"Clustered.tokens_each={self.tokens_each}: a frame has {spec.tokens_per_frame} "
                f"tokens: choose 1 to {spec.tokens_per_frame}"
            )
        self.residual.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Cluster the tokens, then encode their differences from the centroids."""
        # Centroids are stored in fp16, so their tokens must lie in its range.
        x = x_BHFTD.float().clamp(-FP16_MAX, FP16_MAX)
        # A centroid takes 16 * D bits, so centroids cost at most 16 / tokens_each bits per value.
        count = min(self.centroids, x.shape[3] // self.tokens_each)
        centroids, nearest = cluster(x.flatten(0, 2), count, self.iterations)
        parts = {
            "centroids": centroids.unflatten(0, x.shape[:3]),
            "nearest": nearest.unflatten(0, x.shape[:3]),
        }
        # `cluster` returns the centroids as stored in fp16, so the residual covers their rounding.
        rest = self.residual.encode(x - _of_tokens(parts["centroids"], parts["nearest"]))
        return joined(replace(rest, parts=named(rest, "residual")), parts)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode the residual and add each token's centroid."""
        for tile, x in staged(packed, out_BHFTD):
            self.residual.stage(inner_of(tile, "residual"), x)
            x += _of_tokens(tile.parts["centroids"], tile.parts["nearest"])

    def kernel_layout(self) -> KernelLayout | None:
        """Return the residual's layout with the centroids, or None if that cannot be said."""
        form = self.residual.kernel_layout()
        # An exact residual has no planes, and kernels add centroids to planes only. Exceptions
        # would replace what the centroids add to.
        if form is None or not form.planes or form.exceptions:
            return None
        rest = named_in(form, "residual")
        return replace(rest, centroids=(*rest.centroids, Centroids("centroids", "nearest")))


def _of_tokens(centroids_BHFCD: Tensor, nearest_BHFT: Tensor) -> Tensor:
    """Return the centroid of each token [B, H, F, T, D] fp32."""
    # One flat index over all heads and pages: row r owns the centroids r * C .. r * C + C - 1.
    count, shape = centroids_BHFCD.shape[3], nearest_BHFT.shape
    rows = torch.arange(shape[:3].numel(), device=nearest_BHFT.device)[:, None] * count
    index = (nearest_BHFT.flatten(0, 2) + rows).flatten()
    found: Tensor = centroids_BHFCD.float().flatten(0, 3).index_select(0, index).unflatten(0, shape)
    return found
