"""A user's own folder: method files below it, classes beside them, nothing to register."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

OPTIONS = ("--config-dir", "-cd")  # Hydra's names for it
EXPOSED = "HARNESS_CONFIG_DIR"  # how children know of it


def own_folder(words: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that a command line names, and the other words."""
    folder, others = None, list(words)
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option not in OPTIONS:
            continue
        if equals:
            folder, others = value, [*words[:at], *words[at + 1 :]]
        elif at + 1 < len(words):
            folder, others = words[at + 1], [*words[:at], *words[at + 2 :]]
    return (Path(folder).absolute() if folder else None), others


def expose(folder: Path) -> None:
    """Let this process and its children import what lies in a folder, after the current one."""
    sys.path.insert(1, str(folder))
    known = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([known] if known else [])])
    os.environ[EXPOSED] = str(folder)


def exposed() -> Path | None:
    """The folder that this process or the one that started it has exposed."""
    named = os.environ.get(EXPOSED)
    return Path(named) if named else None
