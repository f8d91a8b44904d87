"""Measures one layer's attention over packed history relative to BF16, on a CPU or a GPU.

All cases attend to the same history and the same exact current chunk, whose tokens count in every
case. The baseline is the fastest BF16 attention over everything: torch's, in one of two layouts, or
on a CPU also tile by tile.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Method
from harness.benchmarks.cases import (
    FORMATS,
    PRQ,
    SOFT_PRUNE,
    Chunk,
    Shape,
    draw_history,
    method_of,
    num_rows,
    spread_out,
)
from harness.benchmarks.checks import decoded, errors, pooled_identity
from harness.benchmarks.lab import Lab, Sizes, on_cpu
from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row
from harness.benchmarks.timing import Action, clock_of
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.attention.dense import attend_plain
from harness.cache.attention.int8 import Int8, Int8OnGpu
from harness.cache.attention.portable import Portable
from harness.cache.compiled import softmax
from harness.cache.pages import Arena

TITLE = "Attention over packed history beside BF16, one layer, CPU"
CPU = torch.device("cpu")
# Upper bounds of the time relative to BF16's, with many and with few queries. Few queries spread
# the cost of decoding over less work, so their bounds are wider.
ON_GPU = {**dict.fromkeys(FORMATS, 1.05), "quarot_int4": 1.06, PRQ: 1.07}
ON_CPU = {**dict.fromkeys(FORMATS, 1.02), "quarot_int4": 1.03, PRQ: 1.04}
FEW_ON_GPU, FEW_ON_CPU = ON_GPU | {PRQ: 1.08}, {**dict.fromkeys(FORMATS, 1.10), PRQ: 1.15}
RATIO = {"cuda": (ON_GPU, FEW_ON_GPU), "cpu": (ON_CPU, FEW_ON_CPU)}
FEW = 512  # queries; below, the bounds for few queries apply
KEPT = 0.75, 0.50, 0.25  # shares of all rows
# How much the share of the time may exceed the share of the rows: a call has costs of its own.
MARGIN = {"cuda": 0.07, "cpu": 0.04}
STAGING = 1.5  # times the time of a copy of the same bytes
MATRIX = 2048  # rows and columns of the product that measures the machine
EXTRA_MB = 60  # of a call by groups of heads, above resident memory
TIMES_BF16 = 2  # times the error of BF16 attention over the same tensors
IDENTITY = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
APPEND_US = 25  # per layer, on a GPU
BASE = "bf16"

# Heads and width of Wan 1.3B; a shorter history than on a GPU, since a CPU takes seconds per call.
# 4680 queries are a chunk of Wan (3 frames of 1560 tokens), 468 a tenth of that.
FULL = Sizes(Shape(12, 128, 1024, 1), (16,), (468, 4680), Shape(12, 128, 1560, 3))
QUICK = Sizes(Shape(2, 32, 64, 1), (4,), (24, 96), Shape(2, 32, 40, 3), rounds=1)


def run(options: Options) -> int:
    """Measure all rows on the CPU."""
    with Report("attention", TITLE, CPU, options) as report:
        # The short measurements first: a bench that is stopped keeps its rows.
        lab = Lab(CPU, QUICK if options.quick else FULL, report, on_cpu())
        for title, measure in (
            ("the machine", rates),
            ("decode / copy", staging),
            ("relative error", correctness),
            ("encode and append", encoding),
            ("attention call / BF16", calls),
            ("8-bit products / BF16", products),
        ):
            lab.begin(title)
            measure(lab)
        cases = [(name, axis) for name in (BASE, *FORMATS, SOFT_PRUNE) for axis in lab.backends]
        # Each case starts a process, which imports torch: one is enough to see that it works.
        for name, axis in cases[-1:] if options.quick else cases:
            report.add(extra_peak(name, axis, options.quick))
    return 0


def rates(lab: Lab) -> None:
    """Measure the limits of the machine: copied bytes and multiplied matrices per second."""
    # They tell how far the other rows are from what the machine can do at all.
    k, _ = lab.tensors(lab.sizes.histories[0])
    room = torch.empty_like(k)
    x = torch.randn(MATRIX, MATRIX)
    half = x.bfloat16()
    # Both dtypes: some processors emulate products in BF16, and attend in fp32.
    cases: dict[str, Action] = {
        "copy": lambda _: room.copy_(k),
        "BF16": lambda _: half @ half,
        "FP32": lambda _: x @ x,
    }
    times = lab.times(cases)
    # Factors of 2: a copy reads and writes each byte; a product multiplies and adds.
    note = f"{k.nbytes / 1e6:.3g} MB read and as many written"
    lab.add("copy", 2e-9 * k.nbytes / times.of("copy").middle, "GB/s", note=note)
    for dtype in ("BF16", "FP32"):
        rate = 2e-9 * MATRIX**3 / times.of(dtype).middle
        lab.add(f"product in {dtype}", rate, "GFLOP/s", note=f"{MATRIX} x {MATRIX}")


def staging(lab: Lab) -> None:
    """Measure decoding of all keys into BF16, relative to a copy of as many bytes."""
    num_frames = lab.sizes.histories[0]
    k, _ = lab.tensors(num_frames)
    room = torch.empty_like(k).flatten(2, 3)
    # Decoding does not depend on the tiles, so any of the backends will do.
    backend = next(iter(lab.backends.values()))
    assert isinstance(backend, Portable)
    for name in lab.within(FORMATS):
        (segment,) = lab.history(name, num_frames)
        decode, copy = _decoding(backend, segment, room)
        times = lab.times({name: decode, "copy": copy})
        note = f"{times.of(name).middle * 1e3:.4g} ms for {room.numel() / 1e6:.3g} M values"
        lab.add(name, times.ratio(name, "copy"), "x", target=STAGING, note=note)


def _decoding(backend: Portable, segment: Segment, room: Tensor) -> tuple[Action, Action]:
    """Return two actions: decode a segment's keys into room [B, H, N, D], and copy its bytes."""
    pages, heads = segment.pages, slice(0, room.shape[1])
    what = segment.key_quantizer, pages.key, pages, heads, slice(0, len(pages.slots)), room
    # Decoding reads the packed pages and writes BF16. A copy moves each byte twice, so a source of
    # half these bytes moves as many: hence 4 bytes of traffic per BF16 value of 2.
    source = torch.zeros((room.nbytes + pages.key.nbytes) // 4, dtype=torch.bfloat16)
    target = torch.zeros_like(source)
    return lambda _: backend.stage(*what), lambda _: target.copy_(source)


def calls(lab: Lab) -> None:
    """Measure ratios to the baseline for every format, and for histories with fewer rows.

    Each is measured with few and many queries, at every length of history. On a GPU the fused
    kernel is left out, since it is for few queries (`crossover`).
    """
    backends = {name: each for name, each in lab.backends.items() if name != "fused"}
    for num_frames in lab.sizes.histories:
        for num_queries in lab.sizes.queries:
            # One baseline for all formats of a size: they attend to as many tokens.
            chunk = lab.chunk(num_queries)
            base = baseline(lab, chunk, lab.history(BASE, num_frames))
            for name in lab.within((BASE, *FORMATS)):
                target = RATIO[lab.device.type][num_queries < FEW].get(name)
                history = lab.history(name, num_frames)
                compare(lab, backends, chunk, history, base, name, target)
            whole = num_frames * lab.sizes.frame.frame_tokens + num_queries
            # A method that keeps fewer rows should cost about that share of the time. The chunk's
            # own rows are never dropped, so frames are dropped until `share` of all rows is left.
            for share in lab.within(KEPT):
                kept = round((share * whole - num_queries) / lab.sizes.frame.frame_tokens)
                kept = min(max(1, kept), num_frames)
                history = lab.history(SOFT_PRUNE, num_frames, spread_out(num_frames, kept))
                left = (num_rows(history) + num_queries) / whole
                name = f"{SOFT_PRUNE}, {kept} of {num_frames} frames, {left:.3f} of the rows"
                most = left + MARGIN[lab.device.type]
                compare(lab, backends, chunk, history, base, name, most)


def baseline(lab: Lab, chunk: Chunk, history: Sequence[Segment]) -> Action:
    """Time BF16 attention over all tokens and return the fastest way."""
    k, v = decoded(chunk, history)
    # A slow baseline would flatter every method, so all known ways compete to be the baseline.
    # `turned` has the same shapes and values, but stores tokens before heads.
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (chunk.q, k, v)]
    cases = {"head-major": dense(chunk.q, k, v), "token-major": dense(*turned)}
    if lab.device.type == "cpu":
        cases["token tiles"] = call(Portable(axis="tokens"), chunk, history)
        # Where a compiled loop is faster than torch, the cases above use it.
        if softmax.outruns_torch():
            cases["torch"] = lambda _: F.scaled_dot_product_attention(chunk.q, k, v)
    times = lab.times(cases)
    note = ", ".join(f"{name} {times.of(name).middle * 1e3:.4g} ms" for name in cases)
    case = f"{BASE}, {times.fastest}, {chunk.q.shape[2]} queries, N = {k.shape[2]}"
    lab.add(case, times.of(times.fastest).scaled(1e3), "ms", note=note)
    return cases[times.fastest]


def compare(
    lab: Lab,
    backends: dict[str, Backend],
    chunk: Chunk,
    history: Sequence[Segment],
    base: Action,
    name: str,
    target: float | None,
) -> None:
    """Add one row per backend: its time relative to the baseline, interleaved."""
    # The baseline is timed again beside each format, since the machine's speed drifts. Scratch is
    # kept over calls, as a session keeps it over layers and passes.
    scratch = {each: Scratch() for each in backends}
    cases = {each: call(backends[each], chunk, history, scratch[each]) for each in backends}
    times = lab.times({BASE: base, **cases})
    num_queries = chunk.q.shape[2]
    for each in backends:
        note = [f"scratch {scratch[each].nbytes / 1e6:.3g} MB", times.note]
        lab.add(
            f"{name}, {each}, {num_queries} queries, N = {num_rows(history) + num_queries}",
            times.ratio(each, BASE),
            "x",
            target=target,
            note="; ".join(filter(None, note)),
            more={"seconds": times.seconds[each], "bf16_s": times.seconds[BASE]},
        )


def products(lab: Lab) -> None:
    """Measure attention with 8-bit queries and keys: its error, and its time relative to BF16's."""
    # Not among the backends of the other rows: it is an approximation, so it has no target.
    backends: dict[str, Backend] = {"int8 by heads": Int8(), "int8 by tokens": Int8(axis="tokens")}
    if "staged" in lab.backends:  # the GPU's, which a dry run interprets on a CPU
        backends = {"int8": Int8OnGpu()}
    elif lacking := softmax.missing():
        lab.add("int8", None, "", note=f"left out: {lacking}")
        return
    num_frames = lab.sizes.histories[0]
    for num_queries in lab.sizes.queries:
        chunk = lab.chunk(num_queries)
        base = baseline(lab, chunk, lab.history(BASE, num_frames))
        for name in lab.within((BASE, "rtn_int4")):
            history = lab.history(name, num_frames)
            compare(lab, backends, chunk, history, base, name, None)
            for each, backend in backends.items():
                own, other = errors(backend, chunk, history)
                note = f"BF16 over the same tensors: {other:.2e}"
                case = f"error of {name}, {each}, {num_queries} queries"
                lab.add(case, own, "", note=note)


def crossover(lab: Lab) -> None:
    """Compare unpacking in the loop with staging by number of queries; find where they cross."""
    backends = lab.backends
    for name in lab.within(("rtn_int4", "rtn_int8", "rtn_int2")):
        history = lab.history(name, lab.sizes.histories[0])
        found: dict[int, float] = {}
        for num_queries in lab.within(lab.sizes.few_queries):
            chunk = lab.chunk(num_queries)
            cases = {each: call(backends[each], chunk, history) for each in ("fused", "staged")}
            times = lab.times({BASE: dense(chunk.q, *decoded(chunk, history)), **cases})
            ratio = times.ratio("fused", "staged")
            found[num_queries] = ratio.middle
            more = {f"{each}_s": times.seconds[each] for each in times.seconds}
            case = f"{name}, {num_queries} queries, fused / staged"
            lab.add(case, ratio, "x", note=times.note, more=more)
        lab.add(f"{name}, as fast at", crossing(found), "queries", note="expected: 300 to 600")


def crossing(ratios: dict[int, float]) -> float | None:
    """Return the number of queries at which the ratio rises past 1; None if it does not."""
    # Numbers of queries are measured in steps of factors, so the line between two of them is drawn
    # over their logarithms.
    below: tuple[int, float] | None = None
    for num_queries, ratio in sorted(ratios.items()):
        if ratio > 1 and below is not None:
            share = (1 - below[1]) / (ratio - below[1])
            return math.exp(
                math.log(below[0]) + share * (math.log(num_queries) - math.log(below[0]))
            )
        below = (num_queries, ratio) if ratio <= 1 else below
    return None


def correctness(lab: Lab) -> None:
    """Measure errors against fp32 attention; check pooled frames and repeated calls."""
    num_frames = lab.sizes.histories[0]
    chunk = lab.chunk(min(468, lab.sizes.queries[0]))
    for name in lab.within((BASE, *FORMATS)):
        history = lab.history(name, num_frames)
        for each, backend in lab.backends.items():
            own, other = errors(backend, chunk, history)
            note = f"BF16 over the same tensors: {other:.2e}"
            lab.add(f"{name}, {each}", own, "", target=TIMES_BF16 * other, note=note)
            # A repeated run must give the same video, so a call must be deterministic. Clone the
            # first result, since backends may reuse memory.
            action = call(backend, chunk, history)
            first, second = torch.as_tensor(action(0)).clone(), torch.as_tensor(action(1))
            same = float(torch.equal(first, second))
            lab.add(f"{name}, {each}, two calls equal", same, "", target=1, at_least=True)
    # In BF16 the two sides round at different places, so their bound is wide; in fp32 it is tight.
    k, v = lab.tensors(num_frames)
    for dtype, bound in IDENTITY.items():
        for each, backend in lab.backends.items():
            own = pooled_identity(backend, chunk.to(dtype), k.to(dtype), v.to(dtype))
            case = f"pooled tokens / their copies, {str(dtype).removeprefix('torch.')}, {each}"
            lab.add(case, own, "", target=bound)


def encoding(lab: Lab) -> None:
    """Measure microseconds per layer to encode one chunk and append it."""
    # On a GPU all layers of a network in one timing: one layer alone would mostly be launches.
    shape, num_layers = lab.sizes.encoded, lab.sizes.num_layers
    k, v = draw_history(shape, lab.device)
    clock = clock_of(lab.device, head_start_s=0.1)  # enough for thousands of launches on a GPU
    target = APPEND_US if lab.device.type == "cuda" else None
    for name in lab.within((BASE, *FORMATS)):
        backend = next(iter(lab.backends.values()))
        append = _append(method_of(name), backend, num_layers, k, v)
        times = lab.times({name: append}, clock=clock)
        note = f"{shape.num_frames} frames of {shape.frame_tokens} tokens; {times.note}"
        spread = times.of(name).scaled(1e6 / num_layers)
        lab.add(name, spread, "us a layer", target=target, note=note.removesuffix("; "))


def _append(method: Method, backend: Backend, num_layers: int, k: Tensor, v: Tensor) -> Action:
    """Return an action: encode and append frames in `num_layers` layers."""
    frames = list(range(k.shape[2]))
    arenas = (method.key, method.value, len(frames), backend.write)
    layers = [Arena(*arenas) for _ in range(num_layers)]

    def append(_: int) -> None:
        for layer in layers:
            # Drop first, so that frames go to existing pages, as all chunks but the first do.
            layer.drop(layer.frames)
            layer.store(frames, k, v)

    return append


def call(
    backend: Backend, chunk: Chunk, history: Sequence[Segment], scratch: Scratch | None = None
) -> Action:
    """Return an action: one attention call with reused scratch."""
    kept = scratch or Scratch()
    return lambda _: backend.attend(chunk.q, chunk.k, chunk.v, history, kept)


def dense(q: Tensor, k: Tensor, v: Tensor) -> Action:
    """Return an action: BF16 attention over decoded tensors [B, H, T, D]."""
    return lambda _: attend_plain(q, k, v)


def extra_peak(name: str, axis: str, quick: bool) -> Row:
    """Measure the memory of one call above resident memory, in its own process."""
    # A process keeps memory that it has used, so the next case would seem to need less.
    words = [name, axis.removeprefix("by "), "quick" if quick else "full"]
    command = [sys.executable, "-m", "harness.benchmarks.peak", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    target = EXTRA_MB if axis == "by heads" else None
    item, case = "extra peak of a call", f"{name}, {axis}"
    # A process that fails gives a row with the reason; the other cases go on.
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return Row(item, case, unit="MB", target=target, note=f"no value: {last}")
    return Row(item, case, int(done.stdout) / 1e6, "MB", target=target, note="output included")
