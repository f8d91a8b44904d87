"""Solvers: UniPC against recordings of SkyReels-V2 and its formulas; steps without a flow."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.sampling.schedule import Schedule, UniPCSchedule
from harness.sampling.solver import Solver
from harness.system.errors import UserError

SHAPE = (1, 2, 4, 2, 2)


def unused() -> Tensor:
    raise AssertionError("this solver draws no noise")


def randn(seed: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


def walk(solver: Solver, x: Tensor, skipped: set[int], num_steps: int) -> list[Tensor]:
    """All latents of a walk with fixed flows; a skipped step adds 1 to the latents."""
    found = []
    for i in range(num_steps):
        if i in skipped:
            solver.skip()
            x = x + 1
        else:
            x = solver.step(x, randn(i), unused)
        found.append(x)
    return found


def levels(schedule: UniPCSchedule) -> list[float]:
    """Noise levels as the paper of the schedule states them, and 0 at the end."""
    n, shift = schedule.num_steps, schedule.shift
    u = [0.999 * (1 - k / n) for k in range(n)]
    return [shift * each / (1 + (shift - 1) * each) for each in u] + [0]


def test_states_are_those_of_the_original(golden: Any) -> None:
    recordings = golden("skyreels/schedule.pt")["unipc"]
    assert recordings
    for each in recordings:
        schedule = UniPCSchedule(each["steps"], each["shift"], overwrites=False)
        assert schedule.times(True) == schedule.times(False) == each["timesteps"].tolist()
        assert levels(schedule) == pytest.approx(each["sigmas"].tolist(), abs=1e-6)
        solver, x = schedule.solver(True), each["x_start"][None, None]
        for i, sigma in enumerate(each["sigmas"][:-1]):
            assert solver.time == each["timesteps"][i] and not solver.finished
            v = each["velocity"][i][None, None]
            clean = x - sigma * v
            x = solver.step(x, v, unused)
            torch.testing.assert_close(solver.clean, clean, atol=1e-5, rtol=0)
            torch.testing.assert_close(x[0, 0], each["x_after"][i], atol=1e-5, rtol=0)
        assert solver.finished
        torch.testing.assert_close(x, solver.clean, atol=1e-6, rtol=0)


def test_times_of_skyreels() -> None:
    times = UniPCSchedule().times(first_chunk=True)
    assert (times[:5], times[-4:]) == ([999, 997, 994, 991, 989], [409, 337, 249, 140])


def test_latents_in_bf16_are_stepped_in_fp32() -> None:
    """Only what a step returns is rounded, not the history that it keeps."""
    num_steps, x = 4, randn(9)
    rounded, wide = (UniPCSchedule(num_steps).solver(True) for _ in range(2))
    for i in range(num_steps):
        x, v = x.bfloat16(), randn(i).bfloat16()
        low = rounded.step(x, v, unused)
        high = wide.step(x.float(), v.float(), unused)
        assert low.dtype == rounded.clean.dtype == torch.bfloat16
        assert torch.equal(low, high.bfloat16())
        assert torch.equal(rounded.clean, wide.clean.bfloat16())
        x = low


@pytest.mark.parametrize("skipped", [{0}, {3}, {4, 5}, {0, 1, 6}, {9}])
def test_after_a_skipped_step_the_next_is_of_first_order(skipped: set[int]) -> None:
    num_steps = 10
    schedule = UniPCSchedule(num_steps)
    sigma, solver, start = levels(schedule), schedule.solver(True), randn(99)
    found = [start, *walk(solver, start, skipped, num_steps)]
    assert solver.finished
    for i in range(num_steps):
        if i in skipped:
            assert torch.equal(found[i + 1], found[i] + 1)
        elif i - 1 in skipped:
            x, v = found[i], randn(i)
            euler = x + (sigma[i + 1] - sigma[i]) * v  # of first order UniPC is the Euler step
            torch.testing.assert_close(found[i + 1], euler, atol=1e-5, rtol=1e-5)


def test_a_skipped_step_is_as_a_new_solver_at_the_next() -> None:
    """Nothing before it is remembered: other flows there change no later state."""
    num_steps = 8
    x = randn(50)
    after = []
    for other in (0.0, 7.0):
        solver = UniPCSchedule(num_steps).solver(True)
        for i in range(3):
            solver.step(randn(i) + other, randn(i) * (1 + other), unused)
        solver.skip()
        y, states = x, []
        for i in range(4, num_steps):
            y = solver.step(y, randn(i), unused)
            states.append(y)
        after.append(torch.stack(states))
        assert solver.finished
    assert torch.equal(*after)


def test_renoise_counts_skipped_steps() -> None:
    schedule = Schedule(steps=(1000, 750, 500))
    solver = schedule.solver(False)
    seen = [solver.time]
    x = solver.step(randn(0), randn(1), lambda: randn(2))
    seen.append(solver.time)
    clean = solver.clean
    solver.skip()
    assert solver.clean is clean
    seen.append(solver.time)
    assert seen == schedule.times(False) and not solver.finished
    solver.step(x, randn(3), unused)
    assert solver.finished


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_steps", [0, -1, 2.5, "50", True, None]),
        ("shift", [0, -1, 1e9, float("nan"), "eight", True, None]),
        ("overwrites", ["no", 1, None]),
    ],
)
def test_impossible_settings(name: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=rf"^model\.schedule\.{name}=.*(give|choose) "):
            UniPCSchedule(**{name: value})


@pytest.mark.parametrize(("shift", "most"), [(8.0, 143), (5.0, 250)])
def test_steps_that_begin_with_the_same_time_twice(shift: float, most: int) -> None:
    assert len(set(UniPCSchedule(most, shift).times(True)[:2])) == 2
    for num_steps in (most + 1, most + 40):
        with pytest.raises(ValueError, match=f"num_steps={num_steps} .*at most {most} steps"):
            UniPCSchedule(num_steps, shift)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"UniPC solver needs diffusers.*pip install"):
        UniPCSchedule().solver(True)
