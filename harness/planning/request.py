"""Turns the command line of `plan` into a model, a suite and methods, composed as for a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import DictConfig, OmegaConf

from harness.api import Method
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.attention.fused import Fused
from harness.cache.attention.int8 import Int8
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged
from harness.cache.integration import Packed
from harness.checks.parts import demand_fit, demand_switches
from harness.config import settings
from harness.config.compose import read_once
from harness.config.hydra_errors import demand_choices
from harness.models.preset import VideoModel
from harness.models.wan import WanDims
from harness.planning import roofline
from harness.planning.forecast import Setting
from harness.planning.model_needs import Needs, needs
from harness.prompts import suite
from harness.system.errors import UserError
from harness.system.paths import CONF
from harness.system.typed import build
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
        if not equals and not word.startswith("~"):
            raise UserError(f"plan {word}: give settings as key=value, e.g. method=rtn_int4")
        # integration=published asks for the study's own peaks; others are settings of a run.
        if key in names and (key != "integration" or value == "published"):
            own = replace(own, **{key: value})
        else:
            others.append(word)
    return own, others


def ceilings(options: Options) -> roofline.Ceilings | None:
    """Return the rates of a calibration file, else of the card, else None."""
    known = roofline.card(options.card) if options.card is not None else None
    if options.calibration is None:
        return known
    measured = roofline.calibration(Path(options.calibration))
    # A calibration measures rates; how much memory there is, only the card says.
    return replace(measured, memory_gib=known.memory_gib if known else None)


def memory_gib(options: Options, limits: roofline.Ceilings | None) -> float | None:
    """Return the GiB that the longest video must fit: as given, else the card's, else None.

    Raises  UserError: not a positive number.
    """
    if options.memory_gib is None:
        return limits.memory_gib if limits else None
    try:
        size = float(options.memory_gib)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        raise UserError(f"memory_gib={options.memory_gib}: give a positive number of GiB")
    return size


def resolve(
    options: Options,
    words: list[str],
    config_dir: str | None,
    count: Callable[[VideoModel], Needs] = needs,
) -> tuple[Setting, dict[str, Method]]:
    """Return the shared setting (one model and suite), and the requested methods by name.

    count: counts the memory of a model, like `needs`.

    Raises  UserError, HydraException, OmegaConfBaseException, ValueError: wrong settings.
    """
    limits = ceilings(options)
    limit_gib = memory_gib(options, limits)
    folder = Path(config_dir) if config_dir is not None else None
    configs, is_all = _composed([*words, *searchpath(folder)])
    # They differ in the method alone, so any of them gives model and suite.
    config = next(iter(configs.values()))
    shared = _resolved(config)
    model = model_of(_choice(config, "model"), shared["model"])
    asked_suite = suite.configured(shared["suite"])
    size = model.chunk_frames, model.fps, model.first_pixel_frames
    num_frames = suite.latent_frames(asked_suite, *size)
    switches = suite.switches(asked_suite, num_frames, *size)
    packed, resolved = {}, {}
    for name, each in configs.items():
        resolved[name] = _resolved(each)
        packed[name] = _packed(name, _choice(each, "integration"), resolved[name])
    methods: dict[str, Method] = {
        name: build("method", each["method"], Method) for name, each in resolved.items()
    }
    # Of all methods, those that cannot serve the model are left out; a named one is an error.
    refused: list[str] = []
    for name, method in list(methods.items()):
        try:
            demand_fit(model, method, packed[name], num_frames)
            if switches:
                demand_switches(model, method, packed[name], asked_suite.recache)
        except ValueError as error:
            if not is_all:
                raise
            refused.append(f"{name} is left out: {error}")
            del methods[name]
    setting = Setting(
        model_name=_choice(config, "model"),
        suite_name=_choice(config, "suite"),
        model=model,
        needs=count(model),
        num_frames=num_frames,
        backend=backend_of(shared["attention"]),
        ceilings=limits,
        memory_gib=limit_gib,
        refused=tuple(refused),
        switches=switches,
        recached=switches if asked_suite.recache else (),
    )
    return setting, methods


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
        if not any(word.lstrip("+~").startswith("metrics") for word in others):
            others = [*others, "metrics=[]"]
        for name in names:
            configs[name] = configs.get(name) or _compose([*others, f"method={name}"])
    return configs, is_all


def _compose(words: list[str]) -> DictConfig:
    demand_choices(words)
    return compose("config", words, return_hydra_config=True)


def _choice(config: DictConfig, group: str) -> str:
    return str(config.hydra.runtime.choices[group])


def model_of(name: str, config: dict[str, Any]) -> VideoModel:
    """Build a model without weights.

    Raises  UserError: it has no `dims`. InstantiationException: it cannot be built.
    """
    if not isinstance(config.get("dims"), dict):
        wanted = ", ".join(field.name for field in fields(WanDims))
        raise UserError(f"model {name} has no dims to count: give model.dims with {wanted}")
    model: VideoModel = build("model", config, VideoModel)
    return model


def _packed(name: str, choice: str, config: dict[str, Any]) -> Packed:
    """Build the integration; raise UserError if it is not Packed, the only one planned here."""
    integration = build("integration", config["integration"])
    if not isinstance(integration, Packed):
        raise UserError(
            f"{name} runs under integration={choice}, which is counted apart: type "
            "python -m harness plan integration=published"
        )
    return integration


def backend_of(attention: dict[str, Any]) -> Backend:
    """Return the attention backend to plan for.

    Raises  UserError: the memory of this backend is not known.
    """
    built = build("attention", attention)
    if isinstance(built, Auto):
        return Staged()  # plans are for a GPU, where `auto` takes `staged` for whole chunks
    if isinstance(built, Int8) or not isinstance(built, (Portable, Staged, Fused)):
        name = built.name
        raise UserError(f"attention={name} is not planned: choose auto, staged, portable, fused")
    return built


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Return the configuration without Hydra's own part, checked as for a run."""
    own = {key: value for key, value in config.items_ex(resolve=False) if key != "hydra"}
    return settings.resolve(OmegaConf.create(own))
