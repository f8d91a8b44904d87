"""Parquet files of rows: schemas from annotations, atomic writes, damage told in a sentence."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError
from harness.files import whole_file

if TYPE_CHECKING:
    import pyarrow as pa


def schema(row_type: type) -> pa.Schema:
    """The parquet schema of a row type, from its annotations; every column may be null.

    What a field's metadata says of it (unit, meaning) becomes the metadata of its column.
    """
    import pyarrow as pa

    about = {field.name: dict(field.metadata) for field in dataclasses.fields(row_type)}
    columns = []
    for name, hint in typing.get_type_hints(row_type).items():
        if isinstance(hint, types.UnionType):
            hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        if name in about:  # a class variable is no column
            columns.append(pa.field(name, arrow_type(hint), metadata=about[name] or None))
    return pa.schema(columns)


def arrow_type(kind: type) -> pa.DataType:
    """The type of a column of float, int, str, list[float] or list[int]."""
    import pyarrow as pa

    known = {
        str: pa.string(),
        int: pa.int64(),
        float: pa.float64(),
        list[float]: pa.list_(pa.float64()),
        list[int]: pa.list_(pa.int64()),
    }
    return known[kind]


def plain(table: pa.Table) -> pa.Table:
    """A table with the types that `arrow_type` gives, where another program wrote larger ones."""
    import pyarrow as pa

    def narrowed(field: pa.Field) -> pa.Field:
        if pa.types.is_large_string(field.type):
            return field.with_type(pa.string())
        if pa.types.is_large_list(field.type):
            return field.with_type(pa.list_(field.type.value_type))
        return field

    return table.cast(pa.schema([narrowed(field) for field in table.schema]))


def write(path: Path, table: pa.Table) -> None:
    """Replace a file by this table, atomically and durably."""
    import pyarrow.parquet as pq

    with whole_file(path) as unfinished:
        pq.write_table(table, unfinished)


def read(path: Path, columns: Sequence[str] | None, mend: str) -> pa.Table:
    """A file, or those of some columns that it has; `mend` says what to type if it is damaged.

    Raises  UserError: it is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        names = file.schema_arrow.names
        return file.read(None if columns is None else [x for x in columns if x in names])
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged ({str(error).splitlines()[0][:80]}): {mend}") from error
