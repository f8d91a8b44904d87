"""Backend for a CPU: compiled loops decode, encode and, where torch is slower, attend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec, Method, Packed, Quantizer
from harness.cache import compiled
from harness.cache.attention.base import Backend
from harness.cache.attention.portable import Portable
from harness.cache.compiled import softmax
from harness.cache.compiled.softmax import AttentionLoop
from harness.cache.pages import Pages, encode_into, put, stage_by_torch
from harness.system.errors import UserError


@dataclass(frozen=True)
class Compiled(Portable):
    """Like `Portable`, but packed pages are decoded and encoded by loops that numba compiled.

    What is stored is the same bit for bit. What has no `kernel_layout` is decoded by torch.
    A compiled loop attends in BF16 on processors where it is faster than torch's.
    """

    # A head of a long history is about as large as the cache of a core, from which attention then
    # reads what was decoded: 8 MiB is faster than 20 or 40.
    scratch_mib: float = 8
    name: ClassVar[str] = "compiled"

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """Return this backend if numba is here and the device is a CPU, and compile its loops.

        Raises  UserError: they are not.
        """
        lacking = compiled.missing() if device.type == "cpu" else f"{device.type} is no CPU"
        if lacking:
            raise UserError(
                f"attention={self.name}: {lacking}; type attention=portable, which runs here"
            )
        from harness.cache.compiled.pages import load  # needs numba

        # Here, so that no measured video waits for a compiler. Also for exact history, which needs
        # no loops: numba's memory must be in the peak of every method, or in none.
        load()
        softmax.prepare()
        return self

    def loop(self, dtype: torch.dtype) -> AttentionLoop | None:
        """Return the compiled loop that attends in this dtype; None to leave it to torch."""
        return softmax.loop_for(dtype)

    def attend_once(
        self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return attention to all tokens [B, H, T, D]; mask [B or 1, h or 1, 1, N]."""
        loop = self.loop(q_BHTD.dtype)
        if loop is None:
            return super().attend_once(q_BHTD, k_BHTD, v_BHTD, mask)
        bias = None if mask is None else mask[:, :, 0]  # the same for all queries
        return loop(q_BHTD, k_BHTD, v_BHTD, bias)[0]

    def attend_part(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        log_count: float = 0.0,
        bias_BHN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return attention to a part of the tokens, and its log-sum-exp."""
        loop = self.loop(q_BHTD.dtype)
        if loop is None:
            return super().attend_part(q_BHTD, k_BHTD, v_BHTD, log_count, bias_BHN)
        # The same number on every logit changes the log-sum-exp but not the output.
        out, lse = loop(q_BHTD, k_BHTD, v_BHTD, bias_BHN)
        return out, lse + log_count

    def write(self, quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
        """Encode by a compiled loop if it can compute the quantizer's metadata, else in torch."""
        from harness.cache.compiled.pages import Access, encode  # needs numba

        access = Access.of(quantizer, room)
        if access is None or not access.can_encode(x_BHFTD):
            encode_into(quantizer, x_BHFTD, room, pages)
            return
        # Only the quantizer knows how it rotates, or takes the mean of a channel.
        values, others = quantizer.split_off(x_BHFTD)
        encode(access, values, pages.row)
        put(others, room, pages)

    def stage(
        self,
        quantizer: Quantizer,
        packed: Packed,
        pages: Pages,
        heads: slice,
        frames: slice,
        out: Tensor,
    ) -> None:
        """Decode by a compiled loop if the quantizer describes its codes, else in torch."""
        from harness.cache.compiled.pages import Access, decode  # needs numba

        # Exact values are only copied; many of them torch copies in more threads.
        access = Access.of(quantizer, packed)
        if access is None or not access.can_decode(out):
            stage_by_torch(quantizer, packed, pages, heads, frames, out)
        else:
            decode(access, pages.row[frames], heads.start, out)
