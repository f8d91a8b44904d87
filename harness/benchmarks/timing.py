"""Interleaved rounds: what is compared runs side by side, so that drift of the machine cancels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

Action = Callable[[int], object]  # is given the number of the round
Clock = Callable[[Action, int], float]  # carries out an action of a round; gives its seconds

ROUNDS = 7


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        values = list(values)
        low, middle, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        )
        return cls(low, middle, high)

    def scaled(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.low * factor, self.middle * factor, self.high * factor)


@dataclass(frozen=True)
class Times:
    """Seconds of each case, round by round; `wanted` is how many rounds were asked for."""

    seconds: Mapping[str, list[float]]
    wanted: int

    def of(self, name: str) -> Spread:
        """Seconds of a case."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Seconds of a case over those of the base in the same round."""
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return Spread.of(a / b for a, b in pairs)

    @property
    def fastest(self) -> str:
        """The case with the smallest median."""
        return min(self.seconds, key=lambda name: self.of(name).middle)

    @property
    def note(self) -> str:
        """Says if rounds are missing."""
        done = min(len(values) for values in self.seconds.values())
        return "" if done == self.wanted else f"{done} of {self.wanted} rounds: budget spent"


def interleave(
    cases: Mapping[str, Action],
    clock: Clock,
    rounds: int = ROUNDS,
    warm_up: int = 1,
    deadline: float | None = None,
) -> Times:
    """Time the cases A B C, then C B A, and so on, after a warm-up of each.

    deadline: the `time.perf_counter` after which no round ends, as far as can be told from the one
    before; one is always made.
    """
    for _ in range(warm_up):
        for action in cases.values():
            clock(action, 0)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    forwards, a_round_s = list(cases), 0.0
    for number in range(rounds):
        start = time.perf_counter()
        if number and deadline is not None and start + a_round_s > deadline:
            break
        for name in forwards if number % 2 == 0 else reversed(forwards):
            seconds[name].append(clock(cases[name], number))
        a_round_s = time.perf_counter() - start
    return Times(seconds, rounds)


def told(action: Action, number: int) -> float:
    """The seconds that the action itself gives."""
    seconds = action(number)
    assert isinstance(seconds, float)
    return seconds


@dataclass(frozen=True)
class Wall:
    """Seconds until all that an action asked of the device is done."""

    device: torch.device

    def __call__(self, action: Action, number: int) -> float:
        """Carry it out."""
        self._synchronize()
        start = time.perf_counter()
        action(number)
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class CudaEvents:
    """Seconds that a GPU works on an action.

    In a network the processor runs ahead of the GPU, while a single call alone would wait for its
    own launches; so the GPU is kept busy for `head_start_s` while the action is being launched.
    """

    head_start_s: float

    def __call__(self, action: Action, number: int) -> float:
        """Carry it out."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(self.head_start_s * 2e9))  # cycles, at about 2 GHz
        start.record()
        action(number)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def clock_of(device: torch.device, head_start_s: float = 5e-3) -> Clock:
    """The clock for calls of a few milliseconds."""
    return CudaEvents(head_start_s) if device.type == "cuda" else Wall(device)
