"""QuaRot: rotate each head by a Hadamard matrix, so that no channel is an outlier, then round."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, KernelLayout, Packed, Quantizer

LARGEST = 2.0**100  # far beyond what any inner quantizer stores, and far from overflowing


@dataclass(frozen=True)
class QuaRot(Quantizer):
    """Quantizes x R with an orthonormal Walsh-Hadamard matrix R over the channels of a head.

    Source  QuaRot (arXiv 2404.00456), section 4: rotated keys and values, one scale and zero a
    token and head. It rotates queries and keys alike and never turns keys back; so does attention
    here, through `rotation`.
    seed: null rotates by the plain Hadamard matrix, as QuaRot does for keys and values. It turns a
    token whose channels are equal into one outlier, and one channel into equal channels. A number
    draws random signs before each of two Hadamard matrices, so that neither form is left.
    TurboQuant (arXiv 2504.19874, algorithm 1) needs this: its levels assume a random rotation.
    rotate: how it is computed. `product`: one product of matrices in fp32. `butterfly`: log2(D)
    rounds of sums and differences in the dtype of what is rotated, as arXiv 2603.27469 did: BF16
    rounds after each of them when it encodes, and what it reads is turned back in fp32.
    Raises  ValueError: a head width that is no power of two; another way to rotate; a seed that is
    no whole number from 0, or one with the butterfly, which has no signs.
    """

    inner: Quantizer
    rotate: Literal["product", "butterfly"] = "product"
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse unknown ways, and seeds that draw nothing."""
        if self.rotate not in ("product", "butterfly"):
            raise ValueError(f"QuaRot.rotate={self.rotate}: choose product or butterfly")
        if self.seed is None:
            return
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"QuaRot.seed={self.seed}: choose a whole number from 0, or null")
        if self.rotate == "butterfly":
            raise ValueError(f"QuaRot.seed={self.seed}: choose rotate=product, or seed=null")

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
        # Near the end of the range of BF16 a sum of channels overflows, and inf - inf is no number.
        x = x_BHFTD.float().clamp(-LARGEST, LARGEST)
        return self.inner.encode(x @ self.rotation(x.shape[-1], x.device))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer stored them."""
        self.inner.stage(packed, out_BHFTD)

    def rotation(self, width: int, device: torch.device) -> Tensor:
        """R."""
        if self.seed is None:
            return hadamard(width, device)
        return signed_hadamard(width, device, self.seed)

    def decode(self, packed: Packed, dtype: torch.dtype) -> Tensor:
        """As every quantizer does; the butterfly is its own inverse."""
        if self.rotate == "butterfly":
            return butterfly(self.inner.decode(packed, torch.float32)).to(dtype)
        return super().decode(packed, dtype)

    def kernel_layout(self) -> KernelLayout | None:
        """That of the inner quantizer."""
        return self.inner.kernel_layout()


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
    return torch.div(_sylvester(width), width**0.5).to(device)


@cache
def signed_hadamard(width: int, device: torch.device, seed: int) -> Tensor:
    """Random signs, a Hadamard matrix, random signs, a Hadamard matrix [width, width], fp32.

    One round would leave a single channel spread evenly, which is not what a random rotation does.
    All entries are whole multiples of 1 / width, so the matrix is the same on every machine.
    """
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, 2, (2, width, 1), generator=random) * 2.0 - 1
    plain = _sylvester(width)
    return torch.div((first * plain) @ (second * plain), width).to(device)


def _sylvester(width: int) -> Tensor:
    """The Hadamard matrix [width, width] of ones and minus ones, fp32 on the CPU."""
    matrix: Tensor = torch.ones(1, 1)
    while matrix.shape[0] < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
