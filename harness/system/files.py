"""Atomic writes, locks and checksums of files."""

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

LOCK = ".lock"  # name of the lock file of a folder
# Characters of a file name that was made from data. File systems allow 255 bytes, of which letters
# outside ASCII take two or three each.
LONGEST_NAME = 80


@contextmanager
def whole_file(path: Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path to write to; move it to `path` on success, remove it on an error.

    durable: sync the file and its folder to disk. A killed process leaves at most the temporary
    file, whose name begins with a dot and which is never read.
    """
    # In the same folder, since only a rename within one file system is atomic. O_EXCL: the file
    # must be new, so that a link that somebody put there is never followed.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield unfinished
        into_place(unfinished, path, durable)
    finally:
        unfinished.unlink(missing_ok=True)


def into_place(unfinished: Path, path: Path, durable: bool = True) -> None:
    """Rename a complete file to `path`, after its bytes are on disk."""
    if durable:
        _sync(unfinished)
    unfinished.replace(path)
    if durable:
        _sync(path.parent)  # a rename is durable only once its folder is synced
    log.debug("wrote %s", path)


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a message about a results folder.

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
    """Lock a folder and yield the lock's file descriptor; print `waiting` if it has to wait.

    The lock lasts until all processes that inherited the descriptor have closed it.
    Raises  UserError: `.lock` is a link, or not a file. OSError: the folder is not writable.
    """
    # flock, not lockf: the lock belongs to the open file, so a child inherits it with the
    # descriptor, and the kernel frees it when the last holder dies, however it dies.
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
    """Open the lock file of a folder, and create it if it is missing; return its descriptor.

    Raises  UserError: it is a link, or not a file. OSError: it cannot be opened.
    """
    path = folder / LOCK
    if is_no_file(path):
        raise UserError(
            f"{path} is a link or no file, and a lock must be a file: type "
            f"rm {shlex.quote(str(path))} and the same command again"
        )
    # The check above gives the sentence; O_NOFOLLOW refuses a link that was put here since.
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def is_no_file(path: Path) -> bool:
    """Whether the path is something other than a file: a link (even to a file), folder or device.

    False if nothing is there.
    """
    # One system call: with two, a file created in between would look like something else.
    try:
        return not stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def refuse_links(paths: Iterable[Path]) -> None:
    """Raise UserError if one of the folders is a link, before anything is written into it."""
    for path in paths:
        if path.is_symlink():
            raise UserError(
                f"{path} is a link to {os.readlink(path)}, and nothing is written through links "
                "inside a run's folder: put the folder itself there and type the same again"
            )


def slug(text: str) -> str:
    """Return a file name made from any text, never a path and never a hidden file.

    Letters and digits of every script stay, as do inner dots, dashes and underscores.
    """
    # One form of composed letters, so that equal names have equal files.
    plain = unicodedata.normalize("NFC", text)
    # Stripped twice: the cut may end in a dot or a dash again.
    return re.sub(r"[^\w.-]+", "-", plain).strip("-.")[:LONGEST_NAME].rstrip("-.") or "x"


def stale(folder: Path, below: bool = True) -> list[Path]:
    """Return the unfinished files in a folder, or below it too, whose writing process has ended."""
    found = folder.rglob(".*.unfinished") if below else folder.glob(".*.unfinished")
    return [path for path in sorted(found) if is_dead(path)]


def is_dead(unfinished: Path) -> bool:
    """Whether the process that wrote an unfinished file no longer runs on this machine."""
    writer = re.search(r"\.(\d+)\.unfinished$", unfinished.name)
    if writer is None:
        return False
    try:
        os.kill(int(writer[1]), 0)  # sends no signal, only asks whether the process is there
    except PermissionError:  # the process of another user, so it is alive
        return False
    # OverflowError: no system gives a number of so many digits to a process.
    except (ProcessLookupError, OverflowError):
        return True
    return False


def remove_unfinished(folder: Path) -> None:
    """Remove unfinished files of killed processes; the caller holds the folder's lock."""
    # Every writer holds the lock, so no other process can still be writing one of these files.
    for path in folder.rglob(".*.unfinished"):
        # Another thread of this process may be writing it.
        if path.name.endswith(f".{os.getpid()}.unfinished"):
            continue
        # Never follow a link: what it points to is not ours to remove.
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Sync a file's bytes, or the names in a folder, to disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any], durable: bool = True) -> None:
    """Write a JSON file atomically; without `durable`, a power failure may lose it."""
    # Sorted, so that equal contents are equal files with equal digests.
    with whole_file(path, durable) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def shown(path: Path) -> str:
    """Return a path relative to the current folder if it lies below it, else absolute."""
    # Not `resolve`, which would replace the links in what the user typed.
    path = Path(os.path.abspath(path))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
