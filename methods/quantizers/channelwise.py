"""Removes a per-channel mean or scale from each frame before its tokens are quantized."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.api import CacheSpec, KernelLayout, Packed, Quantizer
from methods.quantizers.grouped import FP16_MAX, staged


@dataclass(frozen=True)
class Channelwise(Quantizer):
    """Base class: x = inner * scale + mean, with one scale or mean per channel of a frame.

    A subclass removes either the scale or the mean.

    Shapes  the inner quantizer's parts, and the subclass's part [B, H, F, D] fp16.
    Raises  ValueError: an inner quantizer that rotates, or that removes a channel mean or scale.
    """

    inner: Quantizer

    def check(self, spec: CacheSpec) -> None:
        """Check that the inner quantizer supports the model and keeps plain channels."""
        # A layout has one scale and one mean per channel. A rotation inside stays after `stage`,
        # so that `finish` would put the statistic back into rotated channels.
        form = self.inner.kernel_layout()
        nested = form is not None and (form.channel_scale or form.channel_mean)
        if nested or self.inner.rotation(spec.head_dim, torch.device("cpu")) is not None:
            name = type(self).__name__
            raise ValueError(f"{name}: {type(self.inner).__name__} cannot be inside: choose RTN")
        self.inner.check(spec)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        """Decode with the inner quantizer, then restore the channel statistic, in fp32."""
        for tile, x in staged(packed, out_BHFTD):
            self.inner.stage(tile, x)
            self.finish(x, tile)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        """Remove the channel statistic, then encode with the inner quantizer."""
        x, part = self.remove(x_BHFTD.float())
        packed = self.inner.encode(x)
        return replace(packed, parts={**packed.parts, **part})

    def split_off(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Remove the channel statistic, then split off what the inner quantizer does."""
        x, part = self.remove(x_BHFTD.float())
        values, others = self.inner.split_off(x)
        return values, {**others, **part}

    def _inner_layout(self) -> KernelLayout | None:
        """Return the inner layout if a channel statistic can be its last term, else None."""
        # Attention folds a key's scale into the query, and its mean, which adds the same number to
        # every logit of a frame, into the log-sum-exp of that frame. Centroids and exceptions come
        # after both.
        form = self.inner.kernel_layout()
        return None if form is None or form.centroids or form.exceptions else form

    @abstractmethod
    def remove(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return x without its mean or scale [B, H, F, T, D] fp32, and the part that stores it."""

    @abstractmethod
    def finish(self, x_BHFTD: Tensor, packed: Packed) -> None:
        """Restore the removed mean or scale in place; x [B, H, F, T, D] fp32."""


@dataclass(frozen=True)
class Centered(Channelwise):
    """Subtracts from every channel its mean over the frame's tokens.

    Source  SageAttention (arXiv 2410.02367), section 4.2, for keys. It takes the mean over all
    tokens; this class takes it over each frame.
    """

    def remove(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Subtract the channel means."""
        # Subtract the fp16 mean that is stored: its rounding error then cancels when decoding.
        mean = x_BHFTD.mean(3).clamp(-FP16_MAX, FP16_MAX).half()
        return x_BHFTD - mean.float()[:, :, :, None], {"channel_mean": mean}

    def finish(self, x_BHFTD: Tensor, packed: Packed) -> None:
        """Add the channel means in place."""
        x_BHFTD.add_(packed.parts["channel_mean"].float()[:, :, :, None])

    def kernel_layout(self) -> KernelLayout | None:
        """Return the inner quantizer's layout with the mean, or None if that cannot be said."""
        form = self._inner_layout()
        return form and replace(form, channel_mean="channel_mean")


@dataclass(frozen=True)
class ChannelScaled(Channelwise):
    """Divides every channel by its root mean square over a frame's tokens.

    Source  the static per-channel key scales of KVQuant (arXiv 2401.18079), section 3.1. Here they
    come from each frame instead of a calibration set.
    """

    def remove(self, x_BHFTD: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Divide by the channel scales."""
        # Divide by the fp16 scale that is stored: its rounding error then cancels when decoding.
        # 2**-14 is the smallest normal fp16: smaller scales have fewer bits, and 0 would divide.
        scale = x_BHFTD.square().mean(3).sqrt().clamp(2**-14, FP16_MAX).half()
        return x_BHFTD / scale.float()[:, :, :, None], {"channel_scale": scale}

    def finish(self, x_BHFTD: Tensor, packed: Packed) -> None:
        """Multiply by the channel scales in place."""
        x_BHFTD.mul_(packed.parts["channel_scale"].float()[:, :, :, None])

    def kernel_layout(self) -> KernelLayout | None:
        """Return the inner quantizer's layout with the scale, or None if that cannot be said."""
        form = self._inner_layout()
        return form and replace(form, channel_scale="channel_scale")
