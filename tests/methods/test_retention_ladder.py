"""Policies that rank frames: grade, prune, soft prune, and what they rank by."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.api import DROP, KEEP, POOL, History, VideoSize
from methods.retention.grade import Grade
from methods.retention.importance import Drift, Mass, Novelty, Score, ranks
from methods.retention.prune import Prune, SoftPrune
from tests.conftest import SHARED

NEIGHBOUR = Score(Novelty())


def profiles(values) -> dict[int, torch.Tensor]:
    return {frame: torch.tensor([float(value)]) for frame, value in enumerate(values)}


def history(frames, values, num_frames=None, **more) -> History:
    """One head, whose mean activation in each frame is given."""
    return History(tuple(frames), num_frames or len(values), profiles(values), **more)


def at(placements, placement) -> list[int]:
    return [frame for frame in sorted(placements) if placements[frame] == placement]


def test_prune_drops_the_frames_that_bring_nothing_new() -> None:
    """Frame 3 jumps, frame 0 is the first: both stay; still frames 1, 2, 4 and 5 compete."""
    seen = history(range(8), [1, 1, 1, 5, 5, 5, 5, 5])
    placements = Prune(recent=0.25, keep=0.5, score=NEIGHBOUR).decide(seen)
    assert at(placements, DROP) == [1, 2, 4]
    assert at(placements, KEEP) == [0, 3, 5, 6, 7]


def test_soft_prune_pools_what_prune_drops() -> None:
    seen = history(range(8), [1, 1, 1, 5, 5, 5, 5, 5])
    dropped, pooled = Prune(score=NEIGHBOUR).decide(seen), SoftPrune(score=NEIGHBOUR).decide(seen)
    assert at(pooled, POOL) == at(dropped, DROP) != []


def test_frames_that_left_count_towards_the_share() -> None:
    """At 8 frames with 3 gone, the 3 old ones left fill the share: nothing more goes."""
    seen = history([0, 3, 5, 6, 7], [1, 1, 1, 5, 5, 5, 5, 5])
    assert set(Prune().decide(seen).values()) == {KEEP}


def test_drift_compares_a_frame_with_itself_in_the_pass_before() -> None:
    """Frames 1 and 4 moved since; that they differ from their neighbours means nothing."""
    now = [1, 2, 3, 4, 5, 6, 7, 8]
    noisy_notes = profiles([1, 1, 3, 4, 2, 6, 7, 8])
    placements = Prune(keep=0.34).decide(history(range(8), now, noisy_notes=noisy_notes))
    assert at(placements, KEEP) == [1, 4, 6, 7]


def test_a_frame_without_a_pass_before_counts_as_wholly_new() -> None:
    seen = history(range(4), [1, 1, 1, 1], noisy_notes=profiles([1, 1, 1]))
    assert Drift().of(range(4), seen) == [0, 0, 0, 1]
    assert Drift().of(range(4), history(range(4), [1] * 4)) == [1] * 4


def test_novelty_compares_neighbours_dropped_or_not() -> None:
    seen = history([0, 2, 3], [1, 2, 3, 3])
    assert Novelty().of([0, 2, 3], seen) == [1, 0.5, 0]


def test_aligned_at_the_tail_frames_meet_the_one_three_before_as_published() -> None:
    now, noisy_notes = [1, 2, 3, 4, 5, 6], profiles([1, 2, 3])
    change = Drift(align="tail").of(range(6), history(range(6), now, noisy_notes=noisy_notes))
    assert change == [1, 1, 1, 3, 1.5, 1]  # frames 0..2 without a reference, 3 against 0, ...
    same = Drift(align="tail").of(range(6), history(range(6), now, noisy_notes=profiles(now)))
    assert same == [0] * 6  # not grown: each with its own


def test_against_a_zeroed_frame_the_published_ratio_explodes() -> None:
    """An evicted chunk is zero; whatever is compared with it wins."""
    seen = history(range(6), [1] * 6, noisy_notes=profiles([0, 1, 1]))
    assert Drift(align="tail").of([3, 4], seen) == [1e6, 0]
    score = Score(Drift(align="tail"), mix="values").of([3, 4], seen)
    assert score[3] == pytest.approx(7e5) and score[4] == pytest.approx(0.3 * 4 / 5)


def test_values_are_summed_as_they_are_with_recency_from_0_to_1() -> None:
    seen = history(range(5), [1, 1.1, 1.1, 1.1, 1.1])
    score = Score(Novelty(), weight=0.7, mix="values").of(range(5), seen)
    assert [score[f] for f in range(5)] == pytest.approx([0.7, 0.145, 0.15, 0.225, 0.3])


def test_in_ranks_small_drifts_outweigh_age() -> None:
    """Drifts of a few percent: as values recency alone decides, as ranks the weight does."""
    noisy_notes = profiles([1.0] * 8)
    seen = history(range(8), [1.04, 1.03, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], noisy_notes=noisy_notes)
    assert at(Prune(keep=0.34).decide(seen), KEEP)[:2] == [0, 1]
    by_value = Prune(keep=0.34, score=Score(mix="values"))
    assert at(by_value.decide(seen), KEEP)[:2] == [4, 5]


@given(st.lists(st.integers(0, 3).map(float), min_size=2))
def test_ranks_are_shared_by_equals_and_span_0_to_1(values) -> None:
    found = ranks(values)
    assert sum(found) == pytest.approx(len(values) / 2)
    for a, x in zip(values, found, strict=True):
        for b, y in zip(values, found, strict=True):
            assert (a < b) == (x < y)


def test_mass_ranks_by_the_attention_drawn() -> None:
    score = Score(Mass(queries=16))
    policy = SoftPrune(keep=0.34, score=score)
    assert (policy.queries, policy.observes_noisy) == (16, False)
    assert policy.observe(torch.ones(1, 2, 1, 3, 4), torch.ones(1, 2, 1, 3, 4)) is None
    mass = dict(zip(range(8), [0.3, 0.01, 0.2, 0.01, 0.01, 0.01, 0.2, 0.26], strict=True))
    seen = History(range(8), 8, mass=mass)
    assert at(policy.decide(seen), KEEP) == [0, 2, 6, 7]


def test_only_frames_that_compete_are_watched() -> None:
    """Without important frames a graded history goes by age alone: nothing is noted."""
    ones = torch.ones(1, 2, 1, 3, 4)
    by_age = Grade(important=0)
    assert (by_age.observes_noisy, by_age.queries, by_age.observe(ones, ones)) == (False, 0, None)
    assert Grade().observes_noisy and Prune().observes_noisy
    assert not Prune(score=NEIGHBOUR).observes_noisy
    assert at(by_age.decide(History(range(8), 8)), "high") == [6, 7]


def test_a_profile_is_the_mean_magnitude_of_each_head() -> None:
    frame = torch.tensor([1.0, -3.0]).view(1, 2, 1, 1, 1).expand(1, 2, 1, 5, 4)
    k = torch.cat([frame, -2 * frame], 2)
    assert torch.equal(Prune().observe(k, 2 * k), torch.tensor([[3.0, 9.0], [6.0, 18.0]]))


def test_grade_keeps_the_important_in_the_best_tier() -> None:
    noisy_notes = profiles([1, 1, 2, 1, 1, 1, 1, 1])
    placements = Grade(important=0.2).decide(history(range(8), [1] * 8, noisy_notes=noisy_notes))
    assert at(placements, "high") == [2, 6, 7]
    assert at(placements, KEEP) == [0, 1, 3, 4, 5]


def test_what_lost_its_bits_rises_again_only_as_published() -> None:
    """Frame 1 is by far the most important, but lies in KEEP already."""
    noisy_notes = profiles([1, 9, 2, 1, 1, 1, 1, 1])
    tiers = dict.fromkeys((0, 1), KEEP) | dict.fromkeys((2, 3, 4), "high")
    seen = history(range(8), [1] * 8, noisy_notes=noisy_notes, tiers=tiers)
    assert at(Grade().decide(seen), "high") == [2, 6, 7]
    assert at(Grade(promote=True).decide(seen), "high") == [1, 6, 7]


def test_prune_has_three_rungs() -> None:
    noisy_notes = profiles([1, 3, 1, 2, 1, 1, 1, 1])
    policy = Prune(important=0.2, keep=0.34, best="high")
    placements = policy.decide(history(range(8), [1] * 8, noisy_notes=noisy_notes))
    assert at(placements, "high") == [1, 6, 7]
    assert at(placements, KEEP) == [3, 5]
    assert at(placements, DROP) == [0, 2, 4]


def test_retained_frames_compete_by_their_score_whatever_tier_they_are_in() -> None:
    """Frame 1 may not rise, but it stays before frames that matter less."""
    noisy_notes = profiles([1, 9, 1, 2, 1, 1, 1, 1])
    seen = history(range(8), [1] * 8, noisy_notes=noisy_notes, tiers={0: KEEP, 1: KEEP, 2: "high"})
    placements = Prune(important=0.2, keep=0.2, best="high").decide(seen)
    assert at(placements, "high") == [3, 6, 7]
    assert at(placements, KEEP) == [1]
    assert at(placements, DROP) == [0, 2, 4, 5]


def test_a_budget_is_filled_by_the_newest_and_the_best() -> None:
    room = VideoSize(32, 42, 100, 320)
    policy = Prune(keep=None, budget="6 frames", score=NEIGHBOUR).sized(room)
    placements = policy.decide(history(range(9), [1, 1, 1, 5, 5, 5, 5, 5, 5]))
    assert at(placements, KEEP) == [0, 3, 5, 6, 7, 8]
    assert policy.max_frames(KEEP, 42) == 6
    assert at(policy.decide(history(range(3), [1] * 3)), DROP) == []


def test_the_shipped_shares_keep_as_many_frames_as_they_did() -> None:
    """25 % recent and half of the older ones, at every length in chunks of three."""
    for n in range(3, 130, 3):
        recent = max(1, round(0.25 * n))
        assert sum(Prune().counts(n)) == recent + round(0.5 * (n - recent))


@given(
    st.integers(1, 60),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.lists(st.floats(0.1, 2), min_size=1, max_size=5),
    st.integers(0, 29),
)
def test_counts_are_parts_of_the_history(n, recent, important, keep, layers, layer) -> None:
    policy = Prune(recent, important, layers=layers, keep=keep)
    counts = policy.counts(n, layer, 30)
    assert counts.recent >= 1 and min(counts) >= 0 and sum(counts) <= n
    seen = history(range(n), [1] * n, layer=layer, num_layers=30)
    assert len(at(policy.decide(seen), KEEP)) == sum(counts)
    graded = Grade(recent, important, layers=layers)
    assert sum(graded.counts(n, layer, 30)) == n


@given(st.lists(st.integers(0, 2), min_size=12, max_size=12))
def test_ties_are_broken_towards_the_newer_every_time(values) -> None:
    seen = history(range(12), [1] * 12, noisy_notes=profiles([v + 1 for v in values]))
    policy = Prune(score=Score(weight=1.0))
    placements = policy.decide(seen)
    assert placements == policy.decide(replace(seen, frames=list(range(12))))
    drift = Drift().of(range(9), seen)
    for f in at(placements, DROP):
        assert all((drift[g], g) > (drift[f], f) for g in at(placements, KEEP) if g < 9)


def test_factors_of_the_layers_lie_on_straight_lines() -> None:
    ends = Prune(layers=(0.75, 1.25))
    assert [ends.factor(layer, 5) for layer in range(5)] == [0.75, 0.875, 1.0, 1.125, 1.25]
    table = Prune(layers=[0.7, 1.3, 0.9])
    assert [table.factor(layer, 3) for layer in range(3)] == [0.7, 1.3, 0.9]
    assert table.factor(1, 5) == pytest.approx(1.0)
    assert Prune(layers=(0.8,)).factor(7, 30) == 0.8
    assert ends.factor(0, 1) == 0.75
    assert ends.max_frames(KEEP, 42) is None  # layers hold different numbers
    assert Prune(layers=(0.8, 0.8)).max_frames(KEEP, 42) is not None


@pytest.mark.parametrize(
    ("keep", "mean"), [(0.30, 20.4), (0.45, 24.33)], ids=["PRUNE_INT2", "the 0.45 variants"]
)
def test_counts_of_the_published_runs(keep: float, mean: float) -> None:
    """Frames kept at the end of a MovieGen video, mean over layers."""
    path = SHARED / "published" / "flowcache_layer_budgets.csv"
    if not path.is_file():
        pytest.skip(f"published numbers not found: {path}")
    with path.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row["benchmark"] == "moviegen"]
    policy = Prune(important=0.1, keep=keep, layers=[float(row["budget_scale"]) for row in rows])
    kept = [sum(policy.counts(42, layer, len(rows))) for layer in range(len(rows))]
    assert sum(kept) / len(kept) == pytest.approx(mean, abs=0.005)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Prune(keep=1.5), "Prune.keep=1.5: choose a share from 0 to 1"),
        (lambda: SoftPrune(recent=-1), "SoftPrune.recent=-1: choose a share from 0 to 1"),
        (lambda: Prune(recent=float("nan")), "Prune.recent=nan: choose a share"),
        (lambda: Grade(important="all"), "Grade.important=all: choose a share"),
        (lambda: Grade(best=KEEP), "Grade.best=keep: name a tier"),
        (lambda: Prune(best=POOL), "Prune.best=pool: name a tier of the method, or keep"),
        (lambda: Prune(layers=[]), r"Prune.layers=\[\]: give positive factors"),
        (lambda: Prune(layers=[1, 0]), "give positive factors"),
        (lambda: Prune(replan="never"), "Prune.replan=never: choose growth or call"),
        (lambda: Prune(keep=None), "Prune.keep=None and Prune.budget=None: give one of them"),
        (lambda: Prune(budget="6 frames"), "Prune.keep=0.5 and Prune.budget=6 frames: give one"),
        (lambda: Prune(keep=None, budget="six"), "budget=six: give an amount and a unit"),
        (lambda: Score(weight=2), "Score.weight=2: choose a share from 0 to 1"),
        (lambda: Score(mix="sum"), "Score.mix=sum: choose ranks or values"),
        (lambda: Drift(align="head"), "Drift.align=head: choose frame or tail"),
        (lambda: Mass(queries=0), "Mass.queries=0: choose a whole number, at least 1"),
        (
            lambda: Prune(keep=None, budget="6 frames").counts(9),
            "Prune.budget=6 frames: not counted in frames, call sized",
        ),
        (
            lambda: Prune(keep=None, budget="6 tokens").sized(VideoSize(32, 42, 1, 1)),
            "Prune.budget=6 tokens holds no whole frame",
        ),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
