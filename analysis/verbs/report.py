"""Verb `report`: writes a folder of pages that opens from disk."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from analysis.verb_options import of_source, source
from harness.system.errors import UserError
from harness.system.units import size

OUT = "report"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `report`."""
    # Two spellings: a results folder is given by position to other verbs, and `--source` belongs to
    # the verbs that read the study too.
    parser.add_argument(
        "results", nargs="?", help="a folder of results, or the word published, as with --source"
    )
    of_source(parser)
    parser.add_argument(
        "--out", type=Path, default=Path(OUT), help="folder of the report (default: report)"
    )
    parser.add_argument(
        "--prompts",
        type=prompts,
        help="which prompts get a page with their videos, as 0:8 or 3: (default: all with an MP4)",
    )


def run(words: argparse.Namespace) -> int:
    """Write the report, and print its path and the number of its pages and videos."""
    # Imported late, so that `--help` does not wait for them.
    from analysis.report import folder
    from analysis.report.progress import slow
    from analysis.report.write import write

    if words.results is not None:
        # The default of --source is a folder too, so only a typed one can contradict.
        if words.source != "results" and words.source != words.results:
            raise UserError(
                f"both {words.results} and --source {words.source} were given: keep one of them"
            )
        words.source = words.results
    folder.refuse_others(words.out.resolve())  # fail before the long read
    with slow(f"reading {words.source}"):
        found = source(words)
    # The page repeats the command as typed, so that it can be run again.
    typed = shlex.join(["python", "-m", "analysis", "report", *sys.argv[2:]])
    made = write(found, words.out, typed, words.prompts)
    videos = f"{made.videos.num} videos of {size(made.videos.nbytes)}" if made.videos.num else ""
    print(
        f"{made.out / 'index.html'}: {made.num_methods} methods, pages of {made.num_prompts} "
        f"prompts, {size(made.page_bytes)} of pages, {videos or 'no videos'}"
    )
    for section in found:
        for note in section.notes:
            print(f"- {section.title}: {note}")
    return 0


def prompts(text: str) -> slice:
    """Parse a range of prompts: `0:8`, `3:`, `:4` or one number.

    Raises  argparse.ArgumentTypeError: it is none of these.
    """
    try:
        ends = [int(each) if each else None for each in text.split(":")]
    except ValueError:
        ends = []
    # One number means this prompt alone; as a slice it would mean all before it.
    if len(ends) == 1 and ends[0] is not None and ends[0] >= 0:
        return slice(ends[0], ends[0] + 1)
    if len(ends) == 2 and all(end is None or end >= 0 for end in ends):
        return slice(*ends)
    raise argparse.ArgumentTypeError(f"{text}: give a range as 0:8, or one number")
