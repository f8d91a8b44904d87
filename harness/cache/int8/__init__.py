"""Attention on a CPU with 8-bit queries and keys: compiled loops around the products of torch.

`harness.cache.int8.attend` needs numba, so import it where it is called. This file does not.
"""

from __future__ import annotations

import torch

from harness.cache import compiled


def missing() -> str | None:
    """Return why 8-bit attention cannot run on this processor, in one phrase; None if it can."""
    # Without these instructions torch multiplies integers one by one.
    if not torch.cpu.get_capabilities().get("avx512_vnni"):
        return "this processor has no instructions for 8-bit products (avx512_vnni)"
    return compiled.missing()
