"""Which methods a table shows, in which order, and what each is called."""

from __future__ import annotations

from analysis.choosing.choices import ordered
from analysis.choosing.frontiers import objectives, presets
from analysis.section import Section
from analysis.study.spec import Table


def names_of(table: Table, section: Section) -> list[str]:
    """The methods of a table: the study's rows in its order, then all others.

    From the study's own data others follow only where the table is of all methods. BF16 done in
    another way stands beneath BF16.
    """
    if table.sort:  # the order of one of the study's presets, BF16 in it
        by = presets()["presets"][table.sort]["by"]
        names = list(map(str, ordered(objectives(section), by).index))
    else:
        names = _listed(table, section)
    at = names.index(section.reference) + 1 if section.reference in names else 0
    return [*names[:at], *section.again, *names[at:]]


def _listed(table: Table, section: Section) -> list[str]:
    by_row: dict[str, list[str]] = {}
    for name in section.methods:
        if name not in section.again:
            by_row.setdefault(row_of(section, name), []).append(name)
    gone = [] if not table.absent else [row for row in table.rows if row not in by_row]
    found = []
    for row in table.rows:
        found += by_row.pop(row, [row] if row in gone else [])
    if table.others or not section.is_published:
        found += [name for names in by_row.values() for name in names]
    return found


def row_of(section: Section, name: str) -> str:
    """The study's row that a method repeats; BF16 is BF16 whatever its file is called."""
    method = section.methods[name]
    if name == section.reference:
        return "BF16"
    return method.row or f" {name}"  # a blank keeps it apart from any row


def rows_missing(table: Table, section: Section) -> list[str]:
    """Rows of the study's table that no method here repeats."""
    here = {row_of(section, name) for name in section.methods}
    return [row for row in table.rows if row not in here]


def label(section: Section, name: str) -> str:
    """A method as its row is headed; what is BF16 again says so."""
    if name in section.floors:
        return f"{name} (noise floor)"
    if name in section.reruns:
        return f"{name} (BF16 again)"
    return name
