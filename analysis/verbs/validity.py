"""The published methods among the results, ranked against the study."""

from __future__ import annotations

import argparse
from pathlib import Path

from analysis.pages import into_page, write
from analysis.sources.published.fidelity import fidelity
from analysis.sources.published.observations import sections
from analysis.validity_report import report
from analysis.verb_options import observations, of_observations, of_results, of_text
from harness.results.all_runs import load


def arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, the study's file, and where the text and the picture go."""
    of_results(parser)
    of_text(parser)
    of_observations(parser)
    parser.add_argument("--picture", type=Path, help="draw the scatter into this SVG file")
    parser.add_argument("--page", type=Path, help="write the Markdown between this page's marks")


def run(words: argparse.Namespace) -> int:
    """Print, draw, write."""
    study = fidelity(sections(observations(words)))
    found = report(load(words.results), study)
    if words.picture:
        write(words.picture, found.svg())
    if words.page:
        into_page(words.page, found.markdown(), words.picture)
    if words.format == "md":
        print(found.markdown())
    else:
        found.show()
    return 0
