"""Noise schedules: the times of a chunk's denoising passes, and the solver between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Literal, Protocol, TypeGuard, get_args

import numpy as np
import torch
from torch import Tensor

from harness.sampling.solver import Euler, Renoise, Solver, UniPC

GRID = 1000  # training timesteps
Shortcut = Literal["8,16,16", "16,16,8"]
_SHORTCUT_STEPS = 12  # with this number of steps, MAGI-1's steps have unequal lengths
SHIFTS = (0.1, 1000.0)  # allowed range; outside, fp32 rounding moves the ends of the schedule


class NoiseSchedule(Protocol):
    """The denoising steps of a chunk: `model.schedule` of a preset. Stateless."""

    @property
    def shift(self) -> float:
        """Shift of the noise levels towards noise."""

    @property
    def steps_text(self) -> str:
        """The steps in a few words, for tables."""

    @property
    def preset(self) -> str:
        """All settings in one line, which is printed with every result."""

    @property
    def clean_time(self) -> float:
        """Time of a commit pass, which shows a finished chunk, as the network takes it."""

    def times(self, first_chunk: bool) -> list[float]:
        """Return the times of a chunk's denoising passes, as the network takes them."""

    def pace(self, step: int | None) -> float | None:
        """Return the step size that the network takes besides the time, or None.

        step: step of a chunk, from 0; None for a commit pass.
        """

    def solver(self, first_chunk: bool) -> Solver:
        """Return a solver at the first step of a chunk."""


# MAGI-1's times rise from 0 to 1; those of all other networks fall.
class FlowTimes:
    """Base of schedules whose time falls from 1000 (noise) to 0 (clean latents)."""

    clean_time: ClassVar[float] = 0.0

    def pace(self, step: int | None) -> None:
        """Return None: these networks take the time alone."""


@dataclass(frozen=True)
class Schedule(FlowTimes):
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
        if type(self.warp) is not bool:
            raise ValueError(f"model.schedule.warp={self.warp}: choose true or false")
        _demand_shift(self.shift)
        for name in ("steps", "first_steps"):
            steps = getattr(self, name)
            if steps is None and name == "first_steps":
                continue
            is_list = isinstance(steps, Sequence) and not isinstance(steps, str)
            numbers = list(steps) if is_list and all(map(is_number, steps)) else []
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
            # 1000.0 and 1000 are one step: rows and messages show one of them.
            whole = [int(s) if s == int(s) else s for s in numbers]
            object.__setattr__(self, name, tuple(whole))  # lists come from YAML

    @property
    def steps_text(self) -> str:
        """The steps in a few words, for tables."""
        first = f", first {_joined(self.first_steps)}" if self.first_steps else ""
        return f"{_joined(self.steps)}{first}{'' if self.warp else ' unwarped'}"

    @property
    def preset(self) -> str:
        """All settings in one line."""
        first = f" first={self.first_steps}" if self.first_steps else ""
        return f"steps={_joined(self.steps)}{first} shift={self.shift:g} warp={self.warp}"

    def solver(self, first_chunk: bool) -> Renoise:
        """Return a solver at the first step of a chunk."""
        times = self.times(first_chunk)
        return Renoise(times, [self.sigma(torch.tensor(time)) for time in times])

    @cached_property
    def _sigmas(self) -> Tensor:
        # Compute in fp32 from the first step, as the original code does: rounding float64 at the
        # end gives other last bits, which a video of many passes amplifies.
        u = torch.linspace(1, 0, GRID + 1)[:-1]
        return self.shift * u / (1 + (self.shift - 1) * u)

    def times(self, first_chunk: bool) -> list[float]:
        """Return the times of a chunk's denoising passes, 0 to 1000."""
        steps = self.first_steps if first_chunk and self.first_steps else self.steps
        # CausVid's list holds times, those of the others places in the shifted schedule.
        if not self.warp:
            return [float(step) for step in steps]
        return [(self._sigmas[GRID - int(step)] * GRID).item() for step in steps]

    def sigma(self, t: Tensor) -> Tensor:
        """Return the noise level [...] fp32 of the grid entry nearest to each time t [...]."""
        # A list that is used unwarped has times between the grid's.
        grid = self._sigmas * GRID
        return self._sigmas[(t.cpu().float()[..., None] - grid).abs().argmin(-1)].to(t.device)


@dataclass(frozen=True)
class UniPCSchedule(FlowTimes):
    """Times of a sampler of many steps, with a `UniPC` solver: that of SkyReels-V2.

    num_steps: denoising steps. shift: as in `Schedule`.
    overwrites: whether the corrector of the second step starts from the latents after the first
        step instead of those before it. The released pipelines of SkyReels-V2 overwrite the latents
        that their scheduler still refers to, which comes to this.

    Source  SkyReels-V2 (arXiv 2504.13074), its released code: u = 0.999 (1 - k / num_steps),
            sigma = shift u / (1 + (shift - 1) u), time = floor(1000 sigma).
    Raises  ValueError: steps that are no whole number from 1; so many that the first two times are
            equal, as the released code then starts at the second level; a shift outside SHIFTS.
    """

    num_steps: int = 50
    shift: float = 8.0
    overwrites: bool = True

    def __post_init__(self) -> None:
        _demand_shift(self.shift)
        if type(self.num_steps) is not int or self.num_steps < 1:
            raise ValueError(f"model.schedule.num_steps={self.num_steps}: give 1 step or more")
        if type(self.overwrites) is not bool:
            raise ValueError(f"model.schedule.overwrites={self.overwrites}: choose true or false")
        # The solver finds its place by the time, so it would start at the second level. With many
        # steps and a large shift, neighbouring times are equal after the fraction is cut off.
        if self.num_steps > 1 and len(set(self.times(True)[:2])) == 1:
            fits = self.num_steps
            while int(self._sigmas(fits)[1] * GRID) == int(self._sigmas(fits)[0] * GRID):
                fits -= 1
            raise ValueError(
                f"model.schedule.num_steps={self.num_steps} gives the first two passes the same "
                f"time at shift={self.shift:g}: choose at most {fits} steps"
            )

    @property
    def steps_text(self) -> str:
        """The steps in a few words, for tables."""
        return f"{self.num_steps} UniPC"

    @property
    def preset(self) -> str:
        """All settings in one line."""
        kept = "" if self.overwrites else " overwrites=False"
        return f"steps={self.num_steps} solver=UniPC shift={self.shift:g}{kept}"

    def times(self, first_chunk: bool) -> list[float]:
        """Return the times of a chunk's denoising passes, whole numbers from 0 to 999."""
        # Cut off the fraction, as diffusers does before it gives the time to the network.
        return [float(int(sigma * GRID)) for sigma in self._sigmas(self.num_steps)]

    def solver(self, first_chunk: bool) -> UniPC:
        """Return a solver at the first step of a chunk."""
        return UniPC(self.num_steps, self.shift, self.overwrites)

    def _sigmas(self, num_steps: int) -> list[float]:
        # In float64, unlike the other schedules: `UniPC` gives diffusers the same levels.
        u = np.linspace(0.999, 0, num_steps + 1)[:-1]
        sigmas: list[float] = (self.shift * u / (1 + (self.shift - 1) * u)).tolist()
        return sigmas


@dataclass(frozen=True)
class MagiSchedule:
    """Times of MAGI-1's sampler, which rise from 0, noise, to 1, clean latents.

    num_steps: denoising steps.
    shortcut: with 12 steps, the lengths of the three steps of each quarter: `8,16,16` for an eighth
        and two sixteenths of the whole, `16,16,8` for the reverse order.
    distilled: whether the network was distilled and takes the step size as an input.

    Source  MAGI-1 (arXiv 2505.13211), its released code: u = (k / num_steps)^2,
            t = (u / 3) / (1 - 2 u / 3), in fp32. With 12 steps k / num_steps is not uniform.
    Raises  ValueError: steps that are no whole number from 2; an unknown word.
    """

    num_steps: int = 64
    distilled: bool = False
    shortcut: Shortcut = "8,16,16"
    clean_time: ClassVar[float] = 0.9999  # not 1, as in the released code

    def __post_init__(self) -> None:
        if type(self.num_steps) is not int or self.num_steps < 2:
            raise ValueError(f"model.schedule.num_steps={self.num_steps}: give 2 steps or more")
        if type(self.distilled) is not bool:
            raise ValueError(f"model.schedule.distilled={self.distilled}: choose true or false")
        if self.shortcut not in get_args(Shortcut):
            allowed = " or ".join(f"'{word}'" for word in get_args(Shortcut))
            raise ValueError(f"model.schedule.shortcut={self.shortcut}: choose {allowed}")

    @property
    def shift(self) -> float:
        """Shift of the noise levels towards noise, behind the square."""
        return 3.0

    @property
    def steps_text(self) -> str:
        """The steps in a few words, for tables."""
        return f"{self.num_steps} Euler"

    @property
    def preset(self) -> str:
        """All settings in one line."""
        layout = f" shortcut={self.shortcut}" if self.num_steps == _SHORTCUT_STEPS else ""
        return f"steps={self.num_steps} solver=Euler distilled={self.distilled}{layout}"

    def times(self, first_chunk: bool) -> list[float]:
        """Return the times of a chunk's denoising passes, 0 to below 1; all are fp32 numbers."""
        return self._grid()[:-1]

    def pace(self, step: int | None) -> float | None:
        """Return half the number of steps that a chunk would have if all were as long as this one.

        None for a network that is not distilled. A commit pass counts as the first step of a stage.
        """
        # Other networks have no input for it.
        if not self.distilled:
            return None
        if self.num_steps != _SHORTCUT_STEPS:
            return self.num_steps / 2
        # Sixteenths of the whole that each of the three steps takes.
        intervals = (2, 1, 1) if self.shortcut == "8,16,16" else (1, 1, 2)
        return 8 / intervals[(step or 0) % 3]

    def solver(self, first_chunk: bool) -> Euler:
        """Return a solver at the first step of a chunk."""
        return Euler(self._grid())

    def _grid(self) -> list[float]:
        """Return the times of all steps and the end, 1."""
        share = torch.arange(self.num_steps + 1, dtype=torch.float32) / self.num_steps
        if self.num_steps == _SHORTCUT_STEPS:
            # Where the three steps of a quarter begin; step lengths as in `shortcut`.
            third = (0, 0.125, 0.1875) if self.shortcut == "8,16,16" else (0, 0.0625, 0.125)
            stages = torch.arange(5, dtype=torch.float32) / 4
            share = (stages[:, None] + torch.tensor(third)).flatten()[: self.num_steps + 1]
        # The recorded times take this order of operations: others differ in the last bit, and one
        # time decides by its last bit whether it is above 0.3.
        u = share * share
        times: list[float] = ((1 / 3) * u / (1 - (2 / 3) * u)).tolist()
        return times


def _joined(steps: Sequence[float]) -> str:
    return "/".join(map(str, steps))


def _demand_shift(shift: object) -> None:
    """Raise ValueError unless a shift is a number within SHIFTS."""
    least, most = SHIFTS
    if not (is_number(shift) and least <= shift <= most):  # also refuses NaN
        raise ValueError(
            f"model.schedule.shift={shift}: give a number from {least:g} to {most:g}, "
            "published models have 1 to 8"
        )


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a setting is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
