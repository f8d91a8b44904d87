"""Chooses the fastest attention backend for a machine, a model and a method."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from harness.api import CacheSpec, Method
from harness.cache import compiled
from harness.cache.attention.base import Backend
from harness.cache.attention.by_kernel import ByKernel
from harness.cache.attention.compiled import Compiled
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged
from harness.system.errors import UserError
from harness.system.logs import log

# Above, unpacking in the attention loop is slower than staging; `bench gpu` measures where.
FEW_QUERIES = 512


@dataclass(frozen=True)
class Auto:
    """Chooses `compiled` on a CPU; on a GPU `staged`, or `fused` for few queries.

    Rows record the backend that ran.
    """

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """Return the chosen backend; `portable`, which serves all, if no other can."""
        if device.type != "cuda":
            lacking = compiled.missing()
            if lacking is None:
                return Compiled().resolve(spec, method, device)
            _tell(lacking)
            return Portable()
        # Query heads that share a KV head count together: the history is unpacked once for them.
        sharing = spec.num_heads // spec.kv_heads
        few = sharing * spec.chunk_frames * spec.tokens_per_frame < FEW_QUERIES
        rotates = method.key.rotation(spec.head_dim, device) is not None
        # `fused` refuses some quantizers that rotate, `staged` none.
        best: ByKernel = Fused() if few and not rotates else Staged()
        # No kernel reads single tokens, pages of several frames, or codes without a layout.
        try:
            return best.resolve(spec, method, device)
        except UserError:
            return Portable()


# Cached: every job of a sweep resolves its backend, and one warning is enough.
@cache
def _tell(lacking: str) -> None:
    log.warning(
        f"attention=auto: {lacking}, so torch decodes the history, which takes longer; type pip "
        "install numba, or attention=portable to choose this"
    )
