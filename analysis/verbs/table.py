"""Verb `table`: prints every run below a folder, one table per contract."""

from __future__ import annotations

import argparse

from analysis.verb_options import of_results, of_text
from harness.results.all_runs import load
from harness.results.summary_table import markdown, print_section, sections


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `table`."""
    of_results(parser)
    of_text(parser)


def run(words: argparse.Namespace) -> int:
    """Print the tables."""
    # Not through `sources`: this is the table that a run prints at its end, and must equal it.
    runs = [rows for _, rows in load(words.results).groupby("run_id", sort=False)]
    for section in sections(runs):
        if words.format == "md":
            print(markdown(section))
        else:
            print_section(section)
    return 0
