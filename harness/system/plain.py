"""Texts of others on their way out: what a terminal or a spreadsheet would obey is shown instead.

Names, prompts and reasons come from files and may hold anything. Each way out cleans its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Control characters of both sets but tab and line feed, separators that some programs take for line
# ends, marks that turn the direction of a line, halves of surrogates, and what is no character.
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)
FORMULA = re.compile(r"[\s]*[=+\-@|%]|[\t\r\n]")  # how a cell begins that a spreadsheet computes
NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|\.\d+)([eE][+-]?\d+)?%?|-|-?inf|nan")


def plain(text: str) -> str:
    """Text with the code of each character that would be obeyed in its place, as `\\x1b`."""
    return OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_cell(text: str) -> str:
    """The same for a cell of CSV: a quote stands before what a spreadsheet would compute."""
    shown = plain(text)
    return f"'{shown}" if FORMULA.match(shown) and not NUMBER.fullmatch(shown) else shown


class PlainStream:
    """A stream of text that shows control characters; all else is that of the stream behind it."""

    def __init__(self, behind: TextIO) -> None:
        """behind: what is written to."""
        self.rich_proxied_file = behind  # rich writes its own colours there, past `write`

    def write(self, text: str) -> int:
        """Write text; bytes that no encoding has are shown too."""
        return self.rich_proxied_file.write(plain(text))

    def writelines(self, lines: Any) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Everything else."""
        return getattr(self.rich_proxied_file, name)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Clean all that is printed meanwhile, on both streams."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if stream is None or isinstance(stream, PlainStream) else PlainStream(stream)
        for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
