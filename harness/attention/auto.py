"""The best backend for a machine, a model and a method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness import kernels
from harness.api import CacheSpec, Method
from harness.attention.base import Backend
from harness.attention.fused import Fused
from harness.attention.portable import Portable
from harness.attention.staged import Staged

FEW_QUERIES = 512  # where unpacking in the loop stops paying (docs/benchmarks)


@dataclass(frozen=True)
class Auto:
    """`portable` without a GPU; else `staged`, or `fused` for few queries; the row says which."""

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """The choice; `portable` serves every quantizer, so it always finds one."""
        forms = (method.key.form(), method.value.form())
        if device.type != "cuda" or kernels.missing(device) or None in forms:
            return Portable()
        try:
            kernels.check_head_dim(spec.head_dim)
        except ValueError:
            return Portable()
        few = spec.chunk_frames * spec.tokens_per_frame < FEW_QUERIES
        rotates = method.key.rotation(spec.head_dim, device) is not None
        return Fused() if few and not rotates else Staged()
