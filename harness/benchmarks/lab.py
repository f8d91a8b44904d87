"""Shared state of a bench: sizes, time left, tensors, backends and rows."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from harness.benchmarks.cases import Chunk, Shape, draw_chunk, draw_history, method_of, stored
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import ROUNDS, Action, Clock, Spread, Times, clock_of, interleave
from harness.cache import compiled
from harness.cache.attention.base import Backend, Segment
from harness.cache.attention.compiled import Compiled
from harness.cache.attention.portable import Portable

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Sizes of attention and number of timings.

    frame: one frame of history.
    histories: lengths in frames.
    queries: tokens of the current chunk, fewest first.
    encoded: the chunk that is encoded, in num_layers layers at once.
    few_queries: numbers of queries at which the staged and the fused kernel are compared.
    model: settings of the network whose videos are generated.
    multiples: lengths of history in chunks at which BF16 kernels are timed.
    gemm: rows, inner size and columns of the network's largest matrix product.
    copy_bytes: bytes of the copy that measures memory bandwidth.
    videos: rounds of videos per method.
    """

    frame: Shape
    histories: tuple[int, ...]
    queries: tuple[int, ...]
    encoded: Shape
    rounds: int = ROUNDS
    warm_up: int = 1
    num_layers: int = 1
    few_queries: tuple[int, ...] = ()
    model: tuple[str, ...] = ()
    multiples: tuple[int, ...] = ()
    gemm: tuple[int, int, int] = (0, 0, 0)
    copy_bytes: int = 0
    videos: int = 1

    @property
    def window(self) -> int:
        """Frames of the shortest history, including the current chunk."""
        return self.histories[0] + self.encoded.num_frames

    @property
    def video(self) -> int:
        """Frames of the longest history, including the current chunk."""
        return self.histories[-1] + self.encoded.num_frames


@dataclass
class Lab:
    """One run of a bench.

    backends: the fast ones of this device; the first serves many queries.
    copy_rate: bytes per second, set by a measurement.
    notes: results that measurements leave for later ones.
    title, deadline: of the present measurement; deadline in `time.perf_counter` seconds.
    until_end: changes that last until the end of the bench.
    """

    device: torch.device
    sizes: Sizes
    report: Report
    backends: dict[str, Backend]
    copy_rate: float = float("nan")
    notes: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    deadline: float = float("inf")
    until_end: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.clock: Clock = clock_of(self.device)

    def begin(self, title: str, deadline: float = float("inf")) -> None:
        """Start the next measurement; it may run until the deadline."""
        # On a GPU every measurement has a share of the time; on a CPU none has a limit.
        self.title, self.deadline = title, deadline

    def add(self, case: str, value: float | Spread | None, unit: str, **rest: Any) -> None:
        """Add a row of the present measurement."""
        if isinstance(value, Spread):
            self.report.add(Row.of(self.title, case, value, unit, **rest))
        else:
            self.report.add(Row(self.title, case, value, unit, **rest))

    def within(self, cases: Sequence[T]) -> Iterator[T]:
        """Yield cases while there is time; a row names those left out."""
        # Checked before each case: a case that has begun is finished, so it may end a little late.
        for i, case in enumerate(cases):
            if time.perf_counter() > self.deadline:
                left = ", ".join(map(str, cases[i:]))
                self.add(left, None, "", note="left out: the budget is spent")
                return
            yield case

    def times(
        self, cases: Mapping[str, Action], rounds: int | None = None, clock: Clock | None = None
    ) -> Times:
        """Time cases in interleaved rounds within the budget."""
        rounds, clock = rounds or self.sizes.rounds, clock or self.clock
        return interleave(cases, clock, rounds, self.sizes.warm_up, self.deadline)

    def chunk(self, num_queries: int | None = None) -> Chunk:
        """Draw the current chunk, or one of fewer tokens."""
        return draw_chunk(self.sizes.frame, num_queries or self.sizes.queries[-1], self.device)

    def tensors(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Draw keys and values of history before it is stored, [1, H, F, T, D] BF16."""
        # Drawn anew for each case, by the same seed: kept tensors would take more than the history.
        return draw_history(replace(self.sizes.frame, num_frames=num_frames), self.device)

    def history(
        self, name: str, num_frames: int, kept: Sequence[int] | None = None
    ) -> list[Segment]:
        """Return history as a method stores it."""
        # Written by plain torch, whichever backend then reads the pages.
        return stored(method_of(name), *self.tensors(num_frames), kept)


def on_cpu() -> dict[str, Backend]:
    """Return the backend that `attention=auto` chooses on this CPU, with each axis of its tiles."""
    # `auto` takes heads; tokens are measured too, since they are faster in some cases.
    here = Portable if compiled.missing() else Compiled
    return {"by heads": here(axis="heads"), "by tokens": here(axis="tokens")}
