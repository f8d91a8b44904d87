"""Times and step sizes of MAGI-1, against recordings of the original code."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.sampling.schedule import MagiSchedule

SHAPE = (1, 2, 4, 2, 2)


def unused() -> torch.Tensor:
    raise AssertionError("this solver draws no noise")


def test_times_are_those_of_the_original_to_the_bit(golden: Any) -> None:
    recordings = golden("magi/units.pt")["schedules"]
    assert len(recordings) == 6
    for each in recordings:
        schedule = MagiSchedule(each["num_steps"], True, each["shortcut_mode"])
        recorded = each["t"].tolist()
        assert schedule.times(True) == recorded[:-1]
        if each["num_steps"] == 12:
            paces = [schedule.pace(step) for step in range(12)]
            assert paces == [8 / interval for interval in each["interval"].tolist()]
        else:
            assert schedule.pace(0) == schedule.pace(None) == each["num_steps"] / 2


@pytest.mark.parametrize("num_steps", [8, 12, 16, 20, 32, 64])
def test_three_quarters_of_the_steps_end_just_above_the_bound_of_the_side_pass(
    num_steps: int,
) -> None:
    times = MagiSchedule(num_steps).times(True)
    assert times[3 * num_steps // 4] > 0.3 > times[3 * num_steps // 4 - 1]


def test_a_step_adds_the_flow_times_the_step_length() -> None:
    schedule = MagiSchedule(4)
    solver, x = schedule.solver(True), torch.zeros(SHAPE)
    ends = [*schedule.times(True), 1.0]
    for step in range(4):
        assert solver.time == ends[step] and not solver.finished
        if step == 1:
            solver.skip()
            continue
        x = solver.step(x, torch.ones(SHAPE), unused)
    assert solver.finished
    torch.testing.assert_close(x, torch.full(SHAPE, 1 - (ends[2] - ends[1])))


def test_settings_without_times_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps=1: give 2 steps"):
        MagiSchedule(1)
    with pytest.raises(ValueError, match="choose '8,16,16' or '16,16,8'"):
        MagiSchedule(12, shortcut="8,8,8")  # type: ignore[arg-type]
