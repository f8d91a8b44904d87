"""SHA-256 of large files, read once: it is remembered beside a file while that is unchanged."""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.system.files import sha256, write_json


def remembered(path: Path) -> str:
    """SHA-256 of a file; read again only when its size or its time of change differs.

    A folder that takes no notes is no error: then every process reads the file once.
    Raises  OSError: the file cannot be read.
    """
    stat = path.stat()
    return _remembered(path, stat.st_size, stat.st_mtime_ns)


def remember(path: Path, found: str) -> None:
    """Note a digest that was taken when the file was moved here."""
    stat = path.stat()
    _keep(path, found, stat.st_size, stat.st_mtime_ns)


def first(path: Path) -> str | None:
    """The first digest that was ever noted for this path, whatever lies there now."""
    noted = _note(path).get("first_sha256")
    return noted if isinstance(noted, str) else None


def note_of(path: Path) -> Path:
    """Where the digest of a file is noted."""
    return path.with_name(f".{path.name}.sha256")


@functools.cache
def _remembered(path: Path, size: int, mtime_ns: int) -> str:
    """The arguments are what the file was before it is read, so a change meanwhile is noticed."""
    note = _note(path)
    if (note.get("bytes"), note.get("mtime_ns")) == (size, mtime_ns):
        return str(note["sha256"])
    found = sha256(path)
    _keep(path, found, size, mtime_ns)
    return found


def _keep(path: Path, found: str, size: int, mtime_ns: int) -> None:
    """Write the note; the first digest stays what it was."""
    content = {
        "sha256": found,
        "bytes": size,
        "mtime_ns": mtime_ns,
        "first_sha256": first(path) or found,
    }
    with suppress(OSError):
        write_json(note_of(path), content, durable=False)


def _note(path: Path) -> dict[str, Any]:
    """What is noted beside a file; nothing that is damaged."""
    with suppress(OSError, ValueError):
        note = json.loads(note_of(path).read_text())
        if isinstance(note, dict) and isinstance(note.get("sha256"), str):
            return note
    return {}
