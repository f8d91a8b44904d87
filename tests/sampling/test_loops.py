"""Loops beside the chunk loop, and sinks that move or change, on the small network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import DROP, FramePolicy, History, Method, Placement
from harness.cache.attention.portable import Portable
from harness.cache.session import Session, anchored
from harness.sampling.loop import Loop
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.window import Window
from tests.support.geometry import BF16, CPU, GRID, generate, live_bytes, network, spec, text
from tests.support.reuse import AsTheyAre

ANCHORED = {"window": 15, "sink": 3, "positions": "anchored"}
MIXED = {"window": 9, "sink": 3, "positions": "relative", "keys": "pre_rope", "sink_rate": 0.25}
TWO = Schedule(steps=(1000, 500))


class Counted(NullObserver):
    """Passes by phase."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.places: list[tuple[int | None, int | None]] = []

    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Any:
        self.seen.append(name)
        self.places.append((chunk, step))
        return super().phase(name)


def rolled(
    method: Method, num_frames: int, observer: NullObserver | None = None
) -> tuple[Any, Session]:
    net, shape = network(), spec(**ANCHORED)
    method.check(shape)
    session = Session(shape, method, Portable(), num_frames, CPU)
    sampler = Sampler(net, TWO, 3, loop=Loop(offset=1, joint=True))
    noise = SeededNoise(0, (num_frames, 4, 2 * GRID[0], 2 * GRID[1]))
    parts = sampler.sample(session, text(net), noise, num_frames, observer or Counted())
    return list(parts), session


def test_a_rolling_video_comes_chunk_by_chunk_with_its_passes() -> None:
    watcher = Counted()
    parts, session = rolled(BF16, 20, watcher)
    assert [part.shape[1] for part in parts] == [3] * 6 + [2]
    assert all(part.isfinite().all() for part in parts)
    windows = 7 + 2 - 1
    assert watcher.seen == ["denoise", "commit"] * windows
    oldest = [0, 0, 1, 2, 3, 4, 5, 6]
    assert watcher.places[::2] == list(zip(oldest, [0, *[1] * 7], strict=True))
    assert watcher.places[1::2] == [(chunk, None) for chunk in oldest]
    assert Loop(offset=1, joint=True).num_passes(TWO, 20, 3) == 2 * windows
    assert session.stored(0)[0] == [0, 1, 2, *range(8, 20)]
    assert live_bytes(session) == session.stored_bytes


def test_quantized_and_pruned_rolling_history() -> None:
    exact, _ = rolled(BF16, 21)
    coarse, small = rolled(Method(RTN(bits=8), RTN(bits=8), KeepAll()), 21)
    error = (torch.cat(coarse, 1) - torch.cat(exact, 1)).abs().max()
    assert 0 < error < 0.2
    _, pruned = rolled(Method(RTN(bits=8), RTN(bits=8), Window("6 frames", sink=3)), 21)
    assert pruned.stored(0)[0] == [0, 1, 2, 18, 19, 20]
    assert live_bytes(pruned) == pruned.stored_bytes < small.stored_bytes


@pytest.mark.parametrize(
    ("frames", "commit", "lift", "hidden"),
    [
        (range(15), False, 0, range(3, 3)),  # nothing is stored
        (range(3, 18), False, 0, range(3, 3)),  # the sink alone, where it was
        (range(12, 27), False, 6, range(3, 9)),  # sink at 6..8, then 9..11
        (range(33, 36), False, 15, range(3, 18)),  # room for 15 beside a short window
        (range(18, 21), True, 0, range(0)),
        (range(33, 36), True, 0, range(15)),  # the newest 21, no sink among them
    ],
)
def test_where_the_anchor_is(frames: range, commit: bool, lift: int, hidden: range) -> None:
    """A window of 24 held and 21 seen, as published."""
    shape = spec(window=24, sink=3, positions="anchored")
    assert anchored(shape, frames, commit) == (lift, hidden)


def test_a_restarted_history_is_that_of_a_new_video_from_the_overlap() -> None:
    net, shape = network(), spec()
    loop = Loop(frames=6, overlap=3)
    sampler = Sampler(net, TWO, 3, loop=loop)
    watcher = Counted()
    session = Session(shape, BF16, Portable(), 6, CPU)
    noise = SeededNoise(0, (12, 4, 2 * GRID[0], 2 * GRID[1]))
    parts: list[Tensor] = []
    for latents in sampler.sample(session, text(net), noise, 12, watcher, AsTheyAre(parts)):
        parts.append(latents)
    assert len(watcher.seen) == loop.num_passes(TWO, 12, 3) == 4 * 3 + 2
    assert session.stored(0)[0] == [*range(6)]

    anew = Session(shape, BF16, Portable(), 6, CPU)
    fresh = Sampler(net, TWO, 3)
    with torch.inference_mode():
        fresh.flow(parts[2], torch.zeros(1, 3), text(net), anew, range(3), "history")
        again = SeededNoise(0, (12, 4, 2 * GRID[0], 2 * GRID[1]))
        for _ in range(3):  # one draw a chunk before this one
            again.fresh(3)
        solver, last = TWO.solver(first_chunk=False), again.initial(range(9, 12))
        for _ in range(2):
            t = torch.full((1, 3), solver.time)
            flow = fresh.flow(last, t, text(net), anew, range(3, 6))
            last = solver.step(last, flow, lambda: again.fresh(3))
    torch.testing.assert_close(parts[3], last)
    straight, _ = generate(BF16, 12, net)
    assert straight.shape == torch.cat(parts, 1).shape


def test_histories_of_a_long_video() -> None:
    loop = Loop(frames=21, overlap=3)
    assert loop.histories(12) == [12]
    assert loop.histories(21) == [21]
    assert loop.histories(42) == [21, 21, 6]
    with pytest.raises(ValueError, match="more frames than overlap"):
        Loop(frames=3, overlap=3)
    sampler = Sampler(network(), TWO, 3, loop=Loop(frames=7, overlap=3))
    session = Session(spec(), BF16, Portable(), 12, CPU)
    noise = SeededNoise(0, (12, 4, 8, 16))
    with pytest.raises(ValueError, match="multiples of the model's chunk of 3"):
        next(sampler.sample(session, text(network()), noise, 12, NullObserver()))


def mixed(method: Method, num_chunks: int = 5) -> tuple[list[tuple[list[int], Tensor]], Session]:
    """Frames and keys of layer 1 behind every chunk, with a sink that changes."""
    net, shape = network(), spec(**MIXED)
    method.check(shape)
    session = Session(shape, method, Portable(), 3 * num_chunks, CPU)
    noise = SeededNoise(0, (3 * num_chunks, 4, 2 * GRID[0], 2 * GRID[1]))
    found = []
    for _ in Sampler(net, TWO, 3).sample(session, text(net), noise, 3 * num_chunks, NullObserver()):
        frames, keys, _ = session.stored(1)
        found.append((frames, keys.clone()))
        assert session.stored_bytes == live_bytes(session)
    return found, session


def test_the_sink_takes_in_what_leaves() -> None:
    """A quarter of frames 3..5, once they leave."""
    found, _ = mixed(BF16)
    assert [frames for frames, _ in found[2:4]] == [[*range(9)], [0, 1, 2, *range(6, 12)]]
    (_, before), (_, after) = found[2:4]
    expected = 0.75 * before[:, :, :3] + 0.25 * before[:, :, 3:6]
    torch.testing.assert_close(after[:, :, :3], expected)
    torch.testing.assert_close(before[:, :, :3], found[0][1])


def test_the_sink_is_exact_however_coarsely_the_rest_is_stored() -> None:
    (_, exact), *_ = mixed(BF16, 2)[0]
    (_, first), (_, second) = mixed(Method(RTN(bits=2), RTN(bits=2), KeepAll()), 2)[0]
    torch.testing.assert_close(first, exact)
    torch.testing.assert_close(second[:, :, :3], exact)
    assert len(second[:, :, 3:].unique()) < len(exact.unique())


@dataclass(frozen=True)
class DropEverything(FramePolicy):
    """Keeps nothing that it is asked about."""

    def decide(self, history: History) -> dict[int, Placement]:
        assert min(history.frames) >= 3
        return dict.fromkeys(history.frames, DROP)


def test_a_policy_does_not_decide_over_a_sink_that_changes() -> None:
    """And of what it dropped nothing is mixed."""
    found, _ = mixed(replace(BF16, retention=DropEverything()))
    assert [frames for frames, _ in found] == [[0, 1, 2]] * 5
    torch.testing.assert_close(found[-1][1], found[0][1])


@pytest.mark.parametrize("loop", [Loop(), Loop(offset=1), Loop(offset=1, joint=True)], ids=repr)
def test_the_noisy_pass_before_each_commit_is_marked(loop: Loop) -> None:
    passes = list(loop.passes(TWO, 12, 3))
    stored = [i for i, each in enumerate(passes) if each.stores == "history"]
    assert len(stored) == 4
    before = set()
    for i in stored:
        covers = [set(passes[i].frames) <= set(each.frames) for each in passes[:i]]
        before.add(max(at for at, does in enumerate(covers) if does))
    assert {
        i for i, each in enumerate(passes) if each.precedes_commit and i not in stored
    } == before
