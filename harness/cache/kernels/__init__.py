"""Triton kernels for packed history: encoding, staging into dense scratch, and fused attention.

The modules of this package need Triton, so import them where they are called. This file does not:
`missing` must work on a machine without Triton.
"""

from __future__ import annotations

import importlib.util
import os

import torch

# Triton's ranges must be powers of two, and its dot products at least 16 wide.
HEAD_DIMS = (16, 32, 64, 128)


def interpreted() -> bool:
    """Return whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """Return why kernels cannot run on `device`, in one phrase; None if they can.

    Triton's interpreter (TRITON_INTERPRET=1) runs them on any device, slowly.
    """
    # Before the device is asked for: the interpreter needs Triton too, but no device.
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if interpreted():
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
