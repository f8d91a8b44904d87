"""Measures a round trip: relative error and stored bits."""

from __future__ import annotations

from torch import Tensor

from harness.api import CacheSpec, Quantizer
from harness.benchmarks.checks import relative as distance
from harness.benchmarks.formats import trip

TRUE = CacheSpec(num_layers=1, num_heads=12, head_dim=128, grid=(30, 52), chunk_frames=3)


def error(quantizer: Quantizer, x: Tensor) -> float:
    """Return the relative L2 error of a round trip in fp32."""
    return distance(trip(quantizer, x.float()), x)


def bits(quantizer: Quantizer, x: Tensor) -> float:
    """Return the stored bits per value, metadata included."""
    return 8 * quantizer.encode(x).nbytes / x.numel()
