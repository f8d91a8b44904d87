"""Reads the files of a run for checking; each problem is raised as one sentence."""

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

_schema = cache(parquet.schema)  # cached, since every run is compared with the same few
UPDATE = "`git pull` in the harness's checkout"  # the fix for a file of a newer harness


class Wrong(Exception):
    """What is wrong with a file, in one sentence without the fix."""


# Both are kept apart from damage, because they are fixed in another way: by another harness, or by
# making the run again.
class Newer(Wrong):
    """The file is intact, but a newer harness wrote it."""


class Older(Wrong):
    """The file is intact, but an older harness wrote it."""


def rows(path: Path, row_type: type) -> list[dict[str, Any]]:
    """Read the rows of a file that must have the columns of `row_type` and no others.

    Raises  Wrong: the file cannot be read, or has another schema.
    """
    table = checked(path)
    found: list[dict[str, Any]] = table.to_pylist()
    for row in found:  # versions first: they explain why the columns differ
        check_version(row.get("schema_version", observation.SCHEMA_VERSION), path.name)
    _check_columns(path, table.schema, _schema(row_type))
    if strange := sorted(set(table.schema.names) - set(_schema(row_type).names)):
        raise Wrong(f"{path.name} has other columns than this harness writes ({strange[0]}, ...)")
    return found


def scored(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file of scores, with any metrics.

    Raises  Wrong: the file cannot be read, or has another version.
    """
    table = checked(path)
    found: list[dict[str, Any]] = table.to_pylist()
    # A file without rows names no version.
    versions = {row.get("scores_version") for row in found} or {scores.VERSION}
    for version in versions:
        check_version(version, path.name, scores.VERSION)
    # Further columns are those of metrics, which may be a user's own.
    _check_columns(path, table.schema, _schema(scores.Scored))
    return found


def checked(path: Path) -> pa.Table:
    """Read a parquet file and verify its digest.

    Raises  Wrong: the file is damaged.
    """
    try:
        return parquet.checked(path)
    except ValueError as error:
        raise Wrong(f"{path.name} is damaged ({error})") from error


def _check_columns(path: Path, found: pa.Schema, expected: pa.Schema) -> None:
    """Raise Wrong if a column is missing or has another type."""
    if missing := [name for name in expected.names if name not in found.names]:
        raise Wrong(f"{path.name} has other columns than this harness writes ({missing[0]}, ...)")
    # The order of columns does not matter, since rows are read by name.
    for column in expected:
        if found.field(column.name).type != column.type:
            raise Wrong(
                f"{path.name} has a column {column.name} of {found.field(column.name).type}, "
                f"expected {column.type}"
            )


def json_file(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises  Wrong: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise Wrong(f"{path.name} is missing") from error
    except (OSError, ValueError) as error:
        # The beginning: some messages quote the whole file.
        raise Wrong(f"{path.name} is damaged ({str(error)[:80]})") from error
    if not isinstance(content, dict):
        raise Wrong(f"{path.name} is damaged (no table of settings)")
    return content


def check_version(found: Any, name: str, known: int = observation.SCHEMA_VERSION) -> None:
    """Check the schema version of a file.

    Raises  Newer, Older: another version. Wrong: no version.
    """
    if type(found) is not int:  # not isinstance: True is an int
        raise Wrong(f"{name} says no version of its schema (found {found})")
    if found != known:
        kind, age = (Newer, "a newer") if found > known else (Older, "an older")
        raise kind(f"{name} was written by {age} harness (found schema {found}, expected {known})")


def check_keys(found: list[dict[str, Any]], run_id: str, name: str) -> None:
    """Check that all rows belong to the run, with one row per video.

    Raises  Wrong: rows of another run, or two rows of one video.
    """
    foreign = [row for row in found if row["run_id"] != run_id]
    if foreign:
        raise Wrong(
            f"{name} has {len(foreign)} rows of another run (found {foreign[0]['run_id']}, "
            f"expected {run_id})"
        )
    counts = Counter(scores.key(row) for row in found)
    if double := [scores.stem(video) for video, n in counts.items() if n > 1]:
        raise Wrong(f"{name} has more than one row of video {', '.join(double)}")


def check_digest(path: Path, expected: Any) -> None:
    """Compare a file with its digest in the manifest.

    Raises  Wrong: they differ.
    """
    if wrong := digest_difference(path, expected):
        raise Wrong(f"{path.name} {wrong}")


def digest_difference(path: Path, expected: Any) -> str:
    """Return how a file differs from its digest in the manifest; empty if it does not."""
    # A file that is gone differs too: the manifest promises it.
    found = sha256(path) if path.exists() else "no file"
    if found == expected:
        return ""
    return (
        f"is not what the finished run left (found digest {found[:12]}, expected "
        f"{str(expected)[:12]})"
    )
