"""Parquet files of rows: schemas from annotations, atomic writes, and detection of damage.

Parquet's page checksums cover values, but neither page headers nor the footer, where a flipped bit
changes row counts, offsets or names. Each file therefore also holds the SHA-256 of all its other
bytes. It lies between the last page and the footer. Readers follow the offsets in the footer, so
they never see it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import types
import typing
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from harness.system.errors import UserError
from harness.system.files import whole_file
from harness.system.logs import log

if TYPE_CHECKING:
    import pyarrow as pa

MARK = b"video-kv-bench sha256 "  # precedes the digest
DIGEST_BYTES = 32


# Reading the annotations takes a millisecond, and every video needs two schemas. A schema is always
# given: pyarrow would take a column of nulls for one without a type.
@cache
def schema(row_type: type) -> pa.Schema:
    """Return the parquet schema of a dataclass, from its annotations; every column may be null.

    The metadata of a field (unit, meaning) becomes the metadata of its column.
    """
    import pyarrow as pa

    about = {field.name: dict(field.metadata) for field in dataclasses.fields(row_type)}
    columns = []
    for name, hint in typing.get_type_hints(row_type).items():
        # `float | None`: every column may be null, so only the other type counts.
        if isinstance(hint, types.UnionType):
            hint = next(arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        if name in about:  # type hints include class variables, which are not columns
            columns.append(pa.field(name, arrow_type(hint), metadata=about[name] or None))
    return pa.schema(columns)


def arrow_type(kind: type) -> pa.DataType:
    """Return the column type for float, int, str, list[float] or list[int]."""
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
    """Convert large strings and lists, which other programs write, to the types of `arrow_type`."""
    import pyarrow as pa

    def narrowed(field: pa.Field) -> pa.Field:
        if pa.types.is_large_string(field.type):
            return field.with_type(pa.string())
        if pa.types.is_large_list(field.type):
            return field.with_type(pa.list_(field.type.value_type))
        return field

    return table.cast(pa.schema([narrowed(field) for field in table.schema]))


def write(path: Path, table: pa.Table) -> None:
    """Write a table atomically and durably, with checksums of its pages and of the whole file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Written to memory first: the digest must be inserted before the footer.
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    # A parquet file ends with the footer, its length (4 bytes) and the magic number (4 bytes).
    at = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    pages, footer = content[:at], content[at:]
    with whole_file(path) as unfinished:
        unfinished.write_bytes(pages + MARK + _digest(pages, footer) + footer)


def read(path: Path, columns: Sequence[str] | None, fix: str) -> pa.Table:
    """Read a file and verify it; with `columns`, only those of them that it has.

    All bytes are compared with the digest in the file. A file of another program has no digest;
    its page checksums are verified, if it has any.
    fix: the end of the error message, which says what to type.
    Raises  UserError: the file is damaged.
    """
    try:
        return checked(path, columns)
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): {fix}") from error


def checked(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a file as `read` does, for callers that build their own message.

    Raises  ValueError: the file is damaged; the message says how.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = path.read_bytes()
        log.debug("read %s", path)
        # The last one in the file: a text in a page could contain the same bytes.
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
    """Return the SHA-256 of the file's bytes without MARK and the digest itself."""
    return hashlib.sha256(pages + footer).digest()
