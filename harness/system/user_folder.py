"""A user's own folder: method files below it, classes beside them, nothing to register."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.system.errors import UserError
from harness.system.paths import CONF

OPTIONS = ("--config-dir", "-cd")  # Hydra's names for it
EXPOSED = "HARNESS_CONFIG_DIR"  # how children know of it
OVERRIDING = "weights"  # the one group in which a file of one's own may replace a shipped one


def own_folder(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that a command line names, and the other words.

    Raises  UserError: the option has no folder, or stands there twice.
    """
    folders, others = [], []
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if option not in OPTIONS:
            others.append(word)
            continue
        folder = value if equals else next(rest, "")
        if not folder:
            raise UserError(f"{option} names no folder: give one with method/*.yaml")
        folders.append(folder)
    if len(set(folders)) > 1:
        raise UserError(f"{OPTIONS[0]} names {' and '.join(folders)}: give one folder")
    return (Path(folders[0]).absolute() if folders else None), others


def checked(folder: Path) -> Path:
    """A folder of one's own that can be used, itself again.

    A name means one file everywhere: in tables, in files that build on it, in every verb. So a file
    of a shipped name is refused; only descriptions of weights may replace those that ship.
    Raises  UserError: it is no folder, or has a file by the name of one that ships.
    """
    if not folder.is_dir():
        raise UserError(f"{OPTIONS[0]} {folder} is no folder: give one with method/*.yaml")
    for shipped in sorted(CONF.glob("**/*.yaml")):
        name = shipped.relative_to(CONF)
        own = folder / name
        if name.parts[0] == OVERRIDING or not own.exists() or own.samefile(shipped):
            continue
        group, choice = name.parts[0], str(name.relative_to(name.parts[0]).with_suffix(""))
        renamed = own.with_name(f"my_{own.name}")
        typed = f" and type {group}={choice.replace(own.stem, renamed.stem)}"
        raise UserError(
            f"{own} has the name of a file that ships: call it {renamed.name}"
            f"{typed if len(name.parts) > 1 else ''}"
        )
    return folder


def searchpath(folder: Path | None) -> list[str]:
    """The words that have Hydra look for choices in a folder of one's own too.

    Raises  UserError: it cannot be used.
    """
    if folder is None:
        return []
    escaped = str(checked(folder.absolute())).replace("'", r"\'")
    return [f"hydra.searchpath=['file://{escaped}']"]


def expose(folder: Path) -> None:
    """Let this process and its children import what lies in a folder, after the current one.

    Raises  UserError: it cannot be used.
    """
    checked(folder)
    sys.path.insert(1, str(folder))
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([known] if known else [])])
    os.environ[EXPOSED] = str(folder)


def exposed() -> Path | None:
    """The folder that this process or the one that started it has exposed."""
    named = os.environ.get(EXPOSED)
    return Path(named) if named else None
