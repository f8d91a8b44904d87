"""Draws synthetic keys and values like a video model's; they rank formats, not videos."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.positions import Rope, rotate


def realistic_keys(shape: CacheSpec, num_frames: int, roped: bool = True) -> Tensor:
    """Draw keys [1, H, F, T, D] fp32; tokens resemble neighbours in space and time.

    Each channel has an offset about as large as its spread; three of 128 channels of a head vary
    six times as much as the others. With `roped`, RoPE rotates keys and offsets by position.
    """
    random = torch.Generator().manual_seed(0)
    heads, width = shape.num_heads, shape.head_dim
    x = _smooth(shape, num_frames, 0.8, random)
    x += torch.randn(1, heads, 1, 1, width, generator=random)
    channels = torch.rand(1, heads, 1, 1, width, generator=random)
    # Sorting twice ranks the channels, so each head gets exactly this many outlier channels.
    far = channels.argsort(-1).argsort(-1) < max(1, 3 * width // 128)
    x *= torch.where(far, 6.0, 0.75 + channels)
    # Rotated last, offsets included, as a model does.
    if not roped:
        return x
    return rotate(x, Rope(width, shape.grid, torch.device("cpu")).frames(range(num_frames)).view())


def realistic_values(shape: CacheSpec, num_frames: int) -> Tensor:
    """Draw values [1, H, F, T, D] fp32: less alike than keys, heavy tails, no outlier channels."""
    random = torch.Generator().manual_seed(1)  # other noise than the keys
    # Tokens differ in size too, which scales per token can follow.
    x = _smooth(shape, num_frames, 0.5, random)
    x += 0.3 * torch.randn(1, shape.num_heads, 1, 1, shape.head_dim, generator=random)
    return x * (1 + 0.2 * torch.randn(*x.shape[:4], 1, generator=random).abs())


def _smooth(shape: CacheSpec, num_frames: int, share: float, random: torch.Generator) -> Tensor:
    """Draw unit variance [1, H, F, T, D], `share` of it slow over frames, rows and columns."""
    size = (num_frames, *shape.grid)
    # Draw on a grid six times coarser and interpolate: neighbours within six steps resemble.
    coarse = [-(-n // 6) + 1 for n in size]
    heads, width = shape.num_heads, shape.head_dim
    slow = torch.randn(heads, width, *coarse, generator=random)
    slow = F.interpolate(slow, size, mode="trilinear", align_corners=True)
    slow = (slow / slow.std()).flatten(3).permute(0, 2, 3, 1)
    slow = slow.contiguous()[None]
    # Square roots keep the variance of the sum at 1.
    noise = torch.randn(slow.shape, generator=random)
    mixed: Tensor = share**0.5 * slow + (1 - share) ** 0.5 * noise
    return mixed
