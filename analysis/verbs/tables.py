"""Verb `tables`: prints or writes the study's tables, from its own data or from results."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from analysis.pages import show_in_turn, write, written
from analysis.study.across import made
from analysis.study.spec import chosen
from analysis.verb_options import of_source, source
from harness.system.errors import UserError
from harness.system.text_table import Grid

ENDINGS = {"text": "txt", "md": "md", "latex": "tex", "csv": "csv"}
LINE = {"text": "", "md": "- ", "latex": "% "}  # how a note begins


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `tables`."""
    of_source(parser)
    parser.add_argument("--table", help="ids, as 2,A1 (default: all)")
    parser.add_argument("--format", choices=ENDINGS, default="text")
    parser.add_argument("--out", type=Path, help="folder: a file a table instead of the terminal")
    # Both set one tri-state: without either, results have statistics and the study's tables are as
    # printed.
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument(
        "--statistics",
        action="store_const",
        const=True,
        help="with intervals and marks (default for results)",
    )
    shown.add_argument(
        "--plain",
        dest="statistics",
        action="store_const",
        const=False,
        help="without (default for the study's data)",
    )


def run(words: argparse.Namespace) -> int:
    """Print or write the tables, and explain the missing ones.

    Raises  UserError: none could be built, or CSV of several was asked for on the terminal.
    """
    # A wrong id fails before the results are read.
    tables = chosen(words.table)
    grids, reasons = made(tables, source(words), words.statistics, words.format == "csv")
    if not grids:
        first, why = next(iter(reasons.items()))
        raise UserError(f"no table could be shown: {first}: {why}")
    if words.out:
        for path in _written(grids, words.format, words.out):
            print(path)
        # Missing tables are named on the terminal, since no file can name them.
        print("".join(f"{line}\n" for line in _not_shown(reasons)), end="")
        return 0
    if words.format == "csv":
        if len(grids) > 1:
            names = ", ".join(dict.fromkeys(grid.name for grid in grids))
            raise UserError(
                f"{len(grids)} tables as CSV do not go one after the other: add --out <folder>, or "
                f"--table with one of {names}"
            )
        print(grids[0].csv(), end="")
        # Notes go to stderr, so that stdout holds nothing but the table.
        for note in (*grids[0].notes, *grids[0].made_by, *_not_shown(reasons)):
            print(note, file=sys.stderr)
        return 0
    show_in_turn(grids, words.format)
    if reasons:
        print()
        for line in _not_shown(reasons):
            print(f"{LINE[words.format]}{line}")
    return 0


def _not_shown(reasons: Mapping[str, str]) -> list[str]:
    """Explain the missing tables, each reason once."""
    found: dict[str, list[str]] = {}
    for table, why in reasons.items():
        found.setdefault(why, []).append(table)
    return [f"not shown: {', '.join(tables)}: {why}" for why, tables in found.items()]


def _written(grids: Sequence[Grid], how: str, folder: Path) -> list[Path]:
    """Write one file per table; notes of CSV go to a text file next to it."""
    # Several suites give several tables of one name; these files are numbered.
    counts, paths = Counter(grid.name for grid in grids), []
    seen: Counter[str] = Counter()
    for grid in grids:
        seen[grid.name] += 1
        several = f"-{seen[grid.name]}" if counts[grid.name] > 1 else ""
        path = folder / f"table-{grid.name}{several}.{ENDINGS[how]}"
        write(path, written(grid, how))
        paths.append(path)
        if how == "csv":
            notes = [grid.title, *grid.notes, *grid.made_by]
            write(path.with_suffix(".txt"), "".join(f"{note}\n" for note in notes))
    return paths
