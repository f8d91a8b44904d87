"""A picture a prompt: all methods at the same instants."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.sheets import draw_sheets
from analysis.verb_options import of_results
from harness.results.all_runs import load

MOST_COLUMNS = 1000


def arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, where the pictures go, how many instants."""
    of_results(parser)
    parser.add_argument("--out", type=Path, default=Path("sheets"), help="folder of the pictures")
    parser.add_argument("--columns", type=_count, default=6, help="instants, evenly over the video")


def _count(word: str) -> int:
    """A number of pictures in a row, for argparse."""
    if not (word.isdecimal() and 1 <= int(word) <= MOST_COLUMNS):
        raise argparse.ArgumentTypeError(f"{word}: give a whole number from 1 to {MOST_COLUMNS}")
    return int(word)


def run(words: argparse.Namespace) -> int:
    """Draw them, and say where they are, a line each."""
    results = Path(words.results)
    for path in draw_sheets(load(results), results, words.out, words.columns):
        print(path)
    return 0
