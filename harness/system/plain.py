"""Escapes untrusted text on output, so that no terminal or spreadsheet executes it.

Names, prompts and reasons come from files and may contain control characters or formulas.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# C0 and C1 control characters except tab and line feed, line and paragraph separators, marks that
# change the direction of text, lone surrogates, the byte order mark, and noncharacters.
OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)
FORMULA = re.compile(r"[\s]*[=+\-@|%]|[\t\r\n]")  # start of a cell that a spreadsheet computes
# What begins like a formula but is a value of a table: a signed number, a dash for no value.
NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|\.\d+)([eE][+-]?\d+)?%?|-|-?inf|nan")


def plain(text: str) -> str:
    """Return the text with each control character replaced by its code, such as `\\x1b`."""
    return OBEYED.sub(lambda found: ascii(found[0])[1:-1], text)


def plain_cell(text: str) -> str:
    """Escape a CSV cell as `plain` does, and put a quote before a formula."""
    shown = plain(text)
    return f"'{shown}" if FORMULA.match(shown) and not NUMBER.fullmatch(shown) else shown


class PlainStream:
    """A text stream that escapes control characters; everything else is the wrapped stream's."""

    def __init__(self, behind: TextIO) -> None:
        """Wrap the stream `behind`."""
        # rich looks for an attribute of this name and writes its colours there, unescaped.
        self.rich_proxied_file = behind

    def write(self, text: str) -> int:
        """Write text with control characters and lone surrogates escaped."""
        return self.rich_proxied_file.write(plain(text))

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped stream."""
        return getattr(self.rich_proxied_file, name)


@contextmanager
def plain_streams() -> Iterator[None]:
    """Escape everything printed inside the block, on standard output and error."""
    # A stream is None if Python started without it. Verbs inside verbs must not escape twice.
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        stream if stream is None or isinstance(stream, PlainStream) else PlainStream(stream)
        for stream in before
    )
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
