"""Into files: whole ones, and the part of a page between two marks."""

from __future__ import annotations

import os
from pathlib import Path

from harness.system.errors import UserError
from harness.system.files import whole_file

BEGIN, END = "<!-- written by make validity, from here -->", "<!-- to here -->"


def write(path: Path, text: str | bytes) -> None:
    """Write a file whole.

    Raises  UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            unfinished.write_bytes(text.encode() if isinstance(text, str) else text)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): give another name") from error


def into_page(page: Path, text: str, drawn: Path | None) -> None:
    """Replace what stands between the two marks of a page, the picture at its end if there is one.

    Raises  UserError: no such page, or one without the marks.
    """
    try:
        before, begun, rest = page.read_text().partition(BEGIN)
    except OSError as error:
        raise UserError(
            f"cannot read {page} ({error.strerror}): give a page that exists"
        ) from error
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise UserError(f"{page} has no lines {BEGIN} and {END}: add them where the text is to be")
    if drawn is not None:
        place = os.path.relpath(drawn, page.parent)
        text += f"\n![measured against published, a panel a suite and metric]({place})\n"
    write(page, f"{before}{BEGIN}\n\n{text}\n{END}{after}")
