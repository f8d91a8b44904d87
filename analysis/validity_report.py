"""What `python -m analysis validity` prints, draws and writes into its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.figures.figure import Axis, Panels, Point, Scatter
from analysis.figures.paper import svg
from analysis.sources import study_methods as ours
from analysis.sources.published.fidelity import Published
from analysis.validity import LISTED, Metric, Pair, agreement, listing, notes, pairs
from harness.system.text_table import Grid


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
        rows = [
            [_panel(pair, metric) for metric in LISTED if metric.column in pair.measured.values]
            for pair in self.pairs
        ]
        said = "hollow: published with fewer videos" if self._has_partial else ""
        return svg(Panels("validity", rows, title="measured against published", note=said))

    @property
    def _has_partial(self) -> bool:
        return any(set(pair.names) & set(pair.published.partial) for pair in self.pairs)


def report(table: pd.DataFrame, study: Mapping[str, Published]) -> Report:
    """Compare the rows of a results folder with the study.

    Raises  UserError: nothing can be compared.
    """
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


def _panel(pair: Pair, metric: Metric) -> Scatter:
    """Measured against published, one point a method, published with fewer videos: hollow."""
    sides = pair.theirs(metric, pair.names), pair.ours(metric, pair.names)[0]
    families = pair.published.methods["family"]
    points = [
        Point(name, float(x), float(y), families[name], hollow=name in pair.published.partial)
        for name, x, y in zip(pair.names, *sides, strict=True)
    ]
    title = f"{pair.published.suite}: {metric.title}"
    x, y = Axis("published"), Axis("measured on our model")
    return Scatter(metric.column, title, x, y, points, label_all=True)
