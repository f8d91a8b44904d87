"""Measures whether methods rank on our model as they did in the published study.

The number is Spearman's correlation over methods between the study's values and ours. Its interval
reflects our prompts: they are resampled within each suite, with the same draw for all methods. The
study's values stay fixed. Methods are not resampled, because they are what the question is about.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from analysis.figures.figure import Axis, Panels, Point, Scatter
from analysis.figures.paper import svg
from analysis.numbers import number
from analysis.pages import Tables, into_page, write
from analysis.sources.published.fidelity import Published, fidelity
from analysis.sources.published.observations import REFERENCE, sections
from analysis.sources.study_methods import Measured, by_suite, one_sweep, published_names
from analysis.statistics import Array, interval, ranks, resampled, spearman
from analysis.verb_options import observations, of_observations, of_results, of_text
from harness.results.all_runs import load
from harness.system.errors import UserError
from harness.system.paths import shipped
from harness.system.text_table import Grid

NUM_DRAWS, SEED = 2000, 0  # each draw compares every pair of methods (`ranks`)
FEWEST = 3  # methods; two always agree or disagree fully
HALVES = shipped("analysis.study", "halves.yaml")


@dataclass(frozen=True)
class Metric:
    """A published metric and the column of ours whose definition is closest."""

    title: str
    published: str
    column: str
    higher_is_better: bool
    decimals: int


# The study's PSNR is a mean over frames in dB, so ours of the same definition comes first. The
# second is of the mean squared error, which a frame that equals BF16's cannot lift; it is compared
# with the same published values.
PSNR = Metric("PSNR frame mean dB", "psnr", "psnr_frame_mean_db", True, 2)
LATER = Metric("PSNR rest dB", "psnr", "psnr_rest_db", True, 2)
SSIM = Metric("SSIM", "ssim", "ssim", True, 3)
LPIPS = Metric("LPIPS", "lpips", "lpips", False, 3)
# `LATER` has no published values of its own, so the list of methods leaves it out.
RANKED = (PSNR, LATER, SSIM, LPIPS)
LISTED = (PSNR, SSIM, LPIPS)


@dataclass(frozen=True)
class Pair:
    """One suite of the study and of ours, over the methods that both have.

    seed: for resampling the prompts.
    """

    published: Published
    measured: Measured
    names: list[str]
    seed: int

    @property
    def whole(self) -> list[str]:
        """Methods that the study published with a video for every prompt."""
        return [name for name in self.names if name not in self.published.partial]

    @property
    def num_videos(self) -> int:
        """Videos of ours per method."""
        return len(self.measured.values[SSIM.column])

    def theirs(self, metric: Metric, names: Sequence[str]) -> Array:
        """Return the published values [M]."""
        values: Array = self.published.methods.loc[list(names), metric.published].to_numpy(float)
        return values

    def ours(self, metric: Metric, names: Sequence[str], num_draws: int = 0) -> Array:
        """Return means over our prompts, then over resampled ones: [1 + num_draws, M]."""
        values = self.measured.values[metric.column][list(names)].to_numpy(float)
        means: Array = resampled(len(values), num_draws, self.seed) @ values
        return means


def pairs(published: Mapping[str, Published], measured: Mapping[str, Measured]) -> list[Pair]:
    """Pair the suites that both sides have, in the study's order.

    Raises  UserError: no suite has enough methods on both sides.
    """
    found = []
    for place, (suite, theirs) in enumerate(published.items()):
        if suite in measured:
            names = [name for name in theirs.methods.index if name in measured[suite].names]
            # Prompts of two suites are different ones, so each suite draws from a seed of its own.
            found.append(Pair(theirs, measured[suite], names, SEED + place))
    # Rows of the study with few videos are too uncertain to decide whether ranks agree.
    # A correlation of two methods is always 1 or -1.
    found = [pair for pair in found if len(pair.whole) >= FEWEST]
    if not found:
        ours = ", ".join(
            f"{len(each.names)} methods on {suite}" for suite, each in measured.items()
        )
        whys = [
            f"{name} {why}" for each in measured.values() for name, why in each.left_out.items()
        ]
        raise UserError(
            f"nothing to compare: ours are {ours}, and no suite of the study "
            f"({', '.join(published)}) has {FEWEST} or more of its methods among them: run more "
            "of them, python -m harness ls methods published names all"
            + (f" (left out: {'; '.join(whys[:3])})" if whys else "")
        )
    return found


def halves() -> dict[str, list[str]]:
    """Return two halves of the study's methods by title, the one that designers look at first."""
    found: dict[str, list[str]] = yaml.safe_load(HALVES.read_text(encoding="utf-8"))
    return found


def agreement(found: Sequence[Pair]) -> Grid:
    """Build the table of correlations: lines for each suite and for both, a column per metric."""
    lines = []
    for pair in found:
        lines.append(_line(pair.published.suite, [pair], pair.whole))
        for title, half in halves().items():
            names = [name for name in pair.whole if name in half]
            lines.append(_line(f"{pair.published.suite}, {title} half", [pair], names))
        # A second line shows what the uncertain rows would change.
        if len(pair.names) > len(pair.whole):
            lines.append(_line(f"{pair.published.suite}, partial rows too", [pair], pair.names))
    if len(found) > 1:
        first, second = found[:2]
        common = [name for name in first.whole if all(name in x.whole for x in found)]
        lines.append(_line("both", found, common))
        for title, half in halves().items():
            lines.append(_line(f"both, {title} half", found, [n for n in common if n in half]))
        # How well each side agrees with itself across suites bounds how well it can agree with the
        # other side.
        theirs, ours = [], []
        for metric in RANKED:
            theirs.append(float(spearman(*(pair.theirs(metric, common) for pair in found[:2]))))
            has_ours = all(metric.column in pair.measured.values for pair in (first, second))
            ours.append(
                float(spearman(*(pair.ours(metric, common)[0] for pair in (first, second))))
                if has_ours and len(common) >= FEWEST
                else np.nan
            )
        suites = f"{first.published.suite} against {second.published.suite}"
        for side, values in (("published", theirs), ("ours", ours)):
            cells = [number(value, 3) for value in values]
            lines.append([f"({side}, {suites})", str(len(common)), *cells])
    header = ["methods ranked in", "n", *(metric.title for metric in RANKED)]
    return Grid("Spearman's correlation, published against measured", header, lines)


def listing(pair: Pair) -> Grid:
    """List all methods of a suite with values and ranks of both sides, the largest gap first."""
    metrics = [metric for metric in LISTED if metric.column in pair.measured.values]
    cells: list[list[str]] = [[] for _ in pair.names]
    apart = []
    for metric in metrics:
        # Row 0 holds the means over all prompts; no draws are asked for.
        sides = pair.theirs(metric, pair.names), pair.ours(metric, pair.names)[0]
        # Ranks count from the smallest value, so a metric of which more is better is turned around.
        sign = -1 if metric.higher_is_better else 1  # rank 1 is closest to BF16
        places = [ranks(sign * side) for side in sides]
        # Positive: further from BF16 on our model than in the study.
        apart.append(places[1] - places[0])
        for row, values, both in zip(
            cells, zip(*sides, strict=True), zip(*places, strict=True), strict=True
        ):
            row += [f"{value:.{metric.decimals}f}" for value in values]
            row.append(" / ".join(f"{place:g}" for place in both))
    mean = np.mean(apart, axis=0)
    videos = pair.published.methods["n_videos"]
    # The methods that the two sides disagree on most come first: they are what a reader looks for.
    order = np.lexsort((pair.names, mean, -np.abs(mean)))  # its last key sorts first
    lines = [
        [pair.names[i], str(videos[pair.names[i]]), *cells[i], f"{mean[i]:+.1f}"] for i in order
    ]
    header = ["method", "videos"]
    for metric in metrics:
        header += [metric.title, "ours", "ranks"]
    title = f"{pair.published.suite}: published and measured, ranks published / ours (1 is closest)"
    return Grid(title, [*header, "places"], lines)


def notes(
    found: Sequence[Pair], published: Mapping[str, Published], measured: Mapping[str, Measured]
) -> Iterator[str]:
    """Yield notes on reading the numbers, and on methods and videos that they leave out."""
    prompts = ", ".join(f"{p.published.suite} {p.num_videos}" for p in found)
    yield (
        f"in brackets: 95 % bootstrap interval, {NUM_DRAWS} draws of our prompts within each suite "
        f"({prompts} videos a method), the same draw for all methods, seeds from {SEED}; the "
        "published values are held fixed, methods are not redrawn"
    )
    yield (
        "PSNR frame mean: theirs is the mean over frames in dB after H.264, ours "
        "psnr_frame_mean_db on lossless frames, where an identical frame counts 100 dB, as the "
        "first chunk of nearly every method does; PSNR rest: psnr_rest_db, dB of the mean squared "
        "error after the first chunk. SSIM: ssim. LPIPS: lpips. Means over videos; both: mean of "
        "the two suites"
    )
    for pair in found:
        theirs = pair.published
        if theirs.infinite_prompts:
            yield (
                f"{theirs.suite}: published PSNR frame mean is the mean without prompts "
                f"{', '.join(map(str, theirs.infinite_prompts))}, on each of which some method is "
                "infinite (one frame equals the reference)"
            )
        videos = theirs.methods["n_videos"].astype(str)
        # Some rows of the study have fewer videos, so their means are over other prompts.
        short = [name for name in pair.names if name in theirs.partial]
        if short:
            counts = (f"{name} {videos[name]}" for name in short)
            yield (
                f"{theirs.suite}: published with fewer videos ({', '.join(counts)} of "
                f"{theirs.num_prompts}), ranked only where said, and in the list of methods"
            )
    yield (
        "places: ours minus published, mean over metrics; positive: farther from BF16 on our model "
        "than in the study"
    )
    yield f"{REFERENCE} is not ranked: it is the reference"
    yield from _absent(published, measured)


def _line(label: str, found: Sequence[Pair], names: Sequence[str]) -> list[str]:
    """Return the cells of one line: correlation and interval of each metric."""
    cells = []
    for metric in RANKED:
        rho, low, high = correlation(found, names, metric)
        cell = "-" if np.isnan(rho) else f"{rho:.3f}"
        # A single prompt is itself in every draw, so it has no interval.
        if not np.isnan(rho) and all(pair.num_videos > 1 for pair in found):
            cell += f" [{low:.3f}, {high:.3f}]"
        cells.append(cell)
    return [label, str(len(names)), *cells]


def correlation(
    found: Sequence[Pair], names: Sequence[str], metric: Metric
) -> tuple[float, float, float]:
    """Return Spearman's correlation of means over suites and its interval; NaN if undefined."""
    missing = any(metric.column not in pair.measured.values for pair in found)
    if missing or len(names) < FEWEST:
        return np.nan, np.nan, np.nan
    # Suites weigh the same, whatever their number of prompts.
    # Values and not correlations are averaged, so that "both" is a rank over the mean of two
    # suites.
    theirs = np.mean([pair.theirs(metric, names) for pair in found], axis=0)
    ours = np.mean([pair.ours(metric, names, NUM_DRAWS) for pair in found], axis=0)
    # Row 0 of `ours` has all prompts once; the others are the bootstrap's draws.
    found_rho, *draws = spearman(ours, theirs)
    if np.isnan(found_rho):
        return np.nan, np.nan, np.nan
    return float(found_rho), *interval(np.array(draws))


def _absent(published: Mapping[str, Published], measured: Mapping[str, Measured]) -> Iterator[str]:
    """Yield the methods, suites and metrics that one side lacks."""
    # A line for everything that is left out: a correlation over fewer methods may look better.
    for suite in published.keys() - measured.keys():
        yield f"{suite}: no rows of ours"
    for suite, ours in measured.items():
        if suite not in published:
            yield f"{suite}: not a suite of the study"
            continue
        for name, reason in ours.left_out.items():
            yield f"{suite}: {name} left out, {reason}"
        known = [str(name) for name in published[suite].methods.index]
        unmade = [name for name in known if name not in {*ours.names, *ours.left_out}]
        if unmade:
            yield f"{suite}: no rows of ours for {', '.join(unmade)}"
        extra = [name for name in ours.names if name not in known and name != REFERENCE]
        if extra:
            yield f"{suite}: not published here, so not ranked: {', '.join(extra)}"
        for column, reason in ours.reasons.items():
            yield f"{suite}: no {column}: {reason}"


# ---- the report and the verb ---------------------------------------------------------------------


@dataclass(frozen=True)
class Report(Tables):
    """Comparison of one of our sweeps with the study."""

    pairs: Sequence[Pair] = ()

    def svg(self) -> str:
        """Draw one row of panels per suite, one panel per metric that both sides have."""
        rows = []
        for pair in self.pairs:
            families, partial = pair.published.methods["family"], pair.published.partial
            panels = []
            for metric in LISTED:
                if metric.column not in pair.measured.values:
                    continue
                sides = pair.theirs(metric, pair.names), pair.ours(metric, pair.names)[0]
                points = [
                    Point(name, float(x), float(y), families[name], hollow=name in partial)
                    for name, x, y in zip(pair.names, *sides, strict=True)
                ]
                title = f"{pair.published.suite}: {metric.title}"
                axes = Axis("published"), Axis("measured on our model")
                panels.append(Scatter(metric.column, title, *axes, points, label_all=True))
            rows.append(panels)
        has_partial = any(set(pair.names) & set(pair.published.partial) for pair in self.pairs)
        said = "hollow: published with fewer videos" if has_partial else ""
        return svg(Panels("validity", rows, title="measured against published", note=said))


def report(table: pd.DataFrame, study: Mapping[str, Published]) -> Report:
    """Compare the rows of a results folder with the study.

    Raises  UserError: nothing can be compared.
    """
    names = published_names()
    rows, left_out = one_sweep(table, names)
    suites = by_suite(rows, names)
    found = pairs(study, suites)
    # All rows agree in what the heading says (`study_methods.SAME`).
    first = rows.iloc[0]
    history = "full history" if first["contract"] == "full" else f"contract {first['contract']}"
    heading = (
        f"{first['model']} ({' '.join(filter(None, [str(first['weights']), first['settings']]))}), "
        f"{history}, {first['num_latent_frames']} latent frames, {first['prompt_source']} prompts, "
        "against arXiv 2603.27469"
    )
    return Report(
        [agreement(found), *map(listing, found)],
        [*left_out, *notes(found, study, suites)],
        heading,
        found,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `validity`."""
    of_results(parser)
    of_text(parser)
    of_observations(parser)
    parser.add_argument("--picture", type=Path, help="draw the scatter into this SVG file")
    parser.add_argument("--page", type=Path, help="write the Markdown between this page's marks")


def run(words: argparse.Namespace) -> int:
    """Print the report; write the picture and the page if asked."""
    study = fidelity(sections(observations(words)))
    found = report(load(words.results), study)
    if words.picture:
        write(words.picture, found.svg())
    if words.page:
        into_page(words.page, found.markdown(), words.picture)
    found.show(words.format)
    return 0
