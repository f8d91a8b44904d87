"""Prints tables with notes, writes files, and replaces a marked part of a page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.system.errors import UserError
from harness.system.files import whole_file
from harness.system.text_table import Grid

BEGIN, END = "<!-- written by make validity, from here -->", "<!-- to here -->"


@dataclass(frozen=True)
class Tables:
    """Tables in order, with the notes of all of them at the end."""

    grids: Sequence[Grid]
    notes: Sequence[str]
    heading: str = ""

    def show(self, form: str) -> None:
        """Print them as `text` or `md`."""
        if form == "md":
            print(self.markdown())
            return
        if self.heading:
            print(f"{self.heading}\n")
        for grid in self.grids:
            show(grid, form)
        for note in self.notes:
            print(f"- {note}")

    def markdown(self) -> str:
        """Return heading, tables and notes as Markdown."""
        heading = [f"{self.heading}\n"] if self.heading else []
        noted = "".join(f"- {note}\n" for note in self.notes)
        return "\n".join([*heading, *(grid.markdown() for grid in self.grids), noted])


def show(grid: Grid, form: str) -> None:
    """Print a table as `text`, with an empty line after it, or as `md`, `latex` or `csv`."""
    _print(grid, form)
    if form != "csv":  # an empty line would be an empty row
        print()


def show_in_turn(grids: Sequence[Grid], form: str) -> None:
    """Print tables in a form, with an empty line between them."""
    for i, grid in enumerate(grids):
        if i:
            print()
        _print(grid, form)


def _print(grid: Grid, form: str) -> None:
    # `Grid.show` colours the text if the terminal has colours.
    if form == "text":
        grid.show()
    else:
        print(written(grid, form), end="")


def written(grid: Grid, form: str) -> str:
    """Return a table as `text`, `md`, `latex` or `csv`."""
    forms = {"text": grid.text, "md": grid.markdown, "latex": grid.latex, "csv": grid.csv}
    return forms[form]()


def write(path: Path, text: str | bytes) -> None:
    """Write a file through a temporary one, so that it is complete or absent.

    Raises  UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            unfinished.write_bytes(text.encode() if isinstance(text, str) else text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): give another name") from error


def into_page(page: Path, text: str, drawn: Path | None) -> None:
    """Replace the text between the two marks of a page; the picture, if any, ends it.

    Raises  UserError: no such page, or one without the marks.
    """
    try:
        # Only the text between the marks is ours; the rest of the page must not change.
        before, begun, rest = page.read_text().partition(BEGIN)
    except OSError as error:
        raise UserError(
            f"cannot read {page} ({error.strerror}): give a page that exists"
        ) from error
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise UserError(f"{page} has no lines {BEGIN} and {END}: add them where the text is to be")
    if drawn is not None:
        # Relative, so that the page shows the picture wherever the repository lies.
        place = os.path.relpath(drawn, page.parent)
        text += f"\n![measured against published, a panel a suite and metric]({place})\n"
    # The marks stay, so that the next run of the sweep can replace the text again.
    write(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")
