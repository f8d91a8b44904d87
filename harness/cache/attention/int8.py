"""Backends that multiply queries and keys as 8-bit integers, on a CPU and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from harness.api import CacheSpec, Method
from harness.cache.attention.base import (
    Backend,
    Scratch,
    Segment,
    bases,
    into,
    out_of,
)
from harness.cache.attention.compiled import Compiled
from harness.cache.attention.portable import mask_of
from harness.cache.attention.staged import Staged
from harness.cache.compiled import softmax
from harness.cache.compiled.softmax import AttentionLoop
from harness.system.errors import UserError


@dataclass(frozen=True)
class Int8(Compiled):
    """Like `Compiled`, but attends with 8-bit queries and keys, and values in BF16.

    The current chunk is quantized too. The result is not that of the other backends:
    docs/attention.md gives the error. `auto` never chooses it. On a GPU it becomes `Int8OnGpu`.
    """

    name: ClassVar[str] = "int8"

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """Return this backend for a CPU that multiplies 8-bit integers, `Int8OnGpu` for a GPU.

        Raises  UserError: the CPU does not, or numba is not here; kernels do not serve the GPU, the
                head width or the method; or a setting of a CPU's tiles was changed for a GPU.
        """
        if device.type == "cuda":
            if self != Int8():
                raise UserError(
                    "attention=int8: axis, scratch_mib and tile_tokens are settings of a CPU's "
                    "tiles; leave them out on a GPU"
                )
            return Int8OnGpu().resolve(spec, method, device)
        is_cpu = device.type == "cpu"
        lacking = softmax.missing() if is_cpu else f"{device.type} is neither CPU nor GPU"
        if lacking:
            raise UserError(
                f"attention={self.name}: {lacking}; type attention=auto, which takes what runs here"
            )
        super().resolve(spec, method, device)
        from harness.cache.compiled.softmax.attend import load  # needs numba

        load()
        return self

    def loop(self, dtype: torch.dtype) -> AttentionLoop:
        """Return the compiled loop that attends, whatever the dtype."""
        from harness.cache.compiled.softmax.attend import attend_int8  # needs numba

        return attend_int8


@dataclass(frozen=True)
class Int8OnGpu(Staged):
    """Decodes a group of heads as `Staged` does, then attends by a Triton kernel as `Int8` does.

    Besides the scratch, the codes of a group's keys take a byte per token and channel, and values
    of an fp32 model two more, since they are rounded to BF16.
    """

    name: ClassVar[str] = "int8"

    def describe(self, device: torch.device) -> str:
        """Return the name, and that the kernel is Triton's."""
        return f"{self.name}/triton"

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Self:
        """Return this backend if kernels serve the machine, the head width and the method.

        Raises  UserError: they do not.
        """
        super().resolve(spec, method, device)
        from harness.cache.kernels.int8 import check_width  # needs Triton

        try:
            check_width(spec.head_dim)
        except ValueError as error:
            raise UserError(str(error)) from error
        return self

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend to history and the current chunk at once, in the basis of the largest segment."""
        from harness.cache.kernels.int8 import attend_int8  # needs Triton

        if not history:
            return attend_int8(q_BHTD, k_BHTD, v_BHTD)[0]
        basis = bases(history)
        q, k, v = into(q_BHTD, basis[0]), into(k_BHTD, basis[0]), into(v_BHTD, basis[1])
        num_tokens = k.shape[2] + sum(segment.num_tokens for segment in history)
        # The kernel takes a bias, so pooled frames need no merge. No segment has a bias per head.
        mask = mask_of(history, num_tokens, q, slice(None), torch.float32)
        bias = None if mask is None else mask[:, :, 0]
        out = torch.empty_like(q)
        for heads, room in self.decoded((k, v), history, basis, scratch):
            out[:, heads] = attend_int8(q[:, heads], *room, bias)[0]
        return out_of(out, basis[1])
