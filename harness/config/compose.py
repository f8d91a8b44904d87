"""Composes configurations outside Hydra's entry point, for commands that execute no run."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from harness.config.hydra_errors import demand_choices
from harness.config.renamed import with_new_names
from harness.system.paths import CONF
from harness.system.user_folder import searchpath

REFERENCE = "bf16"


class Composer:
    """Composes many command lines against one folder of choices."""

    def __init__(self, folder: Path | None) -> None:
        """Set the search path. folder: the user's own (`--config-dir`), searched too.

        Raises  UserError: the folder does not exist, or has a file with the name of a bundled one.
        """
        self._search = searchpath(folder)

    def resolved(self, words: Sequence[str]) -> dict[str, Any]:
        """Return the whole configuration of these settings, with interpolations resolved.

        Raises  UserError, or one of `harness.config.hydra_errors.OF_COMPOSING`: wrong settings.
        """
        demand_choices(words)
        config = OmegaConf.to_container(
            compose("config", [*words, *self._search]), resolve=True, throw_on_missing=True
        )
        assert isinstance(config, dict)
        return with_new_names({str(name): value for name, value in config.items()})


@contextmanager
def composing(folder: Path | None = None) -> Iterator[Composer]:
    """Initialize Hydra and yield a composer, which reads each file once."""
    # version_base: the rules of Hydra 1.3, under which a run stays in its current folder.
    with initialize_config_dir(str(CONF), version_base="1.3"):
        read_once(GlobalHydra.instance().config_loader())
        yield Composer(folder)


def configured(*words: str, folder: Path | None = None) -> dict[str, Any]:
    """Return the resolved configuration of these settings; see `Composer.resolved`."""
    with composing(folder) as composer:
        return composer.resolved(words)


def method_files(folder: Path | None = None) -> dict[str, Path]:
    """Return the files of all methods by name."""
    return choices("method", folder)


def choices(group: str, folder: Path | None = None) -> dict[str, Path]:
    """Return the files of a config group by name, subfolders and the user's own included."""
    # Of equal names the user's file counts; only descriptions of weights may have one (`checked`).
    roots = [root / group for root in (CONF, folder) if root is not None]
    found = {
        str(path.relative_to(root).with_suffix("")): path
        for root in roots
        for path in sorted(root.glob("**/*.yaml"))
    }
    return dict(sorted(found.items()))


def described(path: Path) -> str:
    """Return the comment in the first line of a configuration file; empty if there is none."""
    lines = path.read_text().splitlines()
    # "# @package" is an instruction for Hydra, not a description.
    first = next((line for line in lines if not line.startswith("# @")), "")
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def read_once(loader: Any) -> None:
    """Make a configuration loader of Hydra cache the files it reads, for its lifetime."""
    # Hydra reads every file again for each composition; without that, composing many configurations
    # takes half the time.
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
