"""Noise schedule of few-step flow-matching models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

GRID = 1000  # training timesteps
SHIFTS = (0.1, 1000.0)  # allowed range; outside, fp32 rounding moves the ends of the schedule


@dataclass(frozen=True)
class Schedule:
    """Times of a few-step flow-matching sampler.

    steps: the published list, e.g. 1000, 750, 500, 250.
    first_steps: steps of the first chunk, if they differ.
    shift: s = shift * u / (1 + (shift - 1) * u).
    warp: read an entry of `steps` as an index into the shifted schedule; else it is the time.

    Source  Self-Forcing (arXiv 2506.08009): x_t = (1 - s) x0 + s n, v = n - x0.
    Raises  ValueError: an empty list, steps that do not fall from 1000 towards 0, a step between
            the entries of the grid while warp reads it as an index, a shift outside SHIFTS.
    """

    steps: tuple[float, ...] = (1000, 750, 500, 250)
    first_steps: tuple[float, ...] | None = None
    shift: float = 5.0
    warp: bool = True

    def __post_init__(self) -> None:
        """Refuse settings that give no noise levels, or levels that do not fall."""
        if type(self.warp) is not bool:
            raise ValueError(f"model.schedule.warp={self.warp}: choose true or false")
        least, most = SHIFTS
        if not (_is_number(self.shift) and least <= self.shift <= most):  # NaN too
            raise ValueError(
                f"model.schedule.shift={self.shift}: give a number from {least:g} to {most:g}, "
                "published models have 1 to 8"
            )
        for name in ("steps", "first_steps"):
            steps = getattr(self, name)
            if steps is None and name == "first_steps":
                continue
            is_list = isinstance(steps, Sequence) and not isinstance(steps, str)
            numbers = list(steps) if is_list and all(map(_is_number, steps)) else []
            falling = all(a > b for a, b in pairwise(numbers))
            if not numbers or not falling or not all(0 < s <= GRID for s in numbers):
                raise ValueError(
                    f"model.schedule.{name}={list(steps) if is_list else steps}: give falling "
                    f"times in 1..{GRID}, as in [1000,750,500,250]"
                )
            if self.warp and not all(s == int(s) for s in numbers):
                raise ValueError(
                    f"model.schedule.{name}={numbers}: give whole numbers, which warp=true reads "
                    "as places in the schedule, or choose model.schedule.warp=false"
                )
            whole = [int(s) if s == int(s) else s for s in numbers]
            object.__setattr__(self, name, tuple(whole))  # lists come from YAML

    @cached_property
    def _sigmas(self) -> Tensor:
        # Compute in fp32 from the first step, as the original code does: rounding float64 at the
        # end gives other last bits, which a video of many passes amplifies.
        u = torch.linspace(1, 0, GRID + 1)[:-1]
        return self.shift * u / (1 + (self.shift - 1) * u)

    def times(self, first_chunk: bool) -> list[float]:
        """Return the times of a chunk's denoising passes, 0 to 1000."""
        steps = self.first_steps if first_chunk and self.first_steps else self.steps
        if not self.warp:
            return [float(step) for step in steps]
        return [(self._sigmas[GRID - int(step)] * GRID).item() for step in steps]

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level [...] fp32 of the grid entry nearest to each time t [...]."""
        grid = self._sigmas * GRID
        return self._sigmas[(t.cpu().float()[..., None] - grid).abs().argmin(-1)].to(t.device)


def _is_number(value: object) -> bool:
    """Return whether a setting is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
