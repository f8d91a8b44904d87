"""Weight files: reads their descriptions in `conf/weights`, finds the files and verifies them."""

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
from harness.system.paths import CONF, from_home
from harness.system.units import size
from harness.system.user_folder import exposed

FOLDER = "weights"  # the name of the folder in conf and in the data folder
OF_ENTRY = ("path", "url", "licence", "used_by")
OF_FILE = ("sha256", "sha256_prefix", "bytes", "member")


@dataclass(frozen=True)
class File:
    """One weight file.

    path: place below `<data folder>/weights`. urls: addresses, tried in order.
    sha256, sha256_prefix, bytes: of the file itself, even if the addresses give a zip with it.
    Without either checksum, the file must keep the checksum that was seen first.
    member: path inside the zip; None if the addresses give the file.
    in_hub: torch's hub folder, which keeps single files, may have it.
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
    """The content of one file of `conf/weights`: a weight file, or several in one folder.

    path: the weight file, or the folder.
    used_by: metrics, as `metrics=` takes them. Models are not listed: their configurations name
    the paths that they read.
    """

    name: str
    path: str
    files: tuple[File, ...]
    licence: str
    used_by: tuple[str, ...]


@dataclass(frozen=True)
class Look:
    """Where a file was found and its state. wrong: why it is not the expected file."""

    state: Literal["there", "missing", "wrong"]
    path: Path
    wrong: str = ""


def path(name: str, data_dir: str | None) -> Path:
    """Return the path of an entry's file or folder; in the data folder if it is missing."""
    entry = read(name)
    # A folder with a single file is still a folder to those who read it.
    if len(entry.files) == 1 and entry.files[0].path == entry.path:
        return look(entry.files[0], data_dir).path
    return data_folder(data_dir)[0] / FOLDER / entry.path


def missing(names: Iterable[str], data_dir: str | None) -> str | None:
    """Return which of these entries are missing or wrong, and what to type; None if all are right.

    Raises  UserError: an unknown name.
    """
    wanted = [read(name) for name in names]
    problems, lacking = [], []
    for entry in wanted:
        # All of them, so that one command fetches everything that is missing.
        found = [complaint(file, data_dir) for file in entry.files]
        if any(found):
            lacking.append(entry)
            problems += [problem for problem in found if problem]
    if not lacking:
        return None
    return f"{'; '.join(problems)}: type {command(lacking, data_dir)}"


def digest(name: str, data_dir: str | None) -> str | None:
    """Return the SHA-256 of an entry's file, whether right or wrong; None if a file is missing.

    For several files: the SHA-256 of the list of their checksums, sorted by path.
    """
    found = {}
    for file in read(name).files:
        place = look(file, data_dir).path
        if not place.is_file():
            return None
        found[file.path] = file_hashes.remembered(place)
    if len(found) == 1:
        return next(iter(found.values()))
    # The format of sha256sum, so that people can compute the digest themselves.
    lines = "".join(f"{sha256}  {path}\n" for path, sha256 in sorted(found.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def complaint(file: File, data_dir: str | None) -> str | None:
    """Return what is wrong with one file, without the fix; None if it is right."""
    found = look(file, data_dir)
    if found.state == "missing":
        places = " or ".join(map(from_home, _places(file, data_dir)))
        return f"there is no file {places}"
    return found.wrong or None


def command(entries: Sequence[Entry], data_dir: str | None) -> str:
    """Return the command that fetches entries; it names one metric if that uses all of them."""
    # One metric that needs all of them gives the shortest command.
    shared = [use for use in entries[0].used_by if all(use in each.used_by for each in entries)]
    uses = shared[:1] or list(dict.fromkeys(each.used_by[0] for each in entries if each.used_by))
    # Files that no metric uses have no shorter command than the one that fetches everything.
    words = ["python -m harness fetch weights"]
    if uses:
        listed = ",".join(uses)
        words.append(f"metrics={listed if len(uses) == 1 else f'[{listed}]'}")
    if data_dir is not None:
        words.append(f"data_dir={shlex.quote(data_dir)}")
    return " ".join(words)


def state(file: File, data_dir: str | None) -> tuple[str, str, str]:
    """Return size, state and path of a file as text."""
    found = look(file, data_dir)
    # A file that is there has its own size, whatever the description says.
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
    """Find a file in the data folder, else in torch's hub folder, and verify it."""
    # The data folder comes first, also with a wrong file: who put it there should hear of it.
    own, *others = _places(file, data_dir)
    found = next((place for place in (own, *others) if place.is_file()), None)
    if found is None:
        return Look("missing", own)
    wrong = mistake(file, found)
    return Look("wrong", found, wrong) if wrong else Look("there", found)


def mistake(file: File, found: Path) -> str | None:
    """Return why a file on disk is not the expected one; None if it is."""
    nbytes = found.stat().st_size
    # With a checksum the size is not compared: the checksum says more.
    if file.sha256 is None and file.sha256_prefix is None and file.bytes not in (None, nbytes):
        return f"{found} has {nbytes} bytes, expected {file.bytes}"
    try:
        sha256 = file_hashes.remembered(found)
    except OSError as error:
        return f"{found} cannot be read ({error.strerror})"
    start, said = expected(file, found)
    return None if sha256.startswith(start) else f"{found} has SHA-256 {sha256}, {said}"


def expected(file: File, place: Path) -> tuple[str, str]:
    """Return the required beginning of a file's SHA-256, and the expectation in words."""
    if file.sha256 is not None:
        return file.sha256, f"expected {file.sha256}"
    if file.sha256_prefix is not None:
        return file.sha256_prefix, f"expected one that begins with {file.sha256_prefix}"
    # Trust on first use: nothing else tells whether an unpublished file has changed.
    first, note = file_hashes.first(place) or "", file_hashes.note_of(place)
    return first, f"that of the first one here was {first} (remove {note} to accept another)"


def entries(folder: Path | None = None) -> dict[str, Entry]:
    """Return all entries by name; those of a user's own folder replace bundled ones.

    Raises  UserError: a file of `conf/weights` cannot be used.
    """
    # The user's folder comes last, so that its files replace bundled ones of the same name.
    roots = [root / FOLDER for root in (CONF, folder or exposed()) if root is not None]
    files = {
        str(file.relative_to(root).with_suffix("")): file
        for root in roots
        for file in root.glob("**/*.yaml")
    }
    return {name: _parsed(name, file) for name, file in sorted(files.items())}


def read(name: str) -> Entry:
    """Read one entry by the name of its file in `conf/weights`.

    Raises  UserError: there is none, or it cannot be used.
    """
    # The user's own description counts before the bundled one.
    for root in (exposed(), CONF):
        if root is not None and (root / FOLDER / f"{name}.yaml").is_file():
            return _parsed(name, root / FOLDER / f"{name}.yaml")
    raise UserError(f"no file of conf/weights is called {name}: type python -m harness ls weights")


def _places(file: File, data_dir: str | None) -> list[Path]:
    """Return the places of a file: in the data folder, then in torch's hub folder."""
    # People may have a file there from other programs. The same rules as torch.hub.get_dir,
    # without the import of torch.
    own = data_folder(data_dir)[0] / FOLDER / file.path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    home = Path(os.environ.get("TORCH_HOME") or cache).expanduser()
    return [own, home / "hub" / "checkpoints" / own.name] if file.in_hub else [own]


def _parsed(name: str, source: Path) -> Entry:
    """Read an entry from its YAML file."""
    try:
        said = yaml.safe_load(source.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{source} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(said, dict):
        raise UserError(f"{source} describes no file of weights: begin it as {FOLDER}/alexnet.yaml")
    # A single file has its settings at the top; several have theirs in a list.
    several = said.get("files")
    _check(source, said, [*OF_ENTRY, "files"] if several else [*OF_ENTRY, *OF_FILE])
    files = [_file(source, said)] if several is None else []
    for each in several or ():
        _check(source, each, ["path", "url", *OF_FILE])
        # The default address of a file is below the entry's.
        urls = each.get("url") or [
            f"{url.rstrip('/')}/{each['path']}" for url in _urls(said.get("url"))
        ]
        one = _file(source, {**each, "path": f"{said['path']}/{each['path']}", "url": urls})
        # torch's hub folder has no subfolders: files of several entries would share their names.
        files.append(replace(one, in_hub=False))
    used_by = said.get("used_by", [])
    if not isinstance(used_by, list):
        raise UserError(f"{source}: used_by={used_by} is no list: give metrics, as [lpips]")
    licence = str(said.get("licence") or "unknown")
    return Entry(name, str(said["path"]), tuple(files), licence, tuple(map(str, used_by)))


def _file(source: Path, said: dict[str, Any]) -> File:
    """Build one file from its description."""
    # YAML reads a digest of digits alone as a number.
    texts = [said.get(name) for name in ("sha256", "sha256_prefix", "member")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise UserError(f"{source}: sha256, sha256_prefix and member are texts, so put quotes")
    size = said.get("bytes")
    if size is not None and (type(size) is not int or size < 0):
        raise UserError(f"{source}: bytes={size} is no whole number: give the exact size, or null")
    # A description from elsewhere must not have files written outside the data folder.
    where = PurePosixPath(str(said["path"]))
    if where.is_absolute() or ".." in where.parts:
        raise UserError(f"{source}: path={where} leaves the folder {FOLDER}: give one below it")
    sha256, prefix = (text.lower() if text else None for text in texts[:2])
    return File(str(where), _urls(said.get("url")), sha256, prefix, size, texts[2])


def _urls(said: Any) -> tuple[str, ...]:
    """Return a tuple of addresses from one string, a list, or null."""
    return (said,) if isinstance(said, str) else tuple(map(str, said or ()))


def _check(source: Path, said: Any, known: Sequence[str]) -> None:
    """Raise UserError if a description has no path, or unknown keys."""
    # Unknown keys are refused: a misspelt `sha256` would leave a file unverified.
    if not isinstance(said, dict) or not said.get("path"):
        raise UserError(f"{source}: {said} names no path: give one below {FOLDER}/")
    unknown = [str(name) for name in said if name not in known]
    if unknown:
        raise UserError(f"{source} has {', '.join(unknown)}: choose among {', '.join(known)}")
