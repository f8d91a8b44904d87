"""Values beyond so many standard deviations are kept exactly, however many there are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer


@dataclass(frozen=True)
class Sigma(Quantizer):
    """Beside another quantizer's codes: the values whose magnitude exceeds `sigmas` deviations.

    The deviation is that of all values of the page, zeros that only fill it up included, in the
    dtype of x. clip: the inner quantizer sees magnitudes clipped there, so that they widen no
    group; else it sees them as they are. share: at most this share of the values is kept, the
    largest; null keeps all of them. How many there are depends on the data, so a page is one
    piece: it cannot be cut into heads or frames.

    Shapes  the inner quantizer's, outlier_index [n] int32 into x as it lies, outlier [n] fp16.
    Source  the QAQ (clip) and TPTQ (share) rows of arXiv 2603.27469.
    Raises  ValueError: an impossible bound or share; more than one frame at once, as the packed
    integration stores them.
    """

    inner: Quantizer
    sigmas: float = 6.0
    clip: bool = True
    share: float | None = None

    def __post_init__(self) -> None:
        """Refuse impossible bounds."""
        if self.sigmas <= 0:
            raise ValueError(f"Sigma.sigmas={self.sigmas}: choose a positive number of deviations")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"Sigma.share={self.share}: choose a share of the values, or null")

    @property
    def paged(self) -> bool:
        """Outliers of all heads lie in one list."""
        return False

    def check(self, spec: CacheSpec) -> None:
        """Outliers are found and put back in plain channels."""
        if self.inner.rotation(spec.head_dim, torch.device("cpu")) is not None:
            raise ValueError(f"Sigma: {type(self.inner).__name__} rotates: choose Affine or PRQ")
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Find what lies outside, then encode all of it."""
        if x_BHFTD.shape[2] != 1:
            raise ValueError(
                "Sigma keeps as many values as there are outliers, which has no place in pages of "
                "one size: choose integration=published_int8"
            )
        bound = self.sigmas * x_BHFTD.std()
        flat = x_BHFTD.flatten()
        index = (flat.abs() > bound).nonzero()[:, 0]
        most = None if self.share is None else int(self.share * flat.numel())
        if most is not None and index.numel() > most:
            index = index[flat[index].abs().topk(most).indices]
        packed = self.inner.encode(x_BHFTD.clamp(-bound, bound) if self.clip else x_BHFTD)
        outliers = {"outlier_index": index.int(), "outlier": flat[index].half()}
        return replace(packed, parts={**packed.parts, **outliers})

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer, then the exact values at their places."""
        x = torch.empty(packed.shape, dtype=torch.float32, device=packed.device)
        codes = dict(packed.parts)
        index, value = codes.pop("outlier_index"), codes.pop("outlier")
        self.inner.stage(replace(packed, parts=codes), x)
        x.view(-1)[index.long()] = value.float()
        out_BHFTD.copy_(x)
