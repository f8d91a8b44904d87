"""VBench's dimensions and scores, a table a suite and model."""

from __future__ import annotations

import argparse

from analysis import vbench
from analysis.verb_options import of_results, of_text
from harness.results.all_runs import load


def arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, the format, and where the official prompts are."""
    of_results(parser)
    of_text(parser)
    parser.add_argument("--data-dir", help="where the official prompts lie, for suite=vbench")


def run(words: argparse.Namespace) -> int:
    """Print them."""
    for grid, notes in vbench.tables(load(words.results), words.data_dir):
        if words.format == "md":
            print(grid.markdown())
        else:
            grid.show()
        for note in notes:
            print(f"- {note}")
    return 0
