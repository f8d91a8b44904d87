"""Linear layers and convolutions that compute in fp32 where PyTorch has no fast 16-bit product.

Most laptops, and servers without AVX-512, have no instructions for BF16. PyTorch 2.14 then emulates
BF16 products at an eighth of the speed of fp32. These layers multiply in fp32 there and round the
result once. Instructions for BF16 also sum in fp32, so only the order of the sums differs. On other
processors and on GPUs the layers are PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.system.machine import is_emulated


class Linear(nn.Linear):
    """`nn.Linear` that computes in fp32 where its dtype has no fast matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weight, plus the bias: [..., out] in the dtype of x."""
        if not is_emulated(x):
            return super().forward(x)
        # Convert the weights in every call. An fp32 copy would save a fifth of a product of 192
        # tokens, but take twice the memory of the BF16 weights.
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that computes in fp32 where its dtype has no fast matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of x [B, C, F, h, w] in the dtype of x."""
        if not is_emulated(x):
            return super().forward(x)
        return in_fp32(self, x).to(x.dtype)


def in_fp32(layers: nn.Module, x: Tensor) -> Tensor:
    """Return layers(x) computed in fp32, whatever the dtype of the weights."""
    # Copies for this call: stored in fp32 they would take twice the memory all the time.
    weights = {name: weight.float() for name, weight in layers.named_parameters()}
    out: Tensor = torch.func.functional_call(layers, weights, (x.float(),))
    return out
