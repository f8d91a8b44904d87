"""Which models read which files of weights: found in their configurations, listed nowhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config.compose import choices, composing
from harness.downloads import weights
from harness.downloads.weights import Entry

FROM_FILES = (None, "checkpoint")  # what `weights` of a model or of its part says if it reads files


def read_by(config: Mapping[str, Any], known: Iterable[Entry], folder: Path) -> list[Entry]:
    """Entries with a file at, or below, a place that a resolved model's configuration names.

    folder: the data folder, which relative places are below.
    """
    top = _absolute(folder / weights.FOLDER)
    named = {_absolute(folder / word) for word in _words(config)}
    named = {place for place in named if top in place.parents}
    return [
        entry
        for entry in known
        if any(named & {place, *place.parents} for place in _places(entry, top))
    ]


def readers(known: Iterable[Entry], data: Path, own: Path | None) -> dict[str, list[str]]:
    """By entry, the models that read it; entries that none reads are left out.

    own: the user's folder of choices.
    Raises  what Hydra raises for a preset that cannot be composed.
    """
    known = list(known)
    found: dict[str, list[str]] = {}
    with composing(own) as composer:
        for name in choices("model", own):
            for entry in read_by(composer.resolved([f"model={name}"])["model"], known, data):
                found.setdefault(entry.name, []).append(name)
    return found


def _places(entry: Entry, top: Path) -> Iterator[Path]:
    for file in entry.files:
        yield top / file.path


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _words(config: object) -> Iterator[str]:
    """All texts of a configuration, but those of parts whose weights are made up."""
    if isinstance(config, Mapping):
        made_up = config.get("weights") not in FROM_FILES
        for value in config.values():
            if isinstance(value, Mapping) or not made_up:
                yield from _words(value)
    elif isinstance(config, str):
        yield config
