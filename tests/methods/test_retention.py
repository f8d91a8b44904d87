"""Policies over whole frames that go by place and age: window, age tiers, ends, spans."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from harness.api import (
    DROP,
    KEEP,
    POOL,
    Budget,
    CacheSpec,
    FramePolicy,
    History,
    Placement,
    Split,
    VideoSize,
)
from methods.retention.age import Age
from methods.retention.ends import Ends
from methods.retention.grade import Grade
from methods.retention.keep import KeepAll
from methods.retention.prune import Prune, SoftPrune
from methods.retention.spans import Spans
from methods.retention.spatial import Foreground
from methods.retention.window import Window

TOKENS = 32
ROOM = VideoSize(TOKENS, 42, frame_bytes=100, bf16_frame_bytes=320)


def spec(**changes) -> CacheSpec:
    base = {"num_layers": 2, "num_heads": 2, "head_dim": 32, "grid": (4, 8), "chunk_frames": 3}
    return CacheSpec(**{**base, **changes})


def window(budget: str, sink: int = 0) -> Window:
    return Window(budget, sink).sized(ROOM)


def history(frames, **more) -> History:
    frames = tuple(frames)
    return History(frames, more.pop("num_frames", frames[-1] + 1), **more)


def ranges(placements: dict[int, Placement]) -> dict[Placement, list[int]]:
    """Frames by placement, ascending."""
    return {
        placement: [f for f in sorted(placements) if placements[f] == placement]
        for placement in set(placements.values())
    }


def note(policy: FramePolicy, draw: torch.Generator) -> torch.Tensor | None:
    """What a policy writes down of a frame of random keys and values."""
    k, v = (torch.randn(1, 2, 1, TOKENS, 4, generator=draw) for _ in "kv")
    notes = policy.observe(k, v)
    return None if notes is None else notes[0]


def grown(
    policy: FramePolicy, num_frames: int, reach: int | None = None, seed: int = 0
) -> list[dict[int, Placement]]:
    """What is stored after every chunk of three frames, as a cache with a window would hold it."""
    draw = torch.Generator().manual_seed(seed)
    stored: dict[int, Placement] = {}
    pooled: set[int] = set()
    states = []
    notes: dict[int, torch.Tensor | None] = {}
    noisy_notes: dict[int, torch.Tensor | None] = {}
    for end in range(3, num_frames + 1, 3):
        size = end if reach is None else min(end, reach)
        stored = {f: t for f, t in stored.items() if f >= end - size}
        pooled = {f for f in pooled if f >= end - size}
        for f in range(end - 3, end):
            notes[f], noisy_notes[f] = note(policy, draw), note(policy, draw)
        frames = (*stored, *range(end - 3, end))
        mass = dict.fromkeys(frames, 1 / len(frames))
        seen = History(frames, size, notes, noisy_notes, dict(stored), mass, num_frames)
        placements = policy.decide(seen)
        assert set(placements) <= set(frames)
        after = {f: placements.get(f, stored.get(f, KEEP)) for f in frames}
        pooled |= {f for f, t in after.items() if t == POOL}
        stored = {f: t for f, t in after.items() if t not in (POOL, DROP)}
        states.append({**stored, **dict.fromkeys(pooled, POOL)})
    return states


def held(state: dict[int, Placement], tier: str) -> int:
    """Frames with a part in a tier."""
    return sum(
        tier in ((t.first, t.rest) if isinstance(t, Split) else (t,)) for t in state.values()
    )


share = st.floats(0, 1)
windows = st.builds(
    lambda n, s: window(f"{n + s} frames", s), st.integers(1, 20), st.integers(0, 5)
)
prunes = st.builds(
    lambda kind, r, i, k, best: kind(recent=r, important=i, keep=k, best=best),
    st.sampled_from([Prune, SoftPrune]),
    *(share, share, share, st.sampled_from([KEEP, "high"])),
)
budgeted = st.builds(
    lambda kind, n, r, i: kind(recent=r, important=i, keep=None, budget=f"{n} frames").sized(ROOM),
    *(st.sampled_from([Prune, SoftPrune]), st.integers(1, 20), share, share),
)
middles = st.one_of(
    st.just(KeepAll()),
    windows,
    st.builds(Age, st.floats(0.01, 1)),
    st.builds(Grade, recent=share, important=share),
    prunes,
    budgeted,
    st.builds(Spans, st.integers(1, 3)),
    st.just(Foreground()),
)
policies = st.one_of(
    middles,
    st.builds(
        lambda inner, s, r: Ends(inner, s, r).sized(ROOM),
        *(middles, st.integers(0, 4), st.integers(1, 7)),
    ),
)


# The same frames are the sink of both.
ONE_SINK = Ends(window("5 frames", 4), sink=4).sized(ROOM)


@example(ONE_SINK, None, 0)
@given(policies, st.sampled_from([None, 9, 20, 21]), st.integers(0, 3))
def test_no_tier_ever_holds_more_than_the_most_it_promised(policy, reach, seed) -> None:
    """Storage of that size is taken once, so one frame more would have no page."""
    for state in grown(policy, 42, reach, seed):
        for tier in (KEEP, POOL, *policy.tiers):
            most = policy.max_frames(tier, reach or 42)
            assert most is None or held(state, tier) <= most, tier
        assert set(state.values()) - {KEEP, POOL} <= set(policy.tiers) or any(
            isinstance(t, Split) for t in state.values()
        )


@example(ONE_SINK, None)
@given(policies, st.sampled_from([None, 21]))
def test_what_was_promised_is_used_but_for_rounding(policy, reach) -> None:
    states = grown(policy, 42, reach)
    for tier in (KEEP, *policy.tiers):
        most = policy.max_frames(tier, reach or 42)
        if reach and isinstance(policy, Ends):
            continue  # a sink that leaves the model's window leaves its pages
        assert most is None or max(held(state, tier) for state in states) >= most - 3, tier


@given(policies)
def test_the_order_in_which_notes_came_means_nothing(policy) -> None:
    draw = torch.Generator().manual_seed(0)
    notes, noisy_notes = ({f: note(policy, draw) for f in range(12)} for _ in "nb")
    mass = {f: 1 / (f + 2) for f in notes}
    straight = History(range(12), 12, notes, noisy_notes, {}, mass, 12)
    turned = {
        name: dict(reversed(getattr(straight, name).items()))
        for name in ("notes", "noisy_notes", "mass")
    }
    placements = policy.decide(straight)
    other = policy.decide(replace(straight, **turned))
    assert sorted(placements) == sorted(other)
    for frame, placement in placements.items():
        if isinstance(placement, Split):
            assert torch.equal(placement.tokens, other[frame].tokens)
        else:
            assert placement == other[frame]


def test_keep_all_changes_nothing() -> None:
    assert KeepAll().decide(history(range(8))) == {}
    assert (KeepAll().max_frames(KEEP, 8), KeepAll().max_frames(DROP, 8)) == (8, 0)


def test_window_keeps_sink_and_newest() -> None:
    assert window("4 frames", 1).decide(history(range(8))) == dict.fromkeys((1, 2, 3, 4), DROP)


@pytest.mark.parametrize(
    ("budget", "frames"),
    [
        ("12 frames", 12),
        ("100 tokens", 3),
        ("4x", 33),  # 42 frames of 320 bytes, a quarter of it, in frames of 100 bytes
        ("0.000001 GiB", 10),
    ],
)
def test_budgets_of_every_unit_become_whole_frames(budget: str, frames: int) -> None:
    assert Window(budget).sized(ROOM).frames == frames == Budget(budget).frames(ROOM)
    assert Window(budget).sized(ROOM).max_frames(KEEP, 42) == frames
    pruned = Prune(keep=None, budget=budget).sized(ROOM)
    assert sum(pruned.counts(42)) == frames


def test_a_window_in_bytes_is_checked_once_sizes_are_known() -> None:
    unsized = Window("0.0000001 GiB")
    unsized.check(spec())
    with pytest.raises(ValueError, match="holds 1 frames, not a sink of 0 and a chunk of 3"):
        unsized.sized(ROOM).check(spec())
    with pytest.raises(ValueError, match="call sized"):
        unsized.decide(history(range(8)))


def test_age_counts_the_frames_there_are() -> None:
    placements = Age(share=0.3).decide(history(range(10)))
    assert ranges(placements) == {KEEP: list(range(7)), "recent": [7, 8, 9]}
    late = Age(share=0.3).decide(history(range(50, 60), num_frames=10))
    assert ranges(late) == {KEEP: list(range(50, 57)), "recent": [57, 58, 59]}


def test_age_never_promotes() -> None:
    states = grown(Age(share=0.4), 42, reach=21)
    for then, now in pairwise(states):
        assert all(now[f] == KEEP for f in now if then.get(f) == KEEP)


def test_age_over_the_capacity_as_published() -> None:
    """30 % of 65520 tokens: recent begins at token 45864, 624 tokens into frame 29."""
    room = VideoSize(1560, 42, 1, 1)
    policy = Age(share=0.3, over="capacity").sized(room)
    placements = policy.decide(history(range(42)))
    assert all(placements[f] == KEEP for f in range(29)) and all(
        placements[f] == "recent" for f in range(30, 42)
    )
    split = placements[29]
    assert isinstance(split, Split) and (split.first, split.rest) == (KEEP, "recent")
    assert torch.equal(split.tokens, torch.arange(624))
    early = policy.decide(history(range(27)))
    assert set(early.values()) == {KEEP}  # nothing is recent before the tenth chunk
    assert policy.max_frames("recent", 42) is None
    with pytest.raises(ValueError, match="call sized"):
        Age(over="capacity").decide(history(range(3)))


def test_tptq_recency_over_the_capacity_begins_at_token_55692() -> None:
    placements = (
        Age(share=0.15, over="capacity").sized(VideoSize(1560, 42, 1, 1)).decide(history(range(42)))
    )
    (frame,) = [f for f, placement in placements.items() if isinstance(placement, Split)]
    assert frame * 1560 + len(placements[frame].tokens) == 55692


def test_ends_keep_two_chunks_exact_the_newest_among_them() -> None:
    states = grown(Ends(KeepAll(), recent=6), 15)
    assert ranges(states[1]) == {"exact": list(range(6))}
    assert ranges(states[-1]) == {KEEP: list(range(9)), "exact": list(range(9, 15))}


def test_ends_leave_the_rest_to_the_inner_policy() -> None:
    """A window of 4 frames between a sink of 2 and 3 recent ones."""
    state = grown(Ends(window("4 frames"), sink=2, recent=3).sized(ROOM), 15)[-1]
    assert ranges(state) == {"exact": [0, 1, 12, 13, 14], KEEP: [8, 9, 10, 11]}


def test_ends_hand_over_frames_as_new() -> None:
    """The inner policy splits a frame when it leaves the exact ones, though it is not new."""
    states = grown(Ends(Foreground(), recent=3), 9)
    assert set(states[0].values()) == {"exact"}
    assert all(isinstance(states[1][f], Split) for f in range(3))
    assert states[2][0] is states[1][0]  # and decides it once


def test_ends_pass_on_what_the_inner_policy_asks() -> None:
    inner = Grade()
    ends = Ends(inner, sink=3)
    assert (ends.observes_noisy, ends.queries) == (True, 0)
    assert ends.tiers == ("exact", "high")
    k = torch.randn(1, 2, 3, 8, 4)
    assert torch.equal(ends.observe(k, k), inner.observe(k, k))
    assert Ends(KeepAll(), sink=1).observes_noisy is False


def test_ends_give_the_places_of_a_lost_sink_away() -> None:
    """Without a window of the model the sink stays, and its pages are not counted twice."""
    ends = Ends(KeepAll(), sink=3, recent=3).sized(ROOM)
    assert ends.max_frames(KEEP, 42) == 36
    assert ends.max_frames(KEEP, 21) == 18
    assert held(grown(ends, 42, reach=21)[-1], KEEP) == 18


def test_spans_wait_until_they_are_complete() -> None:
    states = grown(Spans(span=6), 15)
    assert ranges(states[0]) == {"recent": [0, 1, 2]}
    assert ranges(states[1]) == {KEEP: list(range(6))}
    assert ranges(states[-1]) == {KEEP: list(range(12)), "recent": [12, 13, 14]}
    assert Spans(span=6).max_frames(KEEP, 15) == 12


@pytest.mark.parametrize("changes", [{"window": 21}, {"window": 21, "sink": 3}, {}])
def test_spans_serve_windows_of_whole_spans(changes) -> None:
    Spans(span=3).check(spec(**changes))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Window("2 frames", sink=3).sized(ROOM),
            "Window.sink=3: choose more than the sink",
        ),
        (lambda: window("5 frames", 3).check(spec()), "Window.budget=5 frames.*at least 6 frames"),
        (lambda: Window("5 frames", 3).check(spec()), "Window.budget=5 frames.*at least 6 frames"),
        (lambda: Window("170 tokens", 3).check(spec()), "holds 5 frames"),
        (lambda: Window(sink=-1), "Window.sink=-1: choose a whole number, at least 0"),
        (lambda: Window("twelve"), "budget=twelve: give an amount and a unit"),
        (lambda: Age(share=0), "Age.share=0: choose a share above 0, at most 1"),
        (lambda: Age(share=1.5), "Age.share=1.5: choose a share above 0, at most 1"),
        (lambda: Age(over="all"), "Age.over=all: choose filled or capacity"),
        (lambda: Ends(KeepAll()), "Ends.sink=0 and Ends.recent=0: choose at least one frame"),
        (lambda: Ends(KeepAll(), sink=-1), "Ends.sink=-1: choose a whole number"),
        (lambda: Ends(Ends(KeepAll(), sink=1), sink=1), "give a policy without a tier exact"),
        (lambda: Ends(None, sink=1), "Ends.inner=None: give a FramePolicy"),
        (lambda: Spans(span=0), "Spans.span=0: choose a whole number, at least 1"),
        (
            lambda: Spans(span=6).check(spec(window=21)),
            "Spans.span=6 does not divide the model's chunk_frames=3.*choose 1, 3, or model.window",
        ),
        (lambda: Spans(span=3).check(spec(window=20)), "window=20.*choose 1, or"),
        (lambda: Spans(span=3).check(spec(window=21, sink=1)), "sink=1.*choose 1, or"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
