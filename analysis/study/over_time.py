"""Builds tables over the course of a video: quality by second, largest memory of a trace."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pandas as pd

from analysis.section import Section
from analysis.study.columns import number
from analysis.study.methods import Source, titled
from analysis.study.notes import made_by
from analysis.study.rows import label, names_of
from analysis.study.spec import Table, suite_title
from harness.results.quantities import QUANTITIES
from harness.system.text_table import Grid

# The study's drift curve, or the curve of ours that is nearest: prefix clips; values by second.
CURVES = ("drift_last", "imaging")
KINDS = {"memory": "memory GiB", "reserved": "reserved GiB", "kv": "KV GiB"}


def drift(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build tables of imaging quality by second, one row per method."""
    for section in source.of_table(table):
        name = next((each for each in CURVES if each in section.curves), None)
        if name is None:
            yield section.remarks.get("curves") or f"no imaging: {section.why_not('imaging')}"
            continue
        curves = section.curves[name]
        header = [f"{second:g} s" for second in curves.index]
        yield _grid(table, section, curves.T, header, QUANTITIES[name].decimals, "curves")


def maxima(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build tables of the largest memory and history bytes in the trace of one video."""
    for section in source.of_table(table):
        found = section.trace_maxima
        # The study published the maxima of its traces only; ours are computed from whole traces.
        if not section.is_published:
            of_kinds = {
                kind: {name: float(x.gib.max()) for name, x in traces.items() if len(x.gib)}
                for kind, traces in section.traces.items()
            }
            found = pd.DataFrame(of_kinds)
        if found.empty:
            yield section.remarks.get("traces") or f"no run of {section.suite} has a trace"
            continue
        # In the study's order, whatever order the source has.
        found = found[[kind for kind in KINDS if kind in found]]
        least = min(found.max())  # the smallest kind still shows three digits
        # One format for all kinds, since they are GiB and stand side by side.
        decimals = max(3, 2 - math.floor(math.log10(least))) if least > 0 else 3
        yield _grid(table, section, found, [KINDS[str(kind)] for kind in found], decimals, "traces")


def _grid(
    table: Table,
    section: Section,
    values: pd.DataFrame,
    header: list[str],
    decimals: int,
    remark: str,
) -> Grid:
    """Build the table of one section. remark: name of the remark printed below it."""
    # Not every method has a curve or a trace; the note says whose is shown.
    names = [name for name in names_of(table, section) if name in values.index]
    lines = [
        [label(section, name), *(number(float(x), decimals) for x in values.T[name].tolist())]
        for name in names
    ]
    notes = [section.remarks[remark]] if remark in section.remarks else []
    traced = [f"one video: {section.traced}"] if remark == "traces" and section.traced else []
    return Grid(
        title=titled(table, suite_title(section.suite) + ", ", section),
        header=["method", *header],
        lines=lines,
        notes=[*traced, *notes, *section.notes],
        made_by=made_by((section, names)),
        name=table.id,
    )
