"""Reads and writes observations and traces, and finds the folders of runs."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.results.observation import Observation, TracePoint
from harness.system import parquet
from harness.system.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

OBSERVATIONS = "observations.parquet"
OF_A_RUN = ("videos", "trace", "wandb")  # subfolders of a run, never searched for other runs
KEY = ["run_id", "prompt_index", "sample"]


class Rows:
    """The observations of a run, one row per video; each `put` is on disk when it returns.

    Raises  UserError: the file is damaged, or of another schema.
    """

    def __init__(self, path: Path) -> None:
        """Read the file if it exists; the first `put` creates it otherwise."""
        self._path = path
        known = path.exists()
        self._table = read_table(path) if known else parquet.schema(Observation).empty_table()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def put(self, row: Observation) -> None:
        """Add a row, or replace the earlier row of the same video.

        Rows are sorted by video, so the file does not depend on the order of the calls.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        # Not `asdict`, which copies deeply: the fields of a row are numbers, words and lists.
        added = pa.Table.from_pylist([vars(row)], parquet.schema(Observation))
        last = pc.max(self._table["prompt_index"]).as_py()
        if last is None or row.prompt_index > last:
            # The usual case: a run makes its prompts in order.
            self._table = pa.concat_tables([self._table, added])
        else:
            same = pc.and_(
                pc.equal(self._table["prompt_index"], row.prompt_index),
                pc.equal(self._table["sample"], row.sample),
            )
            table = pa.concat_tables([self._table.filter(pc.invert(same)), added])
            self._table = table.sort_by([(name, "ascending") for name in KEY])
        # Parquet cannot be appended to. The whole file is rewritten, synced and moved into place:
        # a few thousand rows take milliseconds, and a killed process leaves the old file or the
        # new one.
        parquet.write(self._path, self._table)


def observations(folder: Path, *columns: str) -> list[dict[str, Any]]:
    """Return the observations of a run, with all columns or some; [] if the file is missing.

    Raises  UserError: the file cannot be read.
    """
    path = folder / OBSERVATIONS
    return read_table(path, columns).to_pylist() if path.exists() else []


def write_trace(path: Path, points: Sequence[TracePoint]) -> None:
    """Write the trace of one video."""
    import pyarrow as pa

    # Not `asdict`, which copies deeply: the fields of a point are numbers and words.
    rows = [vars(point) for point in points]
    parquet.write(path, pa.Table.from_pylist(rows, parquet.schema(TracePoint)))


class Twice(UserError):
    """Several folders hold the same run, so each of its videos would count more than once."""

    def __init__(self, run_id: str, folders: Sequence[Path]) -> None:
        """Build the message. folders: all folders of this run."""
        named = " and ".join(map(str, folders))
        super().__init__(
            f"run {run_id} is there more than once, in {named}: keep one of these folders below "
            "the results and move the others away, else its videos count twice"
        )
        self.run_id = run_id
        self.folders = tuple(folders)


def folders_below(results: Path, marks: Collection[str] = (OBSERVATIONS,)) -> list[Path]:
    """Return the run folders at or below a folder, sorted: those that contain any of `marks`.

    Follows links to folders and enters each folder once. Results folders nested inside another one
    or inside a run are found too.
    Raises  UserError: there is none.
    """
    # Compare folders by their real paths: symbolic links may form a cycle.
    found, entered = [], set()
    waiting = [results]
    while waiting:  # links come last, so that a folder is listed under its own path
        for path, below, files in os.walk(waiting.pop(0)):
            real = os.path.realpath(path)
            if real in entered:
                below.clear()
                continue
            entered.add(real)
            if set(marks) & set(files):
                found.append(Path(path))
            below[:] = [name for name in sorted(below) if name not in OF_A_RUN]
            waiting += [Path(path, name) for name in below if Path(path, name).is_symlink()]
    if not found:
        raise UserError(f"no results below {results}: run python -m harness first")
    return sorted(found)


def refuse_twice(folders: Iterable[tuple[str, Path]]) -> None:
    """Raise `Twice` if two different folders hold the same run.

    folders: pairs of run id and folder.
    """
    # Copies are refused, not merged: their rows may differ, and nothing says which to believe.
    known: dict[str, Path] = {}
    for run_id, folder in folders:
        other = known.setdefault(run_id, folder)
        # A link to a folder is no second copy of its run.
        if other.resolve() != folder.resolve():
            raise Twice(run_id, [other, folder])


def read_table(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """Read observations, all columns or some, and check them against the schema.

    Raises  UserError: the file is damaged, or another version of the harness wrote it.
    """
    import pyarrow as pa

    again = "run the same command again to make its rows anew"
    table = parquet.read(path, list(columns) or None, f"move it away and {again}")
    expected = parquet.schema(Observation)
    if table.schema.names != (list(columns) or expected.names):
        raise UserError(
            f"{path} was written by another version of the harness: move its folder away and run "
            "the same command again"
        )
    # Parquet files carry the meanings of their columns; those of today's code are shown.
    return table.cast(pa.schema([expected.field(name) for name in table.schema.names]))
