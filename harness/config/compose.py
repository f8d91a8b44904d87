"""Configuration as the main entry composes it, for verbs that run nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from harness.config.hydra_errors import demand_choices
from harness.config.read_once import read_once
from harness.config.renamed import with_new_names
from harness.system.paths import CONF
from harness.system.user_folder import searchpath

REFERENCE = "bf16"


class Composer:
    """Composes many command lines against one folder of choices."""

    def __init__(self, folder: Path | None) -> None:
        """folder: the user's own (`--config-dir`), searched beside the files that ship.

        Raises  UserError: the folder is not there, or has a file by the name of one that ships.
        """
        self._search = searchpath(folder)

    def resolved(self, words: Sequence[str]) -> dict[str, Any]:
        """The whole configuration, interpolations resolved.

        Raises  UserError and OF_COMPOSING of `harness.config.hydra_errors`: what the user can mend.
        """
        demand_choices(words)
        config = OmegaConf.to_container(
            compose("config", [*words, *self._search]), resolve=True, throw_on_missing=True
        )
        assert isinstance(config, dict)
        return with_new_names({str(name): value for name, value in config.items()})


@contextmanager
def composing(folder: Path | None = None) -> Iterator[Composer]:
    """Hydra, ready to compose; files are read once in all."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        read_once(GlobalHydra.instance().config_loader())
        yield Composer(folder)


def configured(*words: str, folder: Path | None = None) -> dict[str, Any]:
    """One resolved configuration."""
    with composing(folder) as composer:
        return composer.resolved(words)


def method_files(folder: Path | None = None) -> dict[str, Path]:
    """Every method by name; none is listed anywhere."""
    return choices("method", folder)


def choices(group: str, folder: Path | None = None) -> dict[str, Path]:
    """The files of a config group by name, subfolders included, a user's own first."""
    roots = [root / group for root in (CONF, folder) if root is not None]
    found = {
        str(path.relative_to(root).with_suffix("")): path
        for root in roots
        for path in sorted(root.glob("**/*.yaml"))
    }
    return dict(sorted(found.items()))


def described(path: Path) -> str:
    """The comment that a file of choices begins with."""
    lines = path.read_text().splitlines()
    first = next((line for line in lines if not line.startswith("# @")), "")  # Hydra's own word
    return first.removeprefix("#").strip() if first.startswith("#") else ""
