"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Collection
from pathlib import Path

from analysis.section import Section
from harness.downloads.data_folder import data_folder
from harness.system.errors import UserError

PUBLISHED = "published"
FILE = "published/observations.parquet"  # below the data folder


def of_results(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument for the results folder."""
    parser.add_argument("results", nargs="?", default="results", help="folder of the results")


def of_text(parser: argparse.ArgumentParser) -> None:
    """Add `--format`: text for the terminal or Markdown."""
    parser.add_argument("--format", choices=["text", "md"], default="text")


def of_source(parser: argparse.ArgumentParser) -> None:
    """Add `--source`: the study's data or a results folder."""
    parser.add_argument(
        "--source",
        default="results",
        help="a folder of results (default: results), or the word published: the study's own data",
    )
    of_observations(parser)


def of_observations(parser: argparse.ArgumentParser) -> None:
    """Add `--observations`: the study's data file."""
    parser.add_argument(
        "--observations",
        type=Path,
        default=os.environ.get("HARNESS_PUBLISHED"),
        help="the published study's observations.parquet (default: $HARNESS_PUBLISHED, else "
        f"{FILE} in the data folder)",
    )


def observations(words: argparse.Namespace) -> Path:
    """Return the path of the study's data, as given or the default."""
    # The study's data is not in this repository, so its place is the user's choice
    # (docs/tables.md).
    return Path(words.observations or Path(data_folder(None)[0]) / FILE)


def source(words: argparse.Namespace) -> list[Section]:
    """Read the sections of the source that was asked for.

    Raises  UserError: the source is missing or unreadable.
    """
    # Imported late: reading results needs torch, which `--help` does without.
    # A folder of results that is called `published` can still be given as `./published`.
    if words.source == PUBLISHED:
        from analysis.sources.published.observations import sections as of_study

        return of_study(observations(words))
    from analysis.sources.results import sections as of_folder

    return of_folder(Path(words.source))


def named(words: str | None, known: Collection[str], what: str) -> list[str]:
    """Return the names given as `--<what> 2,A1`, in any case; all names without a word.

    Raises  UserError: a word is unknown.
    """
    if not words:
        return list(known)
    asked = [word.strip() for word in words.split(",") if word.strip()]
    by_lower = {name.lower(): name for name in known}
    unknown = [word for word in asked if word.lower() not in by_lower]
    if unknown or not asked:
        word = unknown[0] if unknown else words
        # Names are matched in any case, so they are compared in lower case.
        near = difflib.get_close_matches(word.lower(), by_lower, cutoff=0.5)
        hint = f", did you mean {' or '.join(by_lower[each] for each in near)}" if near else ""
        raise UserError(f"--{what} {word}: no such {what}{hint}; there are {', '.join(known)}")
    return [by_lower[word.lower()] for word in asked]
