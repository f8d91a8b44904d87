"""Caches configuration files: Hydra reads every file again for each composition.

This halves the time of composing many configurations.
"""

from __future__ import annotations

import copy
from typing import Any


def read_once(loader: Any) -> None:
    """Make a configuration loader of Hydra cache the files it reads, for its lifetime."""
    if not isinstance(loader.repository, _ReadOnce):
        loader.repository = _ReadOnce(loader.repository)


class _ReadOnce:
    """A repository of configuration files with a cache."""

    def __init__(self, repository: Any) -> None:
        self._repository = repository
        self._read: dict[str, Any] = {}

    # Hydra copies the repository for each composition; all copies must share the cache.
    def __deepcopy__(self, memo: dict[int, Any]) -> _ReadOnce:
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._repository, name)

    def load_config(self, config_path: str) -> Any:
        """Return the content of a file."""
        if config_path not in self._read:
            self._read[config_path] = self._repository.load_config(config_path=config_path)
        return copy_of(self._read[config_path], config_path)


def copy_of(found: Any, config_path: str) -> Any:
    """Return a copy of what Hydra has read from a file; it may change the copy."""
    found = copy.copy(found)
    # Into files that belong to no group, as config.yaml and experiments, Hydra merges the settings.
    # It copies the content of all other files itself.
    if found is not None and ("/" not in config_path or found.header["package"] == "_global_"):
        found.config = copy.deepcopy(found.config)
    return found
