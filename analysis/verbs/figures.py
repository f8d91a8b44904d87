"""Verb `figures`: writes every figure of the study, and our own, as SVG or PDF."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from analysis.figures.catalogue import FIGURES, chosen, drawn
from analysis.figures.figure import Absent
from analysis.figures.paper import pdf, svg
from analysis.pages import write
from analysis.verb_options import of_source, source
from harness.system.errors import UserError
from harness.system.files import slug


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `figures`."""
    of_source(parser)
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder of the files")
    parser.add_argument("--format", choices=["svg", "pdf"], default="svg")
    names = ", ".join(FIGURES)
    parser.add_argument("--figure", help=f"names, as drift,kv-trace (default: all): {names}")


def run(words: argparse.Namespace) -> int:
    """Write one file per figure, print its path, and explain missing figures.

    Raises  UserError: no such figure, or none could be drawn.
    """
    # A wrong name fails before the results are read, which may take long.
    names = chosen(words.figure)
    sections = source(words)
    # Several sections may have one suite, and their files must not overwrite each other.
    suites: Counter[str] = Counter()
    absent: dict[str, list[str]] = {}
    count = 0
    for section in sections:
        suite = slug(section.suite)  # results may contain any name
        suites[suite] += 1
        nth = f"-{suites[suite]}" if suites[suite] > 1 else ""
        # With one section the names of the files say all.
        if len(sections) > 1 or nth:
            print(f"{section.title}:")
        for each in drawn(section, names):
            if isinstance(each, Absent):
                absent.setdefault(f"{each.name}: {each.reason}", []).append(suite + nth)
                continue
            path = words.out / f"{suite}{nth}-{each.name}.{words.format}"
            write(path, svg(each) if words.format == "svg" else pdf(each))
            print(f"{path}  {each.title}")
            count += 1
    # A reason that several suites share is printed once.
    for said, where in absent.items():
        print(f"not drawn: {said} ({', '.join(where)})")
    if not count:
        raise UserError(
            f"no figure could be drawn of {len(sections)} sections; the lines above say why of each"
        )
    return 0
