"""Reads the printed numbers of papers from the YAML files next to this module.

A file states the setup of the measurements, the quantity of ours that each column holds, and what
must be equal before one of our numbers may be compared with it. `methods` maps rows of the paper to
names of conf/method that repeat them. `work` of a table states the settings of a run that does the
same work as a row, or why there is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, TypeVar

import yaml

from analysis.numbers import number
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError, did_you_mean
from harness.system.paths import shipped

FOLDER = shipped("analysis.sources.published")
Made = TypeVar("Made")
# Words of the files; `analysis.compare.reasons` has a check for each.
NEEDS = ("model", "length", "size", "prompts", "device", "build")


@dataclass(frozen=True)
class Setup:
    """Setup of published measurements; None or empty if the paper does not state it.

    models: names of conf/model with the same weights.
    prompts: source of the prompts, as our rows name it.
    height, width: pixels.
    build: the integration (`published`: codes unpacked, history kept during decoding).
    protocol: anything else that decides the numbers, in words.
    """

    model: str
    models: Sequence[str] = ()
    device: str = ""
    prompts: str = ""
    num_videos: int | None = None
    num_pixel_frames: int | None = None
    height: int | None = None
    width: int | None = None
    build: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Column:
    """One printed column.

    quantity: our quantity with the same meaning; None requires `why_not`.
    needs: what must be equal on both sides (`NEEDS`).
    decimals: as printed; half a unit of the last one is the uncertainty.
    scale: factor from our unit to the printed one.
    note: how the definitions differ; every verdict repeats it.
    """

    name: str
    unit: str
    decimals: int
    quantity: str | None = None
    needs: Sequence[str] = ()
    scale: float = 1.0
    why_not: str = ""
    note: str = ""


@dataclass(frozen=True)
class Work:
    """What does the same work as a row.

    words: settings of a run on the table's first model; empty if none does.
    said: how its work differs all the same, or why none does it.
    is_beside_vanilla: whether the paper's distances are to videos of its vanilla program, which has
        another order of passes. Ours are to BF16 of the same order.
    """

    words: Sequence[str] = ()
    said: str = ""
    is_beside_vanilla: bool = False

    @property
    def method(self) -> str | None:
        """Name of its method; None if no run does the work."""
        # The method's name alone: a run with more settings is told apart by
        # `analysis.settings.does`.
        return next((word[7:] for word in self.words if word.startswith("method=")), None)


@dataclass(frozen=True)
class Number:
    """One printed number and its place in the paper."""

    paper: str
    table: str
    suite: str
    row: str
    method: str | None
    column: Column
    value: float
    setup: Setup
    work: Work | None = None

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed digit, in the column's unit."""
        return 0.5 * 10.0**-self.column.decimals

    @property
    def printed(self) -> str:
        """The number as it was printed."""
        return number(self.value, self.column.decimals)


@dataclass(frozen=True)
class Table:
    """One printed table: rows of values in the order of its columns; None for an empty cell.

    work: by row, what does the same work; where it is stated, `Paper.methods` is not asked.
    """

    id: str
    columns: Sequence[str]
    rows: Mapping[str, Sequence[float | None]]
    suite: str = ""
    setup: Mapping[str, Any] = field(default_factory=dict)
    work: Mapping[str, Work] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """Content of one file.

    counted: whether the planner computes these rows at the paper's sizes.
    """

    name: str
    title: str
    arxiv: str
    version: str
    setup: Setup
    methods: Mapping[str, str | None]
    columns: Mapping[str, Column]
    tables: Sequence[Table]
    counted: bool = False

    @cached_property
    def numbers(self) -> list[Number]:
        """All printed numbers, table by table."""
        found = []
        for table in self.tables:
            # A table may have been measured otherwise than the rest of the paper.
            # Checked by `_table`, so every key is a field.
            setup = Setup(**{**vars(self.setup), **table.setup})
            for row, values in table.rows.items():
                work, method = table.work.get(row), self.method_of(table, row)
                for column, value in zip(table.columns, values, strict=True):
                    if value is not None:  # the paper left the cell empty
                        place = (self.name, table.id, table.suite, row, method)
                        found.append(
                            Number(*place, self.columns[column], float(value), setup, work)
                        )
        return found

    def method_of(self, table: Table, row: str) -> str | None:
        """Return our name of a row's method; None if none repeats it."""
        return table.work[row].method if row in table.work else self.methods[row]


def names() -> list[str]:
    """List the papers, the study first."""
    # False sorts before True, so the study comes first.
    found = sorted(path.stem for path in FOLDER.glob("*.yaml"))
    return sorted(found, key=lambda name: name != "longhorizon")


def paper(name: str) -> Paper:
    """Read the numbers of one paper.

    Raises  UserError: no such paper.
    """
    # A name is part of a path here, so only names of files in the folder are accepted.
    if name not in names():
        raise UserError(
            f"no published numbers are named {name}{did_you_mean(name, names())}: choose "
            f"--published {', '.join(names())}"
        )
    return parsed(name, yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def parsed(name: str, content: Mapping[str, Any]) -> Paper:
    """Parse the content of a file and check it against the schema.

    Raises  ValueError: an unknown or missing key, quantity or need, or a row of another length.
    """
    # The files are written by hand, and a slip could make numbers look comparable that are not. So
    # everything that can be checked is.
    columns = {}
    for key, value in content["columns"].items():
        columns[key] = column = _made(Column, {"name": key, **value})
        if column.quantity is not None and column.quantity not in QUANTITIES:
            raise ValueError(f"column {key}: no quantity {column.quantity}")
        # Either we measure the same thing, or the file says why nothing of ours is the same.
        if bool(column.quantity) == bool(column.why_not):
            raise ValueError(f"column {key}: give a quantity, or why there is none of ours")
        unknown = set(column.needs) - set(NEEDS)
        if unknown:
            raise ValueError(f"column {key}: needs {sorted(unknown)} are not of {NEEDS}")
    tables = [_table(each, columns, content["methods"]) for each in content["tables"]]
    # Numbers are found by table and suite, so two tables must not share both.
    ids = [(table.id, table.suite) for table in tables]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{name}: a table stands twice")
    rest = {**content, "columns": columns, "tables": tables}
    # Unknown keys are errors: a misspelt one would drop a condition of comparison silently.
    rest["setup"] = _made(Setup, content["setup"])
    return _made(Paper, {"name": name, **rest})


def _table(
    content: Mapping[str, Any], columns: Mapping[str, Column], methods: Mapping[str, Any]
) -> Table:
    work = {row: _made(Work, each) for row, each in content.get("work", {}).items()}
    table = _made(Table, {**content, "work": work})
    if set(work) - set(table.rows):
        raise ValueError(
            f"table {table.id}: work of {sorted(set(work) - set(table.rows))}, no rows"
        )
    if any(bool(each.words) and each.method is None for each in work.values()):
        raise ValueError(f"table {table.id}: the words of a row's work name no method")
    if set(table.columns) - set(columns):
        raise ValueError(f"table {table.id}: unknown columns {set(table.columns) - set(columns)}")
    for row, values in table.rows.items():
        if row not in methods:
            raise ValueError(f"table {table.id}: row {row} is not among the methods")
        if len(values) != len(table.columns):
            raise ValueError(f"table {table.id}: row {row} has {len(values)} values")
    # A table overrides parts of the paper's setup; this only checks the names of its keys.
    # `model` is required, and a table need not repeat it.
    _made(Setup, {"model": "", **table.setup})
    return table


def _made(kind: type[Made], content: Mapping[str, Any]) -> Made:
    """Build a dataclass from exactly these keys."""
    known = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    if set(content) - known:
        raise ValueError(f"{kind.__name__}: unknown keys {sorted(set(content) - known)}")
    try:
        return kind(**content)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from error
