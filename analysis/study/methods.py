"""Builds tables with one row per method: for one suite, or for two suites side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from analysis.section import Section
from analysis.study.columns import Column, View
from analysis.study.derived import columns
from analysis.study.notes import made_by, notes
from analysis.study.rows import label, names_of
from analysis.study.spec import Table, is_of_study, suite_title
from harness.results.quantities import QUANTITIES
from harness.system.text_table import Grid


@dataclass(frozen=True)
class Source:
    """All sections of a source, and options for their tables.

    statistics: None shows them for results and hides them for the study.
    split: put intervals in columns of their own.
    """

    sections: Sequence[Section]
    statistics: bool | None = None
    split: bool = False

    def of_suite(self, suite: str) -> list[Section]:
        """Return the sections of one suite."""
        return [section for section in self.sections if section.suite == suite]

    def of_table(self, table: Table) -> list[Section]:
        """Return the sections of a table's suites; with `any_suite` also of our own suites."""
        return [
            section
            for section in self.sections
            # A table of StoryEval must not show MovieGen, but a suite of the user's has no table of
            # its own.
            if section.suite in table.suites or (table.any_suite and not is_of_study(section.suite))
        ]


def of_methods(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build one table per section."""
    for section in source.of_table(table):
        view = _view(table, source, section)
        found, left_out = _columns(table, view)
        if not view.names or not found:
            yield f"none of its rows or columns is in {section.title}"
            continue
        yield Grid(
            title=titled(table, suite_title(section.suite) + ", ", section),
            header=["method", *(column.header for column in found)],
            lines=_lines(section, view.names, found),
            notes=notes(table, view, left_out),
            made_by=made_by((section, view.names)),
            words={0, *(i for i, column in enumerate(found, 1) if column.words)},
            name=table.id,
        )


def beside(table: Table, source: Source) -> Iterator[Grid | str]:
    """Build tables of both suites side by side: the study's rows, then other common methods."""
    pairs = paired(table, source)
    if not pairs:
        yield unpaired(table, source)
    for both in pairs:
        # In the order of the first suite.
        of_each = [names_of(table, section) for section in both]
        # Both halves of a line are of one method.
        names = [name for name in of_each[0] if all(name in others for others in of_each)]
        alone = list(dict.fromkeys(name for each in of_each for name in each if name not in names))
        found: list[Column] = []
        noted: list[list[str]] = []
        for section in both:
            # Both halves have the same rows, so that one line is one method.
            view = replace(_view(table, source, section), names=names)
            title = suite_title(section.suite)
            own, left_out = _columns(table, view)
            # The same quantity comes twice, so its heading names the suite.
            found += [replace(column, header=f"{title} {column.header}") for column in own]
            noted.append(notes(table, view, left_out))
        if not names or not found:
            yield "no method and column is in both suites"
            continue
        yield Grid(
            title=titled(table, "", *both),
            header=["method", *(column.header for column in found)],
            lines=_lines(both[0], names, found),
            notes=[
                *merged([suite_title(section.suite) for section in both], noted),
                *([f"in one of the suites only: {', '.join(alone)}"] if alone else []),
            ],
            made_by=made_by(*((section, names) for section in both)),
            name=table.id,
        )


def merged(titles: Sequence[str], noted: Sequence[Sequence[str]]) -> list[str]:
    """Merge notes: a common note once, any other with the title of its section."""
    # Most notes explain how to read the table and are the same for both suites.
    shared = [note for note in noted[0] if all(note in others for others in noted)]
    own = [
        f"{title}: {note}"
        for title, notes_of in zip(titles, noted, strict=True)
        for note in notes_of
        if note not in shared
    ]
    return [*shared, *own]


def paired(table: Table, source: Source) -> list[list[Section]]:
    """Pair sections that differ only in their suite, one per suite of the table."""
    found: dict[str, list[list[Section]]] = {}
    for place, suite in enumerate(table.suites):
        for section in source.of_suite(suite):
            # Without the suite and the reference run, which both differ between suites.
            shared = section.title.removeprefix(section.suite).partition(", against ")[0]
            found.setdefault(shared, [[] for _ in table.suites])[place].append(section)
    # With two sections of one title in a suite, the right partner is unknown: pair none.
    return [[each[0] for each in of] for of in found.values() if all(len(x) == 1 for x in of)]


def unpaired(table: Table, source: Source) -> str:
    """Explain why a table of two suites cannot be built."""
    # Two reasons, and two different things to do: run the other suite, or run both alike.
    here = dict.fromkeys(section.suite for section in source.sections)
    wanted = " and ".join(table.suites)
    if set(table.suites) <= set(here):
        return f"it needs {wanted} of the same model and settings, once each"
    return f"it needs {wanted}; here is only {', '.join(here) or 'nothing'}"


def titled(table: Table, before: str, *sections: Section) -> str:
    """Return a table's title: its number, its caption and its source."""
    # The study numbers its tables (`2`, `A1`); a longer id is a word.
    number = f"Table {table.id}" if len(table.id) <= 2 else table.id
    caption = before + table.caption
    of = ["published study" if each.is_published else each.title for each in sections]
    said = f" ({'; '.join(dict.fromkeys(of))})" if of else ""
    return f"{number}. {caption[0].upper()}{caption[1:]}{said}"


def _view(table: Table, source: Source, section: Section) -> View:
    # The study printed no intervals, so its own data show none unless they are asked for.
    asked = not section.is_published if source.statistics is None else source.statistics
    with_statistics = asked and not table.plain
    names = names_of(table, section)
    decimals = None if with_statistics else table.decimals
    return View(section, names, with_statistics, decimals, source.split)


def _columns(table: Table, view: View) -> tuple[list[Column], list[str]]:
    """Build the columns that have values; also return the quantities that have none."""
    # Without any quantity there is no table, whatever columns of words there are.
    own = {name: columns(view, name) for name in table.shown(view.section.is_published)}
    left_out = [name for name, found in own.items() if not found and name in QUANTITIES]
    if not any(found for name, found in own.items() if name in QUANTITIES):
        return [], left_out
    return [column for found in own.values() for column in found], left_out


def _lines(section: Section, names: Sequence[str], found: Sequence[Column]) -> list[list[str]]:
    return [
        [label(section, name), *(column.texts[i] for column in found)]
        for i, name in enumerate(names)
    ]
