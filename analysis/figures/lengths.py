"""Builds bar charts of a section: memory, quality, time, and fidelity with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.choosing.frontiers import objectives
from analysis.figures.figure import Absent, Bar, Bars, Panels
from analysis.figures.places import axis, systems_said
from analysis.numbers import listed
from analysis.section import Section
from analysis.statistics import estimates
from analysis.study.columns import is_sampled
from analysis.study.rows import row_of
from analysis.study.spec import suite_title, tables
from harness.results.quantities import QUANTITIES

ACROSS = 2  # panels in one row


@dataclass(frozen=True)
class Lengths:
    """Description of a sheet: one panel per quantity, one bar per method.

    rows: the study's table (`analysis/study/tables.yaml`) whose methods are shown; empty for all.
    said: what the study's figure also shows and ours does not.
    """

    name: str
    title: str
    quantities: Sequence[str]
    rows: str = ""
    said: str = ""

    def __call__(self, section: Section) -> Panels | Absent:
        """Build the sheet of a section, or explain why there is none."""
        rows_wanted = tables()[self.rows].rows if self.rows else ()
        # Reruns would be bars of BF16 beside BF16; the noise floor is a line instead.
        names = [name for name in section.methods if name not in section.again]
        if self.rows:
            names = [name for name in names if row_of(section, name) in rows_wanted]
        # A figure needs at least one method besides the BF16 reference.
        if not any(name != section.reference for name in names):
            wanted = f" ({listed(rows_wanted)})" if self.rows else ""
            return Absent(self.name, self.title, f"none of its methods is here{wanted}")
        values = section.values.reindex(index=names)
        shown = [
            q
            for q in self.quantities
            if section.has(q) and np.isfinite(values[q].astype(float)).any()
        ]
        # A sheet with some of its panels is still useful; a note names the others.
        absent = [
            f"no {QUANTITIES[q].title}: {section.why_not(q)}"
            for q in self.quantities
            if q not in shown
        ]
        if not shown:
            return Absent(self.name, self.title, "; ".join(absent))
        # All panels share the order of the first, so that a method is in the same line of each.
        sign = -1.0 if QUANTITIES[shown[0]].better == "higher" else 1.0
        ranked = sign * objectives(section).reindex(index=names)[shown[0]]
        ordered = list(map(str, ranked.sort_values(kind="stable").index))  # NaN sorts last
        # One bar per method and panel: names stand at the left panel of a row only (`paper._row`).
        panels = [_panel(section, q, ordered) for q in shown]
        here = {row_of(section, name) for name in names}
        gone = [row for row in rows_wanted if row not in here]
        notes = [f"not here: {listed(gone)}"] if gone else []
        notes += [*absent, *filter(None, [self.said])]
        notes += systems_said(section, shown)
        notes += [section.remarks[q] for q in shown if q in section.remarks]
        rows = [panels[i : i + ACROSS] for i in range(0, len(panels), ACROSS)]
        title = f"{suite_title(section.suite)}: {self.title}"
        return Panels(self.name, rows, title=title, note="; ".join(notes))


def _panel(section: Section, quantity: str, names: Sequence[str]) -> Bars:
    """Build the bars of one quantity, with intervals of the values shown, and the noise floor."""
    values = section.values[quantity].astype(float)
    # Counted bytes and maxima have no interval.
    known = estimates(section, quantity) if is_sampled(quantity) else {}
    bars = []
    for name in names:
        # An infinite bar cannot be drawn; the note names the method.
        value = float(values.get(name, np.nan))
        if not np.isfinite(value):
            continue
        low, high = None, None
        estimate = known.get(name)
        # The study's single numbers are not always means over its videos. An interval is drawn only
        # if it is of the value shown, and has a width.
        if estimate and estimate.bounds and np.isclose(estimate.mean, value, rtol=1e-6):
            ends = estimate.bounds
            if ends[1] - ends[0] > 1e-9 * abs(value):
                low, high = ends
        family = section.methods[name].family
        bars.append(Bar(name, family, [value], low, high, name == section.reference))
    # BF16 has no fidelity to itself; the noise floor takes its place.
    floor = next(iter(section.floors), None)
    mark = float(values.get(floor, np.nan)) if floor and QUANTITIES[quantity].fidelity else np.nan
    gone = [name for name in names if all(name != bar.name for bar in bars)]
    bounded = any(bar.low is not None for bar in bars)
    said = ["whiskers: 95 % of means over redrawn prompts"] if bounded else []
    # BF16 is missing in every panel of fidelity, which needs no note.
    said += [f"no finite value: {listed(gone)}"] if gone and gone != [section.reference] else []
    return Bars(
        f"{quantity}",
        QUANTITIES[quantity].title,
        axis(quantity),
        bars,
        mark=mark if np.isfinite(mark) else None,
        mark_said="noise floor" if np.isfinite(mark) else "",
        note="; ".join(said),
    )


VBENCH = ("background", "imaging", "subject", "aesthetic")
# T1, experiments-...: ids of the study's tables, whose rows the figures share.
SHEETS: Mapping[str, Lengths] = {
    each.name: each
    for each in (
        Lengths("deck-bars", "peak and ratio of five methods", ("peak_gib", "ratio"), "T1"),
        Lengths("deck-drift", "terminal drift of five methods", ("drift_last",), "T1"),
        Lengths("registry-memory", "memory of all methods", ("ratio", "peak_gib")),
        Lengths(
            "registry-quality", "quality of all methods", ("lpips", "ssim", "imaging", "subject")
        ),
        Lengths(
            "registry-performance", "time of all methods", ("runtime_s",),
            said="the study's second panel, seconds of quantizing and restoring, is left out: its "
            "clocks did not wait for the device",
        ),
        Lengths(
            "experiments-fidelity", "fidelity of the quantizers",
            ("psnr_frame_mean_db", "ssim", "lpips"), "experiments-moviegen",
        ),
        Lengths(
            "experiments-vbench", "VBench of the quantizers", VBENCH, "experiments-moviegen"
        ),
        Lengths(
            "experiments-systems", "runtime and peak of the quantizers",
            ("runtime_s", "peak_gib"), "experiments-moviegen",
        ),
        Lengths(
            "experiments-drift", "terminal drift of the quantizers",
            ("drift_last",), "experiments-moviegen",
        ),
        Lengths(
            "fidelity", "fidelity to BF16 with intervals and the noise floor",
            ("psnr_rest_db", "psnr_db", "ssim", "lpips"),
        ),
    )
}  # fmt: skip
