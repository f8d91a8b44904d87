"""Times cases in interleaved rounds, so that drift of the machine affects all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

Action = Callable[[int], object]  # takes the number of the round
Clock = Callable[[Action, int], float]  # runs an action of a round and returns seconds

ROUNDS = 7


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    # Not mean and deviation: one disturbed round of a shared machine would move both.
    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Compute the spread of at least one value."""
        # `inclusive`: the rounds are all there are, so quartiles never lie outside of them.
        values = list(values)
        # A single value is its own median and quartiles; `quantiles` refuses it.
        low, middle, high = (
            statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
        )
        return cls(low, middle, high)

    def scaled(self, factor: float) -> Spread:
        """Scale to another unit."""
        return Spread(self.low * factor, self.middle * factor, self.high * factor)


@dataclass(frozen=True)
class Times:
    """Seconds of each case, round by round; wanted: requested number of rounds."""

    seconds: Mapping[str, list[float]]
    wanted: int

    def of(self, name: str) -> Spread:
        """Return the spread of a case in seconds."""
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, base: str) -> Spread:
        """Return the spread of the ratio to the base."""
        # Pair by round: what slowed the machine in a round slowed both, and cancels in the ratio.
        pairs = zip(self.seconds[name], self.seconds[base], strict=True)
        return Spread.of(a / b for a, b in pairs)

    @property
    def fastest(self) -> str:
        """The case with the smallest median."""
        return min(self.seconds, key=lambda name: self.of(name).middle)

    @property
    def note(self) -> str:
        """A note on missing rounds; empty if there are none."""
        done = min(len(values) for values in self.seconds.values())
        return "" if done == self.wanted else f"{done} of {self.wanted} rounds: budget spent"


def interleave(
    cases: Mapping[str, Action],
    clock: Clock,
    rounds: int = ROUNDS,
    warm_up: int = 1,
    deadline: float | None = None,
) -> Times:
    """Warm up each case, then time all cases in rounds.

    deadline: in `time.perf_counter` seconds. A round starts only if it should end before, judged by
    the previous one; the first round always runs.
    """
    # The first call compiles, allocates and loads what later calls find ready.
    for _ in range(warm_up):
        for action in cases.values():
            clock(action, 0)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    forwards, a_round_s = list(cases), 0.0
    for number in range(rounds):
        # Whole rounds only, since ratios pair the cases of a round.
        start = time.perf_counter()
        if number and deadline is not None and start + a_round_s > deadline:
            break
        # A B C, then C B A: a drift within a round then adds to each case equally often.
        for name in forwards if number % 2 == 0 else reversed(forwards):
            seconds[name].append(clock(cases[name], number))
        a_round_s = time.perf_counter() - start
    return Times(seconds, rounds)


def self_timed(action: Action, number: int) -> float:
    """Clock for actions that measure themselves and return seconds."""
    seconds = action(number)
    assert isinstance(seconds, float)
    return seconds


@dataclass(frozen=True)
class Wall:
    """Clock: seconds until the device has finished an action."""

    device: torch.device

    def __call__(self, action: Action, number: int) -> float:
        """Time one action."""
        self._synchronize()
        start = time.perf_counter()
        action(number)
        self._synchronize()
        return time.perf_counter() - start

    def _synchronize(self) -> None:
        # A GPU runs behind the processor: without waiting, only the launches would be timed.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class CudaEvents:
    """Clock: seconds that a GPU works on an action.

    head_start_s: time that the GPU is kept busy before, while the action is launched.
    """

    head_start_s: float

    def __call__(self, action: Action, number: int) -> float:
        """Time one action."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # In a network the processor runs ahead of the GPU. A single call would instead wait for its
        # own launches, and the launches would be timed. `_sleep` takes cycles, at about 2 GHz.
        torch.cuda._sleep(int(self.head_start_s * 2e9))
        start.record()
        action(number)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def processor_time(action: Action, number: int) -> float:
    """Clock: seconds of processor time of an action; right for actions of one thread."""
    start = time.process_time()
    action(number)
    return time.process_time() - start


def clock_of(device: torch.device, head_start_s: float = 5e-3) -> Clock:
    """Return the clock for calls of a few milliseconds."""
    if device.type == "cuda":
        return CudaEvents(head_start_s)
    # Other jobs of a shared machine disturb wall time but not processor time. With several threads,
    # processor time would add them up.
    return processor_time if torch.get_num_threads() == 1 else Wall(device)
