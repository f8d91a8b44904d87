"""Files of weights: what `conf/weights` says of them, where they are, whether they are right."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import yaml

from harness.downloads.data_folder import data_folder
from harness.system import file_hashes
from harness.system.errors import UserError
from harness.system.paths import CONF
from harness.system.units import size
from harness.system.user_folder import exposed

FOLDER = "weights"  # of conf, and below the data folder
OF_ENTRY = ("path", "url", "licence", "used_by")
OF_FILE = ("sha256", "sha256_prefix", "bytes", "member")


@dataclass(frozen=True)
class File:
    """One file: where it goes below `<data folder>/weights`, where it is from, what it must be.

    sha256, sha256_prefix and bytes are of the file itself, also where it is a member of a zip at
    the addresses. A file without either digest is held to the first one that was seen. in_hub:
    whether torch's hub may have it, which keeps single files.
    """

    path: str
    urls: tuple[str, ...]
    sha256: str | None = None
    sha256_prefix: str | None = None
    bytes: int | None = None
    member: str | None = None
    in_hub: bool = True


@dataclass(frozen=True)
class Entry:
    """One file of `conf/weights`: a file, or several that lie in one folder and count as one.

    used_by: metrics (as `metrics=` takes them); models name what they read themselves. path: the
    file, or the folder.
    """

    name: str
    path: str
    files: tuple[File, ...]
    licence: str
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """What was found of a file. wrong: why it is not the file that it should be."""

    state: Literal["there", "missing", "wrong"]
    path: Path
    wrong: str = ""


def path(name: str, data_dir: str | None) -> Path:
    """Where an entry's file (or folder of files) is; below the data folder if it is nowhere."""
    entry = read(name)
    if len(entry.files) == 1 and entry.files[0].path == entry.path:
        return look(entry.files[0], data_dir).path
    return data_folder(data_dir)[0] / FOLDER / entry.path


def missing(names: Iterable[str], data_dir: str | None) -> str | None:
    """Which of these entries are not there or wrong, and what to type; None if all are right."""
    wanted = [read(name) for name in names]
    problems, lacking = [], []
    for entry in wanted:
        found = [complaint(file, data_dir) for file in entry.files]
        if any(found):
            lacking.append(entry)
            problems += [problem for problem in found if problem]
    if not lacking:
        return None
    return f"{'; '.join(problems)}: type {command(lacking, data_dir)}"


def digest(name: str, data_dir: str | None) -> str | None:
    """SHA-256 of what is there, right or wrong; of several files, that of their digests by path."""
    found = {}
    for file in read(name).files:
        place = look(file, data_dir).path
        if not place.is_file():
            return None
        found[file.path] = file_hashes.remembered(place)
    if len(found) == 1:
        return next(iter(found.values()))
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def complaint(file: File, data_dir: str | None) -> str | None:
    """What is the matter with one file, without what to type; None if it is right."""
    found = look(file, data_dir)
    if found.state == "missing":
        places = " or ".join(map(str, _places(file, data_dir)))
        return f"there is no file {places}"
    return found.wrong or None


def command(entries: Sequence[Entry], data_dir: str | None) -> str:
    """The command that fetches entries, by a metric that uses them all if there is one."""
    shared = [use for use in entries[0].used_by if all(use in each.used_by for each in entries)]
    uses = shared[:1] or list(dict.fromkeys(each.used_by[0] for each in entries if each.used_by))
    words = ["python -m harness fetch weights"]
    if uses:
        listed = ",".join(uses)
        words.append(f"metrics={listed if len(uses) == 1 else f'[{listed}]'}")
    if data_dir is not None:
        words.append(f"data_dir={shlex.quote(data_dir)}")
    return " ".join(words)


def state(file: File, data_dir: str | None) -> tuple[str, str, str]:
    """Size, state and place of a file, in words."""
    found = look(file, data_dir)
    if found.state == "missing":
        return size(file.bytes), "missing", str(found.path)
    if found.state == "wrong":
        said = "wrong checksum"
    elif file.sha256 or file.sha256_prefix:
        said = "there"
    else:
        said = "there (no published checksum)"
    return size(found.path.stat().st_size), said, str(found.path)


def look(file: File, data_dir: str | None) -> Look:
    """Find a file below the data folder, else where torch's hub keeps its files, and check it."""
    own, *others = _places(file, data_dir)
    found = next((place for place in (own, *others) if place.is_file()), None)
    if found is None:
        return Look("missing", own)
    wrong = mistake(file, found)
    return Look("wrong", found, wrong) if wrong else Look("there", found)


def mistake(file: File, found: Path) -> str | None:
    """Why a file on disk is not the one that it should be; None if it is."""
    nbytes = found.stat().st_size
    if file.sha256 is None and file.sha256_prefix is None and file.bytes not in (None, nbytes):
        return f"{found} has {nbytes} bytes, expected {file.bytes}"
    try:
        sha256 = file_hashes.remembered(found)
    except OSError as error:
        return f"{found} cannot be read ({error.strerror})"
    start, said = expected(file, found)
    return None if sha256.startswith(start) else f"{found} has SHA-256 {sha256}, {said}"


def expected(file: File, place: Path) -> tuple[str, str]:
    """What the digest of a file at this place must begin with, and words that say so."""
    if file.sha256 is not None:
        return file.sha256, f"expected {file.sha256}"
    if file.sha256_prefix is not None:
        return file.sha256_prefix, f"expected one that begins with {file.sha256_prefix}"
    first, note = file_hashes.first(place) or "", file_hashes.note_of(place)
    return first, f"that of the first one here was {first} (remove {note} to accept another)"


def entries(folder: Path | None = None) -> dict[str, Entry]:
    """All that is described, by name; a user's own folder counts before what ships.

    Raises  UserError: a file of `conf/weights` that cannot be used.
    """
    roots = [root / FOLDER for root in (CONF, folder or exposed()) if root is not None]
    files = {
        str(file.relative_to(root).with_suffix("")): file
        for root in roots
        for file in root.glob("**/*.yaml")
    }
    return {name: _parsed(name, file) for name, file in sorted(files.items())}


def read(name: str) -> Entry:
    """One entry, by the name of its file below `conf/weights`.

    Raises  UserError: there is none, or it cannot be used.
    """
    for root in (exposed(), CONF):
        if root is not None and (root / FOLDER / f"{name}.yaml").is_file():
            return _parsed(name, root / FOLDER / f"{name}.yaml")
    raise UserError(f"no file of conf/weights is called {name}: type python -m harness ls weights")


def _places(file: File, data_dir: str | None) -> list[Path]:
    """Where a file is looked for: ours first, then torch's hub, as torch finds its folder."""
    own = data_folder(data_dir)[0] / FOLDER / file.path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.environ.get("TORCH_HOME") or cache).expanduser()
    return [own, home / "hub" / "checkpoints" / own.name] if file.in_hub else [own]


def _parsed(name: str, source: Path) -> Entry:
    """An entry from its file."""
    try:
        said = yaml.safe_load(source.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{source} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(said, dict):
        raise UserError(f"{source} describes no file of weights: begin it as {FOLDER}/alexnet.yaml")
    several = said.get("files")
    _check(source, said, [*OF_ENTRY, "files"] if several else [*OF_ENTRY, *OF_FILE])
    files = [_file(source, said)] if several is None else _files(source, said)
    used_by = said.get("used_by", [])
    if not isinstance(used_by, list):
        raise UserError(f"{source}: used_by={used_by} is no list: give metrics, as [lpips]")
    licence = str(said.get("licence") or "unknown")
    return Entry(name, str(said["path"]), tuple(files), licence, tuple(map(str, used_by)))


def _files(source: Path, said: dict[str, Any]) -> list[File]:
    """Several files: each lies in the entry's folder and, unless it says, below its address."""
    files = []
    for each in said["files"]:
        _check(source, each, ["path", "url", *OF_FILE])
        urls = each.get("url") or [
            f"{url.rstrip('/')}/{each['path']}" for url in _urls(said.get("url"))
        ]
        one = _file(source, {**each, "path": f"{said['path']}/{each['path']}", "url": urls})
        files.append(replace(one, in_hub=False))
    return files


def _file(source: Path, said: dict[str, Any]) -> File:
    """One file from what is said of it."""
    texts = [said.get(name) for name in ("sha256", "sha256_prefix", "member")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise UserError(f"{source}: sha256, sha256_prefix and member are texts, so put quotes")
    size = said.get("bytes")
    if size is not None and (type(size) is not int or size < 0):
        raise UserError(f"{source}: bytes={size} is no whole number: give the exact size, or null")
    where = PurePosixPath(str(said["path"]))
    if where.is_absolute() or ".." in where.parts:
        raise UserError(f"{source}: path={where} leaves the folder {FOLDER}: give one below it")
    sha256, prefix = (text.lower() if text else None for text in texts[:2])
    return File(str(where), _urls(said.get("url")), sha256, prefix, size, texts[2])


def _urls(said: Any) -> tuple[str, ...]:
    """One address, several that are tried in order, or none."""
    return (said,) if isinstance(said, str) else tuple(map(str, said or ()))


def _check(source: Path, said: Any, known: Sequence[str]) -> None:
    """Refuse what names no path, and words that nothing would read."""
    if not isinstance(said, dict) or not said.get("path"):
        raise UserError(f"{source}: {said} names no path: give one below {FOLDER}/")
    unknown = [str(name) for name in said if name not in known]
    if unknown:
        raise UserError(f"{source} has {', '.join(unknown)}: choose among {', '.join(known)}")
