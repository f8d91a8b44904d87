"""Cached SHA-256 of large files, stored in a note next to the file until the file changes."""

from __future__ import annotations

import functools
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.system.files import sha256, write_json


def remembered(path: Path) -> str:
    """Return the SHA-256 of a file; hash it only if its size or modification time has changed.

    If the note cannot be written, each process hashes the file once.
    Raises  OSError: the file cannot be read.
    """
    # Weights have gigabytes, and several commands verify them.
    stat = path.stat()
    return _remembered(path, stat.st_size, stat.st_mtime_ns)


def remember(path: Path, found: str) -> None:
    """Store a checksum that the caller computed before it moved the file here."""
    stat = path.stat()
    _keep(path, found, stat.st_size, stat.st_mtime_ns)


def first(path: Path) -> str | None:
    """Return the first checksum ever stored for this path; the file may have changed since."""
    # Weights without a published checksum are compared with it: trust on first use.
    noted = _note(path).get("first_sha256")
    return noted if isinstance(noted, str) else None


def note_of(path: Path) -> Path:
    """Return the path of a file's note."""
    return path.with_name(f".{path.name}.sha256")


@functools.cache
def _remembered(path: Path, size: int, mtime_ns: int) -> str:
    """Return the stored checksum if size and modification time match, else hash the file."""
    # Both were read before the file is hashed, so a change meanwhile is noticed the next time.
    note = _note(path)
    if (note.get("bytes"), note.get("mtime_ns")) == (size, mtime_ns):
        return str(note["sha256"])
    found = sha256(path)
    _keep(path, found, size, mtime_ns)
    return found


def _keep(path: Path, found: str, size: int, mtime_ns: int) -> None:
    """Write the note; the first checksum is kept."""
    content = {
        "sha256": found,
        "bytes": size,
        "mtime_ns": mtime_ns,
        "first_sha256": first(path) or found,
    }
    # The folder may be shared and read-only; then the next process hashes the file again.
    with suppress(OSError):
        write_json(note_of(path), content, durable=False)


def _note(path: Path) -> dict[str, Any]:
    """Return the content of a file's note; empty if it is missing or damaged."""
    with suppress(OSError, ValueError):
        note = json.loads(note_of(path).read_text())
        if isinstance(note, dict) and isinstance(note.get("sha256"), str):
            return note
    return {}
