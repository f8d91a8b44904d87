"""Properties of the token policies with a structure of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import rows_at
from methods.retention.tokens.deepforcing import DeepForcing, Participation
from methods.retention.tokens.memrope import MemRoPE
from methods.retention.tokens.tempcache import TempCache
from tests.support.tokens import (
    SIZE,
    WIDTH,
    applied,
    attention,
    draw,
    names,
    room_of,
    shuffled,
    spec_of,
    video,
)

seeds = st.integers(0, 2**31)


# Deep Forcing


def test_participation_is_the_sum_of_products() -> None:
    tokens = draw(6)
    expected = (tokens.query @ tokens.rotated.mT).sum(2)
    torch.testing.assert_close(Participation().score(tokens), expected, rtol=1e-4, atol=1e-3)


def test_deep_forcing_keeps_sink_recent_and_the_best_between() -> None:
    policy = DeepForcing(budget="8 frames", recent=3).sized(room_of())
    assert policy.sink == 4
    for seen, stored in video(policy, 6):
        assert stored.frame.shape[2] <= 8 * SIZE
        newest = seen.num_frames
        for b, h in ((0, 0), (1, 1)):
            frames = stored.frame[b, h].tolist()
            sure = {*range(min(4, newest)), *range(newest - 3, newest)}
            assert all(frames.count(f) == SIZE for f in sure)
            if newest > 8:
                between = (seen.frame >= 4) & (seen.frame < newest - 3)
                score = Participation().score(seen)[b, h][between[b, h]]
                place = (seen.frame * SIZE + seen.place)[b, h][between[b, h]]
                best = set(place[score.argsort(descending=True)[:SIZE]].tolist())
                kept = (stored.frame * SIZE + stored.place)[b, h]
                inner = (stored.frame[b, h] >= 4) & (stored.frame[b, h] < newest - 3)
                assert set(kept[inner].tolist()) == best


def test_deep_forcing_closes_the_gaps_in_time() -> None:
    policy = DeepForcing(budget="8 frames", recent=3).sized(room_of())
    for seen, stored in video(policy, 6):
        newest = seen.num_frames
        times = policy.times(stored.frame, newest)
        if newest <= 8:  # nothing has left, nothing moves
            assert torch.equal(times, stored.frame)
        first = max(0, newest - 8)
        for b, h in ((0, 0), (0, 1), (1, 0)):
            assert times[b, h].unique().tolist() == list(range(first, newest))
            assert times[b, h].bincount().max() == SIZE
            assert (times[b, h].diff() >= 0).all()  # in the order of age
        recent = stored.frame >= newest - 3
        assert torch.equal(times[recent], stored.frame[recent])


def test_deep_forcing_gives_a_frame_in_part_a_time_of_its_own() -> None:
    policy = DeepForcing(budget=f"{8 * SIZE + 2} tokens", recent=3).sized(room_of())
    seen, stored = video(policy, 5)[-1]
    times = policy.times(stored.frame, seen.num_frames)
    sizes = [SIZE] * 5 + [2] + [SIZE] * 3  # sink, the oldest and the newest between, recent
    assert times[1, 0].tolist() == [6 + i for i, size in enumerate(sizes) for _ in range(size)]


def test_deep_forcing_times_do_not_depend_on_the_order_of_tokens() -> None:
    policy = DeepForcing(budget="8 frames", recent=3).sized(room_of())
    stored = video(policy, 5)[-1][1]
    moved, order = shuffled(stored, 3)
    here, there = policy.times(stored.frame, 15), policy.times(moved.frame, 15)
    changed = here.gather(2, order) != there
    between = (moved.frame >= 4) & (moved.frame < 12)
    assert not (changed & ~between).any()  # tokens of one frame may change places between them
    assert torch.equal(here.sort(2).values, there.sort(2).values)


# TempCache


@settings(max_examples=30, deadline=None)
@given(seed=seeds, budget=st.integers(20, 60), gone=st.integers(0, 20), counted=st.booleans())
def test_merging_identical_keys_leaves_attention_as_it_was(
    seed: int, budget: int, gone: int, counted: bool
) -> None:
    """Every place has one key in all frames, values differ: any merge is exact."""
    tokens = draw(11, gone, seed)
    key = torch.randn(2, 2, SIZE, WIDTH, generator=torch.Generator().manual_seed(seed)).double()
    key, value = rows_at(key, tokens.place), tokens.value.double()
    count = tokens.count
    if counted:
        count = torch.randint(1, 5, count.shape, generator=torch.Generator().manual_seed(seed))
    tokens = replace(tokens, key=key, value=value, count=count.float())
    revision = TempCache(budget=f"{budget} tokens").sized(room_of()).revise(tokens)
    stored = applied(tokens, revision)
    assert stored.frame.shape[2] == min(budget, 66 - gone)
    assert torch.equal(stored.count.sum(2), tokens.count.sum(2))
    query = tokens.query.double()
    noisy_notes = attention(query, key, value, tokens.count.double())
    after = attention(query, stored.key, stored.value, stored.count.double())
    torch.testing.assert_close(after, noisy_notes, rtol=0, atol=5e-6)  # means are taken in fp32


@settings(max_examples=30, deadline=None)
@given(seed=seeds, budget=st.integers(20, 60), gone=st.integers(0, 20))
def test_merge_is_the_one_of_a_greedy_loop(seed: int, budget: int, gone: int) -> None:
    tokens = draw([0, 1, 2, 4, 5, 7, 9, 10, 11], gone, seed)
    tokens = replace(tokens, count=torch.randint(1, 4, tokens.count.shape).float())
    stored = applied(tokens, TempCache(budget=f"{budget} tokens").sized(room_of()).revise(tokens))
    num = tokens.frame.shape[2]
    for b, h in ((0, 0), (1, 1)):
        key, value = tokens.key[b, h], tokens.value[b, h]
        pairs = []
        for i in range(num):
            after = [j for j in range(i + 1, num) if tokens.place[b, h, j] == tokens.place[b, h, i]]
            if after:
                cosine = torch.cosine_similarity(key[i], key[after[0]], dim=0).item()
                pairs.append((-cosine, after[0], i))
        cluster = list(range(num))  # of a token: the newest of its cluster
        links = {i: j for _, j, i in sorted(pairs)[: max(0, num - budget)]}
        for i in reversed(range(num)):
            cluster[i] = cluster[links[i]] if i in links else i
        heads = sorted(set(cluster))
        assert len(heads) == min(num, budget)
        assert (stored.frame * SIZE + stored.place)[b, h].tolist() == (
            tokens.frame * SIZE + tokens.place
        )[b, h][heads].tolist()
        for k, head in enumerate(heads):
            members = [i for i in range(num) if cluster[i] == head]
            weight = tokens.count[b, h][members]
            assert stored.count[b, h, k] == weight.sum()
            for x, found in ((key, stored.key), (value, stored.value)):
                mean = (x[members] * weight[:, None]).sum(0) / weight.sum()
                torch.testing.assert_close(found[b, h, k], mean, rtol=1e-5, atol=1e-5)
                if len(members) == 1:
                    assert torch.equal(found[b, h, k], x[head])


@settings(max_examples=30, deadline=None)
@given(seed=seeds, budget=st.integers(20, 40), dead=st.integers(0, 45))
def test_merge_drops_what_is_out_of_reach_and_no_order_matters(
    seed: int, budget: int, dead: int
) -> None:
    tokens = draw(9, seed=seed)
    tokens.count[0, 0, torch.randperm(36)[:dead]] = 0
    policy = TempCache(budget=f"{budget} tokens").sized(room_of())
    revision = policy.revise(tokens)
    assert revision.index.shape[2] == budget and (revision.index.diff(dim=2) > 0).all()
    assert revision.count is not None
    live = int((tokens.count[0, 0] > 0).sum())
    assert (revision.count[0, 0] > 0).sum() == min(live, budget)
    assert revision.count[0, 0].sum() == live  # who is in reach is merged, never dropped
    moved, _ = shuffled(tokens, seed)
    other = policy.revise(moved)
    index = names(moved, other.index).sort(2)
    assert torch.equal(index.values, names(tokens, revision.index))
    for part in ("key", "value"):
        there = rows_at(getattr(other, part), index.indices)
        assert torch.equal(there, getattr(revision, part))


def test_without_enough_pairs_the_oldest_go() -> None:
    tokens = draw(9)
    tokens = replace(tokens, place=torch.arange(54).expand(2, 2, 54))  # no place comes twice
    revision = TempCache(budget="20 tokens").sized(room_of()).revise(tokens)
    assert torch.equal(revision.index, torch.arange(34, 54).expand(2, 2, 20))
    assert revision.key is not None and torch.equal(revision.key, tokens.key[:, :, 34:])


# MemRoPE


@settings(max_examples=10, deadline=None)
@given(seed=seeds, sink=st.integers(0, 3))
def test_memories_are_those_of_a_loop_over_frames(seed: int, sink: int) -> None:
    policy = MemRoPE(budget="9 frames", sink=sink, long=0.25, short=0.5).sized(room_of())
    frames: dict[int, tuple[Tensor, Tensor]] = {}
    memories: list[tuple[Tensor, Tensor]] = []
    gone = sink
    recent = 7 - sink
    for chunk, (seen, stored) in enumerate(video(policy, 7, seed)):
        newest = 3 * chunk + 3
        for f in range(newest - 3, newest):
            at = slice((f - newest) * SIZE, (f - newest + 1) * SIZE or None)
            frames[f] = (seen.key[:, :, at], seen.value[:, :, at])
        if newest <= 9:
            assert torch.equal(stored.frame, seen.frame) and torch.equal(stored.key, seen.key)
            continue
        leaving = range(gone, newest - recent)
        gone = newest - recent
        mean = tuple(torch.stack([frames[f][i] for f in leaving]).mean(0) for i in (0, 1))
        if memories:
            memories = [
                (old[0] * (1 - rate) + mean[0] * rate, old[1] * (1 - rate) + mean[1] * rate)
                for old, rate in zip(memories, (0.25, 0.5), strict=True)
            ]
        else:
            memories = [(mean[0], mean[1])] * 2
        expected = [
            *[frames[f] for f in range(sink)],
            *memories,
            *[frames[f] for f in range(newest - recent, newest)],
        ]
        for i, found in enumerate((stored.key, stored.value)):
            whole = torch.cat([frame[i] for frame in expected], 2)
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
        assert (stored.count == 1).all()
        labels = [*range(sink + 2), *range(newest - recent, newest)]
        assert stored.frame[0, 0].tolist() == [f for f in labels for _ in range(SIZE)]
        times = policy.times(stored.frame, newest)[1, 1]
        assert times.tolist() == [f for f in range(newest - 9, newest) for _ in range(SIZE)]


def test_memories_do_not_depend_on_the_order_of_tokens() -> None:
    policy = MemRoPE(budget="9 frames").sized(room_of())
    seen = video(policy, 5)[-1][0]
    moved, _ = shuffled(seen, 7)
    here, there = applied(seen, policy.revise(seen)), applied(moved, policy.revise(moved))
    index = (there.frame * SIZE + there.place).sort(2).indices
    assert torch.equal(here.key, rows_at(there.key, index))
    assert torch.equal(here.note, there.note.gather(2, index))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DeepForcing(budget="8 frames", sink_share=1), "sink_share=1: choose a share"),
        (lambda: DeepForcing(budget="8 frames", recent=0), "recent=0: choose 1 or more frames"),
        (
            lambda: DeepForcing(budget="8 frames", recent=5).sized(room_of()),
            "choose at least 9 frames",
        ),
        (lambda: TempCache(budget="2 frames").sized(room_of()).check(spec_of()), "at least 3"),
        (lambda: MemRoPE(budget="9 frames", sink=-1), "MemRoPE.sink=-1: choose 0 or more"),
        (lambda: MemRoPE(budget="9 frames", short=2), "MemRoPE.short=2: choose a rate from 0 to 1"),
        (lambda: MemRoPE(budget="7 frames").sized(room_of()).check(spec_of()), "at least 8 frames"),
    ],
)
def test_bad_parameters_say_which_and_what_is_allowed(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=words):
        make()
