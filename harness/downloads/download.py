"""Downloads one file, resumes where an earlier attempt ended, and verifies the result.

The file gets its name only after its checksum was verified.
"""

from __future__ import annotations

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
from harness.system.errors import DISK_FULL, UserError
from harness.system.files import into_place, sha256
from harness.system.units import size

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)  # before each retry without progress
# A connection that gave less than a piece before it dropped has made no progress.
PIECE_BYTES = 2**18
T = TypeVar("T")
_unreached: dict[str, Unreached] = {}  # hosts that this process could not reach before
_pause = time.sleep  # a name of its own, which tests replace
Watch = Callable[[int, int | None], None]  # callback: bytes received, bytes in total


class Mismatch(UserError):
    """An address gave a file with an unexpected checksum, size or content."""

    def __init__(self, url: str, found: str, said: str) -> None:
        """Build the message. found: SHA-256 of the file; said: what was expected."""
        super().__init__(f"{url} now has SHA-256 {found}, {said}: nothing of it was kept")
        self.url = url
        self.found = found


class Changed(Dropped):
    """The file at an address has changed since its download began."""


def download(
    target: Target, watch: Watch = lambda came, total: None, pauses: Sequence[float] = PAUSES_S
) -> None:
    """Download a file, verify it and move it to its place; resume an earlier attempt.

    watch: called with bytes received and bytes in total (None if unknown).
    pauses: seconds before each retry.
    Raises  Unavailable: no address gave the file. Mismatch: an address gave another file.
    UserError: the disk is full, or the folder is not writable.
    """
    # Before the network is asked: a folder that cannot be written needs no download.
    with _writing(target):
        target.path.parent.mkdir(parents=True, exist_ok=True)
    _first(target.urls, lambda url: _from(url, target, watch, pauses))


def bytes_to_come(target: Target) -> int | None:
    """Return the bytes still to download; None if even the source does not tell the size."""
    total = target.bytes
    if total is None or target.member:  # `bytes` is the size of the member, not of its zip
        with suppress(Unavailable):
            total = _first(target.urls, _total)
    return None if total is None else max(0, total - target.came)


def _total(url: str) -> int | None:
    with opened(url) as reply:
        return reply.total


def _first(urls: Sequence[str], ask: Callable[[str], T]) -> T:
    """Call `ask` with each address in turn; return the first result.

    Raises  Mismatch: an address gave another file. Unavailable: no address answered.
    """
    # A wrong file at one address does not end the search: a mirror may have the right one.
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
            if isinstance(error, Unreached):  # the next files need not wait for this host again
                _unreached[host] = error
        except Mismatch as error:
            others.append(error)
    # What was found says more than what could not be reached.
    if others:
        raise others[0]
    raise Unavailable("; ".join(dict.fromkeys(failures)) or "no address is known")


def _from(url: str, target: Target, watch: Watch, pauses: Sequence[float]) -> None:
    """Download from one address, unpack, verify and move to its place."""
    # A file joined from several connections may mix two versions of it, so a mismatch is worth a
    # second download. A file from one connection would be the same again.
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
    """Download the part file; return the number of connections it took."""
    connections, idle = 0, 0
    while True:
        note, came = Note.of(target.part), target.came
        if note is None or note.url != url:  # a part from elsewhere may be of another version
            note, came = None, 0
        if note is not None and came and came == note.total:  # only verifying was interrupted
            return connections
        try:
            with opened(url, came, note.tag if note else "") as reply:
                connections += 1
                _receive(reply, url, target, note, watch)
            return connections
        except Changed:
            continue  # `_receive` has removed the part, so this starts over
        except Unavailable as error:
            # Retries are counted only while no data comes: a slow line may drop often.
            idle = 0 if target.came - came >= PIECE_BYTES else idle + 1
            # A host that never answered is given up at once, for the next address; a busy one, or
            # one that broke off, is tried again.
            hopeless = not connections and not isinstance(error, Dropped)
            if hopeless or not pauses or idle > len(pauses):
                raise
            _pause(pauses[max(idle, 1) - 1])


def _receive(reply: Reply, url: str, target: Target, before: Note | None, watch: Watch) -> None:
    """Append the received bytes to the part file.

    Raises  Changed: the file at the address is another one now. Dropped: the connection ended too
    early. UserError: the disk is full.
    """
    # The server decides where the reply begins: without Range, or for a changed file, at 0.
    part, came = target.part, reply.start
    published = None if target.member else target.bytes
    now = Note(url, reply.tag, published if reply.total is None else reply.total)
    if came and (now != before or came != target.came):
        forget(part)
        raise Changed(url)
    # Asked again for each file: others have been written since the plan was printed.
    free = shutil.disk_usage(target.path.parent).free
    if now.total is not None and now.total - came > free:
        raise UserError(
            f"{target.path} needs {size(now.total - came)} more and its disk has {size(free)}: "
            "make room, or type data_dir=<a folder on a larger disk>"
        )
    with _writing(target, now.total), part.open("ab" if came else "wb", buffering=0) as file:
        if not came:  # before the first byte, so that every part has a note
            now.write(part)
        watch(came, now.total)
        while new := piece(reply, url, PIECE_BYTES):
            left = memoryview(new)
            while left:  # an unbuffered file may write less than it is given
                left = left[file.write(left) :]
            came += len(new)
            watch(came, now.total)
    if now.total is not None and came != now.total:
        # More than the whole file cannot be continued.
        if came > now.total:
            forget(part)
        raise Dropped(f"{url} gave {came} of {now.total} bytes")


def _finish(url: str, target: Target) -> None:
    """Unpack, verify and move the complete file, then remove the part.

    Raises  Mismatch: it is another file; the part is removed too. UserError: the disk is full; the
    part stays.
    """
    # Checksum and size are those of the file itself, so a zip is unpacked first.
    whole = target.part
    try:
        if target.member:
            whole = target.path.with_name(f"{target.path.name}.part")
            _unpack(url, target, whole)
        found, nbytes = sha256(whole), whole.stat().st_size
        # A file without a published checksum has an empty `start`, and only its size can be
        # compared.
        if not found.startswith(target.start):
            raise Mismatch(url, found, target.said)
        if not target.start and target.bytes not in (None, nbytes):
            raise Mismatch(url, found, f"and {nbytes} bytes, expected {target.bytes}")
        with _writing(target):
            into_place(whole, target.path)
        # Gigabytes need not be hashed again by the next command.
        file_hashes.remember(target.path, found)
    except Mismatch:
        forget(target.part)
        raise
    finally:
        if target.member:
            whole.unlink(missing_ok=True)
    forget(target.part)


def _unpack(url: str, target: Target, whole: Path) -> None:
    """Extract one member of a zip.

    Raises  Mismatch: the file is not a zip, or has no such member.
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


@contextmanager
def _writing(target: Target, total: int | None = None) -> Iterator[None]:
    """Turn errors of writing into messages.

    Raises  UserError: the disk is full, or the folder is not writable.
    """
    try:
        yield
    except (Unavailable, UserError):  # Unavailable is an OSError too, about the network
        raise
    except OSError as error:
        folder = target.path.parent
        if error.errno in DISK_FULL:
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
