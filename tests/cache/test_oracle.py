"""The cached network against diffusers' own class, which has no cache: no recording is needed.

A block-causal forward over finished frames at t = 0 and the current chunk at t sees what the cached
forward sees, so both must predict the same flow.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.models.wan import Wan, WanDims, init_weights
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from tests.support.geometry import BF16, CPU
from tests.support.oracles import diffusers_skyreels

DIMS = WanDims(
    dim=96, num_layers=3, num_heads=3, ffn_dim=80, latent_channels=4, text_dim=20, freq_dim=32
)
SIZE, CHUNK, NUM_FRAMES = (4, 6), 3, 9
TOLERANCE = 1e-4


class Watching(Sampler):
    """A sampler that keeps x, t and flow of every pass."""

    def evaluate(self, inputs, text_kv, session, each):
        behind, flow = super().evaluate(inputs, text_kv, session, each)
        seen = each.frames, each.stores == "history", inputs.x_BFChw, inputs.t_BF, flow
        self.__dict__.setdefault("passes", []).append(seen)
        return behind, flow


@pytest.fixture(scope="module")
def network() -> Wan:
    made = Wan(DIMS)
    init_weights(made, 0)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def oracle(network: Wan) -> Any:
    """Diffusers' SkyReels-V2 with the same weights; every key is matched."""
    return diffusers_skyreels(network, inject_sample_info=False, num_frame_per_block=CHUNK)


@pytest.fixture(scope="module")
def text() -> Tensor:
    """Rows of a prompt, some of which are padding."""
    rows = torch.randn(1, 8, DIMS.text_dim, generator=torch.Generator().manual_seed(3))
    rows[:, 5:] = 0
    return rows


def passes(network: Wan, text: Tensor) -> list[Any]:
    """All passes of a video of three chunks, through the cache."""
    spec = CacheSpec(
        num_layers=DIMS.num_layers,
        num_heads=DIMS.num_heads,
        head_dim=DIMS.head_dim,
        grid=(SIZE[0] // 2, SIZE[1] // 2),
        chunk_frames=CHUNK,
    )
    sampler = Watching(network, Schedule(), CHUNK)
    session = Session(spec, BF16, Portable(), NUM_FRAMES, CPU)
    noise = SeededNoise(0, (NUM_FRAMES, DIMS.latent_channels, *SIZE))
    list(sampler.sample(session, network.text_kv(text), noise, NUM_FRAMES, NullObserver()))
    found: list[Any] = sampler.__dict__["passes"]
    return found


def uncached(oracle: Any, clean: list[Tensor], x: Tensor, t: Tensor, text: Tensor) -> Tensor:
    """The flow of the last chunk, with the finished ones before it at t = 0."""
    video = torch.cat([*clean, x], dim=1)
    times = torch.cat([torch.zeros(1, video.shape[1] - x.shape[1]), t], dim=1)
    with torch.no_grad():
        flow = oracle(
            hidden_states=video.transpose(1, 2),
            timestep=times,
            encoder_hidden_states=text,
            enable_diffusion_forcing=True,
            return_dict=False,
        )[0]
    last: Tensor = flow.transpose(1, 2)[:, -x.shape[1] :]
    return last


def test_every_pass_of_a_video(network: Wan, oracle: Any, text: Tensor) -> None:
    clean: list[Tensor] = []
    worst = 0.0
    for frames, commit, x, t, flow in passes(network, text):
        assert len(clean) * CHUNK == frames.start
        theirs = uncached(oracle, clean, x, t, text)
        assert flow.abs().max() > 0.1
        worst = max(worst, (flow - theirs).abs().max().item())
        if commit:
            clean.append(x)
    assert len(clean) == 3
    assert worst < TOLERANCE, worst


def test_the_comparison_sees_history(network: Wan, oracle: Any, text: Tensor) -> None:
    """Other finished frames give another flow: else the test above would say nothing of a cache."""
    *_, (_, _, x, t, flow) = passes(network, text)
    other = [torch.zeros_like(x)] * 2
    assert (uncached(oracle, other, x, t, text) - flow).abs().max() > 100 * TOLERANCE


def test_frames_have_times_of_their_own(network: Wan, oracle: Any, text: Tensor) -> None:
    """Mixed times in one pass; fails if every frame were modulated as the first."""
    x = torch.randn(
        1, CHUNK, DIMS.latent_channels, *SIZE, generator=torch.Generator().manual_seed(1)
    )
    spec = CacheSpec(DIMS.num_layers, DIMS.num_heads, DIMS.head_dim, (2, 3), CHUNK)
    sampler = Sampler(network, Schedule(), CHUNK)
    text_kv = network.text_kv(text)

    def flow(t: Tensor) -> Tensor:
        session = Session(spec, BF16, Portable(), CHUNK, CPU)
        with torch.inference_mode():
            return sampler.flow(x, t, text_kv, session, range(CHUNK))

    mixed = torch.tensor([[1000.0, 625.0, 0.0]])
    torch.testing.assert_close(
        flow(mixed), uncached(oracle, [], x, mixed, text), atol=TOLERANCE, rtol=0
    )
    assert (flow(mixed) - flow(torch.full((1, 3), 1000.0))).abs().max() > 100 * TOLERANCE
