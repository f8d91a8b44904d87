"""A table of texts with a title, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """Cells under their headings; the first column holds words, the others numbers."""

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]

    def show(self) -> None:
        """Print it; a cell is never cut."""
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, title in enumerate(self.header):
            table.add_column(title, justify="right" if i else "left", no_wrap=True)
        for line in self.lines:
            table.add_row(*line)
        wanted = Console(width=10**4, markup=False).measure(table).maximum
        console = Console(width=max(Console().width, wanted), markup=False)
        console.print(self.title, highlight=False, soft_wrap=True)
        console.print(table)

    def markdown(self) -> str:
        """The title, an empty line and the table."""
        rows = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.lines]
        return f"{self.title}\n\n" + "".join(f"| {' | '.join(row)} |\n" for row in rows)
