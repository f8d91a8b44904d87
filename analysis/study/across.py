"""Builds tables across methods or suites: coverage, frontiers, agreement, weak methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.choosing.frontiers import frontier, objectives
from analysis.section import Section, cell
from analysis.study.columns import View, number
from analysis.study.methods import Source, beside, merged, of_methods, paired, titled, unpaired
from analysis.study.notes import made_by, why_none
from analysis.study.over_time import drift, maxima
from analysis.study.rows import row_of, rows_missing
from analysis.study.spec import Table, suite_title
from harness.results.quantities import QUANTITIES
from harness.system.text_table import Grid

FEWEST = 3  # methods; two always agree or disagree fully
# As the study's Table 6 names them; `drift_last` is its "terminal drift", which is no drift.
AXES = {"imaging": "imaging quality", "drift_last": "terminal drift"}


def coverage(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build the table of methods and videos per section."""
    sections = source.sections
    lines = []
    for section in sections:
        # The study has one section per suite; our results may have several.
        title = suite_title(section.suite) if section.is_published else section.title
        counts = {name: method.num_videos for name, method in section.methods.items()}
        # The most common number comes once for all; methods with another one are named.
        usual, how_many = Counter(counts.values()).most_common(1)[0]
        others = [f"{name} {count}" for name, count in counts.items() if count != usual]
        said = [f"{how_many if others else 'all'} methods with {usual} videos", *others]
        failed = sum(method.num_failed for method in section.methods.values())
        said += [f"{failed} videos failed"] if failed else []
        lines.append([title, str(sum(counts.values())), str(len(counts)), ", ".join(said)])
    if not lines:
        yield "nothing was measured"
        return
    header = ["suite", "videos", "methods", "coverage"]
    title = titled(table, "", *(section for section in sections if section.is_published))
    notes = [f"{section.title}: {note}" for section in sections for note in section.notes]
    yield Grid(title, header, lines, notes, words={0, 3}, name=table.id)


def fronts(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build the table of methods that no other beats in ratio and one quality, for each suite."""
    found = source.of_table(table)
    # A frontier of one suite is a table, unlike a correlation of two.
    absent = [suite for suite in table.suites if not source.of_suite(suite)]
    # A suite's name is enough unless several sections share it.
    suites = Counter(section.suite for section in found)
    titles = [
        suite_title(section.suite) if suites[section.suite] == 1 else section.title
        for section in found
    ]
    lines: list[list[str]] = []
    noted = []
    for title, section in zip(titles, found, strict=True):
        axes = table.shown(section.is_published)
        # Ratio is the other axis of every frontier of this table.
        here = [axis for axis in axes if section.has(axis) and section.has("ratio")]
        lines += [[title, *cells] for axis in here for cells in front(section, axis)]
        lacks = [axis for axis in axes if axis not in here]
        noted.append([*why_none(section, lacks), *section.notes])
    notes = merged(titles, noted) if noted else []
    notes += [f"nothing of {suite}" for suite in absent]
    if not lines:
        yield "; ".join(notes)
        return
    # Axes that the study's table does not have are named as ours.
    ours = {name for name in table.measured if name not in table.columns}
    if ours and not all(section.is_published for section in found):
        said = ", ".join(QUANTITIES[name].title for name in table.measured if name in ours)
        notes.insert(0, f"{said}: axes of ours, not of the study's table")
    yield Grid(
        title=titled(table, "", *found),
        header=["suite", "quality axis", "method", "ratio", "quality", "runtime s", "peak GiB"],
        lines=lines,
        notes=notes,
        made_by=made_by(*((section, list(section.methods)) for section in found)),
        words={0, 1, 2},
        name=table.id,
    )


def front(section: Section, axis: str) -> list[list[str]]:
    """Return the lines of one frontier, largest ratio first."""
    values = objectives(section)
    # Ratio is the first axis, so the members come with the largest ratio first.
    members = frontier(values, ["ratio", axis])
    view = View(section, members)
    shown = ("ratio", axis, "runtime_s", "peak_gib")
    places = {each: view.places(each) for each in shown}
    title = AXES.get(axis, QUANTITIES[axis].title)
    return [
        [title, name, *(number(cell(values, name, each), places[each]) for each in shown)]
        for name in members
    ]


def correlations(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build the table of Pearson's correlations between the suites, over the methods in both."""
    pairs = paired(table, source)
    if not pairs:
        yield unpaired(table, source)
    for sections in pairs:
        lines, notes = [], []
        for name in table.shown(sections[0].is_published):
            none = pd.Series(dtype=float)
            # `objectives` leaves out reruns of BF16, which would count it several times.
            # BF16 is part of it: it is a method of both suites, as in the study's table.
            r, n = correlation(*(objectives(section).get(name, none) for section in sections))
            if np.isnan(r):
                why = f"{n} methods with a value in both suites, or all values are equal"
                without = [section for section in sections if not section.has(name)]
                if without:
                    why = f"{without[0].suite}: {without[0].why_not(name)}"
                notes.append(f"no {QUANTITIES[name].title}: {why}")
            else:
                places = 4 if table.decimals is None else table.decimals
                lines.append([QUANTITIES[name].title, number(r, places), str(n)])
        if not lines:
            yield "; ".join(notes)
            continue
        notes.append("over methods, not videos: high where methods differ more than suites do")
        made = made_by(*((section, list(section.methods)) for section in sections))
        title = titled(table, "", *sections)
        yield Grid(title, ["quantity", "Pearson r", "methods"], lines, notes, made, name=table.id)


def correlation(first: pd.Series, second: pd.Series) -> tuple[float, int]:
    """Return Pearson's r over methods finite in both, and their number; NaN if undefined."""
    # Methods pair by name, which is the same in both suites of one sweep.
    names = [name for name in first.index if name in second.index]
    both = np.array([first.reindex(names), second.reindex(names)], float)
    # The study printed some infinite values; one of them would make r undefined.
    both = both[:, np.isfinite(both).all(axis=0)]
    n = both.shape[1]
    # A constant side has no variance, so r is undefined.
    if n < FEWEST or (np.ptp(both, axis=1) == 0).any():
        return np.nan, n
    return float(np.corrcoef(both)[0, 1]), n


def weak(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build the table of methods that the study names weak.

    Quality is the mean of both suites; ratio and time are those of the first.
    """
    pairs = paired(table, source)
    if not pairs:
        yield unpaired(table, source)
    for both in pairs:
        first, second = both
        reasons = [
            said
            # Named before anything is averaged: a mean over one suite would pass for one over both.
            for section in (first, second)
            for said in why_none(section, [x for x in table.columns if not section.has(x)])
        ]
        # The study ranks by the mean of both suites, so a method must be in both.
        means = mean_of(first, second, table.columns)
        rows = {name: row for name in means.index if (row := row_of(first, name)) in table.rows}
        if reasons or not rows:
            yield (
                "; ".join(dict.fromkeys(reasons))
                or f"none of its rows is in both suites: {', '.join(table.rows)}"
            )
            continue
        yield _weak(table, first, second, means, rows)


def _weak(
    table: Table, first: Section, second: Section, means: pd.DataFrame, rows: Mapping[str, str]
) -> Grid:
    """Build the table of one pair of suites. rows: the study's row by method."""
    by = table.columns[0]
    # The weakest method comes first, as in the study.
    ordered = means.loc[list(rows)].sort_values(by)
    suite = suite_title(first.suite)
    titles = [f"mean {QUANTITIES[name].title}" for name in table.columns]
    header = ["method", *titles, f"{suite} ratio", f"{suite} runtime s"]
    lines = [
        [
            str(name),
            *(
                number(cell(ordered, name, each), QUANTITIES[each].decimals)
                for each in table.columns
            ),
            number(cell(first.values, name, "ratio"), 2),
            number(cell(first.values, name, "runtime_s"), 1),
        ]
        for name in ordered.index
    ]
    # The comments are on the study's numbers, so they say nothing of other results.
    if first.is_published:
        header.append("comment")
        lines = [[*line, table.comments[rows[line[0]]]] for line in lines]
    # The study's list is its own choice, so name the methods that are as weak and not on it.
    lower = means[means[by] < ordered[by].max()].sort_values(by)
    unnamed = [
        f"{name} {cell(lower, name, by):.3f}" for name in map(str, lower.index) if name not in rows
    ]
    notes = [f"not named there, though lower in {QUANTITIES[by].title}: {', '.join(unnamed)}"]
    missing = rows_missing(table, first)
    gone = [f"rows of the study that are not here: {', '.join(missing)}"] if missing else []
    made = made_by(*((section, list(rows)) for section in (first, second)))
    shown = [*(notes if unnamed else []), *gone]
    return Grid(titled(table, "", first, second), header, lines, shown, made, {0, 5}, table.id)


def mean_of(first: Section, second: Section, quantities: Sequence[str]) -> pd.DataFrame:
    """Average two suites over the methods that have a value in both."""
    sides = [section.values.reindex(columns=list(quantities)) for section in (first, second)]
    names = [name for name in sides[0].index if name in sides[1].index]
    # A method that lacks a value in one suite has no mean of both.
    return ((sides[0].loc[names] + sides[1].loc[names]) / 2).dropna()


KINDS: Mapping[str, Callable[[Table, Source], Iterator[Grid | str]]] = {
    "coverage": coverage,
    "methods": of_methods,
    "beside": beside,
    "fronts": fronts,
    "correlations": correlations,
    "weak": weak,
    "drift": drift,
    "traces": maxima,
}


def made(
    tables: Sequence[Table], sections: Sequence[Section], statistics: bool | None, split: bool
) -> tuple[list[Grid], dict[str, str]]:
    """Build the tables that can be built; by id, explain the missing ones or parts."""
    source = Source(sections, statistics, split)
    grids, reasons = [], {}
    for table in tables:
        # A builder yields grids, and sentences for what it could not build: both are shown.
        found = list(KINDS[table.kind](table, source))
        said = [each for each in found if isinstance(each, str)]
        grids += [each for each in found if isinstance(each, Grid)]
        if said or not found:
            suites = " or ".join(table.suites)
            reasons[table.id] = "; ".join(said) or f"no results of {suites}"
    return grids, reasons
