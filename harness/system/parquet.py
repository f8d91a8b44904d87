"""Parquet files of rows: schemas from annotations, atomic writes, damage told in a sentence.

Checksums of pages cover values, but neither the headers of pages nor the footer, where a flipped
bit gives other numbers of rows, offsets or names. So a file also carries the SHA-256 of all its
other bytes. It lies between the last page and the footer, where readers that follow the offsets of
the footer (all of them) never look.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.system.errors import UserError
from harness.system.files import whole_file
from harness.system.logs import log

if TYPE_CHECKING:
    import pyarrow as pa

MARK = b"video-kv-bench sha256 "  # stands before the digest
DIGEST_BYTES = 32


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
    """Replace a file by this table, atomically and durably, with checksums of pages and file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")  # where the footer begins
    pages, footer = content[:at], content[at:]
    with whole_file(path) as unfinished:
        unfinished.write_bytes(pages + MARK + _digest(pages, footer) + footer)


def read(path: Path, columns: Sequence[str] | None, mend: str) -> pa.Table:
    """A file, or those of some columns that it has; `mend` says what to type if it is damaged.

    Every byte is held against the digest in the file. One that another program wrote has none, and
    is held against the checksums of its pages, if it has these.
    Raises  UserError: it is damaged.
    """
    try:
        return checked(path, columns)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {mend}") from error


def checked(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The same, for callers who have a sentence of their own.

    Raises  ValueError: it is damaged; in what way.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = path.read_bytes()
        log.debug("read %s", path)
        at = content.rfind(MARK)
        if at >= 0:
            begin, end = at + len(MARK), at + len(MARK) + DIGEST_BYTES
            if content[begin:end] != _digest(content[:at], content[end:]):
                raise ValueError("its bytes are not those that were written")
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        names = file.schema_arrow.names
        return file.read(None if columns is None else [x for x in columns if x in names])
    except (pa.ArrowException, OSError) as error:
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0][:80]) from error


def _digest(pages: bytes, footer: bytes) -> bytes:
    return hashlib.sha256(pages + footer).digest()
