"""Turns the command line of `plan` into settings, composed as for a run. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from harness.config import settings
from harness.config.compose import read_once
from harness.config.hydra_errors import demand_choices
from harness.planning import rates
from harness.system.errors import UserError
from harness.system.paths import CONF
from harness.system.user_folder import searchpath


@dataclass(frozen=True)
class Options:
    """The settings that only the planner has."""

    card: str | None = None
    calibration: str | None = None
    memory_gib: str | None = None
    against: str | None = None
    integration: str | None = None

    @property
    def published(self) -> bool:
        """Whether the published study's rows are requested."""
        return self.integration == "published"


def split(words: Sequence[str]) -> tuple[Options, list[str]]:
    """Split a command line into the planner's own settings and those of the configuration.

    Raises  UserError: a word that is not key=value.
    """
    names = {field.name for field in fields(Options)}
    own, others = Options(), []
    for word in words:
        key, equals, value = word.partition("=")
        # Hydra's `~group` removes a choice and needs no value.
        if not equals and not word.startswith("~"):
            raise UserError(f"plan {word}: give settings as key=value, e.g. method=rtn_int4")
        # integration=published asks for the study's own peaks; others are settings of a run.
        if key in names and (key != "integration" or value == "published"):
            own = replace(own, **{key: value})
        else:
            others.append(word)
    return own, others


def ceilings(options: Options) -> rates.Ceilings | None:
    """Return the rates of a calibration file, else of the card, else None."""
    known = rates.card(options.card) if options.card is not None else None
    if options.calibration is None:
        return known
    measured = rates.calibration(Path(options.calibration))
    # A calibration measures rates; how much memory there is, only the card says.
    return replace(measured, memory_gib=known.memory_gib if known else None)


def memory_gib(options: Options, limits: rates.Ceilings | None) -> float | None:
    """Return the GiB that the longest video must fit: as given, else the card's, else None.

    Raises  UserError: not a positive number.
    """
    if options.memory_gib is None:
        return limits.memory_gib if limits else None
    try:
        size = float(options.memory_gib)  # also reads "nan" and "inf", which are refused below
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise UserError(f"memory_gib={options.memory_gib}: give a positive number of GiB")
    return size


@dataclass(frozen=True)
class Request:
    """What a plan is asked for.

    ceilings: rates of the device; None without a card or a calibration.
    memory_gib: memory that the longest video must fit; None if not given.
    model_name, suite_name: the choices that all methods share.
    configs: the resolved configuration of each method by name; they differ in the method alone.
    integrations: the choice of the integration by method.
    is_all: all methods were requested.
    """

    ceilings: rates.Ceilings | None
    memory_gib: float | None
    model_name: str
    suite_name: str
    configs: Mapping[str, dict[str, Any]]
    integrations: Mapping[str, str]
    is_all: bool


def request(options: Options, words: list[str], config_dir: str | None) -> Request:
    """Compose what the words ask for, and check it as far as a parent process checks a run.

    words: settings of the configuration. config_dir: the user's folder, searched too.
    Raises  UserError, HydraException, OmegaConfBaseException: wrong settings.
    """
    limits = ceilings(options)
    limit_gib = memory_gib(options, limits)
    folder = Path(config_dir) if config_dir is not None else None
    configs, is_all = _composed([*words, *searchpath(folder)])
    # They differ in the method alone, so any of them gives model and suite.
    config = next(iter(configs.values()))
    return Request(
        ceilings=limits,
        memory_gib=limit_gib,
        model_name=_choice(config, "model"),
        suite_name=_choice(config, "suite"),
        configs={name: _resolved(each) for name, each in configs.items()},
        integrations={name: _choice(each, "integration") for name, each in configs.items()},
        is_all=is_all,
    )


def _composed(words: list[str]) -> tuple[dict[str, DictConfig], bool]:
    """Return the configuration of each requested method, and whether all methods were requested."""
    asked = [word.removeprefix("method=") for word in words if word.startswith("method=")]
    # As in a run, the last `method=` counts.
    names = [name.strip() for name in asked[-1].split(",")] if asked else []
    if asked and not all(names):
        raise UserError(f"method={asked[-1]}: give names with commas between them, or all")
    is_all = set(names) == {"all"}
    others = [word for word in words if not word.startswith("method=")]
    configs: dict[str, DictConfig] = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        read_once(loader)
        # Metrics do not change a plan, and composing them takes a third of the time. The first
        # configuration has them, so that wrong settings of metrics are found.
        first = _compose([*others, *([] if is_all or not names else [f"method={names[0]}"])])
        if is_all:
            names = sorted(loader.get_group_options("method", ObjectType.CONFIG))
        else:
            names = names or [_choice(first, "method")]
            configs[names[0]] = first
        # Not if the words set metrics: what they change must be there.
        if not any(word.lstrip("+~").startswith("metrics") for word in others):
            others = [*others, "metrics=[]"]
        for name in names:
            configs[name] = configs.get(name) or _compose([*others, f"method={name}"])
    return configs, is_all


def _compose(words: list[str]) -> DictConfig:
    demand_choices(words)
    # With Hydra's own part, which has the names of the choices.
    return compose("config", words, return_hydra_config=True)


def _choice(config: DictConfig, group: str) -> str:
    return str(config.hydra.runtime.choices[group])


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Return the configuration without Hydra's own part, checked as for a run."""
    own = {key: value for key, value in config.items_ex(resolve=False) if key != "hydra"}
    return settings.resolve(OmegaConf.create(own))
