"""Finds which models use a weight file by searching their configurations for its path."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config.compose import choices, composing
from harness.downloads import weights
from harness.downloads.weights import Entry

# Values of `weights` for a model, or a part of it, that reads files. The others make its weights
# (`random`, `seeded`) or ship with the package (`bundled`).
FROM_FILES = (None, "checkpoint")


def read_by(config: Mapping[str, Any], known: Iterable[Entry], folder: Path) -> list[Entry]:
    """Return the entries that have a file at, or below, a path in a model's configuration.

    config: the resolved configuration. folder: the data folder, base of relative paths.
    """
    top = _absolute(folder / weights.FOLDER)
    # Any text may be a path. Only those below the folder of weights are.
    named = {_absolute(folder / word) for word in _words(config)}
    named = {place for place in named if top in place.parents}
    return [
        entry
        for entry in known
        if any(named & {top / file.path, *(top / file.path).parents} for file in entry.files)
    ]


def readers(known: Iterable[Entry], data: Path, own: Path | None) -> dict[str, list[str]]:
    """Return the models that read each entry; entries that no model reads are left out.

    data: the data folder. own: the folder given with `--config-dir`.
    Raises  one of `harness.config.hydra_errors.OF_COMPOSING`: a preset cannot be composed.
    """
    known = list(known)
    found: dict[str, list[str]] = {}
    with composing(own) as composer:
        for name in choices("model", own):
            # Metrics and tracking name no weights of a model, and composing them takes time.
            config = composer.resolved([f"model={name}", "metrics=[]", "~track"])
            for entry in read_by(config["model"], known, data):
                found.setdefault(entry.name, []).append(name)
    return found


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


def _words(config: object) -> Iterator[str]:
    """Yield all strings of a configuration, except those of parts that read no weight files."""
    if isinstance(config, Mapping):
        reads_files = config.get("weights") in FROM_FILES
        for value in config.values():
            # A part of such a model may still read files: it has a setting `weights` of its own.
            if isinstance(value, Mapping) or reads_files:
                yield from _words(value)
    elif isinstance(config, str):
        yield config
