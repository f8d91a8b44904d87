"""Prepares figures for the page: drawn by its script, described in words, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from analysis.figures.catalogue import drawn
from analysis.figures.figure import Absent, Curves, Figure, Panels
from analysis.figures.page import div
from analysis.figures.words import described, rows
from analysis.report import links
from analysis.section import Section
from harness.system.text_table import Grid

# Headings and the figures under each, by their names in the catalogue.
GROUPS = {
    "Frontiers of the published study": (
        *("frontier-balanced", "frontier-quality", "frontier-systems", "frontier-quality-first"),
    ),
    "Memory": ("kv-trace", "memory-trace", "components"),
    "Fidelity and its noise floor": ("fidelity",),
    "Quality over time": ("drift", "over-time"),
}
# A sheet has a panel for every quantity; the rest unfolds on request.
AT_ONCE = 4  # figures under a heading


@dataclass(frozen=True)
class Drawn:
    """A figure on the page.

    div: the element that the script draws into. described: its text alternative.
    is_wide: lines with names next to the plot, too wide for half a page.
    """

    title: str
    div: Markup
    described: str
    note: str
    rows: Grid
    is_wide: bool


@dataclass(frozen=True)
class Group:
    """Figures under a heading, and reasons for the missing ones."""

    heading: str
    figures: Sequence[Drawn]
    absent: Sequence[str]

    @property
    def first(self) -> Sequence[Drawn]:
        """Figures that are visible at once."""
        return self.figures[:AT_ONCE]

    @property
    def more(self) -> Sequence[Drawn]:
        """Figures that appear on request."""
        return self.figures[AT_ONCE:]


def groups(section: Section, key: str) -> list[Group]:
    """Build the figures of a section in the order of the page; key: prefix of their ids."""
    found = []
    for heading, names in GROUPS.items():
        figures: list[Figure] = []
        absent = []
        for each in drawn(section, names):
            if isinstance(each, Absent):
                absent.append(f"not drawn: {each.title}; {each.reason}")
            else:
                # The page lays panels out by itself, so a sheet is taken apart.
                figures += each.figures if isinstance(each, Panels) else [each]
        # Sections of one page repeat the same figures, but an id must be unique in it.
        ids = links.slugs_of([f"{key}-{heading}-{each.name}" for each in figures])
        shown = [
            Drawn(
                each.title,
                Markup(div(each, id)),
                described(each),
                each.note,
                rows(each),
                isinstance(each, Curves),
            )
            for each, id in zip(figures, ids, strict=True)
        ]
        found.append(Group(heading, shown, absent))
    return found
