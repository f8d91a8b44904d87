"""Last second less the first and slope, with intervals, and against BF16."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis import drift
from analysis.pages import write
from analysis.verb_options import of_results, of_text
from harness.results.all_runs import load


def arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, the format and the picture."""
    of_results(parser)
    of_text(parser)
    parser.add_argument("--picture", type=Path, help="draw the curves by second into this SVG file")


def run(words: argparse.Namespace) -> int:
    """Print the tables, draw the picture."""
    found = drift.drift(load(words.results))
    if words.picture:
        write(words.picture, drift.svg(found))
    for section in found:
        if words.format == "md":
            print(section.markdown())
        else:
            section.show()
    return 0
