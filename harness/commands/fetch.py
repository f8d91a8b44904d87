"""`python -m harness fetch`: downloads missing weights and prompt lists.

It prints first what it will download, and at the end what is still missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.commands.fetch_list import Place, Wanted, wanted_prompts, wanted_weights
from harness.config.messages import verb
from harness.downloads.data_folder import data_folder
from harness.downloads.download import bytes_to_come, download
from harness.downloads.source import Unavailable, host_of
from harness.system.download_bar import Bar
from harness.system.errors import UserError
from harness.system.files import locked
from harness.system.logs import stage
from harness.system.text_table import aligned
from harness.system.units import size
from harness.system.user_folder import own_folder

WORDS = {
    "weights": ("metrics", "model", "data_dir", "fetch.base"),
    "prompts": ("suite", "data_dir", "fetch.base"),
}
USAGE = """python -m harness fetch weights [metrics=[NAMES]] [model=NAMES] [data_dir=FOLDER]
python -m harness fetch prompts [suite=NAMES] [data_dir=FOLDER]

  Downloads what metrics, models and suites read and is not there, verified, all of it where no
  name is given. It can be stopped anywhere and typed again. fetch.base=<address or folder> takes
  files from a copy of a data folder. Exit code 0: all that was asked for is there; 2: something is
  missing."""


@verb("what came is kept, the same command goes on")
def main(words: Sequence[str]) -> int:
    """Download missing files; exit code 0 if all requested files are there at the end, else 2."""
    own, rest = own_folder(words)
    what = next((word for word in rest if "=" not in word), "")
    if what not in WORDS:
        raise UserError(f"fetch {' '.join(rest)}: choose fetch {' or fetch '.join(WORDS)}")
    # Not composed by Hydra: a model or a metric is named here to ask for its files, not to be run,
    # and several may be named.
    settings = {}
    for word in rest:
        name, equals, value = word.partition("=")
        if word == what:
            continue
        if name not in WORDS[what] or not equals or not value:
            known = ", ".join(f"{name}=..." for name in WORDS[what])
            raise UserError(f"fetch {what} takes no {word}: choose among {known}")
        settings[name] = value
    data_dir = settings.get("data_dir")
    # A folder that was named is made; the default one need not be writable.
    if named := data_dir or os.environ.get("HARNESS_DATA"):
        try:
            Path(named).expanduser().mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"cannot make the data folder {named} ({error.strerror}): type data_dir=<a folder "
                "you may write>"
            ) from error
    place = Place(data_dir, data_folder(data_dir)[0].absolute(), settings.get("fetch.base"), own)
    if what == "weights":
        chosen = wanted_weights(_names(settings, "metrics"), _names(settings, "model"), place)
    else:
        chosen = wanted_prompts(_names(settings, "suite"), place)
    return _fetch(chosen, place.folder / what, shlex.join(["fetch", *words]))


def _names(settings: Mapping[str, str], name: str) -> list[str]:
    """Split a setting into names: one name, a,b or [a,b]."""
    # As users type metrics for a run and models for a sweep.
    listed = settings.get(name, "").strip("[]").split(",")
    return list(dict.fromkeys(filter(None, (each.strip() for each in listed))))


def _fetch(chosen: Sequence[Wanted], folder: Path, words: str) -> int:
    """Download the missing files one after another."""
    # Files that are there and right need no connection.
    left = [each for each in chosen if each.problem()]
    if not left:
        print(f"nothing to fetch: {_all_there(chosen) if chosen else 'no file is needed'}")
        return 0
    _announce(left, len(chosen), folder.parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Two commands would append to the same part file.
        with locked(folder, f"waiting for another fetch into {folder}"), Bar() as bar:
            for each in left:
                _fetch_one(each, bar)
    except OSError as error:  # from the folder or its lock; downloads raise no OSError
        raise UserError(
            f"cannot write to {folder} ({error.strerror}): type data_dir=<a folder you may write>"
        ) from error
    # Every file is verified again: what counts is what is there now.
    missing = [each for each in chosen if each.problem()]
    if not missing:
        print(_all_there(chosen))
        return 0
    listed = ", ".join(f"{each.name} ({each.target.path})" for each in missing)
    raise UserError(
        f"{len(missing)} of {len(chosen)} files are still missing, {listed}: "
        f"type python -m harness {words}"
    )


def _all_there(chosen: Sequence[Wanted]) -> str:
    return "the file is there" if len(chosen) == 1 else f"all {len(chosen)} files are there"


def _fetch_one(each: Wanted, bar: Bar) -> None:
    """Download a file, or print why it failed."""
    # Checked again: another command may have downloaded it while this one waited for the lock.
    problem, target = each.problem(), each.target
    if problem is None:
        return
    bar.begin(each.name)
    try:
        # A list that is not the official one may be the user's work, so a copy of it is kept.
        if each.precious and target.path.is_file():
            old = target.path.with_name(f"{target.path.name}.old")
            shutil.copyfile(target.path, old)
            bar.say(f"{each.name}: {problem}, and is kept as {old}")
        with stage(f"fetch {each.name}"):
            download(target, bar.came)
        bar.say(f"{each.name}: {target.path}, {size(target.path.stat().st_size)}")
    except Unavailable as error:  # printed, not raised: the other files may be elsewhere
        kept = f" ({size(target.came)} of it are kept)" if target.came else ""
        bar.say(
            f"error: {each.name}: {error}{kept}: type the same again when it can be reached, put "
            f"the file there as {target.path}, or type fetch.base=<address or folder of a copy>"
        )
    except UserError as error:
        bar.say(f"error: {each.name}: {error}")


def _announce(left: Sequence[Wanted], asked: int, folder: Path) -> None:
    """Print which files will be downloaded: size, host, place and licence.

    Raises  UserError: the disk has too little space.
    """
    # Nothing is made before the plan is printed, so the folder may not exist yet.
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free  # of the folder, or of the one that it will be made in
    sizes = [bytes_to_come(each.target) for each in left]
    # A zip and the member extracted from it are on disk at the same time.
    needed = sum(filter(None, sizes)) + sum(
        each.target.bytes or 0 for each in left if each.target.member
    )
    print(
        f"to fetch: {len(left)} of {asked} files, {size(sum(filter(None, sizes)))}"
        f"{' and what has no size here' if None in sizes else ''}, into {folder} "
        f"({size(free)} free)"
    )
    rows = []
    for each, nbytes in zip(left, sizes, strict=True):
        target = each.target
        so_far = f" ({size(target.came)} there)" if target.came else ""
        hosts = ", ".join(dict.fromkeys(map(host_of, target.urls))) or "no address"
        below = str(target.path.relative_to(folder))
        rows.append((each.name, f"{size(nbytes)}{so_far}", hosts, below, each.licence))
    for row in aligned(rows):
        print(f"  {row}", flush=True)
    # After the list, so that the user sees which files are large.
    if needed > free:
        raise UserError(
            f"{folder} has {size(free)} free and {size(needed)} are needed: make room, or type "
            "data_dir=<a folder on a larger disk>"
        )
