"""Verb `choose`: prints the study's frontiers and recommendations, or answers a question."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from analysis.choosing import answers
from analysis.choosing.choices import Question, preset
from analysis.choosing.constraints import named, parse
from analysis.choosing.equal_memory import TOLERANCE
from analysis.choosing.frontiers import presets
from analysis.pages import show_in_turn
from analysis.section import Section
from analysis.verb_options import of_source, source
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from harness.system.text_table import Grid
from harness.system.user_folder import expose

View = Callable[[Section], Iterator[Grid]]


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `choose`."""
    known = presets()
    of_source(parser)
    # A folder of results may hold many suites, and a CSV only one table.
    parser.add_argument("--suite", help="only this suite")
    parser.add_argument("--format", choices=["text", "md", "csv"], default="text")
    parser.add_argument(
        "--under", action="append", default=[], metavar="BOUND",
        help="what must hold: 'peak_gib<=8', 'runtime_s<=1.1x' (times BF16's), "
        "'ssim>=bf16-0.05'; may be repeated",
    )  # fmt: skip
    # A preset brings an order of its own, and a frontier of the study its axes.
    order = parser.add_mutually_exclusive_group()
    order.add_argument("--best", metavar="QUANTITY", help="the best of this first")
    order.add_argument(
        "--preset", metavar="NAME", help="an order of the study: " + ", ".join(known["presets"])
    )
    front = parser.add_mutually_exclusive_group()
    front.add_argument("--axes", metavar="A,B", help="only what no other beats in these quantities")
    front.add_argument(
        "--frontier", metavar="NAME", help="one of the study's: " + ", ".join(known["frontiers"])
    )
    parser.add_argument(
        "--equal-memory", action="store_true", help="methods that hold as many bytes, side by side"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--at-gib", type=_positive, metavar="N", help="those that hold so many GiB")
    size.add_argument("--at-ratio", type=_positive, metavar="R", help="those of this ratio")
    parser.add_argument(
        "--tolerance", type=_positive, default=TOLERANCE, metavar="SHARE",
        help=f"what counts as the same bytes (default {TOLERANCE:g})",
    )  # fmt: skip
    parser.add_argument(
        "--card-gib", type=_positive, metavar="N",
        help="the longest video that a card of so many GiB holds, as planned",
    )  # fmt: skip
    parser.add_argument(
        # Planning builds a method's class. A results folder may come from anybody, so only a folder
        # that the user names here adds classes to the allowed ones.
        "--config-dir", type=Path, metavar="FOLDER",
        help="your own folder, whose classes --card-gib may build; else only the harness's are",
    )  # fmt: skip


def run(words: argparse.Namespace) -> int:
    """Print the tables that can be built, and explain the others.

    Raises  UserError: a wrong word, or nothing could be shown.
    """
    # Before the first section is read, since a longest video may need the user's classes.
    if words.config_dir is not None:
        expose(words.config_dir.absolute())
    read = source(words)
    sections = [each for each in read if words.suite in (None, each.suite)]
    if not sections:
        known = ", ".join(dict.fromkeys(each.suite for each in read)) or "nothing"
        raise UserError(f"--suite {words.suite}: there is {known}")
    # Wrong words fail here, before any table is computed.
    views = _views(words, sections)
    grids: list[Grid] = []
    refused: list[tuple[str, str]] = []
    for section in sections:
        for view in views:
            # A quantity may be missing in one section only, so the others are still answered.
            try:
                grids += view(section)
            except UserError as error:
                refused.append((section.title, str(error)))
    # Nothing was shown, so the reasons are the answer, and it is an error.
    if not grids:
        whys = dict.fromkeys(why for _, why in refused)
        raise UserError("; ".join(whys) or "there is nothing to choose from")
    # Tables of different columns in one file would be no CSV.
    if words.format == "csv" and len(grids) > 1:
        suites = ", ".join(dict.fromkeys(each.suite for each in sections))
        raise UserError(
            f"{len(grids)} tables as CSV do not go one after the other: ask for one "
            f"(--suite of {suites}; --preset, --under or --at-ratio)"
        )
    _print(grids, refused, words.format)
    return 0


def _print(grids: Sequence[Grid], refused: Sequence[tuple[str, str]], form: str) -> None:
    """Print the tables, then why others are not shown."""
    show_in_turn(grids, form)
    # Notes of CSV go to stderr, so that stdout holds nothing but the table.
    notes = [*grids[0].notes] if form == "csv" else []
    for said in (*notes, *(f"not shown: {title}: {why}" for title, why in refused)):
        print(f"- {said}" if form == "md" else said, file=sys.stderr if form == "csv" else None)


def _positive(word: str) -> float:
    """Parse a number above 0, for argparse."""
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    # `float` accepts nan and inf, of which no card and no tolerance is made.
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{word}: give a number above 0")
    return value


def _views(words: argparse.Namespace, sections: Sequence[Section]) -> list[View]:
    """Choose the views of each section; the overview by default."""
    found: list[View] = []
    # Each option adds a view; without any, the overview answers the usual question.
    if words.under or words.best or words.preset or words.axes or words.frontier:
        found.append(partial(answers.answer, question=_question(words, sections)))
    if words.at_gib or words.at_ratio:
        size = {"gib": words.at_gib, "ratio": words.at_ratio}
        found.append(partial(answers.of_size, tolerance=words.tolerance, **size))
    elif words.equal_memory:
        found.append(partial(answers.equal_memory, tolerance=words.tolerance))
    if words.card_gib:
        found.append(partial(answers.longest, card_gib=words.card_gib))
    return found or [answers.overview]


def _question(words: argparse.Namespace, sections: Sequence[Section]) -> Question:
    """Build the question from the options.

    Raises  UserError: a word is unknown.
    """
    # Offered in error messages; a quantity that some section lacks is refused there alone.
    known = [name for name in QUANTITIES if any(each.has(name) for each in sections)]
    under = tuple(parse(word, known) for word in words.under)
    order = preset(words.preset) if words.preset else None
    # `--best` gives one quantity, a preset several: the next one decides between equal values.
    by = (named(words.best, known),) if words.best else order.by if order else ()
    if words.frontier:
        fronts = presets()["frontiers"]
        if words.frontier not in fronts:
            raise UserError(
                f"there is no frontier {words.frontier!r}: choose {', '.join(fronts)}, or give "
                "quantities as --axes ratio,ssim"
            )
        front = tuple(fronts[words.frontier]["axes"])
    else:
        front = tuple(named(word.strip(), known) for word in (words.axes or "").split(",") if word)
    about = ", ".join(QUANTITIES[axis].title for axis in front)
    said = [order.title] if order else []
    said += [f"no other beats it in {about}"] if about else []
    said += [f"best {QUANTITIES[words.best].title}"] if words.best else []
    said += [f"under {', '.join(map(str, under))}"] if under else []
    return Question(
        ", ".join(said),
        under + (order.under if order else ()),
        by,
        front,
        # A preset of the study names quantities that results may lack; the user typed none of them.
        is_typed=not (order or words.frontier),
    )
