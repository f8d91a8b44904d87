"""QuaRot: rotates each head by a Hadamard matrix to spread outlier channels, then quantizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from harness.api import CacheSpec, KernelLayout, Packed, Quantizer

TOKENS = 512  # rotated at a time on a CPU: with 128 channels 256 KiB, which its cache holds
LARGEST = 2.0**100  # far beyond the range of any inner quantizer, and far from overflow


@dataclass(frozen=True)
class QuaRot(Quantizer):
    """Quantizes x R with an orthonormal Walsh-Hadamard matrix R over the channels of a head.

    rotate: how the rotation is computed. `product`: one matrix product in fp32. `butterfly`:
    log2(D) rounds of sums and differences in the dtype of the input, as arXiv 2603.27469 did.
    seed: null uses the plain Hadamard matrix, as QuaRot does for keys and values. A number draws
    random signs before each of two Hadamard matrices. TurboQuant (arXiv 2504.19874, algorithm 1)
    needs this: its levels assume a random rotation.

    Source  QuaRot (arXiv 2404.00456), section 4: rotated keys and values, one scale and zero per
    token and head. QuaRot rotates queries and keys and never rotates keys back; attention here does
    the same through `rotation`.
    Shapes  the inner quantizer's parts.
    Raises  ValueError: a head width that is not a power of two; an unknown `rotate`; a seed that is
    not a whole number from 0; a seed with the butterfly, which has no signs.
    """

    inner: Quantizer
    rotate: Literal["product", "butterfly"] = "product"
    seed: int | None = None

    def __post_init__(self) -> None:
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
        """Same as the inner quantizer."""
        return self.inner.per_token

    def check(self, spec: CacheSpec) -> None:
        """Check that the head width is a power of two, which Sylvester's construction needs."""
        if spec.head_dim & (spec.head_dim - 1):
            raise ValueError(
                f"QuaRot: head width {spec.head_dim} is no power of two, so it has no Hadamard "
                "rotation: choose another quantizer for this model"
            )
        self.inner.check(spec)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Rotate, then encode."""
        return self.inner.encode(self._rotated(x_BHFTD))

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode with the inner quantizer; the result stays rotated."""
        # Attention rotates the few queries instead of all keys, and its output once.
        self.inner.stage(packed, out_BHFTD)

    def rotation(self, width: int, device: torch.device) -> Tensor:
        """Return R [width, width] fp32."""
        # The plain matrix turns a token with equal channels into a single outlier, and a single
        # outlier into equal channels. Random signs avoid both.
        if self.seed is None:
            return hadamard(width, device)
        return signed_hadamard(width, device, self.seed)

    def turned_back(self, x: Tensor) -> Tensor:
        """Rotate back."""
        # The butterfly is its own inverse, because R is symmetric and orthonormal.
        return butterfly(x) if self.rotate == "butterfly" else super().turned_back(x)

    def kernel_layout(self) -> KernelLayout | None:
        """Return the inner quantizer's layout."""
        return self.inner.kernel_layout()

    def split_off(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return what the inner quantizer splits off the rotated x."""
        return self.inner.split_off(self._rotated(x_BHFTD))

    def _rotated(self, x_BHFTD: Tensor) -> Tensor:
        # In BF16 this rounds after each of its rounds; decoding rotates back in fp32.
        if self.rotate == "butterfly":
            return butterfly(x_BHFTD)
        # Sums of channels near the largest BF16 number would overflow, and inf - inf is NaN.
        width, device = x_BHFTD.shape[-1], x_BHFTD.device
        rotation = self.rotation(width, device)
        if device.type != "cpu":
            return x_BHFTD.float().clamp(-LARGEST, LARGEST) @ rotation
        # Rotate some tokens at a time: three whole tensors do not fit into the cache. All parts
        # have about the same size, because a product for a single token may be summed in another
        # order than one for many, which changes the last bits.
        out = torch.empty(x_BHFTD.shape, dtype=torch.float32, device=device)
        tokens, rotated = x_BHFTD.reshape(-1, width), out.view(-1, width)
        number = max(1, -(-len(tokens) // TOKENS))
        for part, to in zip(tokens.tensor_split(number), rotated.tensor_split(number), strict=True):
            torch.mm(part.float().clamp(-LARGEST, LARGEST), rotation, out=to)
        return out


def butterfly(x: Tensor) -> Tensor:
    """Multiply x [..., D] by the matrix of `hadamard`, in the dtype of x."""
    width, half = x.shape[-1], 1
    # Put channels in rows, so that every sum and difference runs over contiguous memory.
    turned: Tensor = x.reshape(-1, width).t().contiguous()
    while half < width:
        pairs = turned.unflatten(0, (-1, 2, half))
        first, second = pairs[:, 0], pairs[:, 1]
        turned = torch.stack([first + second, first - second], 1).flatten(0, 2)
        half *= 2
    return torch.div(turned, width**0.5).t().contiguous().view(x.shape)


@cache
def hadamard(width: int, device: torch.device) -> Tensor:
    """Return the orthonormal Sylvester-Hadamard matrix [width, width], fp32."""
    return torch.div(_sylvester(width), width**0.5).to(device)


@cache
def signed_hadamard(width: int, device: torch.device, seed: int) -> Tensor:
    """Return signs x Hadamard x signs x Hadamard, a random rotation [width, width], fp32.

    All entries are multiples of 1 / width, so the matrix is the same on every machine.
    """
    # Two rounds: after one, a single channel would still spread evenly over all channels, which a
    # random rotation does not do.
    random = torch.Generator().manual_seed(seed)
    first, second = torch.randint(0, 2, (2, width, 1), generator=random) * 2.0 - 1
    plain = _sylvester(width)
    return torch.div((first * plain) @ (second * plain), width).to(device)


def _sylvester(width: int) -> Tensor:
    """Return the Hadamard matrix [width, width] of 1 and -1, fp32 on the CPU."""
    matrix: Tensor = torch.ones(1, 1)
    while matrix.shape[0] < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
