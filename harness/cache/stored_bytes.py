"""Measures the bytes of a stored frame by encoding random data; no method needs a formula."""

from __future__ import annotations

from collections import Counter

import torch

from harness.api import KEEP, CacheSpec, Method, Tier, TokenPolicy
from harness.api.method import tiers_of

SINK = "sink"  # name of the tier of a sink that changes; it is stored exactly by every method
ORIGIN_BYTES = 4  # int32 origin of a token, stored for policies that pick single tokens


def tier_bytes(tier: Tier, spec: CacheSpec, dtype: torch.dtype) -> dict[str, int]:
    """Return the bytes of one frame of a tier over all layers, by part, batch 1.

    dtype: of the model, which exact tiers store.
    """
    # One head of one page is enough: all heads and pages take the same bytes.
    # A generator of its own leaves the random numbers of the process unchanged.
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, 1, tier.span * spec.tokens_per_frame, spec.head_dim)
    x = torch.randn(shape, generator=generator).to(dtype)
    sizes: Counter[str] = Counter()
    for quantizer in (tier.key, tier.value):
        for name, part in quantizer.encode(x).parts.items():
            sizes[name] += spec.num_layers * spec.kv_heads * part.nbytes
    return {name: size // tier.span for name, size in sizes.items()}


def frame_bytes(method: Method, spec: CacheSpec, dtype: torch.dtype = torch.bfloat16) -> int:
    """Return the bytes of one frame of the tier KEEP over all layers, batch 1."""
    # KEEP alone, the tier in which new frames arrive: budgets in bytes count such frames.
    total = sum(tier_bytes(tiers_of(method)[KEEP], spec, dtype).values())
    if isinstance(method.retention, TokenPolicy):
        total += ORIGIN_BYTES * spec.num_layers * spec.kv_heads * spec.tokens_per_frame
    return total
