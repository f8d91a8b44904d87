"""Chooses the device, tells which products are slow on it, and describes the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from harness.system.version import code_version, git_state, package_version

PACKAGES = ("torch", "numpy", "hydra-core", "diffusers", "transformers", "scikit-image", "lpips")


def choose_device(wanted: str) -> torch.device:
    """Return the torch device for `run.device`; `auto` takes CUDA if it works.

    Raises  ValueError: a device that this machine does not have.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"run.device={wanted}: no CUDA device here, choose cpu or auto")
    # torch raises RuntimeError for a word that names no device type.
    try:
        device = torch.device(wanted)
        known = device.type == "cpu" or (device.index or 0) < torch.cuda.device_count()
    except RuntimeError:
        known = False
    if not known or device.type not in ("cpu", "cuda"):
        raise ValueError(f"run.device={wanted}: choose auto, cpu, cuda or cuda:<n> of this machine")
    return device


def is_emulated(x: Tensor) -> bool:
    """Return whether PyTorch has no fast matrix product for x's dtype on its device.

    A processor without instructions for BF16 takes at least eight times as long as in fp32.
    """
    # Autocast chooses the dtype of a product itself, whatever dtype x has.
    if x.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    return x.dtype in EMULATED


def _emulated() -> frozenset[torch.dtype]:
    """Return the 16-bit dtypes for which PyTorch has no fast matrix product on this processor."""
    # The fast products are those of oneDNN, which some builds of PyTorch lack.
    if not torch.backends.mkldnn.is_available():
        return frozenset((torch.bfloat16, torch.float16))
    found = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported(),
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported(),
    }
    return frozenset(dtype for dtype, supported in found.items() if not supported)


# Computed once, at import: `torch.compile` cannot trace the calls in `_emulated`.
EMULATED = _emulated()


def device_name(device: torch.device) -> str:
    """Return the name of the card, or of the processor with its number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    processor = platform.processor() or platform.machine()
    # On Linux, `platform` knows the architecture only.
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    # Times of one processor compare only with equal threads.
    return f"{processor}, {torch.get_num_threads()} threads"


def describe(device: torch.device) -> dict[str, Any]:
    """Return device, platform, memory in bytes, and versions of packages and of the harness."""
    return {
        "device": device_name(device),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "packages": {name: package_version(name) for name in PACKAGES},
        "git": git_state(),
        "code_version": code_version(),
    }
