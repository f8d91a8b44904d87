"""Backend for few queries: one Triton kernel that unpacks inside the attention loop, no scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from harness.api import CacheSpec, Method
from harness.cache.attention.base import Scratch, Segment, into, out_of
from harness.cache.attention.by_kernel import ByKernel, form_of, read_rows
from harness.cache.attention.dense import Merge, attend_dense, attend_plain
from harness.system.errors import UserError


@dataclass(frozen=True)
class Fused(ByKernel):
    """Unpacks the history again for every tile of queries; merges segments by log-sum-exp."""

    name: ClassVar[str] = "fused"

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Self:
        """Return this backend if `ByKernel` accepts the method and keys need no change of basis.

        Raises  UserError: no kernel serves them, or the quantizer rotates keys whose position
                changes on reading.
        """
        super().resolve(spec, method, device)
        roped = method.keys_in(spec) == "roped"
        moves = spec.positions == "relative" and spec.window is not None
        rotation = method.key.rotation(spec.head_dim, device)
        # Such keys must leave the quantizer's rotation before they are rotated by position, which
        # the kernel cannot do.
        if rotation is not None and (not roped or moves):
            raise UserError(
                f"attention=fused: {type(method.key).__name__} rotates keys that turn on reading "
                "(pre_rope keys or relative positions); type attention=staged"
            )
        return self

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend to the current chunk densely, then to each segment in the segment's own basis."""
        # Scratch is not used: the kernel decodes inside its loop.
        from harness.cache.kernels.fused import attend_packed  # needs Triton

        if not history:
            return attend_plain(q_BHTD, k_BHTD, v_BHTD)
        # The current chunk is exact and never in a quantizer's basis: attend before q is rotated.
        merged = Merge(*attend_dense(q_BHTD, k_BHTD, v_BHTD))
        for segment in history:
            # Rotate q into the segment's basis and the output back: (q R)(k R)^T = q k^T.
            q = into(q_BHTD, segment.key_basis)
            # The kernel does not read pooled frames, nor rotate other than by `Turns`.
            if segment.log_count or segment.needs_torch:
                rows = read_rows(segment, slice(0, q.shape[1]), q, (None, None))
                merged.add(*attend_dense(q, *rows, segment.log_count))
                continue
            pages = segment.pages
            out, lse = attend_packed(
                q,
                form_of(segment.key_quantizer),
                pages.key,
                form_of(segment.value_quantizer),
                pages.value,
                pages.table,
                segment.kernel_turns,
            )
            merged.add(out_of(out, segment.value_basis), lse)
        return merged.out.to(q_BHTD.dtype)  # merged in fp32, rounded once
