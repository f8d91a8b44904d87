"""Networks with the weights of recordings, and diffusers' networks with the weights of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from harness.models.checkpoints.names import diffusers_name
from harness.models.magi import Magi, MagiDims
from harness.models.wan import Wan, WanDims

# On the CPU that made MAGI-1's recordings, `torch.exp` returned these three of the 128 frequencies
# one unit in the last place too high. On other CPUs other frequencies differ.
_ROUNDED_UP = [13, 44, 119]


def recorded_dims(net: Mapping[str, int], **changes: int) -> WanDims:
    """Return the sizes of a recorded network."""
    return WanDims(
        dim=net["dim"],
        num_layers=net["num_layers"],
        num_heads=net["num_heads"],
        ffn_dim=net["ffn_dim"],
        latent_channels=net["in_dim"],
        text_dim=net["text_dim"],
        freq_dim=net["freq_dim"],
        **changes,
    )


def recorded_skyreels(golden: Any, fps: int) -> Wan:
    """Return the network of SkyReels-V2's recordings at a frame rate."""
    weights = golden("skyreels/weights.pt")
    network = Wan(recorded_dims(weights["config"]["net"], fps_rows=2), fps)
    network.load_state_dict(weights["state_dict"])
    return network.eval().requires_grad_(False)


def diffusers_skyreels(network: Wan, **settings: Any) -> Any:
    """Return diffusers' SkyReels-V2 with the weights of a network; every key is matched."""
    diffusers, dims = pytest.importorskip("diffusers"), network.dims
    theirs = diffusers.SkyReelsV2Transformer3DModel(
        num_attention_heads=dims.num_heads,
        attention_head_dim=dims.head_dim,
        in_channels=dims.latent_channels,
        out_channels=dims.latent_channels,
        text_dim=dims.text_dim,
        freq_dim=dims.freq_dim,
        ffn_dim=dims.ffn_dim,
        num_layers=dims.num_layers,
        **settings,
    )
    weights = {diffusers_name(name): x for name, x in network.state_dict().items()}
    theirs.load_state_dict(weights, strict=True)
    return theirs.eval().requires_grad_(False)


def recorded_frequencies() -> torch.Tensor:
    """Return the frequencies of the time embedding in MAGI-1's recordings [128] fp32."""
    k = torch.arange(128, dtype=torch.float32)
    exact = torch.exp((-math.log(10000) * k / 128).double()).float()
    exact[_ROUNDED_UP] = torch.nextafter(exact[_ROUNDED_UP], torch.tensor(math.inf))
    return exact


def recorded_magi(recording: Mapping[str, Any]) -> Magi:
    """Return the network of a recording of MAGI-1."""
    net = recording["config"]["model"]
    doubles = net["half_channel_vae"]
    network = Magi(
        MagiDims(
            dim=net["hidden_size"],
            num_layers=net["num_layers"],
            num_heads=net["num_attention_heads"],
            num_kv_heads=net["num_query_groups"],
            head_dim=net["kv_channels"],
            ffn_dim=net["ffn_hidden_size"],
            latent_channels=net["in_channels"] // (2 if doubles else 1),
            text_dim=net["caption_channels"],
            text_rows=net["caption_max_length"],
            gated_mlp=net["gated_linear_unit"],
            doubles_channels=doubles,
            input_scale=net["x_rescale_factor"],
        )
    )
    network.load_state_dict(recording["weights"])
    return network.eval().requires_grad_(False)
