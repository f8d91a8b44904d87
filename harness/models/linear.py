"""Linear layers and convolutions that stay fast on processors that cannot multiply 16-bit numbers.

On such a processor (most laptops, servers without AVX-512) PyTorch 2.14 emulates products of BF16
matrices at an eighth of the speed of fp32. These layers compute in fp32 there and round the result
once. That is also what instructions for BF16 do: they sum products in fp32. So only the order of
the sums differs. Everywhere else the layers are PyTorch's own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.system.machine import is_emulated


class Linear(nn.Linear):
    """`nn.Linear` that computes in fp32 where the processor emulates products of the dtype."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., in] times the weight, plus the bias: [..., out] in the dtype of x."""
        if not is_emulated(x):
            return super().forward(x)
        # The weight is widened in every call: a copy would take twice the memory of the network,
        # and widening takes a fifth of the time of a product of 192 tokens.
        bias = None if self.bias is None else self.bias.float()
        return F.linear(x.float(), self.weight.float(), bias).to(x.dtype)


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` that computes in fp32 where the processor emulates products of the dtype."""

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
