"""One layer's attention over packed history beside BF16 on a CPU: time, memory, errors.

Everybody attends to the same history and the same exact current chunk, whose tokens count for all
alike. The baseline is SDPA over all of it in BF16, in whichever layout is faster here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from harness.api import Method
from harness.benchmarks.cases import (
    FORMATS,
    PRQ,
    SOFT_PRUNE,
    Chunk,
    Shape,
    draw_chunk,
    draw_history,
    method_of,
    num_rows,
    spread_out,
    stored,
)
from harness.benchmarks.checks import decoded, errors, pooled_identity
from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import ROUNDS, Action, Times, Wall, interleave
from harness.cache.attention.base import Scratch, Segment
from harness.cache.attention.portable import Portable
from harness.cache.pages import Arena

TITLE = "Attention over packed history beside BF16, one layer, CPU"
CPU = torch.device("cpu")
AXES: tuple[Literal["heads", "tokens"], ...] = ("heads", "tokens")
RATIO = {"rtn_int8": 1.10, **dict.fromkeys(("rtn_int4", "rtn_int2", "kivi_int4"), 1.05)}
RATIO |= {"quarot_int4": 1.05, PRQ: 1.07}
PRQ_FEW_QUERIES = 1.08
HALF_OF_ROWS = 0.57
POOL_MARGIN = 0.07  # above the share of rows that is left
EXTRA_MB = 60  # of a call by groups of heads, above what is resident
IDENTITY = 1e-5


@dataclass(frozen=True)
class Sizes:
    """History, queries (the most last) and the chunk that is encoded."""

    history: Shape
    queries: tuple[int, ...]
    chunk: Shape
    rounds: int


FULL = Sizes(Shape(12, 128, 1024, 16), (468, 4680), Shape(12, 128, 1560, 3), ROUNDS)
QUICK = Sizes(Shape(2, 32, 64, 4), (24, 96), Shape(2, 32, 40, 3), 1)


def run(options: Options) -> int:
    """All rows; the short ones first."""
    sizes = QUICK if options.quick else FULL
    with Report("attention", TITLE, CPU, options) as report:
        correctness(report, sizes)
        encoding(report, sizes)
        for num_queries in sizes.queries:
            times(report, sizes, num_queries)
        cases = [(name, axis) for name in ("bf16", *FORMATS, SOFT_PRUNE) for axis in AXES]
        for name, axis in cases[-1:] if options.quick else cases:  # each starts a process
            report.add(extra_peak(name, axis, options.quick))
    return 0


def times(report: Report, sizes: Sizes, num_queries: int) -> None:
    """Ratios to the baseline, for every format and for histories with fewer rows."""
    bench = Bench(sizes, num_queries)
    report.add(bench.baseline_row())
    for name in ("bf16", *FORMATS):
        target = PRQ_FEW_QUERIES if name == PRQ and num_queries < 512 else RATIO.get(name)
        history = stored(method_of(name), *bench.kv)
        for row in bench.rows(name, history, target):
            report.add(row)
    num_frames = sizes.history.num_frames
    for what, num_kept in (("frames", num_frames // 2), ("rows", bench.frames_for_half())):
        history = stored(method_of(SOFT_PRUNE), *bench.kv, spread_out(num_frames, num_kept))
        share = (num_rows(history) + num_queries) / bench.num_rows
        target = HALF_OF_ROWS if what == "rows" else share + POOL_MARGIN
        note = f"{num_kept} of {num_frames} frames in full, {share:.3f} of the rows"
        for row in bench.rows(f"{SOFT_PRUNE} half of the {what}", history, target, note):
            report.add(row)


class Bench:
    """Attention of so many queries, which are the current chunk."""

    def __init__(self, sizes: Sizes, num_queries: int) -> None:
        """Draw the tensors and find the faster layout of the baseline."""
        self.shape, self.num_queries, self.rounds = sizes.history, num_queries, sizes.rounds
        self.chunk = draw_chunk(self.shape, num_queries, CPU)
        self.kv = draw_history(self.shape, CPU)
        self.num_rows = self.shape.num_tokens + num_queries
        exact = stored(method_of("bf16"), *self.kv)
        self.layouts = {
            "head-major": (self.chunk.q, *decoded(self.chunk, exact)),
            "token-major": tuple(
                x.transpose(1, 2).contiguous().transpose(1, 2)
                for x in (self.chunk.q, *decoded(self.chunk, exact))
            ),
        }
        self.found = interleave(
            {name: self._dense(name) for name in self.layouts}, Wall(CPU), self.rounds
        )

    def frames_for_half(self) -> int:
        """The frames in full with which about half of all rows are left, the chunk included."""
        return max(1, round((self.num_rows / 2 - self.num_queries) / self.shape.frame_tokens))

    def baseline_row(self) -> Row:
        """Which layout it is and how long it takes."""
        layouts = ", ".join(f"{name} {self.found.of(name).middle:.4g} s" for name in self.layouts)
        return Row.of(
            "BF16 SDPA, the baseline",
            f"{self.found.fastest}, {self.num_queries} queries",
            self.found.of(self.found.fastest),
            "s",
            note=f"{self.num_rows} tokens; {layouts}",
        )

    def rows(
        self, name: str, history: Sequence[Segment], target: float | None, note: str = ""
    ) -> list[Row]:
        """The time by groups of heads and by tiles of tokens over that of the baseline."""
        cases = {"baseline": self._dense(self.found.fastest)}
        for axis in AXES:
            cases[axis] = self._packed(Portable(axis=axis), history)
        measured: Times = interleave(cases, Wall(CPU), self.rounds)
        return [
            Row.of(
                "attention call / BF16 SDPA",
                f"{name}, by {axis}, {self.num_queries} queries",
                measured.ratio(axis, "baseline"),
                "x",
                target=target,
                note=note,
                more={"seconds": measured.seconds[axis], "bf16_s": measured.seconds["baseline"]},
            )
            for axis in AXES
        ]

    def _dense(self, layout: str) -> Action:
        q, k, v = self.layouts[layout]
        return lambda _: F.scaled_dot_product_attention(q, k, v)

    def _packed(self, backend: Portable, history: Sequence[Segment]) -> Action:
        chunk, scratch = self.chunk, Scratch()
        return lambda _: backend.attend(chunk.q, chunk.k, chunk.v, history, scratch)


def correctness(report: Report, sizes: Sizes) -> None:
    """Errors against fp32 attention over the decoded tensors; pooled frames against copies."""
    k, v = draw_history(sizes.history, CPU)
    chunk = draw_chunk(sizes.history, sizes.queries[0], CPU)
    for name in ("bf16", *FORMATS):
        history = stored(method_of(name), k, v)
        for axis in AXES:
            own, dense = errors(Portable(axis=axis), chunk, history)
            note = f"BF16 SDPA over the same tensors: {dense:.2e}"
            case = f"{name}, by {axis}"
            report.add(Row("relative error to fp32", case, own, "", target=2 * dense, note=note))
    wide = chunk.to(torch.float32)
    for axis in AXES:
        own = pooled_identity(Portable(axis=axis), wide, k.float(), v.float())
        row = Row("pooled token / its copies, fp32", f"by {axis}", own, "", target=IDENTITY)
        report.add(row)


def encoding(report: Report, sizes: Sizes) -> None:
    """Milliseconds to encode one chunk and append it, a layer."""
    k, v = draw_history(sizes.chunk, CPU)
    frames = range(sizes.chunk.num_frames)
    for name in ("bf16", *FORMATS):
        spread = interleave({name: _append(method_of(name), k, v)}, Wall(CPU), sizes.rounds)
        note = f"{len(frames)} frames of {sizes.chunk.frame_tokens} tokens"
        report.add(Row.of("encode and append", name, spread.of(name).scaled(1e3), "ms", note=note))


def _append(method: Method, k: torch.Tensor, v: torch.Tensor) -> Action:
    """Into pages that are there, as in all chunks of a video but the first."""
    frames = list(range(k.shape[2]))
    arena = Arena(method.key, method.value, len(frames))

    def append(_: int) -> None:
        arena.drop(arena.frames)
        arena.store(frames, k, v)

    return append


def extra_peak(name: str, axis: str, quick: bool) -> Row:
    """What one call takes above what is resident, in a process of its own."""
    words = [name, axis, "quick" if quick else "full"]
    command = [sys.executable, "-m", "harness.benchmarks.peak", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    target = EXTRA_MB if axis == "heads" else None
    item, case = "extra peak of a call", f"{name}, by {axis}"
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Row(item, case, unit="MB", target=target, note=f"no value: {last}")
    return Row(item, case, int(done.stdout) / 1e6, "MB", target=target, note="output included")


def history_of(name: str, sizes: Sizes) -> tuple[Chunk, list[Segment]]:
    """The largest chunk and a method's history; of soft prune half of the frames."""
    num_frames = sizes.history.num_frames
    kept = spread_out(num_frames, num_frames // 2) if name == SOFT_PRUNE else None
    history = stored(method_of(name), *draw_history(sizes.history, CPU), kept)
    return draw_chunk(sizes.history, sizes.queries[-1], CPU), history
