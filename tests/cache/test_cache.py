"""The cache session against the dense network, and the bytes it says it holds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import POOL, Exact, FramePolicy, History, Method, Placement
from harness.cache.attention.portable import Portable
from harness.cache.positions import Rope, rotate
from harness.cache.session import Session
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.prune import SoftPrune
from methods.retention.window import Window
from tests.support.cache import Dense, Recording
from tests.support.geometry import BF16, CPU, GRID, generate, live_bytes, network, spec, text


def test_bf16_through_the_cache_equals_the_dense_network() -> None:
    """Every pass, against one dense forward over [finished frames at t = 0 | this chunk at t]."""
    net, shape = network(), spec()
    sampler = Recording(net, Schedule(), 3)
    session = Session(shape, BF16, Portable(), 12, CPU)
    kv = text(net)
    noise = SeededNoise(0, (12, 4, 8, 16))
    latents = torch.cat(list(sampler.sample(session, kv, noise, 12, NullObserver())), dim=1)
    with torch.inference_mode():
        for frames, x, t, flow in sampler.passes:
            past = latents[:, : frames.start]
            video = torch.cat([past, x], dim=1)
            times = torch.cat([torch.zeros(past.shape[:2]), t], dim=1)
            dense = net(video, times, kv, Dense(video.shape[1], 3), None)
            torch.testing.assert_close(flow, dense[:, frames.start :], atol=1e-5, rtol=0)


def test_noisy_keys_are_never_stored() -> None:
    net, shape = network(), spec()
    session = Session(shape, BF16, Portable(), 12, CPU)
    sampler = Sampler(net, Schedule(), 3)
    x = torch.randn(1, 3, 4, 8, 16)
    with torch.inference_mode():
        for time in (1000.0, 625.0):
            sampler.flow(x, torch.full((1, 3), time), text(net), session, range(3))
            assert session.stored_bytes == 0
        sampler.flow(x, torch.zeros(1, 3), text(net), session, range(3), "history")
    assert session.stored(0)[0] == [0, 1, 2]


@pytest.mark.parametrize("keys", ["roped", "pre_rope"])
def test_roped_and_unroped_storage_agree(keys: str) -> None:
    latents, _ = generate(BF16)
    other, _ = generate(replace(BF16, keys=keys))
    torch.testing.assert_close(other, latents, atol=1e-5, rtol=0)


def test_relative_positions_equal_absolute_ones_without_a_sink() -> None:
    """Logits depend on differences of positions only; with a sink they must differ."""
    absolute, _ = generate(BF16, window=6)
    for keys in ("roped", "pre_rope"):
        relative, _ = generate(BF16, window=6, positions="relative", keys=keys)
        torch.testing.assert_close(relative, absolute, atol=1e-4, rtol=0)
    sunk, _ = generate(BF16, window=9, sink=3, num_frames=15)
    for keys in ("roped", "pre_rope"):
        moved, _ = generate(BF16, window=9, sink=3, positions="relative", keys=keys, num_frames=15)
        assert (moved - sunk).abs().max() > 1e-2


def test_the_models_window_bounds_what_is_held() -> None:
    _, session = generate(BF16, num_frames=15, window=9, sink=3)
    assert session.stored(0)[0] == [0, 1, 2, 9, 10, 11, 12, 13, 14]
    assert session.stored_bytes == live_bytes(session)


def test_a_window_of_the_method_drops_frames_and_frees_them() -> None:
    _, everything = generate(BF16, num_frames=15)
    method = Method(Exact(), Exact(), Window("6 frames", sink=3))
    latents, session = generate(method, num_frames=15)
    assert session.stored(1)[0] == [0, 1, 2, 12, 13, 14]
    assert live_bytes(session) == session.stored_bytes == everything.stored_bytes * 6 // 15
    assert latents.isfinite().all()


class PoolOld(FramePolicy):
    """Pools every frame but the newest three."""

    def decide(self, history: History) -> dict[int, Placement]:
        return {frame: POOL for frame in history.frames[:-3]}


class Misspelt(FramePolicy):
    """Sends the oldest frame to a tier that the method does not have."""

    def decide(self, history: History) -> dict[int, Placement]:
        return {history.frames[0]: "recnt"}


def test_a_tier_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="frame 0 to tier recnt: the method has keep, pool, drop"):
        generate(Method(Exact(), Exact(), Misspelt()))


def pooled_session(keys: str, shift: int = 0) -> tuple[Session, list[tuple[Tensor, Tensor]]]:
    """A session of two chunks whose first three frames are pooled, and the exact inputs."""
    shape = spec(num_layers=1, keys=keys, window=9 if shift else None, positions="relative")
    session = Session(shape, Method(Exact(), Exact(), PoolOld()), Portable(), 12, CPU)
    generator = torch.Generator().manual_seed(1)
    stored = []
    for start in (0, 3):
        k, v = (torch.randn(1, 2, 96, 32, generator=generator) for _ in range(2))
        plan = session.plan(range(start, start + 3), "history")
        session.attend(0, k, k, v, plan)
        stored.append((k, v))
    return session, stored


@pytest.mark.parametrize("keys", ["roped", "pre_rope"])
def test_a_pooled_frame_draws_the_attention_of_its_tokens(keys: str) -> None:
    """One token with bias log n equals n copies of the mean, to 1e-5."""
    session, [(k0, v0), (k1, v1)] = pooled_session(keys)
    q, k, v = (torch.randn(1, 2, 96, 32, generator=torch.Generator().manual_seed(2)) for _ in "qkv")
    out = session.attend(0, q, k, v, session.plan(range(6, 9), "nothing"))

    rope = Rope(32, GRID, CPU)
    turned = [
        rotate(x, rope.frames(range(start, start + 3)).view().flatten(0, 1))
        for start, x in ((0, k0), (3, k1), (6, k), (6, q))
    ]
    copies = [
        x.unflatten(2, (3, 32)).mean(3, keepdim=True).expand(-1, -1, -1, 32, -1).flatten(2, 3)
        for x in (turned[0], v0)
    ]
    dense = F.scaled_dot_product_attention(
        turned[3],
        torch.cat([copies[0], turned[1], turned[2]], dim=2),
        torch.cat([copies[1], v1, v], dim=2),
    )
    torch.testing.assert_close(out, dense, atol=1e-5, rtol=0)
    assert session.ledger()["pooled"] == 2 * 3 * 2 * 32 * 4


@pytest.mark.parametrize("keys", ["roped", "pre_rope"])
def test_pooled_frames_move_with_relative_positions(keys: str) -> None:
    """Shifting all positions alike changes nothing, also for pooled keys."""
    moved, _ = pooled_session(keys, shift=3)
    still, _ = pooled_session(keys)
    q, k, v = (torch.randn(1, 2, 96, 32, generator=torch.Generator().manual_seed(2)) for _ in "qkv")
    outs = [s.attend(0, q, k, v, s.plan(range(6, 9), "nothing")) for s in (moved, still)]
    torch.testing.assert_close(outs[0], outs[1], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "backend", [Portable(scratch_mib=1e-6), Portable(axis="tokens", tile_tokens=40)]
)
def test_tiles_change_nothing(backend: Portable) -> None:
    method = Method(RTN(), RTN(), SoftPrune())
    together, _ = generate(method)
    apart, session = generate(method, backend=backend)
    assert session.ledger()["scratch"] <= 2 * 12 * 32 * 32 * 4
    torch.testing.assert_close(apart, together, atol=1e-4, rtol=0)


def test_ledger_adds_up_and_names_what_is_held() -> None:
    _, session = generate(Method(RTN(), RTN(), SoftPrune()), num_frames=15)
    ledger = session.ledger()
    assert set(ledger) == {"codes", "scale", "pooled", "notes", "scratch"}
    assert sum(size for name, size in ledger.items() if name != "scratch") == live_bytes(session)
    assert session.peak_bytes >= session.stored_bytes


def test_two_videos_in_a_row_equal_each_alone() -> None:
    """State lives in the session and ends with it."""
    method = Method(RTN(), RTN(), SoftPrune())
    net = network()
    first, _ = generate(method, net=net, seed=1)
    second, _ = generate(method, net=net, seed=2)
    alone, _ = generate(method, net=network(), seed=2)
    assert torch.equal(second, alone)
    assert not torch.equal(first, second)


def test_rtn_int4_in_groups_of_16_is_3_19_times_smaller_than_bf16() -> None:
    """At the true geometry of a frame, 1560 tokens of 12 x 128, and at ours."""
    tiny = {"key": RTN(bits=4, group=16), "value": RTN(bits=4, group=16)}
    _, session = generate(Method(retention=KeepAll(), **tiny), net=network(torch.bfloat16))
    bf16_bytes = session.spec.bf16_frame_bytes * 12
    assert live_bytes(session) * 3.19 <= bf16_bytes

    frame = torch.randn(1, 12, 1, 1560, 128)
    packed = RTN(bits=4, group=16, short_tail=True).encode(frame)
    held = sum(part.untyped_storage().nbytes() for part in packed.parts.values())
    assert held * 3.19 <= frame.numel() * 2
    assert math.isclose(packed.nbytes, held)
