"""Files that appear under their name only when they are whole and on disk."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shlex
import shutil
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.system.errors import UserError
from harness.system.logs import log, remark

LOCK = ".lock"  # the file of a folder's lock
LONGEST_NAME = 80  # letters of a file's name that was made from data


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """A name beside `path` to write to; synced and moved to `path` if all goes well, else removed.

    A killed process leaves at most the other name, which begins with a dot and which nothing reads.
    That name is a new file: a link that lies there is removed, not followed.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
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
    log.debug("wrote %s", path)


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
    Raises  UserError: `.lock` is a link, or no file. OSError: the folder takes no files.
    """
    file = open_lock(folder)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            remark(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def open_lock(folder: Path) -> int:
    """Open the lock of a folder, made if it is not there; its content is never touched.

    Raises  UserError: it is a link, which is not followed, or no file. OSError.
    """
    path = folder / LOCK
    if is_no_file(path):
        raise UserError(
            f"{path} is a link or no file, and a lock must be a file: type "
            f"rm {shlex.quote(str(path))} and the same command again"
        )
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def is_no_file(path: Path) -> bool:
    """Whether something else than a file lies here: a link (even to a file), a folder, a device."""
    # One look: a file that another process makes between two looks would seem to be no file.
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def refuse_links(paths: Iterable[Path]) -> None:
    """Refuse folders that are links before anything is written into them.

    Raises  UserError: one is.
    """
    for path in paths:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, and nothing is written through links "
                "inside a run's folder: put the folder itself there and type the same again"
            )


def slug(text: str) -> str:
    """A name for one file in the folder at hand, made from any text: no path, no hidden file.

    Letters and digits of every script stay, so do dots, dashes and underscores inside.
    """
    plain = unicodedata.normalize("NFC", text)
    return re.sub(r"[^\w.-]+", "-", plain).strip("-.")[:LONGEST_NAME].rstrip("-.") or "x"


def stale(folder: Path, below: bool = True) -> list[Path]:
    """The halves of files in a folder, and below it, whose writers are gone from this machine."""
    found = folder.rglob(".*.unfinished") if below else folder.glob(".*.unfinished")
    return [path for path in sorted(found) if is_dead(path)]


def is_dead(unfinished: Path) -> bool:
    """Whether the process that wrote this half of a file is gone from this machine."""
    writer = re.search(r"\.(\d+)\.unfinished$", unfinished.name)
    if writer is None:
        return False
    try:
        os.kill(int(writer[1]), 0)
    except PermissionError:  # another user's
        return False
    except (ProcessLookupError, OverflowError):
        return True
    return False


def remove_unfinished(folder: Path) -> None:
    """Remove the halves of files that killed processes left in a folder that is held alone.

    Its lock is held by every process that writes there, so none of them can still be written,
    unless this process does it.
    """
    for path in folder.rglob(".*.unfinished"):
        if path.name.endswith(f".{os.getpid()}.unfinished"):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


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


def shown(path: Path) -> str:
    """A path as short as it can be typed from here."""
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
