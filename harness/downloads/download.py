"""One file from an address to its place: goes on where it broke off, checked before it appears."""

from __future__ import annotations

import errno
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from harness.downloads.source import Dropped, Reply, Unavailable, Unreached, host_of, opened, piece
from harness.downloads.target import Note, Target, forget
from harness.system import file_hashes
from harness.system.errors import UserError
from harness.system.files import into_place, sha256
from harness.system.units import size

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # before another try, while nothing more comes
PIECE_BYTES = 2**18
T = TypeVar("T")
_unreached: dict[str, Unreached] = {}  # hosts that another file of this process has tried
_pause = time.sleep
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Mismatch(UserError):
    """An address gave another file than the one that is expected."""

    def __init__(self, url: str, found: str, said: str) -> None:
        """`said` are the words about what was expected."""
        super().__init__(f"{url} now has SHA-256 {found}, {said}: nothing of it was kept")
        self.url = url
        self.found = found


class Changed(Dropped):
    """The file at an address is another one than that which had begun."""


Watch = Callable[[int, int | None], None]  # is told how many bytes have come, of how many


def download(
    target: Target, watch: Watch = lambda came, total: None, pauses: Sequence[float] = PAUSES_S
) -> None:
    """Put the file in its place, whole and checked; what had come before is not asked for again.

    watch: is told how many bytes have come, of how many. pauses: seconds before each new try.
    Raises  Unavailable: no address gave the file. Mismatch: one gave another file. UserError: the
    disk takes no more.
    """
    with _writing(target):
        target.path.parent.mkdir(parents=True, exist_ok=True)
    _first(target.urls, lambda url: _from(url, target, watch, pauses))


def bytes_to_come(target: Target) -> int | None:
    """Bytes that a download will bring; the source is asked where nothing says so."""
    total = target.bytes
    if total is None or target.member:
        with suppress(Unavailable):
            total = _first(target.urls, _total)
    return None if total is None else max(0, total - target.came)


def _total(url: str) -> int | None:
    with opened(url) as reply:
        return reply.total


def _first(urls: Sequence[str], ask: Callable[[str], T]) -> T:
    """What the first address gives that gives anything."""
    failures: list[str] = []
    others: list[Mismatch] = []
    for url in urls:
        host = host_of(url)
        try:
            if host in _unreached:
                raise _unreached[host]
            return ask(url)
        except Unavailable as error:
            failures.append(str(error))
            if isinstance(error, Unreached):
                _unreached[host] = error
        except Mismatch as error:
            others.append(error)
    if others:
        raise others[0]
    raise Unavailable("; ".join(dict.fromkeys(failures)) or "no address is known")


def _from(url: str, target: Target, watch: Watch, pauses: Sequence[float]) -> None:
    """Fetch, unpack, check, move; what was put together and does not fit is fetched once more."""
    together = target.came > 0
    together |= _transfer(url, target, watch, pauses) > 1
    try:
        _finish(url, target)
    except Mismatch:
        if not together:
            raise
        _transfer(url, target, watch, pauses)
        _finish(url, target)


def _transfer(url: str, target: Target, watch: Watch, pauses: Sequence[float]) -> int:
    """Fill the part; how many connections that took."""
    connections, idle = 0, 0
    while True:
        note, came = Note.of(target.part), target.came
        if note is None or note.url != url:
            note, came = None, 0
        if note is not None and came and came == note.total:
            return connections
        try:
            with opened(url, came, note.tag if note else "") as reply:
                connections += 1
                _receive(reply, url, target, note, watch)
            return connections
        except Changed:
            continue  # from the beginning
        except Unavailable as error:
            idle = 0 if target.came - came >= PIECE_BYTES else idle + 1
            hopeless = not connections and not isinstance(error, Dropped)
            if hopeless or not pauses or idle > len(pauses):
                raise
            _pause(pauses[max(idle, 1) - 1])


def _receive(reply: Reply, url: str, target: Target, before: Note | None, watch: Watch) -> None:
    """Write what comes; a file that is another one by now begins again.

    Raises  Changed. Dropped: it ended too early. UserError: the disk takes no more.
    """
    part, came = target.part, reply.start
    published = None if target.member else target.bytes
    now = Note(url, reply.tag, published if reply.total is None else reply.total)
    if came and (now != before or came != target.came):
        forget(part)
        raise Changed(url)
    _check_room(target, came, now.total)
    with _writing(target, now.total), part.open("ab" if came else "wb", buffering=0) as file:
        if not came:
            now.write(part)
        watch(came, now.total)
        while new := piece(reply, url, PIECE_BYTES):
            left = memoryview(new)
            while left:
                left = left[file.write(left) :]
            came += len(new)
            watch(came, now.total)
    if now.total is not None and came != now.total:
        if came > now.total:
            forget(part)
        raise Dropped(f"{url} gave {came} of {now.total} bytes")


def _finish(url: str, target: Target) -> None:
    """Unpack, check, move; whatever comes of it, the part has served.

    Raises  Mismatch. UserError: the disk takes no more; then the part stays.
    """
    whole = target.part
    try:
        if target.member:
            whole = target.path.with_name(f"{target.path.name}.part")
            _unpack(url, target, whole)
        _settle(url, target, whole)
    except Mismatch:
        forget(target.part)
        raise
    finally:
        if target.member:
            whole.unlink(missing_ok=True)
    forget(target.part)


def _unpack(url: str, target: Target, whole: Path) -> None:
    """Take one member out of a zip.

    Raises  Mismatch: it is no zip, or has no such member.
    """
    assert target.member is not None
    try:
        with (
            zipfile.ZipFile(target.part) as archive,
            archive.open(target.member) as member,
            _writing(target),
            whole.open("wb") as file,
        ):
            shutil.copyfileobj(member, file, PIECE_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError) as error:
        said = f"expected a zip with {target.member} ({' '.join(map(str, error.args))})"
        raise Mismatch(url, sha256(target.part), said) from error


def _settle(url: str, target: Target, whole: Path) -> None:
    """Move a whole file to its place if it is the right one."""
    found, nbytes = sha256(whole), whole.stat().st_size
    if not found.startswith(target.start):
        raise Mismatch(url, found, target.said)
    if not target.start and target.bytes not in (None, nbytes):
        raise Mismatch(url, found, f"and {nbytes} bytes, expected {target.bytes}")
    with _writing(target):
        into_place(whole, target.path)
    file_hashes.remember(target.path, found)


def _check_room(target: Target, came: int, total: int | None) -> None:
    """Refuse before the disk is full."""
    free = shutil.disk_usage(target.path.parent).free
    if total is not None and total - came > free:
        raise UserError(
            f"{target.path} needs {size(total - came)} more and its disk has {size(free)}: make "
            "room, or type data_dir=<a folder on a larger disk>"
        )


@contextmanager
def _writing(target: Target, total: int | None = None) -> Iterator[None]:
    """Say what a disk refuses.

    Raises  UserError: it is full, or the folder takes no files.
    """
    try:
        yield
    except (Unavailable, UserError):
        raise
    except OSError as error:
        folder = target.path.parent
        if error.errno in FULL:
            free = size(shutil.disk_usage(folder).free)
            raise UserError(
                f"{target.path} found its disk full ({error.strerror}) with {size(target.came)} "
                f"there{f' of {size(total)}' if total else ''} and {free} free: make room and type "
                "the same again, which goes on, or type data_dir=<a folder on a larger disk>"
            ) from error
        raise UserError(
            f"cannot write {target.path.name} to {folder} ({error.strerror}): type "
            "data_dir=<a folder you may write>"
        ) from error
