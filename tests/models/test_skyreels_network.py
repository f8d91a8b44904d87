"""The network of SkyReels-V2: recordings of the original, diffusers' class, its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.attention.portable import Portable
from harness.cache.positions import Rope, rotate
from harness.cache.session import Session
from harness.models.checkpoints.load import load_weights
from harness.models.checkpoints.names import diffusers_name
from harness.models.wan import Wan, WanDims, init_weights, sinusoid
from harness.sampling.passes import Pass
from harness.sampling.reuse import Inputs
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from harness.system.errors import UserError
from tests.support.geometry import BF16, CPU
from tests.support.oracles import diffusers_skyreels, recorded_skyreels

TOLERANCE = 1e-4  # the largest difference found is 1e-6
DIMS = WanDims(
    dim=64,
    num_layers=2,
    num_heads=2,
    ffn_dim=96,
    latent_channels=4,
    text_dim=20,
    freq_dim=32,
    fps_rows=2,
)
SIZE, NUM_FRAMES = (4, 6), 6
FPS = (16, 24)  # by row of the table
TABLE = {
    "fps_embedding.weight",
    *(f"fps_projection.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
}


def seeded(fps: int = 24) -> Wan:
    network = Wan(DIMS, fps)
    init_weights(network, 0)
    return network.eval().requires_grad_(False)


def flow(
    network: Wan, x: Tensor, t_BF: Tensor, text: Tensor, block: int = 0, by_block: bool = False
) -> Tensor:
    """The flow [B, F, C, h, w] of a window, through the real cache.

    block: frames of a chunk that sees itself and earlier ones; 0 has no mask. by_block: a pass for
    each chunk, which stores its keys and values for the next, instead of one pass with a mask.
    """
    dims, num_frames = network.dims, x.shape[1]
    size = block or num_frames
    grid = (x.shape[3] // 2, x.shape[4] // 2)
    spec = CacheSpec(dims.num_layers, dims.num_heads, dims.head_dim, grid, size)
    session = Session(spec, BF16, Portable(), num_frames, CPU)
    sampler = Sampler(network, Schedule(), size)
    with torch.inference_mode():
        text_kv = network.text_kv(text)
        if not by_block:
            each = Pass(0, range(num_frames), causal=bool(block))
            return sampler.evaluate(Inputs(network, x, t_BF), text_kv, session, each)[1]
        parts = []
        for start in range(0, num_frames, size):
            own = slice(start, start + size)
            frames = range(start, start + size)
            parts.append(sampler.flow(x[:, own], t_BF[:, own], text_kv, session, frames, "active"))
        return torch.cat(parts, dim=1)


@pytest.mark.parametrize("by_block", [False, True])
def test_flows_are_those_of_the_original(golden: Any, by_block: bool) -> None:
    recording = golden("skyreels/network.pt")
    x = recording["x"].transpose(1, 2)
    calls = [call for call in recording["calls"] if call["causal_block"] or not by_block]
    assert calls
    for call in calls:
        t = call["t"].float()
        t_BF = t if t.dim() == 2 else t[:, None].expand(-1, x.shape[1])
        network = recorded_skyreels(golden, FPS[call["fps_index"]])
        found = flow(network, x, t_BF, recording["context"], call["causal_block"], by_block)
        expected = call["out"].transpose(1, 2)
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0, msg=call["name"])


@pytest.mark.parametrize("fps_index", [0, 1])
def test_parts_of_the_time_are_those_of_the_original(golden: Any, fps_index: int) -> None:
    parts = golden("skyreels/network.pt")["time_parts"]
    network = recorded_skyreels(golden, FPS[fps_index])
    t = torch.tensor(parts["t"])
    waves = sinusoid(t, network.dims.freq_dim)
    torch.testing.assert_close(waves, parts["sinusoid"], atol=1e-9, rtol=0)
    found = network.embed_time(t[None])
    torch.testing.assert_close(found.embedded[0], parts["e"], atol=1e-5, rtol=0)
    expected = parts["e6"] + parts["fps_add"][fps_index]
    torch.testing.assert_close(found.modulation[0], expected, atol=1e-5, rtol=0)


def test_rotations_are_those_of_the_original(golden: Any) -> None:
    rope = golden("skyreels/network.pt")["rope"]
    num_frames, *grid = rope["grid"]
    x_BHTD = rope["x"].transpose(1, 2)
    turns = Rope(x_BHTD.shape[-1], (grid[0], grid[1]), CPU).frames(range(num_frames)).view()
    found = rotate(x_BHTD, turns.flatten(0, -2)).transpose(1, 2)
    torch.testing.assert_close(found, rope["out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("fps", FPS)
@pytest.mark.parametrize(("block", "by_block"), [(0, False), (2, False), (2, True), (3, True)])
def test_flows_are_those_of_diffusers(fps: int, block: int, by_block: bool) -> None:
    """Times differ between frames, chunks or none; no recording is needed."""
    network = seeded(fps)
    theirs = diffusers_skyreels(network, inject_sample_info=True)
    theirs._set_ar_attention(block or 1)  # 1 is no mask

    draws = torch.Generator().manual_seed(1)
    x = torch.randn(1, NUM_FRAMES, DIMS.latent_channels, *SIZE, generator=draws)
    text = torch.randn(1, 8, DIMS.text_dim, generator=draws)
    for times in ([999, 871, 613, 409, 140, 0], [0, 0, 613, 613, 999, 999], [991] * NUM_FRAMES):
        t_BF = torch.tensor([times])
        found = flow(network, x, t_BF.float(), text, block, by_block)
        expected = theirs(
            hidden_states=x.transpose(1, 2),
            timestep=t_BF,
            encoder_hidden_states=text,
            fps=[FPS.index(fps)],
            enable_diffusion_forcing=True,
            return_dict=False,
        )[0].transpose(1, 2)
        assert found.abs().max() > 0.1
        torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_every_frame_rate_but_16_is_the_same_to_it() -> None:
    t_BF = torch.tensor([[999.0, 0.0]])
    found = {fps: seeded(fps).embed_time(t_BF) for fps in (16, 24, 25, 30)}
    for fps in (25, 30):
        assert torch.equal(found[fps].modulation, found[24].modulation)
    change = found[24].modulation - found[16].modulation
    assert change.abs().max() > 100 * TOLERANCE
    torch.testing.assert_close(change[:, :1], change[:, 1:])  # the same for every frame
    assert torch.equal(found[16].embedded, found[24].embedded)  # the head does not see it


def test_weights_in_bf16_round_the_sinusoid_and_nothing_after_it() -> None:
    network, t_BF = seeded().bfloat16(), torch.tensor([[999.0, 613.0, 140.0]])
    found = network.embed_time(t_BF)
    assert found.embedded.dtype == found.modulation.dtype == torch.float32
    wide = seeded()
    wide.load_state_dict({name: x.float() for name, x in network.state_dict().items()})
    waves = sinusoid(t_BF, DIMS.freq_dim).bfloat16().float()
    embedded = wide.time_embedding(waves)
    row = wide.fps_projection(wide.fps_embedding.weight[1])
    modulation = (wide.time_projection(embedded) + row).unflatten(2, (6, -1))
    torch.testing.assert_close(found.embedded, embedded)
    torch.testing.assert_close(found.modulation, modulation)
    unrounded = wide.embed_time(t_BF).modulation
    assert (found.modulation - unrounded).abs().max() > 1e-4  # this test sees the rounding

    x = torch.randn(1, 3, DIMS.latent_channels, *SIZE, generator=torch.Generator().manual_seed(2))
    text = torch.zeros(1, 8, DIMS.text_dim, dtype=torch.bfloat16)
    out = flow(network, x.bfloat16(), t_BF, text)
    assert out.dtype == torch.bfloat16 and out.isfinite().all()


def test_true_size() -> None:
    with torch.device("meta"):
        network = Wan(WanDims(fps_rows=2), 24)
        plain = Wan(WanDims())
    state = network.state_dict()
    assert len(state) == 830
    assert sum(x.numel() for x in state.values()) == 1_435_525_696
    assert state.keys() - plain.state_dict().keys() == TABLE
    assert state["fps_embedding.weight"].shape == (2, 1536)
    assert state["fps_projection.0.weight"].shape == (1536, 1536)
    assert state["fps_projection.2.weight"].shape == (6 * 1536, 1536)


@pytest.mark.parametrize("rows", [1, 3, -2, None])
def test_other_tables_of_frame_rates_are_refused(rows: Any) -> None:
    with pytest.raises(ValueError, match=r"^dims\.fps_rows=.*give 2, or 0"):
        WanDims(fps_rows=rows)


@pytest.mark.parametrize("naming", ["native", "diffusers"])
def test_a_checkpoint_in_the_released_layout(naming: str, tmp_path: Path) -> None:
    state = seeded().state_dict()
    named = {diffusers_name(key) if naming == "diffusers" else key: x for key, x in state.items()}
    path = tmp_path / "model.safetensors"
    save_file(named, path)
    with torch.device("meta"):
        network = Wan(DIMS, 24)
    load_weights(network, path, ema=False, dtype=torch.bfloat16, device=CPU)
    found = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], x.bfloat16()) for name, x in state.items())


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = seeded().state_dict()
    del state["fps_projection.0.bias"]
    state["fps_embedding.weight"] = torch.zeros(3, DIMS.dim)
    state["img_emb.proj.0.weight"] = torch.zeros(1)
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    network = seeded()
    with pytest.raises(UserError) as caught:
        load_weights(network, path, ema=False, dtype=torch.float32, device=CPU)
    message = str(caught.value)
    assert "1 missing (fps_projection.0.bias)" in message
    assert "1 unexpected (img_emb.proj.0.weight)" in message
    assert f"1 of another shape (fps_embedding.weight [3, {DIMS.dim}])" in message


def test_a_checkpoint_without_frame_rates_is_refused(tmp_path: Path) -> None:
    """That of Wan2.1, which is the same network otherwise."""
    state = {name: x for name, x in seeded().state_dict().items() if name not in TABLE}
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    with pytest.raises(UserError, match=r"5 missing \(fps_embedding\.weight, "):
        load_weights(seeded(), path, ema=False, dtype=torch.float32, device=CPU)
