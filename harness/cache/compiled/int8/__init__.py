"""Attention on a CPU with 8-bit queries and keys, in one loop around the processor's matrix units.

`harness.cache.compiled.int8.attend` needs numba, so import it where it is called. This file does
not.
"""

from __future__ import annotations

from functools import cache

import torch

from harness.cache import compiled


@cache  # asked in every call of attention
def missing() -> str | None:
    """Return why 8-bit attention cannot run on this processor, in one phrase; None if it can."""
    found = torch.cpu.get_capabilities()
    # The kernel lets a process use these units only after it has asked for them.
    if not (found.get("amx_int8") and found.get("amx_bf16") and torch.cpu._init_amx()):
        return "this processor has no units for products of 8-bit matrices (AMX)"
    return compiled.missing()
