"""Reading what a run left, with a sentence for what cannot be read."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.results import observation, scores
from harness.system import parquet
from harness.system.files import sha256

if TYPE_CHECKING:
    import pyarrow as pa

UPDATE = "`git pull` in the harness's checkout"  # what a file of a newer harness needs


class Wrong(Exception):
    """What is wrong with a file, as a sentence without its mending."""


class Newer(Wrong):
    """It is whole, but this harness is too old for it."""


class Older(Wrong):
    """It is whole, but of an older harness."""


def rows(path: Path, row_type: type) -> list[dict[str, Any]]:
    """The rows of a file of this schema.

    Raises  Wrong: it cannot be read, or is of another schema.
    """
    table, found = _read(path)
    for row in found:
        check_version(row.get("schema_version", observation.SCHEMA_VERSION), path.name)
    _check_columns(path, table.schema, _schema(row_type))
    if strange := sorted(set(table.schema.names) - set(_schema(row_type).names)):
        raise Wrong(f"{path.name} has other columns than this harness writes ({strange[0]}, ...)")
    return found


def scored(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of scores, whatever metrics it has.

    Raises  Wrong: it cannot be read, or is of another version.
    """
    table, found = _read(path)
    versions = {row.get("scores_version") for row in found} or {scores.VERSION}
    for version in versions:
        check_version(version, path.name, scores.VERSION)
    _check_columns(path, table.schema, _schema(scores.Scored))
    return found


def _read(path: Path) -> tuple[pa.Table, list[dict[str, Any]]]:
    table = checked(path)
    return table, table.to_pylist()


def checked(path: Path) -> pa.Table:
    """The table in a file.

    Raises  Wrong: it cannot be read.
    """
    try:
        return parquet.checked(path)
    except ValueError as error:
        raise Wrong(f"{path.name} is damaged ({error})") from error


def _check_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Refuse a file without the columns of its kind."""
    if missing := [name for name in expected.names if name not in found.names]:
        raise Wrong(f"{path.name} has other columns than this harness writes ({missing[0]}, ...)")
    for column in expected:
        if found.field(column.name).type != column.type:
            raise Wrong(
                f"{path.name} has a column {column.name} of {found.field(column.name).type}, "
                f"expected {column.type}"
            )


def json_file(path: Path) -> dict[str, Any]:
    """A file of settings.

    Raises  Wrong: it cannot be read.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise Wrong(f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise Wrong(f"{path.name} is damaged ({str(error)[:80]})") from error
    if not isinstance(content, dict):
        raise Wrong(f"{path.name} is damaged (no table of settings)")
    return content


def check_version(found: Any, name: str, known: int = observation.SCHEMA_VERSION) -> None:
    """Refuse what another schema wrote.

    Raises  Newer or Older.
    """
    if type(found) is not int:
        raise Wrong(f"{name} says no version of its schema (found {found})")
    if found != known:
        kind, age = (Newer, "a newer") if found > known else (Older, "an older")
        raise kind(f"{name} was written by {age} harness (found schema {found}, expected {known})")


def check_keys(found: list[dict[str, Any]], run_id: str, name: str) -> None:
    """Refuse rows of another run, and two of one video.

    Raises  Wrong.
    """
    foreign = [row for row in found if row["run_id"] != run_id]
    if foreign:
        raise Wrong(
            f"{name} has {len(foreign)} rows of another run (found {foreign[0]['run_id']}, "
            f"expected {run_id})"
        )
    counts = Counter(scores.key(row) for row in found)
    if double := [f"{index:04d}-{sample}" for (index, sample), n in counts.items() if n > 1]:
        raise Wrong(f"{name} has more than one row of video {', '.join(double)}")


def check_digest(path: Path, expected: Any) -> None:
    """Hold a file against its digest in the manifest.

    Raises  Wrong.
    """
    if wrong := against_digest(path, expected):
        raise Wrong(f"{path.name} {wrong}")


def against_digest(path: Path, expected: Any) -> str:
    """How a file differs from its digest in the manifest; empty if it does not."""
    found = sha256(path) if path.exists() else "no file"
    if found == expected:
        return ""
    return (
        f"is not what the finished run left (found digest {found[:12]}, expected "
        f"{str(expected)[:12]})"
    )


@cache
def _schema(row_type: type) -> pa.Schema:
    return parquet.schema(row_type)
