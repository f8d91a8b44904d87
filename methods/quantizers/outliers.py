"""Stores a fixed share of outliers in fp16, so that they do not enlarge quantization steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Exceptions, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, staged
from methods.quantizers.nested import joined, refuse_rotation


@dataclass(frozen=True)
class Outliers(Quantizer):
    """Stores the `share` of values that deviate most from the mean of their channel.

    Deviations are measured in standard deviations of the channel over the frame's tokens. Each head
    and frame stores round(share * T * D) outliers. The inner quantizer sees the channel mean in
    their places.

    Source  QAQ (arXiv 2403.04643) and KVQuant (arXiv 2401.18079), section 3.4. Both find outliers
    by thresholds, QAQ over a layer and KVQuant over a channel or token.
    Shapes  the inner quantizer's parts; outlier_value [B, H, F, n] fp16; outlier_index
    [B, H, F, n], t * D + d, int16 if it suffices, else int32.
    Raises  ValueError: a share outside 0..1, or too small for a single value; an inner quantizer
    that rotates.
    """

    inner: Quantizer
    share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"Outliers.share={self.share}: choose a share between 0 and 1")

    def check(self, spec: CacheSpec) -> None:
        """Check that the share keeps at least one value and that the inner one does not rotate."""
        refuse_rotation(self, self.inner, spec, "RTN, Affine, NUQ or PRQ")
        size = spec.tokens_per_frame * spec.head_dim
        if not self._count(size):
            raise ValueError(
                f"Outliers.share={self.share} is less than one of the {size} values of a head and "
                f"frame: choose at least {1 / size:.2g}"
            )
        self.inner.check(spec)

    def _count(self, size: int) -> int:
        # Every page stores the same number of outliers, so all pages have the same size. With a
        # threshold instead of a share, their sizes would differ.
        return round(self.share * size)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Replace the outliers by channel means, then encode."""
        x, parts = self.replaced(x_BHFTD)
        return joined(self.inner.encode(x), parts)

    def split_off(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Replace the outliers, then split off what the inner quantizer does."""
        x, parts = self.replaced(x_BHFTD)
        values, others = self.inner.split_off(x)
        return values, {**others, **parts}

    def replaced(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return x fp32 with channel means in place of the outliers, and the parts of the outliers.

        Indices are ascending.
        """
        x, width = x_BHFTD.float(), x_BHFTD.shape[-1]
        # In fp64, as a sum of the largest fp32 numbers would overflow. `torch.var_mean` would not
        # either, but over this dimension it takes a CPU ten times as long.
        mean = x.mean(3, keepdim=True, dtype=torch.float64).float()
        apart = (x - mean).abs_()
        deviation = apart.square().mean(3, keepdim=True).sqrt_()
        # A constant channel differs from its mean only by rounding, which must not look like an
        # outlier: keep the divisor above that error.
        least = mean.abs().clamp_min(1e-24).mul_(1e-6)
        score = apart.div_(deviation.maximum(least)).flatten(3)
        index = score.topk(self._count(score.shape[3]), sorted=False).indices.sort().values
        flat = x.flatten(3)
        value = flat.gather(3, index).clamp_(-FP16_MAX, FP16_MAX).half()
        mean_of = mean.squeeze(3).gather(3, index % width)  # index is t * D + d
        # An index costs as much as the value itself, or twice as much in large frames.
        small = torch.int16 if flat.shape[3] <= 2**15 else torch.int32
        parts = {"outlier_index": index.to(small), "outlier_value": value}
        return flat.scatter(3, index, mean_of).view(x.shape), parts

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode with the inner quantizer, then write the outliers over it."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            index = tile.parts["outlier_index"].to(torch.int64)
            x.view(*x.shape[:3], -1).scatter_(3, index, tile.parts["outlier_value"].float())

    def kernel_layout(self) -> KernelLayout | None:
        """Return the inner quantizer's layout with the outliers as exceptions."""
        form = self.inner.kernel_layout()
        return form and replace(form, exceptions=Exceptions("outlier_index", "outlier_value"))
