"""What all tokens of a frame share is taken out of each channel before its tokens are rounded."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, staged


@dataclass(frozen=True)
class Channelwise(Quantizer):
    """x = inner * scale + mean with one value a channel of a frame; leaves take out one of them.

    Attention can fold what is taken out of keys: a scale into the query, a mean into the
    log-sum-exp of its frame, since it adds the same to every logit there.

    Shapes  the inner quantizer's, and the leaf's part [B, H, F, D] fp16.
    Raises  ValueError: an inner quantizer that rotates or takes something out itself.
    """

    inner: Quantizer

    def check(self, spec: CacheSpec) -> None:
        """The inner quantizer must serve the model, in plain channels."""
        form = self.inner.kernel_layout()
        nested = form is not None and (form.channel_scale or form.channel_mean)
        if nested or self.inner.rotation(spec.head_dim, torch.device("cpu")) is not None:
            name = type(self).__name__
            raise ValueError(f"{name}: {type(self.inner).__name__} cannot be inside: choose RTN")
        self.inner.check(spec)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """As the inner quantizer, and finish, in fp32."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            self.finish(x, tile)

    @abstractmethod
    def finish(self, x_BHFTD: Tensor, packed: Packed) -> None:
        """Put back in place what was taken out."""


@dataclass(frozen=True)
class Centered(Channelwise):
    """Takes the mean over a frame's tokens out of every channel.

    Source  SageAttention (arXiv 2410.02367), section 4.2, on keys; the mean of a frame here, of all
    tokens there.
    """

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """The mean as stored is what is taken out, so its rounding costs nothing."""
        mean = x_BHFTD.float().mean(3).clamp(-FP16_MAX, FP16_MAX).half()
        packed = self.inner.encode(x_BHFTD.float() - mean.float()[:, :, :, None])
        return replace(packed, parts={**packed.parts, "channel_mean": mean})

    def finish(self, x_BHFTD: Tensor, packed: Packed) -> None:
        """Add the mean back."""
        x_BHFTD.add_(packed.parts["channel_mean"].float()[:, :, :, None])

    def kernel_layout(self) -> KernelLayout | None:
        """That of the inner quantizer with the mean."""
        form = self.inner.kernel_layout()
        return form and replace(form, channel_mean="channel_mean")


@dataclass(frozen=True)
class ChannelScaled(Channelwise):
    """Divides every channel by its root mean square over a frame's tokens.

    Source  the static per-channel key scales of KVQuant (arXiv 2401.18079), section 3.1, taken from
    each frame instead of a calibration set.
    """

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """The scale as stored is what is divided by."""
        scale = x_BHFTD.float().square().mean(3).sqrt().clamp(2**-14, FP16_MAX).half()
        packed = self.inner.encode(x_BHFTD.float() / scale.float()[:, :, :, None])
        return replace(packed, parts={**packed.parts, "channel_scale": scale})

    def finish(self, x_BHFTD: Tensor, packed: Packed) -> None:
        """Multiply by the scale."""
        x_BHFTD.mul_(packed.parts["channel_scale"].float()[:, :, :, None])

    def kernel_layout(self) -> KernelLayout | None:
        """That of the inner quantizer with the scale."""
        form = self.inner.kernel_layout()
        return form and replace(form, channel_scale="channel_scale")
