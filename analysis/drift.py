"""Reports how quality changes over the course of a video, per method and relative to BF16.

Each video has two numbers (`harness.scoring.metrics.windows` defines them): the last second minus
the first, and the slope over seconds. Prompts are the sample: several videos of one prompt are
averaged, and intervals come from resampled prompts. For the difference to BF16, videos of the same
prompt and seed are paired first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from analysis.figures.families import family_of
from analysis.figures.figure import Axis, Curve, Curves, Panels
from analysis.figures.paper import svg as drawn
from analysis.numbers import number
from analysis.pages import Tables, write
from analysis.section import VIDEO
from analysis.sources.columns import by_second
from analysis.sources.results import LoadedRun
from analysis.statistics import FEWEST, NUM_DRAWS, SEED, Estimate, estimate
from analysis.verb_options import of_results, of_text
from harness.results.all_runs import load
from harness.results.summary_table import title
from harness.scoring.metrics.lpips import Lpips
from harness.scoring.metrics.psnr import Psnr
from harness.scoring.metrics.signals import Signals
from harness.scoring.metrics.ssim import Ssim
from harness.scoring.metrics.windows import Quantity
from harness.system.errors import UserError
from harness.system.text_table import Grid

PARTS: Mapping[Literal["last_minus_first", "slope"], str] = {
    "last_minus_first": "last less first second",
    "slope": "slope per second",
}
ACROSS = 3  # panels in one row of a picture


@dataclass(frozen=True)
class Measure:
    """A quantity and the metric that computes its columns."""

    metric: str
    title: str
    quantity: Quantity
    against_reference: bool = False  # then BF16 itself has no value

    @property
    def windows(self) -> str:
        """Name of the column that holds one value per second."""
        return f"{self.quantity.name}_windows{self.quantity.suffix}"

    @property
    def said(self) -> str:
        """Title, meaning and unit of the measure."""
        unit = f", {self.quantity.unit}" if self.quantity.unit else ""
        return f"{self.title} ({self.quantity.meaning}{unit})"


# VBench's dimensions have no `Quantity` to import: its values come from another environment.
IMAGING = Quantity("vbench_imaging_quality", "MUSIQ", "higher")
MEASURES = (
    *(Measure("signals", x.name.removeprefix("signals_"), x) for x in Signals.quantities),
    Measure("psnr", "PSNR", Psnr().quantity, against_reference=True),
    Measure("ssim", "SSIM", Ssim().quantity, against_reference=True),
    Measure("lpips", "LPIPS", Lpips().quantity, against_reference=True),
    Measure(IMAGING.name, "VBench imaging quality", IMAGING),
)
NOTES = (
    f"in brackets: 95 % of {NUM_DRAWS} means over redrawn prompts (seed {SEED}), from {FEWEST} "
    "prompts on; n: prompts that have the value",
    "less BF16's: of videos paired by prompt and seed, without the drift of the model itself",
)


@dataclass(frozen=True)
class Line:
    """Finished rows of one run, and those of its BF16 reference."""

    name: str
    family: str
    rows: pd.DataFrame
    reference: pd.DataFrame | None
    is_reference: bool
    failed: int


@dataclass(frozen=True)
class DriftTables(Tables):
    """Drift tables and panels of runs that may be compared."""

    title: str = ""
    panels: Sequence[Curves] = ()


def drift(table: pd.DataFrame) -> list[DriftTables]:
    """Build one section of drift tables per suite, model and attention window.

    Raises  UserError: no row has a drift value.
    """
    # All runs are known before any is read, since a reference may stand anywhere in the table.
    runs = {
        str(run_id): LoadedRun(str(run_id), x) for run_id, x in table.groupby("run_id", sort=False)
    }
    titled: dict[str, list[LoadedRun]] = {}
    for run in runs.values():
        titled.setdefault(title(run.rows), []).append(run)
    sections = []
    for name, group in titled.items():
        # A run is BF16 if others refer to it. Its name alone may be any.
        references = {run.reference_id for run in group}
        lines = []
        for run in group:
            made, reference = run.made.set_index(VIDEO), runs.get(run.reference_id)
            lines.append(
                Line(
                    run.name,
                    family_of(str(run.rows["method"].iloc[0])),
                    made,
                    None if reference is None else reference.made.set_index(VIDEO),
                    run.run_id in references,
                    len(run.rows) - len(made),
                )
            )
        # A stable sort: the other methods keep the order of the folder.
        lines.sort(key=lambda each: not each.is_reference)  # BF16 first
        sections.append(_tables(name, lines))
    # The notes say why each measure is missing, so they are the error's reason.
    if not any(section.grids for section in sections):
        said = "; ".join(dict.fromkeys(note for each in sections for note in each.notes))
        raise UserError(f"no drift among {len(table)} rows: {said}")
    return sections


def svg(sections: Sequence[DriftTables]) -> str:
    """Draw every measured quality by second, as means over videos."""
    rows, headings = [], []
    for section in sections:
        for start in range(0, len(section.panels), ACROSS):
            headings.append("" if start else section.title)
            rows.append(section.panels[start : start + ACROSS])
    return drawn(Panels("drift", rows, headings, title="quality by second"))


def _tables(name: str, lines: Sequence[Line]) -> DriftTables:
    """Build a table and a panel of every measure that some run has."""
    grids, panels = [], []
    for measure in MEASURES:
        # A measure that no run has gets no table; the notes say why.
        cells = [row for each in lines if (row := _estimates(measure, each)) is not None]
        if not cells:
            continue
        grids.append(_grid(name, measure, cells))
        curves = []
        for each in lines:
            if (means := by_second(each.rows, measure.windows)) is not None:
                xs, ys = list(map(float, means.index)), list(map(float, means))
                curves.append(Curve(each.name, xs, ys, each.family, each.is_reference))
        unit = measure.quantity.unit or "pure number"
        if curves:
            across, down = Axis("seconds of the video"), Axis(unit, measure.quantity.better)
            panels.append(Curves(measure.quantity.name, measure.title, across, down, curves))
    notes = [*(NOTES if grids else ()), *_missing(lines)]
    return DriftTables(grids, notes, title=name, panels=panels)


# Name, then for each part the run's own value and its difference to BF16.
Row = tuple[str, list[Estimate | None]]


def _estimates(measure: Measure, of: Line) -> Row | None:
    """Estimate both parts of a measure for one run; None without any value."""
    found: list[Estimate | None] = []
    for part in PARTS:
        column = measure.quantity.drift_column(part)
        # No run was scored with this metric.
        if column not in of.rows:
            return None
        own = of.rows[column].astype(float)  # null becomes NaN, which means skip
        found.append(over_prompts(own))
        # A metric against BF16 has no value for BF16, so there is nothing to subtract.
        # Videos pair by prompt and sample, so the model's own drift cancels in the difference.
        paired = not (of.is_reference or measure.against_reference or of.reference is None)
        found.append(over_prompts(own - of.reference[column].astype(float)) if paired else None)  # type: ignore[index]
    return (of.name, found) if any(found) else None


def over_prompts(values: pd.Series) -> Estimate | None:
    """Estimate the mean over prompts from values by video; None without any."""
    # Prompts are the sample, so several videos of one prompt count once.
    return estimate(values.groupby(level="prompt_index").mean())


def _grid(name: str, measure: Measure, rows: Sequence[Row]) -> Grid:
    """Build the table of a measure; a metric against BF16 has no column of differences to it."""
    # Columns and not rows are formatted, because the numbers of a column share their decimals.
    columns = list(zip(*(estimates for _, estimates in rows), strict=True))
    titles = [said for part in PARTS.values() for said in (part, "less BF16's")]
    # Columns alternate: own value, difference to BF16.
    kept = [i for i in range(len(columns)) if not (i % 2 and measure.against_reference)]
    texts = []
    for column in (columns[i] for i in kept):
        # The column's largest mean gets three digits, and all its numbers the same decimals. Its
        # exponent is read after rounding: 9.996 prints as 10.0, where log10 would say 0.
        largest = max((abs(x.mean) for x in column if x), default=0)
        exponent = int(f"{largest:.2e}".partition("e")[2])
        decimals = max(0, 2 - exponent)
        cells = []
        for x in column:
            values = [x.mean, *(x.bounds or ())] if x else [None]
            mean, *bounds = (number(value, decimals, "z") for value in values)
            cells.append(mean + (f" [{', '.join(bounds)}]" if bounds else ""))
        texts.append(cells)
    # Pairs may be fewer than a run's own prompts; n is that of its own value.
    ns = [max(x.n for x in estimates if x) for _, estimates in rows]
    lines = [
        [row[0], str(n), *line]
        for row, n, line in zip(rows, ns, zip(*texts, strict=True), strict=True)
    ]
    header = ["method", "n", *(titles[i] for i in kept)]
    return Grid(f"{name}: {measure.said}", header, lines)


def _missing(lines: Sequence[Line]) -> Iterator[str]:
    """Yield the reasons for missing values, each reason once."""
    # Measures of one metric share their reasons, so the first of them is enough.
    for metric in dict.fromkeys(measure.metric for measure in MEASURES):
        measure = next(each for each in MEASURES if each.metric == metric)
        column = measure.quantity.drift_column("last_minus_first")
        # BF16 has no distance to itself, which is no gap in the results.
        asked = [x for x in lines if not (measure.against_reference and x.is_reference)]
        whys: dict[str, list[str]] = {}
        for each in asked:
            for reason, count in _reasons(measure, column, each.rows).items():
                of_all = "" if count == len(each.rows) else f" ({count} of {len(each.rows)} videos)"
                whys.setdefault(reason, []).append(each.name + of_all)
        for reason, names in whys.items():
            who = "" if names == [each.name for each in asked] else f"{', '.join(names)}: "
            yield f"without {metric}: {who}{reason}"
    for each in lines:
        if each.failed:
            yield f"{each.name}: {each.failed} videos failed, see failure_reason"
        if each.reference is None and not each.is_reference and len(each.rows):
            yield f"{each.name}: the BF16 videos it is held against are not below this folder"


def _reasons(measure: Measure, column: str, rows: pd.DataFrame) -> dict[str, int]:
    """Count the videos without a value by reason."""
    if column not in rows:
        # The configuration file of a VBench dimension lies in a folder of its own.
        word = measure.metric.replace("vbench_", "vbench/")
        return {f"not scored: python -m harness score <results> metrics=[{word}]": len(rows)}
    without = rows[rows[column].isna()]
    # The metric's own reason comes first: without a value there is no drift to give reasons for.
    reasons = pd.Series(None, without.index, dtype=object)
    for name in (f"{measure.metric}_reason", measure.quantity.drift_column("reason")):
        if name in without:
            reasons = reasons.fillna(without[name])
    reasons = reasons.dropna()
    # A video that was not scored has null columns if other runs of the folder were scored.
    num_unexplained = len(without) - len(reasons)
    short = {"not scored": num_unexplained} if num_unexplained else {}
    return {**{str(reason): int(n) for reason, n in reasons.value_counts().items()}, **short}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drift`."""
    of_results(parser)
    of_text(parser)
    parser.add_argument("--picture", type=Path, help="draw the curves by second into this SVG file")


def run(words: argparse.Namespace) -> int:
    """Print the tables and draw the picture."""
    found = drift(load(words.results))
    if words.picture:
        write(words.picture, svg(found))
    for section in found:
        section.show(words.format)
    return 0
