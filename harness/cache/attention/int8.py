"""Backend for a CPU whose queries and keys are multiplied as 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from harness.api import CacheSpec, Method
from harness.cache.attention.compiled import Compiled
from harness.cache.compiled import int8
from harness.system.errors import UserError


@dataclass(frozen=True)
class Int8(Compiled):
    """Like `Compiled`, but attends with 8-bit queries and keys, and values in BF16.

    The current chunk is quantized too. The result is not that of the other backends:
    docs/attention.md gives the error. `auto` never chooses it.
    """

    name: ClassVar[str] = "int8"

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Self:
        """Return this backend if the device is a CPU that multiplies 8-bit integers.

        Raises  UserError: it is not, or numba is not here.
        """
        lacking = int8.missing() if device.type == "cpu" else f"{device.type} is no CPU"
        if lacking:
            raise UserError(
                f"attention={self.name}: {lacking}; type attention=auto, which takes what runs here"
            )
        super().resolve(spec, method, device)
        from harness.cache.compiled.int8.attend import load  # needs numba

        load()
        return self

    def attend_once(
        self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return attention to all tokens [B, H, T, D]; mask [B or 1, h or 1, 1, N]."""
        from harness.cache.compiled.int8.attend import attend_int8  # needs numba

        bias = None if mask is None else mask[:, :, 0]  # the same for all queries
        return attend_int8(q_BHTD, k_BHTD, v_BHTD, bias)[0]

    def attend_part(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        log_count: float = 0.0,
        bias_BHN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return attention to a part of the tokens, and its log-sum-exp."""
        from harness.cache.compiled.int8.attend import attend_int8  # needs numba

        # The same number on every logit changes the log-sum-exp but not the output.
        out, lse = attend_int8(q_BHTD, k_BHTD, v_BHTD, bias_BHN)
        return out, lse + log_count
