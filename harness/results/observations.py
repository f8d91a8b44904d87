"""Observations on disk, durable row by row; all that is known of videos as one wide table."""

from __future__ import annotations

import dataclasses
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
OF_A_RUN = ("videos", "trace", "wandb")  # folders of a run, which hold no other runs
KEY = ["run_id", "prompt_index", "sample"]


class Rows:
    """The observations of a run, a row a video, durable row by row.

    Each `put` writes the whole file beside itself, syncs it and moves it into place. A run has at
    most a few thousand rows, so that costs milliseconds and leaves no half-written state behind.
    Raises  UserError: the file is damaged, or of another schema.
    """

    def __init__(self, path: Path) -> None:
        """Open an existing file, or begin one."""
        self._path = path
        known = path.exists()
        self._table = read_table(path) if known else parquet.schema(Observation).empty_table()

    def __len__(self) -> int:
        """Number of rows."""
        return int(self._table.num_rows)

    def put(self, row: Observation) -> None:
        """Add a row, in place of an earlier one of the same video.

        Rows lie in the order of videos, so the file is the same whatever order they came in.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        same = pc.and_(
            pc.equal(self._table["prompt_index"], row.prompt_index),
            pc.equal(self._table["sample"], row.sample),
        )
        added = pa.Table.from_pylist([dataclasses.asdict(row)], parquet.schema(Observation))
        table = pa.concat_tables([self._table.filter(pc.invert(same)), added])
        self._table = table.sort_by([(name, "ascending") for name in KEY])
        parquet.write(self._path, self._table)


def observations(folder: Path, *columns: str) -> list[dict[str, Any]]:
    """The rows of a run's videos, with all columns or some; none where nothing was tried yet.

    Raises  UserError: they cannot be read.
    """
    path = folder / OBSERVATIONS
    return read_table(path, columns).to_pylist() if path.exists() else []


def write_trace(path: Path, points: Sequence[TracePoint]) -> None:
    """Write the trace of one video."""
    import pyarrow as pa

    rows = [dataclasses.asdict(point) for point in points]
    parquet.write(path, pa.Table.from_pylist(rows, parquet.schema(TracePoint)))


class Twice(UserError):
    """Two folders are the same run, so every video of it would count twice."""

    def __init__(self, run_id: str, folders: Sequence[Path]) -> None:
        """folders: all of them."""
        named = " and ".join(map(str, folders))
        super().__init__(
            f"run {run_id} is there more than once, in {named}: keep one of these folders below "
            "the results and move the others away, else its videos count twice"
        )
        self.run_id = run_id
        self.folders = tuple(folders)


def folders_below(results: Path, marks: Collection[str] = (OBSERVATIONS,)) -> list[Path]:
    """The folders of runs at or below a folder, in order: those with any of some files.

    Links to folders are followed, each folder is entered once, and whole trees of results that lie
    inside another one or inside a run are found too.
    Raises  UserError: there is none.
    """
    found, entered = [], set()
    waiting = [results]
    while waiting:  # links after everything else, so that a folder goes by its own name
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
    """Refuse two folders of one run.

    folders: with the ids of their runs.
    Raises  Twice.
    """
    known: dict[str, Path] = {}
    for run_id, folder in folders:
        other = known.setdefault(run_id, folder)
        if other.resolve() != folder.resolve():
            raise Twice(run_id, [other, folder])


def read_table(path: Path, columns: Sequence[str] = ()) -> pa.Table:
    """Read observations, or some columns of them, and hold them against the schema."""
    import pyarrow as pa

    again = "run the same command again to make its rows anew"
    table = parquet.read(path, list(columns) or None, f"move it away and {again}")
    expected = parquet.schema(Observation)
    if table.schema.names != (list(columns) or expected.names):
        raise UserError(
            f"{path} was written by another version of the harness: move its folder away and run "
            "the same command again"
        )
    return table.cast(pa.schema([expected.field(name) for name in table.schema.names]))
