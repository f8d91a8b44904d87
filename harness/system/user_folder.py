"""The user's own folder (`--config-dir`) with configuration files and classes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.system.errors import UserError
from harness.system.paths import CONF

OPTIONS = ("--config-dir", "-cd")  # Hydra's names of the option
EXPOSED = "HARNESS_CONFIG_DIR"  # passes the folder to child processes
OVERRIDING = "weights"  # the only group in which a user's file may replace a bundled one


def own_folder(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the folder that a command line names, and its other words.

    Raises  UserError: the option has no value, or names two folders.
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
    # Hydra would take the last one and not say so.
    if len(set(folders)) > 1:
        raise UserError(f"{OPTIONS[0]} names {' and '.join(folders)}: give one folder")
    return (Path(folders[0]).absolute() if folders else None), others


def checked(folder: Path) -> Path:
    """Check that a user's folder can be used, and return it.

    Raises  UserError: it is not a folder, or has a file with the name of a bundled one.
    """
    # A name must mean one file everywhere: in tables, in files that extend it, in every command.
    # Only descriptions of weights may replace bundled ones.
    if not folder.is_dir():
        raise UserError(f"{OPTIONS[0]} {folder} is no folder: give one with method/*.yaml")
    for shipped in sorted(CONF.glob("**/*.yaml")):
        name = shipped.relative_to(CONF)
        own = folder / name
        # The same file: the user named the folder of this package, or links to its files.
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
    """Return the overrides that make Hydra search the user's folder too; none for None.

    Raises  UserError: the folder cannot be used.
    """
    if folder is None:
        return []
    escaped = str(checked(folder.absolute())).replace("'", r"\'")  # for Hydra's grammar
    return [f"hydra.searchpath=['file://{escaped}']"]


def expose(folder: Path) -> None:
    """Make the modules in a folder importable, in this process and in its children.

    Raises  UserError: the folder cannot be used.
    """
    checked(folder)
    sys.path.insert(1, str(folder))  # after the current folder, which stays first
    # sys.path serves this process only; children and launchers get PYTHONPATH.
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([known] if known else [])])
    os.environ[EXPOSED] = str(folder)


def exposed() -> Path | None:
    """Return the folder that this process, or the one that started it, has exposed, else None."""
    named = os.environ.get(EXPOSED)
    return Path(named) if named else None
