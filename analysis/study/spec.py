"""Typed descriptions of the study's tables, read from tables.yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml

from analysis.verb_options import named
from harness.system.paths import shipped

# Found by package, so that an installed wheel has it too.
FILE = shipped("analysis.study", "tables.yaml")


@dataclass(frozen=True)
class Table:
    """Description of one table; the file explains the fields.

    any_suite: also for suites that the study does not have.
    others: append methods that are not in `rows`, also from the study's data.
    absent: show rows that no method repeats.
    plain: never show intervals.
    """

    id: str
    kind: str
    caption: str
    suites: Sequence[str]
    rows: Sequence[str] = ()
    columns: Sequence[str] = ()
    measured: Sequence[str] = ()
    sort: str = ""
    decimals: int | None = None
    others: bool = False
    absent: bool = False
    any_suite: bool = False
    plain: bool = False
    comments: Mapping[str, str] = field(default_factory=dict)

    def shown(self, is_published: bool) -> Sequence[str]:
        """Return the columns for published or for measured data."""
        return self.columns if is_published else self.measured or self.columns


@cache
def _file() -> Mapping[str, Any]:
    found: Mapping[str, Any] = yaml.safe_load(FILE.read_text())
    return found


@cache
def tables() -> Mapping[str, Table]:
    """Return all tables by id, in the study's order."""
    # A misspelt key of the file is a TypeError here.
    return {each["id"]: Table(**each) for each in _file()["tables"]}


def suite_title(suite: str) -> str:
    """Return a suite's name as the study writes it."""
    # A suite of the user's has no other name than its own.
    return str(_file()["suites"].get(suite, suite))


def is_of_study(suite: str) -> bool:
    """Whether the study has a suite of this name."""
    return suite in _file()["suites"]


def chosen(words: str | None) -> list[Table]:
    """Return the tables named like `2,A1`; all without a word.

    Raises  UserError: there is no such table.
    """
    return [tables()[name] for name in named(words, tables(), "table")]
