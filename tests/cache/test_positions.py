"""Positions that a network hands in: pairs of halves over part of the channels, learned bands.

Pairs (i, i + R) of one network are adjacent pairs of another whose channels lie in another order.
What is stored exactly cannot tell them apart, so every way in which keys turn on reading must give
the same attention for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import Exact, Method
from harness.api.method import tiers_of
from harness.cache import kernels
from harness.cache.attention.base import Backend
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from harness.cache.attention.staged import Staged
from harness.cache.positions import HalfTurns, Positions, Rope, Table, TokenTurns, Turns
from harness.cache.session import Session
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.prune import SoftPrune
from tests.support.geometry import BF16, CPU, GRID, method_names, method_of, spec

PAIRS = 12  # of 32 channels, 24 turn: 4 pairs each by time, row and column
BANDS = torch.tensor([0.9, 0.31, 0.12, 0.02])
# Where each channel of the adjacent order lies in the order of halves.
ORDER = [*(at for i in range(PAIRS) for at in (i, i + PAIRS)), *range(2 * PAIRS, 32)]
CHANGES: list[dict[str, Any]] = [
    {},
    {"keys": "pre_rope"},
    {"window": 9, "sink": 3, "positions": "relative"},
    {"window": 9, "sink": 3, "positions": "relative", "keys": "pre_rope"},
    {"window": 15, "sink": 3, "positions": "anchored"},
    {"window": 9, "sink": 3, "positions": "relative", "keys": "pre_rope", "sink_rate": 0.25},
]


class Adjacent:
    """Angles of bands times positions, rows and columns counted from the middle of the picture."""

    def __init__(self) -> None:
        sides = [torch.arange(n) - (n - 1) / 2 for n in GRID]
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        self._space = torch.cat([turns(rows.flatten()), turns(columns.flatten())], 1)

    def frames(self, positions: Sequence[int]) -> Table:
        return self._table(Turns(turns(torch.tensor([*positions])), self._space))

    def shifts(self, offsets: Sequence[int]) -> Table:
        return self._table(Turns(turns(torch.tensor([*offsets])), None))

    def tokens(self, times_BHN: Tensor, place_BHN: Tensor | None, farthest: int) -> Table:
        time = turns(torch.arange(-farthest, farthest + 1))
        space = None if place_BHN is None else self._space
        return self._table(TokenTurns(time, times_BHN + farthest, space, place_BHN))

    def _table(self, angles: Turns | TokenTurns) -> Table:
        return angles


class Halves(Adjacent):
    """The same angles, on channels i and i + PAIRS."""

    def _table(self, angles: Turns | TokenTurns) -> Table:
        return HalfTurns(angles, PAIRS)


def turns(positions: Tensor) -> Tensor:
    angles = positions.double()[:, None] * BANDS.double()
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def outputs(
    method: Method, positions: Positions, order: Sequence[int], changes: dict[str, Any], **how: Any
) -> Tensor:
    """What the passes of a video draw, every chunk seen noisy and then stored."""
    shape, num_chunks = spec(num_layers=1, **changes), how.get("num_chunks", 7)
    method.check(shape)
    backend: Backend = how.get("backend", Portable())
    session = Session(shape, method, backend, 3 * num_chunks, CPU, positions)
    draw, found = torch.Generator().manual_seed(0), []
    for start in range(0, 3 * num_chunks, 3):
        q, k, v = torch.randn(3, 1, 2, 96, 32, generator=draw)
        for stores in ("nothing", "history"):
            plan = session.plan(range(start, start + 3), stores)
            found.append(session.attend(0, q[..., order], k[..., order], v, plan))
    return torch.cat(found, 2)


@cache
def exact_names() -> list[str]:
    """Methods that round nothing, of every kind of retention."""
    names = []
    for name in method_names():
        tiers = tiers_of(method_of(name)).values()
        if all(isinstance(x, Exact) for tier in tiers for x in (tier.key, tier.value)):
            names.append(name)
    return names


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_every_retention_turns_keys_as_the_network_says(changes: dict[str, Any]) -> None:
    served = 0
    pooling = Method(Exact(), Exact(), SoftPrune())
    for method in (BF16, pooling, *map(method_of, exact_names())):
        try:
            method.check(spec(num_layers=1, **changes))
        except ValueError:
            continue
        expected = outputs(method, Adjacent(), ORDER, changes)
        found = outputs(method, Halves(), range(32), changes)
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
        served += 1
    assert served >= 3


def test_the_comparison_sees_positions() -> None:
    """Else the test above would pass with keys that never turn."""
    expected = outputs(BF16, Adjacent(), range(32), CHANGES[2])
    found = outputs(BF16, Halves(), range(32), CHANGES[2])
    assert (found - expected).abs().max() > 1e-2


@pytest.mark.parametrize("keys", ["roped", "pre_rope"])
def test_moving_all_frames_alike_changes_nothing(keys: str) -> None:
    still = outputs(BF16, Halves(), range(32), {"window": 9, "keys": keys})
    moved = outputs(BF16, Halves(), range(32), {"window": 9, "positions": "relative", "keys": keys})
    torch.testing.assert_close(moved, still, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [Staged(scratch_mib=1e-6, least_heads=1), Fused()], ids=str)
def test_kernels_leave_turns_that_they_do_not_know_to_torch(backend: Backend) -> None:
    if kernels.missing(CPU):
        pytest.skip(f"{kernels.missing(CPU)}, and TRITON_INTERPRET is not set")
    method = Method(RTN(bits=4), RTN(bits=4), KeepAll(), keys="pre_rope")
    found, oracle = (
        outputs(method, Halves(), range(32), {}, backend=each, num_chunks=2)
        for each in (backend, Reference())
    )
    torch.testing.assert_close(found, oracle, atol=2e-5, rtol=0)


def test_the_positions_of_wan_are_those_that_a_session_takes_without_any() -> None:
    rope = Rope(32, GRID, CPU)
    plain, given = (outputs(BF16, x, range(32), CHANGES[3]) for x in (None, rope))
    assert torch.equal(plain, given)
