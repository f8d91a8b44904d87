from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.models.preset import VideoModel
from harness.models.wan import Wan, WanDims
from harness.sampling.loop import Loop
from harness.sampling.noise import SeededNoise
from harness.sampling.schedule import Schedule
from tests.support.geometry import configured


def test_published_times() -> None:
    assert Schedule().times(True) == pytest.approx([1000, 937.5, 833.3333, 625], abs=1e-3)
    rolling = Schedule(steps=(1000, 800, 600, 400, 200))
    expected = [1000, 952.381, 882.353, 769.231, 555.556]
    assert rolling.times(False) == pytest.approx(expected, abs=1e-3)
    causvid = Schedule(steps=(1000, 757, 522), shift=8, warp=False)
    assert causvid.times(False) == [1000, 757, 522]


def test_sigma_is_that_of_the_nearest_grid_entry() -> None:
    sigma = Schedule().sigma(torch.tensor([0.0, 1000.0, 625.0]))
    assert sigma.tolist() == pytest.approx([0.00498, 1.0, 0.625], abs=1e-4)


def test_passes_are_counted_with_commits() -> None:
    assert Loop().num_passes(Schedule(), 42, 3) == 70
    two = Schedule(steps=(1000, 500), first_steps=(1000, 750, 500, 250))
    assert Loop().num_passes(two, 12, 3) == 14


@pytest.mark.parametrize("steps", [(), (500, 750), (1001,), (0,)])
def test_impossible_step_lists(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"falling times in 1\.\.1000"):
        Schedule(steps=steps)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("shift", [0, -1, -0.0, 1e-9, 1e9, math.nan, math.inf, -math.inf, "five", True, None]),
        ("warp", ["no", 1, None]),
        ("steps", [5, "1000", None, [math.nan], [math.inf, 500], [1000, math.nan], [1000, 1000]]),
        ("steps", [[1000, -5], [1000.5], ["a"], [True], [1000, None], [750.5, 500]]),
        ("first_steps", [[], [0], [500, 600], [math.nan], 7]),
    ],
)
def test_settings_that_give_no_noise_levels_are_refused(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^model\.schedule\.{name}=.*(give|choose) "):
            Schedule(**{name: value})


@pytest.mark.parametrize("shift", [0.1, 0.5, 1, 5.0, 8, 17, 1000])
def test_noise_levels_fall_from_one_wherever_the_shift_is_allowed(shift: float) -> None:
    levels = Schedule(shift=shift)._sigmas
    assert levels.dtype == torch.float32
    assert levels[0].item() == pytest.approx(1)
    assert (levels.diff() < 0).all()
    assert (levels > 0).all()
    assert all(math.isfinite(time) for time in Schedule(shift=shift).times(True))


def test_times_between_the_grid_are_taken_as_they_are() -> None:
    assert Schedule(steps=[999.5, 300.25], warp=False).times(True) == [999.5, 300.25]
    assert Schedule(steps=[1000.0, 500.0]).steps == (1000, 500)


def test_noise_depends_on_the_seed_alone() -> None:
    """Neither on what was drawn before nor on how the video is cut into chunks."""
    torch.manual_seed(1)
    a = SeededNoise(5, (6, 4, 2, 2))
    torch.randn(10)
    b = SeededNoise(5, (6, 4, 2, 2))
    assert torch.equal(
        a.initial(range(6)), torch.cat([b.initial(range(3)), b.initial(range(3, 6))], 1)
    )
    assert torch.equal(a.fresh(3), b.fresh(3))
    assert not torch.equal(a.fresh(3), SeededNoise(6, (6, 4, 2, 2)).fresh(3))


def test_self_forcing_has_the_published_size() -> None:
    model: VideoModel = instantiate(configured("model=self_forcing")["model"])
    with torch.device("meta"):
        network = Wan(model.dims)
    state = network.state_dict()
    assert sum(tensor.numel() for tensor in state.values()) == 1_418_996_800
    assert len(state) == 825
    assert model.dims == WanDims()
    assert model.spec.bf16_frame_bytes == 287_539_200
    assert model.spec.tokens_per_frame == 1560


def test_the_small_model_is_small_and_the_same_class() -> None:
    model: VideoModel = instantiate(configured("model=small")["model"])
    with torch.device("meta"):
        network = Wan(model.dims)
    assert sum(p.numel() for p in network.parameters()) < 12_000_000


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.window=2"], "choose at least 3"),
        (["model.weights=learned"], "choose bundled, checkpoint, seeded, random"),
        (["model.dtype=int4"], "choose bfloat16"),
        (["model.positions=polar"], "choose absolute, relative"),
        (["model.dims.dim=322"], "does not split into 5 heads"),
    ],
)
def test_impossible_models(overrides: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        instantiate(configured(*overrides)["model"])
