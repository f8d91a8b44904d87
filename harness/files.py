"""Files that appear under their name only when they are whole and on disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import UserError


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; synced and moved to `path` if all goes well, else removed.

    A killed process leaves at most the other name, which begins with a dot and which nothing reads.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        yield unfinished
        into_place(unfinished, path, durable)
    finally:
        unfinished.unlink(missing_ok=True)


def into_place(unfinished: Path, path: Path, durable: bool = True) -> None:
    """Give a whole file its name, after its bytes are on disk."""
    if durable:
        _sync(unfinished)
    unfinished.replace(path)
    if durable:
        _sync(path.parent)  # the name, too


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Make or open something in a folder of results.

    Raises  UserError: the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {what} to {folder} ({error.strerror}): type "
            "results_dir=<a folder you may write>"
        ) from error


@contextmanager
def locked(folder: Path, waiting: str) -> Iterator[int]:
    """Hold a folder alone; says `waiting` if it must wait. Gives the lock's open file.

    The lock lasts until every process that has this file open has closed it.
    """
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def _sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sha256(path: Path) -> str:
    """Digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any], durable: bool = True) -> None:
    """Write a JSON file whole; one that is not durable may be lost with the machine's power."""
    with whole_file(path, durable) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
