"""A table of strings with title and notes, printed to a terminal or as Markdown, LaTeX or CSV."""

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

# Signs that LaTeX takes for commands, or prints as others in its usual text font (<, >, |, ").
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
NEGATIVE = re.compile(r"(^|[\s\[])-(?=[\d.])")  # a minus sign that LaTeX would set as a hyphen


@dataclass(frozen=True)
class Grid:
    """A table: a header and rows of cells.

    notes: printed under the table.
    made_by: the commands that produce the table, printed under the notes; comments in LaTeX.
    words: indices of the columns with text; the others hold numbers.
    name: label for references in LaTeX.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    made_by: Sequence[str] = ()
    words: Collection[int] = (0,)
    name: str = ""

    def __post_init__(self) -> None:
        """Escape control characters in all texts, for every output format."""
        # Names of runs and prompts come from files of others.
        for name in ("header", "notes", "made_by"):
            object.__setattr__(self, name, [plain(text) for text in getattr(self, name)])
        object.__setattr__(self, "title", plain(self.title))
        object.__setattr__(self, "lines", [[plain(cell) for cell in row] for row in self.lines])

    def show(self) -> None:
        """Print the table to the terminal; cells are never truncated."""
        from rich.console import Console

        self._print(Console(markup=False))

    def text(self) -> str:
        """Return the output of `show` without colours."""
        from rich.console import Console

        page = io.StringIO()
        # The width of the table, whatever terminal there is: `_print` widens the console to it.
        self._print(Console(file=page, width=1, markup=False))
        return page.getvalue()

    def _print(self, console: Console) -> None:
        """Print to a console, widened to the table's width."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, title in enumerate(self.header):
            table.add_column(title, justify="left" if i in self.words else "right", no_wrap=True)
        for line in self.lines:
            table.add_row(*line)
        # rich would cut cells to fit the terminal; a cut number would be wrong.
        wanted = Console(width=10**4, markup=False).measure(table).maximum
        console.width = max(console.width, wanted)
        console.print(self.title, highlight=False, soft_wrap=True)
        console.print(table)
        for note in (*self.notes, *self.made_by):
            console.print(f"- {note}", style="dim", highlight=False, soft_wrap=True)

    def markdown(self) -> str:
        """Return Markdown: the title, the table, and the notes as a list."""
        rule = ["---" if i in self.words else "---:" for i in range(len(self.header))]
        rows = [_piped(self.header), rule, *map(_piped, self.lines)]
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        noted = "".join(f"- {note}\n" for note in self.notes)
        made = "".join(f"- `{line}`\n" for line in self.made_by)
        return f"{self.title}\n\n{table}" + (f"\n{noted}{made}" if noted or made else "")

    def csv(self) -> str:
        """Return CSV of header and cells, without title and notes; formulas are escaped."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(plain_cell, self.header))
        for line in self.lines:  # text may follow a number, as in -0.5 [-0.7, -0.3]
            writer.writerow(
                cell if i not in self.words and BEGINS_A_NUMBER.match(cell) else plain_cell(cell)
                for i, cell in enumerate(line)
            )
        return text.getvalue()

    def latex(self) -> str:
        """Return a LaTeX table float with booktabs rules, notes, and the commands as comments."""
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


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines, with each column padded to its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def with_names(reasons: Sequence[tuple[str, Sequence[str]]]) -> list[str]:
    """Return each distinct reason once, after the names that it applies to.

    reasons: name and reasons of each row. A reason of all rows is printed without names.
    """

    lines = []
    for reason in dict.fromkeys(each for _, several in reasons for each in several):
        names = [name for name, several in reasons if reason in several]
        lines.append(reason if len(names) == len(reasons) else f"{', '.join(names)}: {reason}")
    return lines


def escaped(text: str) -> str:
    """Escape text for LaTeX; a hyphen before a number becomes a minus sign."""
    # Sign by sign: the backslashes of one replacement must not be escaped by the next.
    plain = "".join(SPECIAL.get(sign, sign) for sign in text)
    return NEGATIVE.sub(r"\1$-$", plain)


def _row(cells: Sequence[str]) -> str:
    """Return cells as a row of a LaTeX table."""
    text = " & ".join(map(escaped, cells))
    # At the start of a line a bracket would be an argument of the line break before it.
    return ("{}" if text.startswith(("[", "*")) else "") + text + r" \\"


def _piped(cells: Sequence[str]) -> list[str]:
    """Return cells for Markdown, where a bare | would end the cell."""
    return [cell.replace("|", "\\|") for cell in cells]
