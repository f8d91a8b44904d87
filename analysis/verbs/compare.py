"""Published numbers beside measured ones, with a verdict and its reason."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from analysis.compare import grid, verdicts
from analysis.counted import Counted, counted
from analysis.section import Section
from analysis.sources.published.papers import Paper, names, paper
from analysis.verb_options import PUBLISHED, of_source, source
from harness.system.errors import UserError
from harness.system.text_table import Grid

LIST = "list"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Ours, theirs, and what of it."""
    of_source(parser)
    parser.add_argument(
        "--published",
        default="longhorizon",
        help=f"papers, with commas, or all; {LIST} names them (default: longhorizon, the study)",
    )
    parser.add_argument("--suite", help="only this suite")
    parser.add_argument("--row", help="only rows whose published or our name holds this word")
    parser.add_argument("--format", choices=["text", "md", "latex", "csv"], default="text")


def run(words: argparse.Namespace) -> int:
    """Print a table a paper; numbers without one of ours are counted beneath."""
    if words.published == LIST:
        _list().show()
        return 0
    chosen = names() if words.published == "all" else words.published.split(",")
    papers = [_narrowed(paper(name), words.suite, words.row) for name in chosen]
    ours, why = _sections(words)
    for each in papers:
        counts = _counts(each, words.source)
        found = verdicts(each, ours, counts)
        table = grid(each, found)
        _print(replace(table, notes=[*table.notes, *why]), words.format)
    return 0


def _sections(words: argparse.Namespace) -> tuple[Sequence[Section], list[str]]:
    """Our runs; where there are none, printed numbers and counts can still be shown."""
    try:
        return source(words), []
    except UserError as error:
        if words.source == PUBLISHED:
            raise
        return [], [f"no runs of ours: {error}"]


def _counts(each: Paper, source: str) -> Sequence[Counted]:
    """What the planner counts, for the paper whose methods it knows."""
    return counted() if each.counted and source != PUBLISHED else ()


def _narrowed(each: Paper, suite: str | None, word: str | None) -> Paper:
    """The rows asked for.

    Raises  UserError: there are none.
    """
    tables = []
    for table in each.tables:
        if suite and table.suite and table.suite != suite:
            continue
        rows = {
            row: values
            for row, values in table.rows.items()
            if not word or word.lower() in f"{row} {each.methods[row]}".lower()
        }
        if rows:
            tables.append(replace(table, rows=rows))
    if not tables:
        raise UserError(
            f"{each.name} has no row of suite {suite or 'any'} that holds {word or 'any word'}: "
            f"its suites are {', '.join(dict.fromkeys(t.suite for t in each.tables)) or 'none'}"
        )
    return replace(each, tables=tables)


def _list() -> Grid:
    """The papers that there are."""
    lines = [
        [each.name, each.arxiv, str(len(each.numbers)), each.title] for each in map(paper, names())
    ]
    return Grid("published numbers", ["name", "arXiv", "numbers", "title"], lines, words=(0, 1, 3))


def _print(table: Grid, form: str) -> None:
    written = {"md": table.markdown, "latex": table.latex, "csv": table.csv}
    if form == "text":
        table.show()
        print()
    else:
        print(written[form](), end="" if form == "csv" else "\n")
