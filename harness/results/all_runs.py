"""Rows of several runs with their scores, all below a folder of results, and its wide table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.results import scores
from harness.results.observations import (
    KEY,
    OBSERVATIONS,
    folders_below,
    read_table,
    refuse_twice,
)
from harness.results.older import without_older
from harness.system import parquet
from harness.system.files import stale

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

WIDE = "results.parquet"  # all runs of a results folder in one table, for other tools


def load(results: Path | str) -> pd.DataFrame:
    """Every observation below a results folder with its scores beside it, one wide table.

    Links to folders are followed.
    Raises  UserError: no results here, or a damaged file (named, with what to do). Twice: a run is
    there in two folders.
    """
    return load_runs(readable_below(Path(results)))


def write_wide(results: Path) -> None:
    """Rewrite `results.parquet`, the table of `load`, atomically."""
    for path in stale(results, below=False):
        path.unlink(missing_ok=True)
    parquet.write(results / WIDE, _joined(readable_below(results)))


def load_run(folder: Path) -> pd.DataFrame:
    """The observations of one run with their scores, a row a video."""
    return load_runs([folder])


def load_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """The same of several runs, one after the other; null where a metric was not asked for."""
    table: pd.DataFrame = _joined(folders).to_pandas()
    return table


def readable_below(results: Path) -> list[Path]:
    """Return the folders of runs below a folder without those of an older schema, which are named.

    Raises  UserError: there is none that can be read.
    """
    return without_older(results, folders_below(results))


def _joined(folders: Sequence[Path]) -> pa.Table:
    """Observations beside scores, in the order of the observations."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [read_table(folder / OBSERVATIONS) for folder in folders]
    refuse_twice(
        (run_id, folder)
        for folder, table in zip(folders, tables, strict=True)
        for run_id in table["run_id"].unique().to_pylist()
    )
    left = pa.concat_tables(tables)
    paths = [folder / scores.SCORES for folder in folders]
    found = [scores.read(path) for path in paths if path.exists()]
    right = pa.concat_tables(
        [parquet.schema(scores.Scored).empty_table(), *found], promote_options="permissive"
    )
    of_left = right.take(pc.index_in(_keys(left), _keys(right)))  # null where there is none
    for field in right.schema:
        if field.name not in left.schema.names:
            left = left.append_column(field, of_left[field.name])
    return left


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """One text a video."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in KEY), "/")
