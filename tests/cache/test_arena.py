"""Pages: where frames lie, what is freed, and that nothing moves."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import DROP, Exact, FramePolicy, History, Method, Placement
from harness.cache.pages import Arena, Pages
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from tests.support.geometry import generate, live_bytes


def frames(*numbers: int) -> Tensor:
    """Frames [1, 1, F, 2, 4] that are filled with their own number."""
    return torch.stack([torch.full((1, 1, 2, 4), float(n)) for n in numbers], dim=2)


def held(arena: Arena) -> list[float]:
    return [x[..., 0, 0].item() for x in arena.read(arena.frames)[0].unbind(2)]


def test_a_ring_reuses_the_pages_of_what_left() -> None:
    arena = Arena(Exact(), Exact(), capacity=6)
    arena.store([0, 1, 2], frames(0, 1, 2), frames(0, 1, 2))
    place = arena.slabs[0].key.parts["exact"].data_ptr()
    for start in range(3, 30, 3):
        if start >= 6:
            arena.drop(range(start - 6, start - 3))
        new = range(start, start + 3)
        arena.store(new, frames(*new), frames(*new))
    assert held(arena) == [24, 25, 26, 27, 28, 29]
    assert len(arena.slabs) == 1
    assert arena.slabs[0].key.parts["exact"].data_ptr() == place
    ((numbers, pages),) = arena.pages
    assert numbers == (24, 25, 26, 27, 28, 29)
    assert len(pages.runs) <= 2  # a ring wraps once


def test_storage_of_unknown_size_grows_by_chunks_and_shrinks() -> None:
    arena = Arena(Exact(), Exact())
    for start in (0, 3, 6):
        new = range(start, start + 3)
        arena.store(new, frames(*new), frames(*new))
    assert len(arena.slabs) == 3
    arena.drop([3, 4, 5])
    assert len(arena.slabs) == 2
    arena.drop([0])
    arena.store([9, 10], frames(9, 10), frames(9, 10))
    assert sorted(held(arena)) == [1, 2, 6, 7, 8, 9, 10]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_whatever_comes_and_goes_is_read_back(data: st.DataObject) -> None:
    """Any order of chunks and departures, with and without a known size."""
    arena = Arena(Exact(), Exact(), data.draw(st.sampled_from([None, 12])))
    here: list[int] = []
    for start in range(0, 18, 3):
        going = data.draw(st.lists(st.sampled_from(here), unique=True)) if here else []
        going += [f for f in here if f not in going][: max(0, len(here) - len(going) - 9)]
        arena.drop(going)
        here = [f for f in here if f not in going]
        new = list(range(start, start + 3))
        arena.store(new, frames(*new), frames(*new))
        here += new
        assert arena.frames == here
        assert held(arena) == [float(f) for f in here]
        for numbers, pages in arena.pages:
            read = []
            for slots, _ in pages.runs:
                read += pages.key.parts["exact"][0, 0, slots, 0, 0].tolist()
            assert read == [float(f) for f in numbers]


def test_runs_cover_the_slots_in_order() -> None:
    pages = Pages(RTN().encode(frames(0)), RTN().encode(frames(0)), (4, 5, 6, 0, 1, 9))
    assert pages.runs == [
        (slice(4, 7), slice(0, 3)),
        (slice(0, 2), slice(3, 5)),
        (slice(9, 10), slice(5, 6)),
    ]
    assert pages.table.tolist() == [4, 5, 6, 0, 1, 9]


class Unforeseen(FramePolicy):
    """Keeps every third frame, and does not say how many that will be."""

    def decide(self, history: History) -> dict[int, Placement]:
        return {f: DROP for f in history.frames[:-3] if f % 3}


def test_a_policy_that_does_not_say_how_much_it_keeps_still_saves() -> None:
    _, session = generate(Method(RTN(), RTN(), Unforeseen()), num_frames=15)
    _, everything = generate(Method(RTN(), RTN(), KeepAll()), num_frames=15)
    assert session.stored_bytes == live_bytes(session) < 0.7 * everything.stored_bytes
