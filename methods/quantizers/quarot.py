"""QuaRot: rotate each head by a Hadamard matrix, so that no channel is an outlier, then round."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from harness.api import CacheSpec, Form, Packed, Quantizer


@dataclass(frozen=True)
class QuaRot(Quantizer):
    """Quantizes x R with an orthonormal Walsh-Hadamard matrix R over the channels of a head.

    Source  QuaRot (arXiv 2404.00456), section 4: rotated keys and values, one scale and zero a
    token and head. It rotates queries and keys alike and never turns keys back; so does attention
    here, through `rotation`.
    Raises  ValueError: a head width that is no power of two.
    """

    inner: Quantizer

    def check(self, spec: CacheSpec) -> None:
        """A Hadamard matrix of Sylvester's form needs a power of two."""
        if spec.head_dim & (spec.head_dim - 1):
            raise ValueError(
                f"QuaRot: head width {spec.head_dim} is no power of two, so it has no Hadamard "
                "rotation: choose another quantizer for this model"
            )
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Rotate in fp32, then encode."""
        return self.inner.encode(x_BHFTD.float() @ hadamard(x_BHFTD.shape[-1], x_BHFTD.device))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer stored them."""
        self.inner.stage(packed, out_BHFTD)

    def rotation(self, width: int, device: torch.device) -> Tensor:
        """R."""
        return hadamard(width, device)

    def form(self) -> Form | None:
        """That of the inner quantizer."""
        return self.inner.form()


@cache
def hadamard(width: int, device: torch.device) -> Tensor:
    """The orthonormal Sylvester-Hadamard matrix [width, width], fp32."""
    matrix: Tensor = torch.ones(1, 1)
    while matrix.shape[0] < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.div(matrix, width**0.5).to(device)
