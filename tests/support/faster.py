"""Makes test processes faster where tests do the same work thousands of times.

Commands that start an interpreter of their own do what they do for a user.
"""

from __future__ import annotations

import pickle
from itertools import takewhile
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import Hydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

from harness.config.compose import copy_of
from harness.system.paths import CONF

SHIPPED = (str(CONF), "hydra.conf")  # no test changes these files
HYDRAS_CLASSES = ""  # the path that Hydra gives settings that it has as classes


def compose_faster() -> None:
    """Let compositions of one process, and of those that it forks, share work; see below."""
    read_shipped_files_once()
    merge_shipped_files_once()
    look_up_choices_only_where_asked()
    compose_for_the_mode_only_where_asked()


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


def merge_shipped_files_once() -> None:
    """Make Hydra merge a list of shipped files once; it applies settings to a copy of the result.

    Hydra's own files come first in each list, so what they give is shared by all lists.
    """
    merge, known = ConfigLoaderImpl._compose_config_from_defaults_list, dict[Any, bytes]()

    def merged(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
        files = tuple((each.config_path, each.package) for each in defaults)
        if files not in known:
            find = repo.delegate._find_object_source
            sources = [find(path, ObjectType.CONFIG) for path, _ in files]
            if any(x is None or x.path not in (*SHIPPED, HYDRAS_CLASSES) for x in sources):
                return merge(self, defaults, repo)
            first = len([*takewhile(lambda file: file[0].startswith("hydra/"), files)])
            if 0 < first < len(files):
                whole = merged(self, defaults[:first], repo)
                whole.merge_with(merge(self, defaults[first:], repo))
            else:
                whole = merge(self, defaults, repo)
            known[files] = pickle.dumps(whole)
        return pickle.loads(known[files])  # a fifth of the time of copy.deepcopy

    ConfigLoaderImpl._compose_config_from_defaults_list = merged


def look_up_choices_only_where_asked() -> None:
    """Make Hydra list the choices so far only for defaults that refer to them, not for all.

    The lists take a quarter of the time of a composition, and nearly no file refers to them.
    """
    listed, nothing = defaults_list._create_interpolation_map, OmegaConf.create({})

    def choices(overrides: Any, defaults: list[Any], self_added: bool) -> Any:
        if any(each.is_interpolation() for each in defaults):
            return listed(overrides, defaults, self_added)
        return nothing

    defaults_list._create_interpolation_map = choices


def compose_for_the_mode_only_where_asked() -> None:
    """Make Hydra compose a command's settings once, not once more for the value of hydra.mode.

    config.yaml sets it to null. Only settings of Hydra and experiments could change it.
    """
    composed = Hydra.get_mode

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        if any(word.lstrip("+~").startswith(("hydra", "experiment")) for word in overrides):
            return composed(self, config_name, overrides)
        return None

    Hydra.get_mode = mode
