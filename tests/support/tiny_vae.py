"""A tiny random VAE."""

from __future__ import annotations

from typing import Any

import pytest
import torch

TINY = {
    "base_dim": 3,
    "z_dim": 16,
    "dim_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
}


def build(**changes: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = diffusers.AutoencoderKLWan(**(TINY | changes))
    model.decoder.conv_out.weight.data.mul_(8)  # enough contrast that some pixels are clamped
    return model
