"""What `python -m analysis validity` prints, draws and writes into its page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis import measured as ours
from analysis import published as theirs
from analysis.grids import Grid
from analysis.scatter import Panel, Point, picture
from analysis.validity import LISTED, Metric, Pair, agreement, listing, notes, pairs
from harness.errors import UserError
from harness.files import whole_file

BEGIN, END = "<!-- written by make validity, from here -->", "<!-- to here -->"


@dataclass(frozen=True)
class Report:
    """The comparison of one sweep of ours with the study."""

    title: str
    pairs: Sequence[Pair]
    agreement: Grid
    listings: Sequence[Grid]
    notes: Sequence[str]

    def show(self) -> None:
        """Print everything as text."""
        print(self.title)
        for grid in (self.agreement, *self.listings):
            print()
            grid.show()
        print()
        for note in self.notes:
            print(f"- {note}")

    def markdown(self) -> str:
        """Everything as Markdown."""
        tables = (grid.markdown() for grid in (self.agreement, *self.listings))
        return "\n".join([f"{self.title}\n", *tables]) + "\n" + self.noted

    @property
    def noted(self) -> str:
        """The notes as a Markdown list."""
        return "".join(f"- {note}\n" for note in self.notes)

    def svg(self) -> str:
        """A row of panels a suite, a panel a metric that both sides have."""
        return picture(
            [
                [_panel(pair, metric) for metric in LISTED if metric.column in pair.measured.values]
                for pair in self.pairs
            ]
        )


def report(table: pd.DataFrame, summaries: Path) -> Report:
    """Compare the rows of a results folder with the published summaries.

    Raises  UserError: nothing can be compared, or a file cannot be read.
    """
    study = theirs.read(summaries)
    names = ours.published_names()
    rows, left_out = ours.one_sweep(table, names)
    suites = ours.by_suite(rows, names)
    found = pairs(study, suites)
    first = rows.iloc[0]
    history = "full history" if first["contract"] == "full" else f"contract {first['contract']}"
    title = (
        f"{first['model']} ({' '.join(filter(None, [str(first['weights']), first['settings']]))}), "
        f"{history}, {first['num_latent_frames']} latent frames, {first['prompt_source']} prompts, "
        "against arXiv 2603.27469"
    )
    return Report(
        title,
        found,
        agreement(found),
        [listing(pair) for pair in found],
        [*left_out, *notes(found, study, suites)],
    )


def write(path: Path, text: str) -> None:
    """Write a text file whole.

    Raises  UserError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            unfinished.write_text(text)
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


def _panel(pair: Pair, metric: Metric) -> Panel:
    """Measured against published, one point a method, published with fewer videos: hollow."""
    sides = pair.theirs(metric, pair.names), pair.ours(metric, pair.names)[0]
    families = pair.published.methods["family"]
    points = [
        Point(name, float(x), float(y), families[name], name in pair.published.partial)
        for name, x, y in zip(pair.names, *sides, strict=True)
    ]
    title = f"{pair.published.suite}: {metric.title}"
    return Panel(title, "published", "measured on our model", points)
