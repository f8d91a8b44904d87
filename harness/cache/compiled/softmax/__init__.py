"""Attention on a CPU in one compiled loop, by the processor's instructions for matrix products.

`harness.cache.compiled.softmax.attend` needs numba, so import it where it is called. This file does
not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from harness.cache import compiled

Units = Literal["amx", "avx512"]
# Takes q, k, v and a bias per token; returns attention and its log-sum-exp.
AttentionLoop = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


@cache  # asked in every call of attention
def units() -> Units | None:
    """Return this processor's units for products of INT8 and of BF16; None if it lacks them."""
    found = torch.cpu.get_capabilities()
    # The kernel lets a process use these units only after it has asked for them.
    if found.get("amx_int8") and found.get("amx_bf16") and torch.cpu._init_amx():
        return "amx"
    if found.get("avx512_vnni") and found.get("avx512_bf16"):
        return "avx512"
    return None


@cache
def missing() -> str | None:
    """Return why the compiled attention cannot run on this CPU, as one phrase; None if it can."""
    if units() is None:
        return (
            "this processor has no units for products of 8-bit matrices (AMX, or AVX-512 with VNNI "
            "and BF16)"
        )
    return compiled.missing()


def outruns_torch() -> bool:
    """Return whether attention in BF16 is faster here than torch's."""
    # torch 2.14 reaches a third of what AVX-512 can do; docs/attention.md has the figures. With AMX
    # it is fast.
    return units() == "avx512" and missing() is None


def loop_for(dtype: torch.dtype) -> AttentionLoop | None:
    """Return the compiled attention loop for a dtype, or None if torch should attend.

    There is a loop for BF16, and on some processors torch is faster than it.
    """
    if dtype != torch.bfloat16 or not outruns_torch():
        return None
    from harness.cache.compiled.softmax.attend import attend_bf16  # needs numba

    return attend_bf16


def prepare() -> None:
    """Load what `loop_for` returns, so that no measured video waits for a compiler."""
    if outruns_torch():
        from harness.cache.compiled.softmax.attend import load  # needs numba

        load()
