"""`python -m harness.benchmarks.peak <method> <axis> <full|quick>`: memory of one attention call.

Each measurement is a process of its own, since a process does not return all memory it had. Prints
by how many bytes resident memory rose during the call: scratch, output and temporaries.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace

# glibc then maps every large block on its own and returns it at once. Otherwise the call would
# reuse what encoding freed and show no growth. glibc reads these variables at process start.
THRESHOLD = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def main(name: str, axis: str, size: str) -> None:
    """Store history, warm up on a small size, then measure one call."""
    import torch

    from harness.benchmarks.attention import FULL, QUICK
    from harness.benchmarks.cases import (
        SOFT_PRUNE,
        draw_chunk,
        draw_history,
        method_of,
        spread_out,
        stored,
    )
    from harness.benchmarks.lab import on_cpu
    from harness.cache.attention.base import Scratch
    from harness.runs.meter import ResidentMemory

    sizes = {"full": FULL, "quick": QUICK}[size]
    backend = on_cpu()[f"by {axis}"]
    cpu = torch.device("cpu")
    # Not `memory_of`: without a high-water mark there is no value, and the row says so.
    memory = ResidentMemory()
    with torch.inference_mode():
        # The quick size first, because libraries load parts of themselves at their first use.
        for each in (QUICK, sizes):
            num_frames = each.histories[-1]
            kept = spread_out(num_frames, num_frames // 2) if name == SOFT_PRUNE else None
            shape = replace(each.frame, num_frames=num_frames)
            history = stored(method_of(name), *draw_history(shape, cpu), kept)
            chunk = draw_chunk(shape, each.queries[-1], cpu)
            # From here on: what drawing and encoding took must not count.
            memory.reset()
            before = memory.now()
            backend.attend(chunk.q, chunk.k, chunk.v, history, Scratch())
            used = memory.peak()[0] - before
    print(used)


if __name__ == "__main__":
    # The program starts itself again with the variables, before torch has allocated anything.
    if any(name not in os.environ for name in THRESHOLD):
        words = [sys.executable, "-m", "harness.benchmarks.peak", *sys.argv[1:]]
        os.execve(sys.executable, words, {**os.environ, **THRESHOLD})
    main(*sys.argv[1:])
