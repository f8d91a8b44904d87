"""Items 3, 4 and 6: one attention call over packed history beside BF16 over the same tokens."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from torch import Tensor

from harness.benchmarks.cases import FORMATS, PRQ, SOFT_PRUNE, Chunk, num_rows, spread_out
from harness.benchmarks.checks import decoded
from harness.benchmarks.gpu.lab import Lab, call
from harness.benchmarks.gpu.prototypes import Lane, by_tokens, overlapped
from harness.benchmarks.timing import Action, Spread, Times
from harness.cache.attention.base import Backend, Scratch, Segment
from harness.cache.attention.dense import attend_plain

RATIO = {**dict.fromkeys(FORMATS, 1.05), "quarot_int4": 1.06, PRQ: 1.07}  # at most
BEST, SCRATCH_MB = 1.03, 60
KEPT = ((0.75, 0.82), (0.50, 0.57), (0.25, 0.32))  # share of all rows, and the time at most
BASE = "bf16"


def staged(lab: Lab) -> None:
    """Groups of heads, tiles of tokens, overlap; then every format at window and full history."""
    chunk, best = lab.chunk(), math.inf
    for num_frames in (lab.window, lab.full):
        history = lab.history("rtn_int4", num_frames)
        base = baseline(lab, chunk, history, num_frames + lab.sizes.chunk_frames)
        found = [_tilings(lab, chunk, history, base), _formats(lab, chunk, num_frames, base)]
        best = min(best, *found)
    lab.add("the best of all above", None if math.isinf(best) else best, "x", target=BEST)
    history = lab.history("rtn_int4", lab.window)
    lab.add("rtn_int4, processor to launch a call", _launching(lab, chunk, history), "us")


def _formats(lab: Lab, chunk: Chunk, num_frames: int, base: Action) -> float:
    """Every format by the backend as it is configured; the best median ratio."""
    best = math.inf
    for name in lab.within(("bf16", *FORMATS)):
        history, scratch = lab.history(name, num_frames), Scratch()
        times = lab.times({BASE: base, name: _with(lab.staged(), chunk, history, scratch)})
        case = f"{name}, N = {num_rows(history) + chunk.k.shape[2]}"
        ratio = times.ratio(name, BASE)
        _row(lab, case, ratio, times, name, RATIO.get(name))
        best = min(best, ratio.middle if name in FORMATS else math.inf)
        bound = SCRATCH_MB if num_frames == lab.window else None
        lab.add(f"{case}, scratch", scratch.nbytes / 1e6, "MB", target=bound)
    return best


def _tilings(lab: Lab, chunk: Chunk, history: Sequence[Segment], base: Action) -> float:
    """RTN INT4 cut in different ways; the best median ratio."""
    rows, num_heads = num_rows(history) + chunk.k.shape[2], lab.sizes.num_heads
    a_head = 4 * rows * lab.sizes.head_dim / 2**20
    groups = [group for group in (1, 2, 3, 4, 6, 12) if num_heads % group == 0]
    cases: dict[str, Action] = {}
    for group in groups:
        backend = lab.staged((group + 0.5) * a_head)
        cases[f"groups of {group} heads"] = call(backend, chunk, history)
        cases[f"groups of {group} heads, overlapped"] = _overlapped(lab, chunk, history, group)
    for tile in (3, 6, 10.5):  # in frames: 4680, 9360 and 16380 tokens of the true size
        num_tokens = int(tile * lab.sizes.frame_tokens)
        cases[f"tiles of {num_tokens} tokens"] = _by_tokens(chunk, history, num_tokens)
    best = math.inf
    for name in lab.within(list(cases)):
        times = lab.times({BASE: base, name: cases[name]})
        ratio = times.ratio(name, BASE)
        best = min(best, ratio.middle)
        _row(lab, f"rtn_int4, N = {rows}, {name}", ratio, times, name, None)
    return best


def fused(lab: Lab) -> None:
    """Unpacking in the loop beside staging, by number of queries: where do they cross?"""
    for name in lab.within(("rtn_int4", "rtn_int8", "rtn_int2")):
        history = lab.history(name, lab.window)
        found: dict[int, float] = {}
        for num_queries in lab.within(lab.sizes.few_queries):
            chunk = lab.chunk(num_queries)
            dense = _dense(chunk, *decoded(chunk, history))
            cases = {BASE: dense, "fused": call(lab.fused(), chunk, history)}
            times = lab.times({**cases, "staged": call(lab.staged(), chunk, history)})
            ratio = times.ratio("fused", "staged")
            found[num_queries] = ratio.middle
            case = f"{name}, {num_queries} queries, fused / staged"
            more = {f"{each}_s": times.seconds[each] for each in times.seconds}
            lab.add(case, ratio, "x", note=times.note or lab.missing or "", more=more)
        lab.add(f"{name}, as fast at", crossing(found), "queries", note="expected: 300 to 600")


def crossing(ratios: dict[int, float]) -> float | None:
    """Where the ratio passes 1 on its way up, between numbers of queries by their logarithms.

    None where it does not.
    """
    below: tuple[int, float] | None = None
    for num_queries, ratio in sorted(ratios.items()):
        if ratio > 1 and below is not None:
            share = (1 - below[1]) / (ratio - below[1])
            return math.exp(
                math.log(below[0]) + share * (math.log(num_queries) - math.log(below[0]))
            )
        below = (num_queries, ratio) if ratio <= 1 else below
    return None


def dropped(lab: Lab) -> None:
    """Soft prune: fewer rows, pooled ones on top, beside BF16 over all of them."""
    chunk, num_frames = lab.chunk(), lab.sizes.video
    base = baseline(lab, chunk, lab.history("bf16", lab.full), num_frames)
    for share, target in lab.within(KEPT):
        num_kept = max(1, int(share * num_frames) - lab.sizes.chunk_frames)
        history = lab.history(SOFT_PRUNE, lab.full, spread_out(lab.full, num_kept))
        name = f"{SOFT_PRUNE}, {share:.0%} of the frames"
        times = lab.times({BASE: base, name: call(lab.staged(), chunk, history)})
        left = (num_rows(history) + chunk.k.shape[2]) / (num_frames * lab.sizes.frame_tokens)
        ratio = times.ratio(name, BASE)
        _row(lab, name, ratio, times, name, target, f"{left:.3f} of the rows")


def baseline(lab: Lab, chunk: Chunk, history: Sequence[Segment], num_frames: int) -> Action:
    """BF16 attention over all tokens in the faster of two layouts; notes how long it takes."""
    k, v = decoded(chunk, history)
    turned = Chunk(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (chunk.q, k, v)))
    cases = {"head-major": _dense(chunk, k, v), "token-major": _dense(turned, turned.k, turned.v)}
    times = lab.times(cases)
    spread = times.of(times.fastest)
    lab.bf16_s[num_frames] = spread.middle
    note = ", ".join(f"{name} {times.of(name).middle * 1e3:.4g} ms" for name in cases)
    lab.add(f"{BASE}, {times.fastest}, N = {k.shape[2]}", spread.scaled(1e3), "ms", note=note)
    return cases[times.fastest]


def _row(
    lab: Lab,
    case: str,
    ratio: Spread,
    times: Times,
    name: str,
    target: float | None,
    note: str = "",
) -> None:
    notes = [note, times.note, f"kernels: {lab.missing}" if lab.missing else ""]
    more = {"seconds": times.seconds[name], "bf16_s": times.seconds[BASE]}
    lab.add(case, ratio, "x", target=target, note="; ".join(filter(None, notes)), more=more)


def _dense(chunk: Chunk, k: Tensor, v: Tensor) -> Action:
    return lambda _: attend_plain(chunk.q, k, v)


def _with(backend: Backend, chunk: Chunk, history: Sequence[Segment], scratch: Scratch) -> Action:
    return lambda _: backend.attend(chunk.q, chunk.k, chunk.v, history, scratch)


def _overlapped(lab: Lab, chunk: Chunk, history: Sequence[Segment], group: int) -> Action:
    rooms, lane = (Scratch(), Scratch()), Lane(lab.device)
    return lambda _: overlapped(chunk, history, group, rooms, lane)


def _by_tokens(chunk: Chunk, history: Sequence[Segment], tile: int) -> Action:
    scratch = Scratch()
    return lambda _: by_tokens(chunk, history, tile, scratch)


def _launching(lab: Lab, chunk: Chunk, history: Sequence[Segment]) -> Spread:
    """Microseconds until a call has been asked for; in a network they hide behind the GPU."""
    action, seconds = call(lab.staged(), chunk, history), []
    for number in range(lab.sizes.rounds):
        lab.clock(action, number)  # waits for the GPU
        start = time.perf_counter()
        action(number)
        seconds.append(time.perf_counter() - start)
    return Spread.of(seconds).scaled(1e6)
