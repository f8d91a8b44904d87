"""The best backend for a machine, a model and a method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from harness.api import CacheSpec, Method
from harness.cache.attention.base import Backend
from harness.cache.attention.by_kernel import ByKernel
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged
from harness.system.errors import UserError

FEW_QUERIES = 512  # where unpacking in the loop stops paying (docs/benchmarks)


@dataclass(frozen=True)
class Auto:
    """`portable` without a GPU; else `staged`, or `fused` for few queries; the row says which."""

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """The choice; `portable` serves every quantizer, so it always finds one."""
        if device.type != "cuda":
            return Portable()
        sharing = spec.num_heads // spec.kv_heads  # queries of a head that keys are unpacked for
        few = sharing * spec.chunk_frames * spec.tokens_per_frame < FEW_QUERIES
        rotates = method.key.rotation(spec.head_dim, device) is not None
        best: ByKernel = Fused() if few and not rotates else Staged()
        try:
            return best.resolve(spec, method, device)
        except UserError:
            return Portable()
