"""A table of texts with a title and notes: for the terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.system.plain import plain, plain_cell

if TYPE_CHECKING:  # rich is slow to import and only needed to print
    from rich.console import Console

SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
    '"': "''",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
BEGINS_A_NUMBER = re.compile(r"[+-]?\.?\d")
NEGATIVE = re.compile(r"(^|[\s\[])-(?=[\d.])")  # a minus, where a hyphen would be set


@dataclass(frozen=True)
class Grid:
    """Cells under their headings; the columns `words` hold words, the others numbers.

    notes: what the reader must know, beneath. made_by: the commands behind it, beneath the notes;
    in LaTeX as comments. name: what it is cited by in LaTeX.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    made_by: Sequence[str] = ()
    words: Collection[int] = (0,)
    name: str = ""

    def __post_init__(self) -> None:
        """Show control characters in all texts, whatever they are written to."""
        for name in ("header", "notes", "made_by"):
            object.__setattr__(self, name, [plain(text) for text in getattr(self, name)])
        object.__setattr__(self, "title", plain(self.title))
        object.__setattr__(self, "lines", [[plain(cell) for cell in row] for row in self.lines])

    def show(self) -> None:
        """Print it; a cell is never cut."""
        from rich.console import Console

        self._print(Console(markup=False))

    def text(self) -> str:
        """What `show` prints, without colours."""
        from rich.console import Console

        page = io.StringIO()
        self._print(Console(file=page, width=1, markup=False))
        return page.getvalue()

    def _print(self, console: Console) -> None:
        """On a console made as wide as the table needs."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, title in enumerate(self.header):
            table.add_column(title, justify="left" if i in self.words else "right", no_wrap=True)
        for line in self.lines:
            table.add_row(*line)
        wanted = Console(width=10**4, markup=False).measure(table).maximum
        console.width = max(console.width, wanted)
        console.print(self.title, highlight=False, soft_wrap=True)
        console.print(table)
        for note in (*self.notes, *self.made_by):
            console.print(f"- {note}", style="dim", highlight=False, soft_wrap=True)

    def markdown(self) -> str:
        """The title, an empty line, the table, and its notes as a list."""
        rule = ["---" if i in self.words else "---:" for i in range(len(self.header))]
        rows = [_piped(self.header), rule, *map(_piped, self.lines)]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        noted = "".join(f"- {note}\n" for note in self.notes)
        made = "".join(f"- `{line}`\n" for line in self.made_by)
        return f"{self.title}\n\n{table}" + (f"\n{noted}{made}" if noted or made else "")

    def csv(self) -> str:
        """Header and cells alone; notes have no place in it. No cell of words is a formula."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(plain_cell, self.header))
        for line in self.lines:  # numbers may have words behind them: -0.5 [-0.7, -0.3]
            writer.writerow(
                cell if i not in self.words and BEGINS_A_NUMBER.match(cell) else plain_cell(cell)
                for i, cell in enumerate(line)
            )
        return text.getvalue()

    def latex(self) -> str:
        """A table float with booktabs' rules; its notes beneath, its commands as comments."""
        columns = "".join("l" if i in self.words else "r" for i in range(len(self.header)))
        label = [f"\\label{{tab:{self.name}}}"] if self.name else []
        notes = [f"{escaped(note)}\\par" for note in self.notes]
        beneath = ["", r"\smallskip", r"\begin{minipage}{\linewidth}\footnotesize", *notes]
        return "\n".join(
            [
                *(f"% {' '.join(line.split())}" for line in self.made_by),
                r"\begin{table}",
                r"\centering",
                f"\\caption{{{escaped(self.title)}}}",
                *label,
                f"\\begin{{tabular}}{{{columns}}}",
                r"\toprule",
                _row(self.header),
                r"\midrule",
                *map(_row, self.lines),
                r"\bottomrule",
                r"\end{tabular}",
                *([*beneath, r"\end{minipage}"] if notes else []),
                r"\end{table}",
                "",
            ]
        )


def escaped(text: str) -> str:
    """Text as LaTeX sets it; a minus before a number is one."""
    plain = "".join(SPECIAL.get(sign, sign) for sign in text)
    return NEGATIVE.sub(r"\1$-$", plain)


def _row(cells: Sequence[str]) -> str:
    text = " & ".join(map(escaped, cells))
    # At the start of a line a bracket would be an argument of the line break before it.
    return ("{}" if text.startswith(("[", "*")) else "") + text + r" \\"


def _piped(cells: Sequence[str]) -> list[str]:
    return [cell.replace("|", "\\|") for cell in cells]
