"""Stores all values beyond a number of standard deviations in fp16."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Packed, Quantizer
from methods.quantizers.nested import refuse_rotation


@dataclass(frozen=True)
class Sigma(Quantizer):
    """Adds to an inner quantizer the values whose magnitude exceeds `sigmas` standard deviations.

    The standard deviation is taken over all values of the page, in the dtype of x.

    sigmas: bound in standard deviations.
    clip: clip the input of the inner quantizer to the bound, so that outliers do not enlarge its
    groups.
    share: keep at most this share of all values, the largest ones; null keeps all outliers.

    Source  the QAQ (clip) and TPTQ (share) rows of arXiv 2603.27469.
    Shapes  the inner quantizer's parts; outlier_index [n] int32 into the flattened x; outlier [n]
    fp16.
    Raises  ValueError: an impossible bound or share; more than one frame at once, which the packed
    integration would pass.
    """

    inner: Quantizer
    sigmas: float = 6.0
    clip: bool = True
    share: float | None = None

    def __post_init__(self) -> None:
        if self.sigmas <= 0:
            raise ValueError(f"Sigma.sigmas={self.sigmas}: choose a positive number of deviations")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"Sigma.share={self.share}: choose a share of the values, or null")

    @property
    def paged(self) -> bool:
        """False: one list holds the outliers of all heads."""
        # Its length depends on the data, so a page cannot be split into heads or frames.
        return False

    def check(self, spec: CacheSpec) -> None:
        """Check that the inner quantizer supports the model and does not rotate."""
        refuse_rotation(self, self.inner, spec, "Affine or PRQ")
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Store the outliers, then encode the whole page with the inner quantizer."""
        if x_BHFTD.shape[2] != 1:
            raise ValueError(
                "Sigma keeps as many values as there are outliers, which has no place in pages of "
                "one size: choose integration=published_int8"
            )
        # Over the whole page, zeros of its padding included, as the study's program did.
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
        """Decode with the inner quantizer, then write the outliers over it."""
        # In one piece, without the tiles of `staged`: indices count through the whole page.
        x = torch.empty(packed.shape, dtype=torch.float32, device=packed.device)
        codes = dict(packed.parts)
        index, value = codes.pop("outlier_index"), codes.pop("outlier")
        self.inner.stage(replace(packed, parts=codes), x)
        x.view(-1)[index.long()] = value.float()
        out_BHFTD.copy_(x)
