"""Arguments that several verbs share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from analysis.section import Section
from harness.downloads.data_folder import data_folder

PUBLISHED = "published"
FILE = "published/observations.parquet"  # below the data folder


def of_results(parser: argparse.ArgumentParser) -> None:
    """A folder of results."""
    parser.add_argument("results", nargs="?", default="results", help="folder of the results")


def of_text(parser: argparse.ArgumentParser) -> None:
    """For the terminal or as Markdown."""
    parser.add_argument("--format", choices=["text", "md"], default="text")


def of_source(parser: argparse.ArgumentParser) -> None:
    """What is read: the published study's data or a folder of results."""
    parser.add_argument(
        "--source",
        default="results",
        help="a folder of results (default: results), or the word published: the study's own data",
    )
    of_observations(parser)


def of_observations(parser: argparse.ArgumentParser) -> None:
    """Where the published study's data is."""
    parser.add_argument(
        "--observations",
        type=Path,
        default=os.environ.get("HARNESS_PUBLISHED"),
        help="the published study's observations.parquet (default: $HARNESS_PUBLISHED, else "
        f"{FILE} in the data folder)",
    )


def observations(words: argparse.Namespace) -> Path:
    """The study's file, as given or where it lies by default."""
    return Path(words.observations or Path(data_folder(None)[0]) / FILE)


def source(words: argparse.Namespace) -> list[Section]:
    """The sections of what is asked for.

    Raises  UserError: nothing there, or it cannot be read.
    """
    if words.source == PUBLISHED:
        from analysis.sources.published.observations import sections as of_study

        return of_study(observations(words))
    from analysis.sources.results import sections as of_folder

    return of_folder(Path(words.source))
