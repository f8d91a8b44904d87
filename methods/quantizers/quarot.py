"""QuaRot: rotate each head by a Hadamard matrix, so that no channel is an outlier, then round."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, Form, Packed, Quantizer


@dataclass(frozen=True)
class QuaRot(Quantizer):
    """Quantizes x R with an orthonormal Walsh-Hadamard matrix R over the channels of a head.

    Source  QuaRot (arXiv 2404.00456), section 4: rotated keys and values, one scale and zero a
    token and head. It rotates queries and keys alike and never turns keys back; so does attention
    here, through `rotation`.
    rotate: how it is computed. `product`: one product of matrices in fp32. `butterfly`: log2(D)
    rounds of sums and differences in the dtype of what is rotated, as arXiv 2603.27469 did: BF16
    rounds after each of them when it encodes, and what it reads is turned back in fp32.
    Raises  ValueError: a head width that is no power of two; another way to rotate.
    """

    inner: Quantizer
    rotate: Literal["product", "butterfly"] = "product"

    def __post_init__(self) -> None:
        """Refuse unknown ways."""
        if self.rotate not in ("product", "butterfly"):
            raise ValueError(f"QuaRot.rotate={self.rotate}: choose product or butterfly")

    @property
    def per_token(self) -> bool:
        """As the inner quantizer."""
        return self.inner.per_token

    def check(self, spec: CacheSpec) -> None:
        """A Hadamard matrix of Sylvester's form needs a power of two."""
        if spec.head_dim & (spec.head_dim - 1):
            raise ValueError(
                f"QuaRot: head width {spec.head_dim} is no power of two, so it has no Hadamard "
                "rotation: choose another quantizer for this model"
            )
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Rotate, then encode."""
        if self.rotate == "butterfly":
            return self.inner.encode(butterfly(x_BHFTD))
        return self.inner.encode(x_BHFTD.float() @ hadamard(x_BHFTD.shape[-1], x_BHFTD.device))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer stored them."""
        self.inner.stage(packed, out_BHFTD)

    def rotation(self, width: int, device: torch.device) -> Tensor:
        """R."""
        return hadamard(width, device)

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """As every quantizer does; the matrix is its own inverse, and so is the butterfly."""
        if self.rotate == "butterfly":
            return butterfly(self.inner.decode(packed, torch.float32)).to(dtype)
        return super().decode(packed, dtype)

    def form(self) -> Form | None:
        """That of the inner quantizer."""
        return self.inner.form()


def butterfly(x: Tensor) -> Tensor:
    """x [..., D] times the matrix of `hadamard`, in x's own dtype."""
    width, half = x.shape[-1], 1
    # Channels in rows, so that every sum and difference runs over long stretches of memory.
    turned: Tensor = x.reshape(-1, width).t().contiguous()
    while half < width:
        pairs = turned.unflatten(0, (-1, 2, half))
        first, second = pairs[:, 0], pairs[:, 1]
        turned = torch.stack([first + second, first - second], 1).flatten(0, 2)
        half *= 2
    return torch.div(turned, width**0.5).t().contiguous().view(x.shape)


@cache
def hadamard(width: int, device: torch.device) -> Tensor:
    """The orthonormal Sylvester-Hadamard matrix [width, width], fp32."""
    matrix: Tensor = torch.ones(1, 1)
    while matrix.shape[0] < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return torch.div(matrix, width**0.5).to(device)
