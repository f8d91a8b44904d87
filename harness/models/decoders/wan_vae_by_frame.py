"""Decodes one latent frame with the Wan VAE in little memory.

It calls the modules of diffusers' `WanDecoder3d` in the same order, but manages memory itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def decode_frame(decoder: Any, z: Tensor, cache: list[Any]) -> Tensor:
    """Return the pixel frames [B, 3, 1 or 4, H, W] fp32 in -1..1 of one latent frame.

    decoder: diffusers' `WanDecoder3d`. z: one latent frame [B, C, 1, h, w]. cache: the earlier
    frames that each convolution needs, updated here.
    """
    # A list, because diffusers' blocks count up the number of the convolution in it.
    index = [0]
    x = decoder.mid_block(
        _convolve(decoder.conv_in, z, cache, index), feat_cache=cache, feat_idx=index
    )
    # The stage behind the last one that doubles the frames.
    cut = 1 + max(i for i, upsamples in enumerate(decoder.temperal_upsample) if upsamples)
    for block in decoder.up_blocks[:cut]:
        x = _upsample(block, x, cache, index)
    # The stages after the last upsampling in time take most of the memory. They only look back, so
    # run them on one pixel frame at a time.
    frames, start = [], index[0]
    for frame in x.split(1, dim=2):
        index[0] = start  # every frame passes through the same convolutions
        for block in decoder.up_blocks[cut:]:
            frame = _upsample(block, frame, cache, index)
        frame = decoder.nonlinearity(decoder.norm_out(frame))
        frames.append(_convolve(decoder.conv_out, frame, cache, index).float().clamp(-1, 1))
    return torch.cat(frames, dim=2)


def _upsample(block: Any, x: Tensor, cache: list[Any], index: list[int]) -> Tensor:
    """Run one stage of the decoder [B, C, T, H, W]: residual blocks, then upsampling."""
    for resnet in block.resnets:
        y = _convolve(resnet.conv1, resnet.nonlinearity(resnet.norm1(x)), cache, index)
        y = _convolve(resnet.conv2, resnet.nonlinearity(resnet.norm2(y)), cache, index)
        x = y + resnet.conv_shortcut(x)
    for upsampler in block.upsamplers or ():
        x = upsampler(x, feat_cache=cache, feat_idx=index)
    return x


def _convolve(conv: Any, x: Tensor, cache: list[Any], index: list[int]) -> Tensor:
    """Run a causal convolution [B, C, T, H, W] and store its last two input frames in `cache`.

    Zeros precede the first frame.
    """
    # Kernels span three frames.
    i, missing = index[0], 2
    if cache[i] is not None:
        missing -= cache[i].shape[2]
        x = torch.cat([cache[i], x], dim=2)
        cache[i] = None  # free the old frames before the new ones are allocated
    padded = F.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x
    width, _, height, *_ = conv._padding  # as set up by diffusers; its own padding is zero
    # Let the convolution pad height and width: padding beforehand would copy the input.
    out = F.conv3d(padded, conv.weight, conv.bias, padding=(0, height, width))
    # A copy: a view would keep all frames of x in memory.
    cache[i] = x[:, :, -2:].clone()
    index[0] += 1
    return out


class FrameByFrame(torch.nn.Module):
    """Applies a module to frames [T, C, H, W] one at a time."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_TCHW: Tensor) -> Tensor:
        """Return the outputs of the inner module for x [T, C, H, W]."""
        return torch.cat([self.inner(frame) for frame in x_TCHW.split(1)])
