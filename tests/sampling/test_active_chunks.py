"""Chunks that are denoised while earlier ones are still noisy, and the rows of the step matrix."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.api import Method
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.sampling.loop import Loop
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver, step_rows
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from tests.support.cache import Dense, Recording
from tests.support.geometry import BF16, CPU, live_bytes, network, spec, text

FOUR = Schedule(steps=(1000, 750, 500, 250))


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_a_later_chunk_sees_the_newest_state_of_the_chunks_before_it(offset: int) -> None:
    """Every pass equals one dense pass, without a cache, over all chunks as they are by then."""
    net = network()
    sampler = Recording(net, FOUR, 3, loop=Loop(offset=offset))
    session = Session(spec(), BF16, Portable(), 12, CPU)
    kv, noise = text(net), SeededNoise(0, (12, 4, 8, 16))
    latents = torch.cat(list(sampler.sample(session, kv, noise, 12, NullObserver())), dim=1)
    assert latents.shape[1] == 12
    newest: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by the chunk's first frame
    with torch.inference_mode():
        for frames, x, t, flow in sampler.passes:
            newest[frames.start] = x, t
            seen = [newest[start] for start in sorted(newest) if start <= frames.start]
            video, times = (torch.cat(parts, dim=1) for parts in zip(*seen, strict=True))
            dense = net(video, times, kv, Dense(video.shape[1], 3), None)
            torch.testing.assert_close(flow, dense[:, frames.start :], atol=1e-5, rtol=0)


@pytest.mark.parametrize("bits", [16, 4])
def test_chunks_under_way_are_exact_and_counted_apart(bits: int) -> None:
    method = BF16 if bits == 16 else Method(RTN(bits=bits), RTN(bits=bits), KeepAll())
    net, shape = network(), spec()
    session = Session(shape, method, Portable(), 9, CPU)
    sampler = Sampler(net, FOUR, 3)
    x = torch.randn(1, 3, 4, 8, 16)
    kv = text(net)
    with torch.inference_mode():
        sampler.flow(x, torch.zeros(1, 3), kv, session, range(3), "history")
        stored = session.stored_bytes
        for chunk in (range(3, 6), range(6, 9), range(3, 6)):
            sampler.flow(x, torch.full((1, 3), 500.0), kv, session, chunk, "active")
        tokens = 2 * 3 * shape.tokens_per_frame
        exact = shape.num_layers * 2 * shape.num_heads * shape.head_dim * tokens * 4  # fp32
        assert session.ledger()["active"] == exact
        assert session.stored_bytes == stored == live_bytes(session)
        sampler.flow(x, torch.zeros(1, 3), kv, session, range(3, 6), "history")
        assert session.ledger()["active"] == exact / 2
        sampler.flow(x, torch.zeros(1, 3), kv, session, range(6, 9), "history")
    assert "active" not in session.ledger()
    assert session.stored(0)[0] == [*range(9)]


def test_rows_of_the_step_matrix() -> None:
    assert list(step_rows([2, 2], None)) == [[(0, 0)], [(0, 1)], [(1, 0)], [(1, 1)]]
    assert list(step_rows([2, 2], 5)) == list(step_rows([2, 2], None))
    assert list(step_rows([2, 2, 1], 1)) == [
        [(0, 0)],
        [(0, 1), (1, 0)],
        [(1, 1), (2, 0)],
    ]
    magi = list(step_rows([64] * 10, 16))
    assert len(magi) == 208
    assert max(len(row) for row in magi) == 4


def test_rows_are_those_of_the_original_step_matrices(golden: Any) -> None:
    """Which frames a row updates, in every recorded matrix that covers its whole video."""
    checked = 0
    for matrix in golden("skyreels/schedule.pt")["matrices"]:
        if matrix["base"] < matrix["frames"] or matrix["ar_step"] == 0:
            continue
        size, given = matrix["block"], matrix["pre_ready"] // matrix["block"]
        num_blocks = matrix["frames"] // size - given
        rows = list(step_rows([matrix["steps"]] * num_blocks, matrix["ar_step"]))
        assert len(rows) == len(matrix["update"])
        for row, update in zip(rows, matrix["update"], strict=True):
            blocks = {given + chunk for chunk, _ in row}
            assert update.tolist() == [f // size in blocks for f in range(matrix["frames"])]
        checked += 1
    assert checked >= 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"offset": 0}, "model.loop.offset=0: give 1 row or more"),
        ({"offset": 1.5}, "model.loop.offset=1.5"),
        ({"offset": True}, "model.loop.offset=True"),
        ({"joint": True}, "without an offset only one chunk is under way"),
        ({"overlap": 3}, "more frames than overlap"),
        ({"frames": 3, "overlap": 3}, "more frames than overlap"),
        ({"frames": 6}, "more frames than overlap"),
        ({"frames": 6.0, "overlap": 3}, "give whole numbers"),
    ],
)
def test_contradicting_orders_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Loop(**settings)
