"""Properties of every policy that keeps the best-scored tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api import Tokens
from methods.retention.tokens.flowcache import FlowCache
from methods.retention.tokens.h2o import H2O
from methods.retention.tokens.keydiff import KeyDiff
from methods.retention.tokens.order import lexsort
from methods.retention.tokens.rkv import RKV
from methods.retention.tokens.scored import Scored
from methods.retention.tokens.scorer import Scorer
from methods.retention.tokens.snapkv import SnapKV
from tests.support.tokens import SIZE, draw, names, room_of, shuffled, spec_of

Unit = Literal["token", "frame", "chunk"]
UNITS: tuple[Unit, ...] = ("token", "frame", "chunk")
SCORERS: tuple[Scorer, ...] = (
    H2O(),
    H2O(decay=0.5, queries="chunk"),
    SnapKV(queries=5),
    KeyDiff(),
    RKV(weight=0.5),
    FlowCache(),
    FlowCache(normalize="rank", age="exponential"),
    FlowCache(normalize="z", queries="chunk"),
)
seeds = st.integers(0, 2**31)


@dataclass(frozen=True, kw_only=True)
class Fixed(Scorer):
    """Scores of our own."""

    scores: tuple[float, ...]

    def score(self, tokens: Tokens) -> Tensor:
        return torch.tensor(self.scores).expand(tokens.frame.shape).clone()


def scored(
    scorer: Scorer, tokens: int, sink: int = 0, recent: int = 0, by: Unit = "token"
) -> Scored:
    policy = Scored(
        budget=f"{tokens} tokens", scorer=scorer, sink=sink, recent=recent, granularity=by
    )
    return policy.sized(room_of())


@pytest.mark.parametrize("scorer", SCORERS, ids=lambda s: type(s).__name__)
@settings(max_examples=25, deadline=None)
@given(seed=seeds, by=st.sampled_from(UNITS), gone=st.integers(0, 20), budget=st.integers(30, 70))
def test_what_stays_does_not_depend_on_the_order_of_tokens(
    scorer: Scorer, seed: int, by: Unit, gone: int, budget: int
) -> None:
    tokens = replace(
        draw([0, 1, 2, 4, 5, 9, 10, 11, 12], gone, seed),
        note=torch.rand(2, 2, 54 - gone, generator=torch.Generator().manual_seed(seed)),
    )
    moved, _ = shuffled(tokens, seed)
    policy = scored(scorer, budget, sink=1, recent=1, by=by)
    here, there = policy.revise(tokens), policy.revise(moved)
    found = names(moved, there.index).sort(dim=2)
    assert torch.equal(names(tokens, here.index), found.values)
    assert torch.equal(there.index, there.index.sort(dim=2).values)
    if here.note is not None and there.note is not None:
        assert torch.equal(here.note, there.note.gather(2, found.indices))


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    by=st.sampled_from(UNITS),
    sink=st.integers(0, 2),
    recent=st.integers(0, 3),
    budget=st.integers(30, 80),
    dead=st.integers(0, 40),
)
def test_budget_protection_and_reach(
    seed: int, by: Unit, sink: int, recent: int, budget: int, dead: int
) -> None:
    """Never above the budget; the protected stay; what is out of reach goes before all others."""
    tokens = draw([0, 1, 2, 3, 5, 8, 9, 10, 11, 12], seed=seed)
    random = torch.Generator().manual_seed(seed)
    for b, h in ((0, 0), (1, 1)):  # unlike numbers of tokens out of reach in unlike heads
        tokens.count[b, h, torch.randperm(42, generator=random)[:dead]] = 0
    policy = scored(SnapKV(), budget, sink, recent, by)
    index = policy.revise(tokens).index
    assert index.shape == (2, 2, min(budget, 60))
    assert (index.diff(dim=2) > 0).all()
    stays = torch.zeros_like(tokens.count, dtype=torch.bool).scatter_(2, index, True)
    live = tokens.count > 0
    protected = live & ((tokens.frame < sink) | (tokens.frame >= 13 - recent))
    assert stays[protected].all()
    dead_stay, live_go = (stays & ~live).any(2), (~stays & live).any(2)
    assert not (dead_stay & live_go).any()


def test_while_the_budget_holds_all_everything_stays() -> None:
    tokens = draw(5)
    for scorer in (SnapKV(), H2O()):
        revision = scored(scorer, 5 * SIZE).revise(tokens)
        assert torch.equal(revision.index, torch.arange(30).expand(2, 2, 30))
    assert scored(SnapKV(), 30).revise(tokens).note is None
    assert scored(H2O(), 30).revise(tokens).note is not None


def test_ties_keep_the_newer() -> None:
    tokens = draw(6)
    index = scored(Fixed(scores=(1.0,) * 36), 20).revise(tokens).index
    assert torch.equal(index[0, 0], torch.arange(16, 36))
    values = (1.0, 3.0) * 18
    index = scored(Fixed(scores=values), 20).revise(tokens).index
    assert index[1, 1].tolist() == sorted([*range(1, 36, 2), 32, 34])


@pytest.mark.parametrize("by", ["frame", "chunk"])
def test_whole_units_stay_and_the_last_is_filled_by_its_best(by: Unit) -> None:
    """Means decide, not single tokens: frames 1 and 4, the newer chunk."""
    values = torch.zeros(6, SIZE)
    values[2, 0] = values[3, 5] = 5
    values[1], values[4] = 2, 3
    values[0, 2:4] = 1
    policy = scored(Fixed(scores=tuple(values.flatten().tolist())), 20, by=by)
    index = policy.revise(draw(6)).index[0, 0].tolist()
    if (
        by == "frame"
    ):  # then the newest of frames 2 and 3 that are worth 5/6 each: 1 token and 5 more
        assert {*range(6, 12), *range(24, 30), *range(18, 24)} <= set(index)
        assert sorted(set(index) - {*range(6, 12), *range(18, 30)}) == [12, 17]
    else:  # the newer chunk whole, and the two best of the older
        assert index == [11, 12, *range(18, 36)]


def test_tokens_out_of_reach_do_not_weigh_in_the_mean_of_their_frame() -> None:
    """Frame 0 is worth 3 by its one token in reach, more than frames 1 to 5."""
    tokens = draw(6)
    tokens.count[:, :, 1:SIZE] = 0
    scores = (3.0, *[0.0] * 5, *[1.0] * 30)
    index = scored(Fixed(scores=scores), 20, by="frame").revise(tokens).index[0, 0].tolist()
    assert index == [0, *range(17, 36)]


def test_lexsort() -> None:
    first, second = torch.tensor([3, 1, 2, 1]), torch.tensor([0, 1, 0, 0])
    assert lexsort(first, second).tolist() == [3, 2, 0, 1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: H2O(decay=1.5), "H2O.decay=1.5: choose a share from 0 to 1"),
        (lambda: SnapKV(pool=4), "SnapKV.pool=4: choose an odd number"),
        (lambda: SnapKV(queries=0), "SnapKV.queries=0: choose frame, chunk or a positive number"),
        (lambda: RKV(threshold=2), "RKV.threshold=2: choose a number from 0 to 1"),
        (lambda: FlowCache(weight=-1), "FlowCache.weight=-1: choose a share from 0 to 1"),
        (lambda: FlowCache(normalize="no"), "FlowCache.normalize=no: choose none, rank or z"),  # type: ignore[arg-type]
        (lambda: FlowCache(age="no"), "FlowCache.age=no: choose none or exponential"),  # type: ignore[arg-type]
        (lambda: scored(SnapKV(), 50, sink=-1), "Scored.sink=-1: choose 0 or more frames"),
        (lambda: scored(SnapKV(), 50, by="x"), "granularity=x: choose token, frame or chunk"),  # type: ignore[arg-type]
        (lambda: Scored(budget="12", scorer=SnapKV()), "budget=12: give an amount and a unit"),
        (lambda: Scored(budget="9 frames", scorer=3), "Scored.scorer=3: give a Scorer"),  # type: ignore[arg-type]
        (
            lambda: scored(SnapKV(), 29, sink=2, recent=3),
            "budget=29 tokens holds 29 tokens: choose",
        ),
        (lambda: scored(SnapKV(), 29, sink=2).check(spec_of()), "choose at least 5 frames of 6"),
        (lambda: scored(SnapKV(queries=19), 50).check(spec_of()), "a chunk has 18"),
    ],
)
def test_bad_parameters_say_which_and_what_is_allowed(make: object, words: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match="(?s)" + words.replace("(", r"\(")):
        make()


def test_a_budget_is_counted_only_with_the_room() -> None:
    policy = Scored(budget="1.5x", scorer=SnapKV())
    policy.check(spec_of())
    with pytest.raises(RuntimeError, match="sized"):
        policy.revise(draw(6))
    assert policy.sized(room_of(9)).limit == 6 * SIZE
