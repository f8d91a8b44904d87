"""Computes VBench's quality, semantic and total score of every run from per-video values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.numbers import number
from analysis.verb_options import of_results, of_text
from harness.config.compose import choices, configured
from harness.downloads.data_folder import data_folder
from harness.prompts.suite import SuiteConfig, scored_as
from harness.results.all_runs import load
from harness.results.summary_table import title
from harness.scoring.vbench.dimensions import DIMENSIONS
from harness.scoring.vbench.protocol import PUBLISHED
from harness.scoring.vbench.totals import dimension_means, official_prompts, totals
from harness.system.errors import UserError
from harness.system.text_table import Grid

# VBench's own file: every prompt with the dimensions that count it.
LISTING = "prompts/VBench_full_info.json"  # below the data folder
SCORES = ("quality", "semantic", "total")


@dataclass(frozen=True)
class Official:
    """The official prompts of a suite.

    of_dimension: the prompts that each dimension counts.
    scored_as: the official wording of each line, where videos are made from another one.
    """

    of_dimension: Mapping[str, frozenset[str]]
    scored_as: tuple[str, ...] = ()

    def records(self, run: pd.DataFrame) -> list[dict[str, Any]]:
        """Return the rows of a run, with prompts in the official wording."""
        # The published wordings are longer prompts of the same lines. VBench finds a dimension's
        # prompts by the official wording, which a line number links to them.
        rows: list[dict[str, Any]] = run.to_dict("records")  # type: ignore[assignment]
        if not self.scored_as:
            return rows
        return [row | {"prompt": self.scored_as[row["prompt_index"]]} for row in rows]


def tables(rows: pd.DataFrame, data_dir: str | None = None) -> list[tuple[Grid, list[str]]]:
    """Build one table with notes per suite, model and attention window that has any dimension.

    A dimension is a mean over videos; on the official suite, over the videos of its own prompts.
    Raises  UserError: no row has a dimension; the official list cannot be read.
    """
    # A run without a single dimension was not scored, so it has no line.
    # By title: suites, models and attention windows never share a table.
    runs: dict[str, list[pd.DataFrame]] = {}
    for _, run in rows[rows["failure"].isna()].groupby("run_id", sort=False):
        if any(
            f"vbench_{name}" in run and run[f"vbench_{name}"].notna().any() for name in DIMENSIONS
        ):
            runs.setdefault(title(run), []).append(run)
    if not runs:
        raise UserError(
            f"no VBench value among {len(rows)} rows: type python -m harness score <results> "
            "metrics=[vbench], see docs/vbench.md"
        )
    return [_table(name, group, _official(group, data_dir)) for name, group in runs.items()]


def _table(
    name: str, runs: list[pd.DataFrame], official: Official | None
) -> tuple[Grid, list[str]]:
    counted, differs = "every video counts, whatever its prompt: not VBench's own prompts", []
    # Dimensions of any other prompts have no official list, so every video counts.
    if official is None:
        means = [dimension_means(run.to_dict("records")) for run in runs]  # type: ignore[arg-type]
    else:
        counted = "each dimension counts the videos of its official prompts"
        records = [official.records(run) for run in runs]
        means = [dimension_means(rows, official.of_dimension) for rows in records]
        for rows in records:
            differs += PUBLISHED.differences(rows, official.of_dimension)
    # A dimension that only some runs have gets a column; the others' cells stay empty.
    shown = [x for x in DIMENSIONS if any(x in each for each in means)]
    lines, lacks = [], dict.fromkeys(SCORES, "")
    for run, each in zip(runs, means, strict=True):
        # The scores weigh normalised dimensions as published. A partial sum would look like a worse
        # score, so a score that lacks a dimension stays empty, with a note.
        found = totals(each)
        words = f"{run['method'].iloc[0]} {run['settings'].iloc[0]}".strip()
        cells = [each.get(x) for x in shown] + [getattr(found, x).value for x in SCORES]
        lines.append([words, str(len(run)), *(number(x, 4) for x in cells)])
        scores = {name: getattr(found, name) for name in SCORES}
        lacks |= {name: ", ".join(x.missing) for name, x in scores.items() if x.missing}
    header = ["method", "n", *(x.replace("_", " ") for x in shown), *SCORES]
    notes = [f"0..1, higher is better, means over videos; {counted}"]
    notes += [f"{score} is left open, it lacks: {names}" for score, names in lacks.items() if names]
    notes += [f"unlike published totals: {said}" for said in dict.fromkeys(differs)]
    return Grid(f"{name}, VBench", header, lines), notes


def _official(runs: list[pd.DataFrame], data_dir: str | None) -> Official | None:
    """Read the official prompts of each dimension; None for suites of other prompts."""
    suite = str(runs[0]["suite"].iloc[0])
    # Results may come from a folder whose suites are not here.
    if suite not in choices("suite"):
        return None
    # The official prompts are those of VBench's list, or another wording of the list's lines.
    config = SuiteConfig(**configured(f"suite={suite}")["suite"])
    if config.file != LISTING and config.scored_as is None:
        return None
    folder = Path(data_folder(data_dir)[0])
    path = folder / LISTING
    try:
        prompts = official_prompts(json.loads(path.read_text(encoding="utf-8")))
        return Official(prompts, tuple(scored_as(config, folder)))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({str(error)[:60]}), and it says which prompts a dimension "
            "counts: type python -m harness fetch prompts suite=vbench"
        ) from error


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `vbench`."""
    of_results(parser)
    of_text(parser)
    parser.add_argument("--data-dir", help="where the official prompts lie, for suite=vbench")


def run(words: argparse.Namespace) -> int:
    """Print the tables and their notes."""
    for grid, notes in tables(load(words.results), words.data_dir):
        if words.format == "md":
            print(grid.markdown())
        else:
            grid.show()
        for note in notes:
            print(f"- {note}")
    return 0
