"""One latent frame through the decoder of the Wan VAE, in little memory.

By the modules of diffusers' `WanDecoder3d`; the order of the steps is theirs, what is held is ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def decode_frame(decoder: Any, z: Tensor, cache: list[Any]) -> Tensor:
    """Pixel frames [B, 3, 1 or 4, H, W] fp32 in -1..1 of one latent frame, by diffusers' modules.

    What lies behind the last upsampling in time only looks back, so it takes the pixel frames one
    by one: most of a decoder's memory is there. cache holds what each convolution needs of the
    frames before.
    """
    index = [0]
    x = decoder.mid_block(
        _convolve(decoder.conv_in, z, cache, index), feat_cache=cache, feat_idx=index
    )
    cut = 1 + max(i for i, upsamples in enumerate(decoder.temperal_upsample) if upsamples)
    for block in decoder.up_blocks[:cut]:
        x = _upsample(block, x, cache, index)
    frames, start = [], index[0]
    for frame in x.split(1, dim=2):
        index[0] = start
        for block in decoder.up_blocks[cut:]:
            frame = _upsample(block, frame, cache, index)
        frame = decoder.nonlinearity(decoder.norm_out(frame))
        frames.append(_convolve(decoder.conv_out, frame, cache, index).float().clamp(-1, 1))
    return torch.cat(frames, dim=2)


def decode_as_published(decoder: Any, z: Tensor, cache: list[Any], first: bool) -> Tensor:
    """The same by the call that diffusers itself makes for a frame of a whole decode.

    Private names of the pinned package: a test holds them to a whole decode, bit for bit.
    """
    frames: Tensor = decoder(z, feat_cache=cache, feat_idx=[0], first_chunk=first)
    return frames.float().clamp(-1, 1)


def _upsample(block: Any, x: Tensor, cache: list[Any], index: list[int]) -> Tensor:
    """One stage of the decoder [B, C, T, H, W]: residual blocks, then a finer grid."""
    for resnet in block.resnets:
        x = _residual(resnet, x, cache, index)
    for upsampler in block.upsamplers or ():
        x = upsampler(x, feat_cache=cache, feat_idx=index)
    return x


def _residual(resnet: Any, x: Tensor, cache: list[Any], index: list[int]) -> Tensor:
    """Two convolutions around which x passes by."""
    y = _convolve(resnet.conv1, resnet.nonlinearity(resnet.norm1(x)), cache, index)
    y = _convolve(resnet.conv2, resnet.nonlinearity(resnet.norm2(y)), cache, index)
    passed: Tensor = resnet.conv_shortcut(x)
    return y + passed


def _convolve(conv: Any, x: Tensor, cache: list[Any], index: list[int]) -> Tensor:
    """A causal convolution [B, C, T, H, W], which remembers the last two frames that it saw.

    Zeros come before the first frame. The rim is padded by the convolution itself, without a copy,
    and the old frames are let go before the new ones are taken.
    """
    i, missing = index[0], 2
    if cache[i] is not None:
        missing -= cache[i].shape[2]
        x = torch.cat([cache[i], x], dim=2)
        cache[i] = None
    padded = F.pad(x, (0, 0, 0, 0, missing, 0)) if missing else x
    width, _, height, *_ = conv._padding  # as set up by diffusers; its own padding is zero
    out = F.conv3d(padded, conv.weight, conv.bias, padding=(0, height, width))
    cache[i] = x[:, :, -2:].clone()
    index[0] += 1
    return out


class FrameByFrame(torch.nn.Module):
    """Applies a module on frames [T, C, H, W] to one at a time; its fp32 copies stay small."""

    def __init__(self, inner: torch.nn.Module) -> None:
        """Around a module that treats frames alike."""
        super().__init__()
        self.inner = inner

    def forward(self, x_TCHW: Tensor) -> Tensor:
        """[T, C, H, W] -> the frames of the inner module."""
        return torch.cat([self.inner(frame) for frame in x_TCHW.split(1)])
