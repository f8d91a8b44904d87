"""Builds scatters of a section: the study's four frontiers, memory and time against quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.choosing.frontiers import frontiers, objectives, of_axes, presets
from analysis.figures.figure import Absent, Axis, Point, Scatter
from analysis.numbers import listed
from analysis.section import Section
from analysis.study.spec import suite_title
from harness.results.quantities import QUANTITIES

# Substitutes for a quantity that was not scored, nearest in meaning first.
INSTEAD = {
    "drift_last": ("imaging", "psnr_rest_db", "ssim"),
    "imaging": ("ssim", "psnr_rest_db"),
    "ssim": ("psnr_rest_db",),
}
TIMES = ("runtime_s", "seconds_ratio")


@dataclass(frozen=True)
class Places:
    """Description of a scatter: its axes, and the preset of its frontier (empty: of its axes)."""

    name: str
    x: str
    y: str
    preset: str = ""
    size: str = ""

    def __call__(self, section: Section) -> Scatter | Absent:
        """Build the scatter of a section, or explain why there is none."""
        # Without VBench's weights a plot of SSIM is worth more than none; the note says what it
        # replaces.
        x, y = _nearest(section, self.x), _nearest(section, self.y)
        # A substitute may be missing too.
        missing = [axis for axis in (x, y) if not section.has(axis)]
        title = self._titled(x, y)
        if missing:
            why = "; ".join(f"no {QUANTITIES[q].title}: {section.why_not(q)}" for q in missing)
            return Absent(self.name, self._titled(self.x, self.y), why)
        values = objectives(section)
        points = placed(section, values, x, y, self.size if section.has(self.size) else "")
        if not points:
            said = f"no method has a finite {QUANTITIES[x].title} and {QUANTITIES[y].title}"
            return Absent(self.name, title, said)
        # A preset's frontier may have more axes than the two shown, so its members need not look
        # like a frontier here.
        known = {each.name: each for each in frontiers(section)} if self.preset else {}
        found = known[self.preset] if self.preset else of_axes(section, (x, y))
        axes_said = ", ".join(QUANTITIES[each].title for each in found.axes)
        left = ", ".join(QUANTITIES[each].title for each in found.left_out)
        return Scatter(
            self.name,
            f"{suite_title(section.suite)}: {title}",
            axis(x),
            axis(y),
            points,
            # A member may lack one of the two axes that are shown.
            [name for name in found.members if any(name == point.name for point in points)],
            f"of {axes_said}" + (f"; without {left}, which nothing here has" if left else ""),
            QUANTITIES[self.size].title if points[0].size is not None else "",
            note=_note(section, (x, y), self, values, points),
        )

    def _titled(self, x: str, y: str) -> str:
        """Return a title: the axes shown, and the preset frontier if there is one."""
        of = f", frontier: {presets()['frontiers'][self.preset]['title']}" if self.preset else ""
        return f"{QUANTITIES[x].title} and {QUANTITIES[y].title}{of}"


def axis(quantity: str) -> Axis:
    """Return the axis of a quantity."""
    return Axis(QUANTITIES[quantity].heading, QUANTITIES[quantity].better)


def placed(section: Section, values: pd.DataFrame, x: str, y: str, size: str = "") -> list[Point]:
    """Return points of methods with finite values on both axes; sizes are shares of the largest."""
    wanted = values[[each for each in (x, y, size) if each]].astype(float)
    kept = wanted[np.isfinite(wanted).all(axis=1)]
    # Shares, so that the largest mark has the same area in every figure.
    sizes = kept[size] / kept[size].max() if size else None
    return [
        Point(
            str(name),
            float(kept[x].iloc[i]),
            float(kept[y].iloc[i]),
            section.methods[str(name)].family,
            None if sizes is None else float(sizes.iloc[i]),
            hollow=is_short(section, str(name)),
            is_reference=name == section.reference,
        )
        for i, name in enumerate(kept.index)
    ]


def is_short(section: Section, name: str) -> bool:
    """Whether a method has fewer videos than its request asks for."""
    method = section.methods[name]
    return method.num_wanted is not None and method.num_videos < method.num_wanted


def systems_said(section: Section, quantities: Sequence[str]) -> list[str]:
    """Explain what the runtime includes, and name methods measured in another program."""
    found = []
    if section.phases and any(each in TIMES for each in quantities):
        found.append(f"seconds: {section.phases}")
    builds = {name: method.build for name, method in section.methods.items()}
    # Without BF16 the first method stands for the usual program.
    own = builds[section.reference or next(iter(builds))] if builds else ""
    others = [name for name, build in builds.items() if build != own]
    if others and any(each in (*TIMES, "peak_gib") for each in quantities):
        words = ", ".join(dict.fromkeys(builds[name] or "unknown" for name in others))
        found.append(f"peaks and seconds of another program ({words}): {listed(others)}")
    return found


def _nearest(section: Section, quantity: str) -> str:
    """Return the quantity, or its first substitute with values if it has none."""
    for each in (quantity, *INSTEAD.get(quantity, ())):
        if section.has(each):
            return each
    return quantity


def _note(
    section: Section,
    axes: tuple[str, str],
    of: Places,
    values: pd.DataFrame,
    points: Sequence[Point],
) -> str:
    """Collect notes on substitutes, hidden methods and the quantities."""
    said = [
        f"{QUANTITIES[shown].title} in place of {QUANTITIES[wanted].title} "
        f"({section.why_not(wanted)})"
        for shown, wanted in zip(axes, (of.x, of.y), strict=True)
        if shown != wanted
    ]
    if of.size and points[0].size is None:
        said.append(f"all of one size: no {QUANTITIES[of.size].title}")
    # Methods that cannot be shown are named, so that none is missing unnoticed.
    gone = [str(name) for name in values.index if all(name != p.name for p in points)]
    if gone:
        said.append(f"not shown, for want of a finite value: {listed(gone)}")
    hollow = [point.name for point in points if point.hollow]
    if hollow:
        said.append(f"hollow: fewer videos than asked for ({listed(hollow)})")
    said += systems_said(section, axes)
    said += [section.remarks[each] for each in axes if each in section.remarks]
    return "; ".join(said)


SCATTERS: Mapping[str, Places] = {
    each.name: each
    for each in (
        Places("frontier-balanced", "ratio", "drift_last", "balanced_practical"),
        Places("frontier-quality", "ratio", "ssim", "quality_preserving_compression"),
        Places("frontier-systems", "ratio", "peak_gib", "systems_efficiency"),
        Places("frontier-quality-first", "runtime_s", "ssim", "quality_first"),
        Places("peak-ssim", "peak_gib", "ssim", size="ratio"),
        Places("peak-runtime", "peak_gib", "runtime_s"),
        Places("ratio-peak", "ratio", "peak_gib"),
        Places("deck-runtime-quality", "runtime_s", "imaging"),
    )
}
