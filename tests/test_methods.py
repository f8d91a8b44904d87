"""The contract that every file of conf/method must meet; none of them is listed here."""

from __future__ import annotations

import pytest
import torch

from tests.geometry import BF16, generate, live_bytes, method_names, method_of, network

NAMES = method_names()


def test_the_promised_methods_are_there() -> None:
    promised = "bf16 rtn_int8 rtn_int4 rtn_int2 kivi_int4 quarot_int4 window_bf16 sink_window_bf16"
    assert {*promised.split(), "prune_int4", "softprune_int4"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip_keeps_shape_and_dtype(name: str) -> None:
    method = method_of(name)
    x = torch.randn(2, 2, 3, 32, 32, dtype=torch.bfloat16)
    for quantizer in (method.key, method.value):
        back = quantizer.decode(quantizer.encode(x), torch.bfloat16)
        assert back.shape == x.shape and back.dtype == x.dtype
        assert ((back - x).float().norm() / x.float().norm()) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_video_is_repeatable_finite_and_counted_to_the_byte(name: str) -> None:
    net = network(torch.bfloat16)
    latents, session = generate(method_of(name), num_frames=15, net=net)
    again, _ = generate(method_of(name), num_frames=15, net=net)
    assert torch.equal(latents, again)
    assert latents.isfinite().all()
    assert session.stored_bytes == live_bytes(session)
    assert session.nominal_bytes <= session.stored_bytes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [None, 9])
def test_storage_is_taken_once_and_never_outgrown(name: str, window: int | None) -> None:
    """`most_kept` holds: one slab a layer, of exactly that many pages, all of them used."""
    _, session = generate(method_of(name), num_frames=18, window=window)
    kept = session.method.retention.most_kept(window or 18)
    for layer in session._layers:
        (slab,) = layer.full.slabs
        assert slab.key.shape[2] == kept
        assert len(layer.full.places) + len(slab.free) == kept
        assert len(slab.free) <= 3  # rounding: the last chunk may need a page less


@pytest.mark.parametrize("name", NAMES)
def test_the_first_chunk_is_exact(name: str) -> None:
    """No history, no error: whatever a method does, it acts through history alone."""
    net = network()
    latents, _ = generate(method_of(name), net=net)
    reference, _ = generate(BF16, net=net)
    assert torch.equal(latents[:, :3], reference[:, :3])
    if name == "bf16":
        assert torch.equal(latents, reference)
    elif "window" not in name:  # 12 frames fit into the shipped windows
        assert not torch.equal(latents, reference)


@pytest.mark.parametrize("name", NAMES)
def test_works_under_the_models_window_and_sink(name: str) -> None:
    latents, session = generate(
        method_of(name), num_frames=18, window=9, sink=3, positions="relative", keys="unroped"
    )
    assert latents.isfinite().all()
    assert session.num_frames_held <= 9


def test_more_bits_are_closer() -> None:
    net = network()
    reference, _ = generate(BF16, net=net)
    distance = [
        (generate(method_of(name), net=net)[0] - reference).norm().item()
        for name in ("rtn_int8", "rtn_int4", "rtn_int2")
    ]
    assert distance == sorted(distance)
    assert distance[0] > 0
