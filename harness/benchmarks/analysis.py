"""Measures tables, choices, figures and the report on 100,000 made-up observations.

Each verb runs as a user types it, in its own process. Seconds and peak memory are those of the
whole process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from harness.benchmarks.made_up import write_results
from harness.benchmarks.options import Options
from harness.benchmarks.report import Report, Row
from harness.system.errors import UserError

TITLE = "Reading 100,000 observations of 60 methods"
PACKAGES = ("pandas", "pyarrow", "numpy", "matplotlib", "plotly")
SECONDS, PEAK_GIB = 60.0, 2.0  # upper bounds for tables and report
ROWS, METHODS = 100_000, 60
QUICK_ROWS, QUICK_METHODS = 24, 3


def run(options: Options) -> int:
    """Write the rows, then run each verb on them."""
    rows, methods = (QUICK_ROWS, QUICK_METHODS) if options.quick else (ROWS, METHODS)
    with (
        Report("analysis", TITLE, torch.device("cpu"), options, PACKAGES) as report,
        tempfile.TemporaryDirectory() as folder,
    ):
        results = Path(folder, "results")
        made = write_results(results, rows, methods)
        case = f"{made} rows of {methods} methods"
        source, out = ["--source", str(results)], ["--out", f"{folder}/out"]
        # Each with the words that a user types: starting Python and its libraries counts.
        verbs = {
            "tables": [*source, "--format", "md", *out],
            "choose": source,
            "figures": [*source, *out],
            "report": [str(results), "--out", f"{folder}/report"],
        }
        for verb, words in verbs.items():
            seconds, peak_gib = measured([verb, *words])
            bounded = verb in ("tables", "report")
            report.add(Row(verb, case, seconds, "s", target=SECONDS if bounded else None))
            target = PEAK_GIB if bounded else None
            report.add(Row(f"{verb}, peak memory", case, peak_gib, "GiB", target=target))
    return 0


def measured(words: Sequence[str]) -> tuple[float, float]:
    """Return seconds and peak GiB of `python -m analysis` with these words.

    Raises  UserError: it failed.
    """
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "analysis", *words], stdout=subprocess.DEVNULL)
    # `wait4` gives the peak of this child alone; `getrusage` would mix all children.
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise UserError(f"python -m analysis {' '.join(words)} ended with {child.returncode}")
    return seconds, usage.ru_maxrss / 2**20  # Linux gives KiB
