from __future__ import annotations

import pytest
import torch

from harness.api import Fate, History
from methods.retention.prune import Prune, SoftPrune
from methods.retention.window import Window
from tests.geometry import spec


def history(frames, profiles, num_frames=None) -> History:
    notes = {i: torch.tensor([float(p)]) for i, p in enumerate(profiles)}
    return History(tuple(frames), num_frames or len(profiles), notes)


def test_window_keeps_sink_and_newest() -> None:
    fates = Window(frames=4, sink=1).decide(history(range(8), [1] * 8))
    assert fates == {f: Fate.DROP for f in (1, 2, 3, 4)}


def test_prune_drops_the_frames_that_bring_nothing_new() -> None:
    """Frame 3 jumps, frame 0 is the first: both stay; still frames 1, 2, 4 and 5 compete."""
    profiles = [1, 1, 1, 5, 5, 5, 5, 5]
    fates = Prune(recent=0.25, keep=0.5).decide(history(range(8), profiles))
    assert fates == {f: Fate.DROP for f in (1, 2, 4)}


def test_soft_prune_pools_what_prune_drops() -> None:
    profiles = [1, 1, 1, 5, 5, 5, 5, 5]
    dropped = Prune().decide(history(range(8), profiles))
    pooled = SoftPrune().decide(history(range(8), profiles))
    assert list(pooled) == list(dropped)
    assert set(pooled.values()) == {Fate.POOL}


def test_frames_that_left_count_towards_the_budget() -> None:
    """At 8 frames with 3 gone, the 3 old ones left fill the budget: nothing more goes."""
    assert Prune().decide(history([0, 3, 5, 6, 7], [1, 1, 1, 5, 5, 5, 5, 5])) == {}


def test_ties_are_broken_the_same_way_every_time() -> None:
    flat = history(range(12), [2] * 12)
    assert Prune().decide(flat) == Prune().decide(flat)
    assert min(Prune().decide(flat)) == 1  # of equals the oldest goes, but for the first frame


def test_the_first_frame_is_kept_as_a_sink() -> None:
    for num_frames in (6, 12, 42):
        assert 0 not in Prune().decide(history(range(num_frames), [1] * num_frames))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Window(frames=2, sink=3), "more frames than the sink of 3"),
        (lambda: Window(frames=5, sink=3).check(spec()), "choose at least 6"),
        (lambda: Prune(keep=1.5), "Prune.keep=1.5: choose a share from 0 to 1"),
        (lambda: SoftPrune(recent=-1), "SoftPrune.recent=-1"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
