"""Selects, orders and labels the methods of a table."""

from __future__ import annotations

from analysis.choosing.choices import ordered
from analysis.choosing.frontiers import objectives, presets
from analysis.section import Section
from analysis.study.spec import Table


def names_of(table: Table, section: Section) -> list[str]:
    """Return the methods of a table: the study's rows in its order, then all others.

    The study's own data adds others only to tables of all methods. Reruns of BF16 follow BF16.
    """
    if table.sort:  # in the order of one of the study's presets, including BF16
        by = presets()["presets"][table.sort]["by"]
        names = list(map(str, ordered(objectives(section), by).index))
    else:
        by_row: dict[str, list[str]] = {}
        for name in section.methods:
            if name not in section.again:
                # Several runs of ours may repeat one row, with other settings; all are shown.
                by_row.setdefault(row_of(section, name), []).append(name)
        names = []
        for row in table.rows:
            # A row that no method repeats is shown by its own name, in tables of absent rows.
            names += by_row.pop(row, [row] if table.absent else [])
        # The study's tables are selections of its methods; a user wants to see every run.
        if table.others or not section.is_published:
            names += [name for others in by_row.values() for name in others]
    # Reruns are no methods of the table, so they stand apart from its order.
    at = names.index(section.reference) + 1 if section.reference in names else 0
    return [*names[:at], *section.again, *names[at:]]


def row_of(section: Section, name: str) -> str:
    """Return the study's row that a method repeats; the reference is always BF16."""
    method = section.methods[name]
    # Whatever file it comes from: it is what the study's BF16 row stands for.
    if name == section.reference:
        return "BF16"
    return method.row or f" {name}"  # the space keeps it distinct from any row's name


def rows_missing(table: Table, section: Section) -> list[str]:
    """List rows of the study's table that no method here repeats."""
    here = {row_of(section, name) for name in section.methods}
    return [row for row in table.rows if row not in here]


def label(section: Section, name: str) -> str:
    """Return a method's row heading; reruns of BF16 are labelled."""
    if name in section.floors:
        return f"{name} (noise floor)"
    if name in section.reruns:
        return f"{name} (BF16 again)"
    return name
