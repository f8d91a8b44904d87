"""Loads observations joined with their scores, and writes the wide table of a results folder."""

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
    """Load all runs below a results folder: one row per video, observations and scores joined.

    Follows links to folders.
    Raises  UserError: no results here, or a damaged file (the message says how to fix it).
    Twice: two folders hold the same run.
    """
    return load_runs(readable_below(Path(results)))


def write_wide(results: Path) -> None:
    """Rewrite `results.parquet`, the table that `load` returns, atomically."""
    # Unfinished tables of commands that were killed while writing. Those inside a run are removed
    # by whoever holds its lock.
    for path in stale(results, below=False):
        path.unlink(missing_ok=True)
    parquet.write(results / WIDE, _joined(readable_below(results)))


def load_run(folder: Path) -> pd.DataFrame:
    """Load the observations of one run with their scores, one row per video."""
    return load_runs([folder])


def load_runs(folders: Sequence[Path]) -> pd.DataFrame:
    """Load several runs as `load_run` does, concatenated; unrequested metrics are null."""
    table: pd.DataFrame = _joined(folders).to_pandas()
    return table


def readable_below(results: Path) -> list[Path]:
    """Return the run folders below a folder; runs of an older schema are left out with a note.

    Raises  UserError: no run there can be read.
    """
    return without_older(results, folders_below(results))


def _joined(folders: Sequence[Path]) -> pa.Table:
    """Join observations with scores, in the order of the observations."""
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [read_table(folder / OBSERVATIONS) for folder in folders]
    refuse_twice(
        (run_id, folder)
        for folder, table in zip(folders, tables, strict=True)
        for run_id in table["run_id"].unique().to_pylist()
    )
    left = pa.concat_tables(tables)
    # Runs have different metrics, so the files of scores have different columns.
    paths = [folder / scores.SCORES for folder in folders]
    found = [scores.read(path) for path in paths if path.exists()]
    # The empty table supplies the columns of `Scored` where no run has been scored yet.
    right = pa.concat_tables(
        [parquet.schema(scores.Scored).empty_table(), *found], promote_options="permissive"
    )
    # Not pa.Table.join: it cannot carry the list columns and does not keep the order of rows.
    of_left = right.take(pc.index_in(_keys(left), _keys(right)))  # null: the video has no scores
    # Both have the key and the digest of the frames; those of the observations stay.
    for field in right.schema:
        if field.name not in left.schema.names:
            left = left.append_column(field, of_left[field.name])
    return left


def _keys(table: pa.Table) -> pa.ChunkedArray:
    """Return one string per row that identifies its video."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(*(table[name].cast(pa.string()) for name in KEY), "/")
