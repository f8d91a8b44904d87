"""Bytes of stored frames, asked of the quantizers themselves: no formula a method."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness.api import CacheSpec, Method, Packed, Quantizer
from harness.plan.live import on_meta


@dataclass(frozen=True)
class FrameBytes:
    """Bytes of one frame over all layers, keys and values: in full by part, pooled, its note."""

    parts: Mapping[str, int]
    pooled: int
    note: int

    @property
    def full(self) -> int:
        """A frame stored in full."""
        return sum(self.parts.values())


def frame_bytes(spec: CacheSpec, method: Method, dtype: torch.dtype) -> FrameBytes:
    """What the method stores of a frame under the model's geometry, batch 1."""
    parts: Counter[str] = Counter()
    for quantizer in (method.key, method.value):
        for name, size in _parts(quantizer, spec, dtype).items():
            parts[name] += spec.num_layers * size
    pooled = spec.num_layers * 2 * spec.num_heads * spec.head_dim * dtype.itemsize
    x = torch.zeros(1, spec.num_heads, 1, spec.head_dim)
    note = method.retention.observe(x, x)
    return FrameBytes(dict(parts), pooled, 0 if note is None else spec.num_layers * note.nbytes)


def _parts(quantizer: Quantizer, spec: CacheSpec, dtype: torch.dtype) -> dict[str, int]:
    """Bytes of the parts of one frame of one layer."""
    shape = (1, spec.num_heads, 1, spec.tokens_per_frame, spec.head_dim)
    try:
        return _sizes(quantizer.encode(on_meta(shape, dtype)))
    except (NotImplementedError, RuntimeError):  # it looks at values: one head of real ones
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 1, *shape[2:], generator=generator).to(dtype)
        parts = _sizes(quantizer.encode(x))
        return {name: spec.num_heads * size for name, size in parts.items()}


def _sizes(packed: Packed) -> dict[str, int]:
    return {name: part.nbytes for name, part in packed.parts.items()}
