"""What the items of the GPU bench share: sizes, budgets, tensors, backends, and what was found."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from harness.benchmarks.cases import Chunk, Shape, draw_chunk, draw_history, method_of, stored
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import ROUNDS, Action, Clock, Spread, Times, clock_of, interleave
from harness.cache import kernels
from harness.cache.attention import dense
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged

T = TypeVar("T")


@dataclass(frozen=True)
class Sizes:
    """Geometry of the model (model: words of the command line) and sizes of what is timed.

    window and video are frames, the current chunk included. gemm: rows, inner and columns.
    """

    num_heads: int
    head_dim: int
    frame_tokens: int
    chunk_frames: int
    window: int
    video: int
    num_layers: int
    model: tuple[str, ...]
    multiples: tuple[int, ...]
    few_queries: tuple[int, ...]
    gemm: tuple[int, int, int]
    copy_bytes: int
    warm_up: int
    rounds: int
    videos: int
    study_calls: int

    @property
    def num_queries(self) -> int:
        """Tokens of the current chunk."""
        return self.chunk_frames * self.frame_tokens

    def shape(self, num_frames: int) -> Shape:
        """History of so many frames."""
        return Shape(self.num_heads, self.head_dim, self.frame_tokens, num_frames)


FULL = Sizes(
    num_heads=12,
    head_dim=128,
    frame_tokens=1560,
    chunk_frames=3,
    window=21,
    video=42,
    num_layers=30,
    model=("model=self_forcing", "model.weights=random"),
    multiples=(1, 2, 4, 7, 14),
    few_queries=(64, 128, 256, 512, 1170, 4680),
    gemm=(4680, 1536, 8960),
    copy_bytes=2**32,
    warm_up=2,
    rounds=ROUNDS,
    videos=3,
    study_calls=20,
)
SMALL = Sizes(
    num_heads=2,
    head_dim=32,
    frame_tokens=32,
    chunk_frames=1,
    window=3,
    video=4,
    num_layers=1,
    model=(
        "model=small",
        "model.weights=random",
        "model.latent_size=[8,16]",
        "model.chunk_frames=1",
        "model.schedule.steps=[1000]",
        *(f"model.dims.{n}" for n in ("dim=64", "num_layers=1", "num_heads=2", "ffn_dim=96")),
    ),
    multiples=(1, 2, 3),
    few_queries=(8, 24),
    gemm=(64, 64, 64),
    copy_bytes=2**16,
    warm_up=1,
    rounds=1,
    videos=1,
    study_calls=1,
)


@dataclass
class Lab:
    """One run of the bench.

    Found on the way: copy_rate in bytes a second; bf16_s, the seconds of BF16 attention by number
    of frames; whatever items leave for later ones in `notes`.
    """

    device: torch.device
    sizes: Sizes
    report: Report
    copy_rate: float = float("nan")
    bf16_s: dict[int, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    deadline: float = float("inf")
    _patches: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """The clock for calls of milliseconds."""
        self.clock: Clock = clock_of(self.device)

    def __enter__(self) -> Self:
        """The lab itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo `prefer`."""
        self._patches.close()

    def begin(self, title: str, deadline: float) -> None:
        """The next item, and until when it may go on (`time.perf_counter`)."""
        self.title, self.deadline = title, deadline

    def add(self, case: str, value: float | Spread | None, unit: str, **rest: Any) -> None:
        """A row of the present item."""
        if isinstance(value, Spread):
            self.report.add(Row.of(self.title, case, value, unit, **rest))
        else:
            self.report.add(Row(self.title, case, value, unit, **rest))

    def within(self, cases: Sequence[T]) -> Iterator[T]:
        """The cases for which there is time; a row says which are left out."""
        for i, case in enumerate(cases):
            if time.perf_counter() > self.deadline:
                names = [case[0] if isinstance(case, tuple) else case for case in cases[i:]]
                left = ", ".join(map(str, names))
                self.add(left, None, "", note="left out: the budget is spent")
                return
            yield case

    def times(
        self, cases: Mapping[str, Action], rounds: int | None = None, clock: Clock | None = None
    ) -> Times:
        """Interleaved rounds within the budget."""
        rounds, clock = rounds or self.sizes.rounds, clock or self.clock
        return interleave(cases, clock, rounds, self.sizes.warm_up, self.deadline)

    def prefer(self, first: SDPBackend) -> None:
        """Let everyone use this kernel of torch first: the fastest BF16 is the baseline of all."""
        order = [first, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
        order = list(dict.fromkeys(order))
        self._patches.enter_context(mock.patch.object(dense, "_order", lambda device: order))

    def chunk(self, num_queries: int | None = None) -> Chunk:
        """The current chunk, or one of fewer tokens."""
        shape = self.sizes.shape(self.sizes.chunk_frames)
        return draw_chunk(shape, num_queries or self.sizes.num_queries, self.device)

    def tensors(self, num_frames: int) -> tuple[Tensor, Tensor]:
        """Keys and values of history before it is stored."""
        return draw_history(self.sizes.shape(num_frames), self.device)

    def history(
        self, name: str, num_frames: int, kept: Sequence[int] | None = None
    ) -> list[Segment]:
        """History as a method stores it."""
        return stored(method_of(name), *self.tensors(num_frames), kept)

    def staged(self, scratch_mib: float = 50) -> Backend:
        """The staged backend where its kernels run."""
        return Portable(scratch_mib=scratch_mib) if self.missing else Staged(scratch_mib)

    def fused(self) -> Backend:
        """The fused backend where its kernel runs."""
        return Portable() if self.missing else Fused()

    @property
    def missing(self) -> str | None:
        """What keeps the kernels from running here."""
        return kernels.missing(self.device)

    @property
    def window(self) -> int:
        """Frames of history in the window."""
        return self.sizes.window - self.sizes.chunk_frames

    @property
    def full(self) -> int:
        """Frames of history before the last chunk of a video."""
        return self.sizes.video - self.sizes.chunk_frames


def call(backend: Backend, chunk: Chunk, history: Sequence[Segment]) -> Action:
    """One attention call, with scratch of its own that is kept."""
    scratch = Scratch()
    return lambda _: backend.attend(chunk.q, chunk.k, chunk.v, history, scratch)
