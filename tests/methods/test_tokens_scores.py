"""The scores themselves: every formula against a plain computation of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.flowcache import FlowCache
from methods.retention.tokens.h2o import H2O
from methods.retention.tokens.keydiff import KeyDiff
from methods.retention.tokens.likeness import mean_cosine, newest_twin, unit
from methods.retention.tokens.rkv import RKV
from methods.retention.tokens.scored import Scored
from methods.retention.tokens.scorer import Scorer
from methods.retention.tokens.snapkv import SnapKV
from tests.support.tokens import CHUNK, SIZE, draw, joined, names, room_of

seeds = st.integers(0, 2**31)


def scored(scorer: Scorer, tokens: int) -> Scored:
    return Scored(budget=f"{tokens} tokens", scorer=scorer).sized(room_of())


def kept(policy: Scored, tokens: Tokens) -> Tensor:
    return names(tokens, policy.revise(tokens).index)


@settings(max_examples=25, deadline=None)
@given(seed=seeds, queries=st.sampled_from(["frame", "chunk", 1, 7]), dead=st.integers(0, 10))
def test_mass_is_that_of_dense_attention(seed: int, queries: str | int, dead: int) -> None:
    tokens = draw(7, 3, seed)
    tokens.count[:, :, :dead] = 0
    tokens.count[:, :, dead : dead + 4] = 3.5
    number = {"frame": SIZE, "chunk": CHUNK * SIZE}.get(str(queries), queries)
    assert isinstance(number, int)
    query, key = tokens.query[:, :, -number:].double(), tokens.rotated.double()
    logits = query @ key.mT / key.shape[-1] ** 0.5 + tokens.count.double().log()[:, :, None]
    expected = logits.softmax(-1).mean(2)
    found = SnapKV(queries=queries).mass(tokens)  # type: ignore[arg-type]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-7)
    assert (found[:, :, :dead] == 0).all()


def test_mass_in_blocks_is_the_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = draw(7)
    whole = SnapKV(queries="chunk").mass(tokens)
    monkeypatch.setattr("methods.retention.tokens.attention.MAX_NUMBERS", 5 * tokens.frame.shape[2])
    torch.testing.assert_close(SnapKV(queries="chunk").mass(tokens), whole)


@settings(max_examples=15, deadline=None)
@given(seed=seeds, decay=st.sampled_from([1.0, 0.9, 0.0]))
def test_h2o_accumulates_as_brute_force_does(seed: int, decay: float) -> None:
    """Over a video: the notes that travel with the tokens are the sums of all they drew."""
    policy = scored(H2O(decay=decay), 40)
    video = [draw([0, 1, 2], seed=seed)]
    for chunk in range(1, 5):
        video.append(draw(range(3 * chunk, 3 * chunk + 3), seed=seed + chunk))
    stored: Tokens | None = None
    sums: dict[tuple[int, ...], float] = {}
    for new in video:
        seen = new if stored is None else joined(stored, new)
        logits = new.query[:, :, -SIZE:].double() @ seen.rotated.double().mT / 8**0.5
        mass = logits.softmax(-1).mean(2)
        token = seen.frame * SIZE + seen.place
        fresh = {}
        for b in range(2):
            for h in range(2):
                for i, t in enumerate(token[b, h].tolist()):
                    noisy_notes = sums.get((b, h, t), 0.0)
                    fresh[b, h, t] = decay * noisy_notes + mass[b, h, i].item()
        revision = policy.revise(seen)
        assert revision.note is not None
        sums = {}
        for b in range(2):
            for h in range(2):
                ranked = sorted(token[b, h].tolist(), key=lambda t: (fresh[b, h, t], t))
                kept = sorted(ranked[-40:])
                found = token[b, h][revision.index[b, h]].tolist()
                cut = fresh[b, h, ranked[-40]] if len(ranked) > 40 else 0.0
                for t in set(kept) ^ set(found):  # only what rounding cannot tell apart
                    assert abs(fresh[b, h, t] - cut) < 1e-6
                for t, note in zip(found, revision.note[b, h].tolist(), strict=True):
                    assert note == pytest.approx(fresh[b, h, t], abs=1e-5)
                    sums[b, h, t] = fresh[b, h, t]
        stored = _taken(seen, revision.index, revision.note)


def _taken(tokens: Tokens, index: Tensor, note: Tensor) -> Tokens:
    rows = {
        name: getattr(tokens, name).gather(2, index[..., None].expand(*index.shape, 8))
        for name in ("key", "value", "rotated")
    }
    flat = {name: getattr(tokens, name).gather(2, index) for name in ("frame", "place", "count")}
    return replace(tokens, **rows, **flat, note=note)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, num=st.integers(1, 60), dead=st.integers(0, 20))
def test_linear_redundancy_is_the_quadratic_one(seed: int, num: int, dead: int) -> None:
    random = torch.Generator().manual_seed(seed)
    key = torch.randn(num, 5, generator=random, dtype=torch.float64) + 0.7
    key[num // 2] = 0  # a zero key has no direction, and no own term either
    live = torch.ones(num, dtype=torch.bool)
    live[torch.randperm(num, generator=random)[: min(dead, num - 1)]] = False
    cosines = unit(key) @ unit(key).T * (live[:, None] & live)
    cosines.fill_diagonal_(0)
    expected = cosines.sum(0) / live.sum()
    torch.testing.assert_close(mean_cosine(unit(key), live), expected, rtol=0, atol=1e-14)


@settings(max_examples=50, deadline=None)
@given(seed=seeds, num=st.integers(1, 60), threshold=st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_rkv_likeness_is_the_quadratic_one(seed: int, num: int, threshold: float) -> None:
    random = torch.Generator().manual_seed(seed)
    key = torch.randn(num, 5, generator=random, dtype=torch.float64) + 0.5
    live = torch.rand(num, generator=random) > 0.2
    live[-1] = True
    keys = unit(key) * live[:, None]
    cosines = (keys @ keys.T).fill_diagonal_(0)
    for row in cosines:
        alike = (row > threshold).nonzero()
        if len(alike):
            row[alike[-1]] = 0
    expected = cosines.sum(0) / live.sum()
    found = RKV(threshold=threshold).likeness(key, live)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_twins_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = unit(torch.randn(50, 4, generator=torch.Generator().manual_seed(1)))
    whole = newest_twin(keys, 0.6)
    monkeypatch.setattr("methods.retention.tokens.likeness.ROWS", 7)
    monkeypatch.setattr("methods.retention.tokens.likeness.COLUMNS", 5)
    for one, other in zip(newest_twin(keys, 0.6), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_rkv_spares_the_newest_of_duplicates() -> None:
    key = torch.eye(6)[[0, 1, 2, 0, 0, 3]]
    likeness = RKV().likeness(key, torch.ones(6, dtype=torch.bool))
    assert likeness.argmax() == 0 and likeness[0] > likeness[3] > likeness[4]
    assert likeness[4] == 0


@settings(max_examples=40, deadline=None)
@given(seed=seeds, gone=st.integers(0, 20), dead=st.integers(0, 8))
def test_flowcache_lies_between_snapkv_and_keydiff(seed: int, gone: int, dead: int) -> None:
    tokens = draw(9, gone, seed)
    tokens.count[:, :, :dead] = 0
    important = scored(FlowCache(weight=1), 30), scored(SnapKV(), 30)
    assert torch.equal(kept(important[0], tokens), kept(important[1], tokens))
    score, by_key = FlowCache(weight=0).score(tokens), KeyDiff().score(tokens)
    order = score[:, :, dead:].argsort(dim=2)
    # In the order of one the other rises too, but for what fp32 cannot tell apart.
    assert (by_key[:, :, dead:].gather(2, order).diff(dim=2) > -1e-5).all()


@settings(max_examples=30, deadline=None)
@given(
    seed=seeds,
    normalize=st.sampled_from(["none", "rank", "z"]),
    age=st.sampled_from(["none", "exponential"]),
    scorer=st.sampled_from([FlowCache(weight=0.5), RKV(weight=0.5), SnapKV(), KeyDiff()]),
)
def test_tokens_out_of_reach_move_no_score(
    seed: int, normalize: str, age: str, scorer: Scorer
) -> None:
    """As if they were not there, up to rounding. Pooling is left out: it sees stored neighbours."""
    if isinstance(scorer, FlowCache):
        scorer = replace(scorer, pool=1, normalize=normalize, age=age)  # type: ignore[arg-type]
    elif isinstance(scorer, (RKV, SnapKV)):
        scorer = replace(scorer, pool=1)
    tokens = draw(7, 0, seed)
    tokens.count[:, :, 6:12] = 0  # frame 1: the oldest that is stored stays the oldest
    flat = torch.cat([torch.arange(6), torch.arange(12, 42)]).expand(2, 2, 36)
    without = _taken(tokens, flat, tokens.note.gather(2, flat))
    ranked = isinstance(scorer, FlowCache) and normalize == "rank"
    torch.testing.assert_close(
        scorer.score(tokens).gather(2, flat),
        scorer.score(without),
        rtol=1e-3,
        atol=0.05 if ranked else 1e-5,  # near ties may change ranks, by 1 of 36
    )


def test_rank_and_z_bring_both_terms_to_one_scale() -> None:
    tokens = draw(9)
    for normalize, spread in (("rank", (0.2, 0.35)), ("z", (0.99, 1.01))):
        for weight in (0.0, 1.0):
            scorer = FlowCache(weight=weight, normalize=normalize, pool=1)  # type: ignore[arg-type]
            deviation = scorer.score(tokens).std(2, correction=0)
            assert (deviation > spread[0]).all() and (deviation < spread[1]).all()


def test_pooling_spreads_importance() -> None:
    tokens = draw(6)
    mass, pooled = SnapKV().mass(tokens), SnapKV(pool=3).score(tokens)
    assert torch.equal(pooled[..., 1:-1], mass.unfold(2, 3, 1).amax(3))
