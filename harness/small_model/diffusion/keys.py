"""Gives the small model keys with offsets and outlier channels like those of large transformers.

In published models, every key is a large offset that all tokens of a channel share, plus a small
part that differs between tokens (SageAttention, arXiv 2410.02367, on CogVideoX and others). A few
fixed channels are far larger than the rest (KIVI, arXiv 2402.02750, on language models). A network
that is trained from scratch for a few days develops neither. So both are drawn before training and
then frozen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.models.wan import SelfAttention, Wan

KEPT = ("self_attn.k.bias", "self_attn.norm_k.weight")  # suffixes of the frozen parameters


@dataclass(frozen=True)
class KeyShape:
    """Distribution of the offsets and outliers of keys.

    offset, offset_spread: median and sigma of the log-normal size of an offset, in standard
    deviations of a channel's projection at the start of training; signs are random.
    outliers: share of rotary pairs with a large gain.
    gain: range of the large gain.
    gain_spread: sigma of the log-normal gain of the other pairs.

    Raises  ValueError: outliers is not a share, or gain is not a range above 0.
    """

    offset: float = 2.0
    offset_spread: float = 1.0
    outliers: float = 0.06
    gain: tuple[float, float] = (3.0, 8.0)
    gain_spread: float = 0.25

    def __post_init__(self) -> None:
        # YAML gives a list, which would make this frozen dataclass unhashable.
        object.__setattr__(self, "gain", tuple(self.gain))
        if not 0 <= self.outliers <= 1 or not 0 < self.gain[0] <= self.gain[1]:
            raise ValueError(f"{self}: outliers is a share, and gain a range above 0")

    def apply(self, network: Wan, seed: int) -> None:
        """Draw the offsets and gains of every layer and write them into the network."""
        # Queries get the inverse gain, and both channels of a rotary pair share one gain. The gains
        # then cancel in the attention scores at every position.
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for attention in [m for m in network.modules() if isinstance(m, SelfAttention)]:
                dim = attention.k.out_features
                sizes = (self.offset_spread * torch.randn(dim, generator=draws)).exp()
                signs = torch.randint(0, 2, (dim,), generator=draws) * 2.0 - 1
                attention.k.bias.copy_(self.offset * sizes * signs)
                gains = (self.gain_spread * torch.randn(dim // 2, generator=draws)).exp()
                low, high = self.gain
                # Log-normal gains alone would have no channels far larger than the rest.
                large = low + (high - low) * torch.rand(dim // 2, generator=draws)
                is_large = torch.rand(dim // 2, generator=draws) < self.outliers
                pairs = torch.where(is_large, large, gains).repeat_interleave(2)
                attention.norm_k.weight.copy_(pairs)
                attention.norm_q.weight.copy_(1 / pairs)


def keep_keys(network: Wan) -> None:
    """Freeze the offsets and gains of keys."""
    for name, weight in network.named_parameters():
        if name.endswith(KEPT):
            weight.requires_grad_(False)


@dataclass(frozen=True)
class KeyStatistics:
    """Statistics of the keys of one layer, after rotation.

    offset: |mean| / standard deviation of a channel over all tokens, at the quantiles 0.25, 0.5,
    0.75 and 0.95 of the channels.
    kurtosis: kurtosis of all values of a head (3 for a normal distribution), mean over heads.
    largest: RMS of the largest channel divided by that of the median channel.
    zero_free: share of groups of 16 tokens of a channel that do not contain zero.
    energy: share of the variance over tokens in the first 1, 4 and 16 principal directions of a
    head, mean over heads.
    """

    offset: tuple[float, ...]
    kurtosis: float
    largest: float
    zero_free: float
    energy: tuple[float, ...]


# The groups of the study's quantizers: 16 tokens of a channel share a scale. Those whose zero point
# is clamped damage groups that do not reach zero (docs/validity.md).
GROUP = 16


def key_statistics(keys_HTD: Tensor) -> KeyStatistics:
    """Measure the keys [H, T, D] of one layer and one video; T is a multiple of 16.

    Raises  ValueError: the tokens do not fill whole groups.
    """
    keys = keys_HTD.double()  # sums of fourth powers lose digits in fp32
    if keys.shape[1] % GROUP:
        raise ValueError(f"{keys.shape[1]} tokens do not fill groups of {GROUP}")
    # Over tokens: an offset is what all tokens of a channel share.
    mean, deviation = keys.mean(1), keys.std(1)
    ratio = (mean.abs() / deviation).flatten()
    quantiles = torch.tensor([0.25, 0.5, 0.75, 0.95], dtype=ratio.dtype)
    centred = keys - keys.mean((1, 2), keepdim=True)
    fourth, second = centred.pow(4).mean((1, 2)), centred.square().mean((1, 2))
    rms = keys.square().mean(1).sqrt().flatten()
    groups = keys.unflatten(1, (-1, GROUP))
    is_free = (groups.amin(2) > 0) | (groups.amax(2) < 0)
    # Squared singular values of the centred keys are their variances along principal directions.
    power = torch.linalg.svdvals(keys - mean[:, None]).square()
    shares = (power.cumsum(1) / power.sum(1, keepdim=True)).mean(0)
    return KeyStatistics(
        offset=tuple(torch.quantile(ratio, quantiles).tolist()),
        kurtosis=(fourth / second.square()).mean().item(),
        largest=(rms.max() / rms.median()).item(),
        zero_free=is_free.double().mean().item(),
        energy=tuple(shares[min(n, len(shares)) - 1].item() for n in (1, 4, 16)),
    )
