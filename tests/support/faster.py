"""Makes test processes faster where tests do the same work thousands of times.

Commands that start an interpreter of their own do what they do for a user.
"""

from __future__ import annotations

from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.object_type import ObjectType

from harness.config.compose import copy_of
from harness.system.paths import CONF

SHIPPED = (str(CONF), "hydra.conf")  # no test changes these files


def read_shipped_files_once() -> None:
    """Make all configuration repositories of Hydra share what they read of files that ship."""
    read, known = ConfigRepository.load_config, dict[tuple[str, ...], Any]()

    def load_config(self: ConfigRepository, config_path: str) -> Any:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or source.path not in SHIPPED:
            return read(self, config_path)
        key = (source.path, source.provider, config_path)
        if key not in known:
            known[key] = read(self, config_path)
        return copy_of(known[key], config_path)

    ConfigRepository.load_config = load_config
