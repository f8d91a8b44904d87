"""Tiers inside a frame: which positions are foreground."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.api import KEEP, CacheSpec, History, Split
from methods.retention.spatial import (
    FOREGROUND,
    Above,
    AboveOrTop,
    Foreground,
    Motion,
    Top,
    Variance,
)

TOKENS = 20


def seen_by(policy: Foreground, frames: list[torch.Tensor], **more) -> History:
    """A history of frames whose values [T] are the same in all heads and channels."""
    values = torch.stack(frames).view(1, 1, len(frames), -1, 1).expand(1, 2, -1, -1, 4)
    notes = dict(enumerate(policy.observe(values, values)))
    return History(range(len(frames)), len(frames), notes, **more)


def foreground(policy: Foreground, seen: History) -> dict[int, list[int]]:
    placements = policy.decide(seen)
    assert all(isinstance(placement, Split) for placement in placements.values())
    assert {(placement.first, placement.rest) for placement in placements.values()} <= {
        (FOREGROUND, KEEP)
    }
    return {frame: placement.tokens.tolist() for frame, placement in placements.items()}


def moving(*places: int) -> list[torch.Tensor]:
    """Frames of ones in which a bright dot lies at these places."""
    frames = torch.ones(len(places), TOKENS)
    for frame, place in enumerate(places):
        frames[frame, place] = 3.0
    return list(frames)


def test_what_moves_is_foreground_in_its_own_frame() -> None:
    """Where the dot is and where it was, frame by frame; the first frame looks ahead."""
    policy = Foreground(choice=Top(0.1))
    assert foreground(policy, seen_by(policy, moving(2, 5, 9))) == {0: [2, 5], 1: [2, 5], 2: [5, 9]}


def test_what_is_bright_but_still_is_background() -> None:
    frames = moving(2, 5)
    for frame in frames:
        frame[15] = 100.0
    motion = Foreground(choice=Top(0.1))
    assert foreground(motion, seen_by(motion, frames))[1] == [2, 5]
    published = Foreground(Variance(over="capacity"), Top(0.05))
    seen = seen_by(published, frames, capacity=12)
    assert foreground(published, seen)[1] == [15]


def test_a_frame_is_decided_once() -> None:
    policy = Foreground(choice=Top(0.1))
    frames = moving(2, 5, 9)
    first = policy.decide(seen_by(policy, frames[:2]))
    later = replace(seen_by(policy, frames), tiers=dict(first))
    assert list(policy.decide(later)) == [2]
    again = Foreground(choice=Top(0.1), frozen=False)
    assert list(again.decide(later)) == [0, 1, 2]


def test_the_frame_before_counts_though_it_has_left() -> None:
    policy = Foreground(choice=Top(0.1))
    seen = seen_by(policy, moving(2, 5, 9))
    assert foreground(policy, replace(seen, frames=(2,))) == {2: [5, 9]}


def test_a_lone_first_frame_is_sampled_evenly() -> None:
    policy = Foreground(choice=Top(0.25))
    (chosen,) = foreground(policy, seen_by(policy, moving(2))).values()
    gaps = [b - a for a, b in zip(chosen, [*chosen[1:], chosen[0] + TOKENS], strict=True)]
    assert len(chosen) == 5 and max(gaps) <= 6


def test_heads_count_alike_whatever_their_size() -> None:
    """A head a thousand times as large moves at 3, another at 7: both matter the same."""
    v = torch.ones(2, 1, 2, TOKENS, 4)
    v[:, :, 0] *= 1000
    v[1, :, 0, 3] *= 1.5
    v[1, :, 1, 7] *= 1.5
    notes = dict(enumerate(Motion().observe(v.movedim(0, 2))))
    assert notes[0].shape == (2, TOKENS) and notes[0].dtype == torch.float16
    score = Motion().of(1, History((0, 1), 2, notes)).tolist()
    assert score[3] == pytest.approx(score[7], rel=0.01) and score[3] > 0.2


def test_variance_is_one_mask_for_all_frames() -> None:
    policy = Foreground(Variance(), Top(0.15), frozen=False)
    chosen = foreground(policy, seen_by(policy, moving(2, 5, 9)))
    assert chosen == {frame: [2, 5, 9] for frame in range(3)}


def test_frames_that_are_not_there_yet_count_as_zeros_as_published() -> None:
    """Two frames of ones in a capacity of eight: the variance is that of 1 1 0 0 0 0 0 0."""
    policy = Foreground(Variance(over="capacity"))
    seen = seen_by(policy, [torch.ones(TOKENS)] * 2, capacity=8)
    assert policy.saliency.of(0, seen).tolist() == pytest.approx([0.1875] * TOKENS)
    assert Variance().of(0, seen).tolist() == [0] * TOKENS


@given(st.floats(0.05, 0.95), st.lists(st.integers(0, 3), min_size=TOKENS, max_size=TOKENS))
def test_a_share_is_exact_and_ties_go_to_the_lower_position(share, steps) -> None:
    policy = Foreground(choice=Top(share))
    frames = [torch.ones(TOKENS), 1 + torch.tensor(steps).float()]
    chosen = foreground(policy, seen_by(policy, frames))
    count = round(share * TOKENS)
    best = sorted(range(TOKENS), key=lambda t: (-steps[t], t))[:count]
    assert chosen == {0: sorted(best), 1: sorted(best)}
    assert policy.max_frames(FOREGROUND, 7) == policy.max_frames(KEEP, 7) == 7


@pytest.mark.parametrize(
    ("num_above", "bounded", "hybrid"),
    [(2, 9, 13), (9, 9, 9), (14, 14, 14), (17, 17, 17), (19, 17, 13)],
)
def test_thresholds_are_bounded_or_replaced_by_a_share(num_above, bounded, hybrid) -> None:
    """Shares 0.45, 0.85 and 0.65 of 20 positions: 9, 17 and 13."""
    score = torch.zeros(TOKENS)
    score[:num_above] = 0.03
    assert Above().count(score) == bounded
    assert AboveOrTop().count(score) == hybrid
    assert Foreground(choice=Above()).max_frames(KEEP, 7) is None  # frames differ in size


def test_counts_of_the_published_shares_at_1560_positions() -> None:
    score = torch.zeros(1560)
    assert [Top(share).count(score) for share in (0.65, 0.8)] == [1014, 1248]
    assert Above(least=0.45).count(score) == 702
    assert Above(most=0.85).count(score + 1) == 1326


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Top(0), "Top.share=0: choose a share above 0, at most 1"),
        (lambda: Above(least=2), "Above.least=2: choose a share from 0 to 1"),
        (lambda: Above(least=0.9), "Above.least=0.9: choose at most Above.most=0.85"),
        (lambda: AboveOrTop(share=-1), "AboveOrTop.share=-1: choose a share"),
        (lambda: Variance(over="time"), "Variance.over=time: choose filled or capacity"),
        (lambda: Foreground(saliency=None), "Foreground.saliency=None: give a Saliency"),
        (
            lambda: Foreground(choice=Top(0.01)).check(CacheSpec(2, 2, 32, (4, 5), 3)),
            "takes none or all of the 20 positions",
        ),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
