"""The few values that lie far out are stored as they are, so that they set nobody's step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, staged
from methods.quantizers.nested import joined


@dataclass(frozen=True)
class Outliers(Quantizer):
    """Keeps the `share` of values farthest from the mean of their channel, in its deviations.

    Statistics are those of a channel over the tokens of its frame. The number of values is fixed,
    round(share * T * D) of each head and frame, so that pages are equal. What is quantized has the
    mean of the channel in their places.

    Source  the outliers of QAQ (arXiv 2403.04643) and of KVQuant (arXiv 2401.18079), section 3.4;
    theirs are found by thresholds, over a layer in QAQ and over a channel or token in KVQuant.
    Shapes  the inner quantizer's, and [B, H, F, n] outlier_value fp16, outlier_index int16 or int32
    (t * D + d, the smaller type where it suffices).
    Raises  ValueError: a share outside 0 to 1, or of no value at all; an inner quantizer that
    rotates.
    """

    inner: Quantizer
    share: float = 0.01

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.share < 1:
            raise ValueError(f"Outliers.share={self.share}: choose a share between 0 and 1")

    def check(self, spec: CacheSpec) -> None:
        """There must be something to keep, in the channels that the inner quantizer stores."""
        if self.inner.rotation(spec.head_dim, torch.device("cpu")) is not None:
            name = type(self.inner).__name__
            raise ValueError(f"Outliers: {name} rotates: choose RTN, Affine, NUQ or PRQ")
        size = spec.tokens_per_frame * spec.head_dim
        if not self._count(size):
            raise ValueError(
                f"Outliers.share={self.share} is less than one of the {size} values of a head and "
                f"frame: choose at least {1 / size:.2g}"
            )
        self.inner.check(spec)

    def _count(self, size: int) -> int:
        return round(self.share * size)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Take the farthest values out, then encode; indices ascend."""
        x, width = x_BHFTD.float(), x_BHFTD.shape[-1]
        variance, mean = torch.var_mean(x, 3, correction=0, keepdim=True)
        # A constant channel differs from its mean by rounding alone, and that is no deviation.
        least = mean.abs().clamp_min(1e-24).mul_(1e-6)
        score = (x - mean).abs_().div_(variance.sqrt_().maximum(least)).flatten(3)
        index = score.topk(self._count(score.shape[3]), sorted=False).indices.sort().values
        flat = x.flatten(3)
        value = flat.gather(3, index).clamp_(-FP16_MAX, FP16_MAX).half()
        mean_of = mean.squeeze(3).gather(3, index % width)
        inner = self.inner.encode(flat.scatter(3, index, mean_of).view(x.shape))
        small = torch.int16 if flat.shape[3] <= 2**15 else torch.int32
        return joined(inner, {"outlier_index": index.to(small), "outlier_value": value})

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer, and the values in their places."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            index = tile.parts["outlier_index"].to(torch.int64)
            x.view(*x.shape[:3], -1).scatter_(3, index, tile.parts["outlier_value"].float())
