"""Triton kernels that read packed history: staging into dense scratch, and fused attention.

`harness.cache.kernels.stage` and `harness.cache.kernels.fused` need Triton; import them where they
are called. This module does not, so that a machine without Triton can ask what is missing.
"""

from __future__ import annotations

import importlib.util
import os

import torch

HEAD_DIMS = (16, 32, 64, 128)  # Triton's ranges are powers of two, its dots at least 16 wide


def missing(device: torch.device) -> str | None:
    """What keeps the kernels from running on `device`, in one phrase; None if nothing does.

    In Triton's interpreter (TRITON_INTERPRET=1) they run on any device, slowly.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda" or not torch.cuda.is_available():
        return "there is no CUDA device"
    return None


def check_head_dim(head_dim: int) -> None:
    """Raise ValueError if no kernel serves heads of this width."""
    if head_dim not in HEAD_DIMS:
        raise ValueError(
            f"attention kernels serve head widths {', '.join(map(str, HEAD_DIMS))}, this model "
            f"has {head_dim}: type attention=portable"
        )
