"""Words of the command line to what is to be planned: composed as the main entry does."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged
from harness.cache.integration import Packed
from harness.checks.parts import demand_fit
from harness.config import settings
from harness.config.hydra_errors import demand_choices
from harness.config.read_once import read_once
from harness.models.preset import VideoModel
from harness.models.wan import WanDims
from harness.planning import roofline
from harness.planning.forecast import Setting
from harness.planning.model_needs import needs
from harness.prompts import suite
from harness.system.errors import UserError
from harness.system.paths import CONF
from harness.system.typed import build
from harness.system.user_folder import searchpath


@dataclass(frozen=True)
class Options:
    """Words that are the planner's own."""

    card: str | None = None
    calibration: str | None = None
    memory_gib: str | None = None
    against: str | None = None
    integration: str | None = None

    @property
    def published(self) -> bool:
        """Whether the study's own rows are asked for."""
        return self.integration == "published"


def split(words: Sequence[str]) -> tuple[Options, list[str]]:
    """The planner's own words and those of the configuration.

    Raises  UserError: no key=value.
    """
    names = {field.name for field in fields(Options)}
    own, others = Options(), []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals and not word.startswith("~"):
            raise UserError(f"plan {word}: give settings as key=value, e.g. method=rtn_int4")
        if key in names and (key != "integration" or value == "published"):
            own = replace(own, **{key: value})
        else:
            others.append(word)
    return own, others


def ceilings(options: Options) -> roofline.Ceilings | None:
    """What was measured, else the card's, else nothing."""
    known = roofline.card(options.card) if options.card is not None else None
    if options.calibration is None:
        return known
    measured = roofline.calibration(Path(options.calibration))
    return replace(measured, memory_gib=known.memory_gib if known else None)


def memory_gib(options: Options, limits: roofline.Ceilings | None) -> float | None:
    """Memory that the longest video must fit: as said, else the card's."""
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
    options: Options, words: list[str], config_dir: str | None
) -> tuple[Setting, dict[str, Method]]:
    """What is asked for: one model and suite, and methods by name.

    Raises  UserError, HydraException, OmegaConfBaseException, ValueError: what the user can mend.
    """
    limits = ceilings(options)
    limit_gib = memory_gib(options, limits)
    words = [*words, *searchpath(Path(config_dir) if config_dir is not None else None)]
    asked, others = _methods(words)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        read_once(GlobalHydra.instance().config_loader())
        first = _compose([*others, *([f"method={asked[0]}"] if asked else [])])
        names = _every_method() if asked == ["all"] else asked or [_choice(first, "method")]
        configs = {name: _compose([*others, f"method={name}"]) for name in names}
    config = next(iter(configs.values()))
    resolved = _resolved(config)
    model = model_of(_choice(config, "model"), resolved["model"])
    num_frames = _num_frames(resolved["suite"], model)
    packed = {name: _packed(name, each) for name, each in configs.items()}
    methods = {name: _method(config) for name, config in configs.items()}
    refused: list[str] = []
    for name, method in list(methods.items()):
        try:
            demand_fit(model, method, packed[name], num_frames)
        except ValueError as error:
            if asked != ["all"]:
                raise
            refused.append(f"{name} is left out: {error}")
            del methods[name]
    setting = Setting(
        model_name=_choice(config, "model"),
        suite_name=_choice(config, "suite"),
        model=model,
        needs=needs(model),
        num_frames=num_frames,
        backend=backend_of(resolved["attention"]),
        ceilings=limits,
        memory_gib=limit_gib,
        refused=tuple(refused),
    )
    return setting, methods


def _methods(words: list[str]) -> tuple[list[str], list[str]]:
    """The methods asked for, and the other words; the last word counts."""
    asked = [word.removeprefix("method=") for word in words if word.startswith("method=")]
    names = [name.strip() for name in asked[-1].split(",")] if asked else []
    if asked and not all(names):
        raise UserError(f"method={asked[-1]}: give names with commas between them, or all")
    return list(dict.fromkeys(names)), [word for word in words if not word.startswith("method=")]


def _compose(words: list[str]) -> DictConfig:
    words = [word for word in words if word != "method=all"]
    demand_choices(words)
    return compose("config", words, return_hydra_config=True)


def _every_method() -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return sorted(loader.get_group_options("method", ObjectType.CONFIG))


def _choice(config: DictConfig, group: str) -> str:
    return str(config.hydra.runtime.choices[group])


def model_of(name: str, config: dict[str, Any]) -> VideoModel:
    """Build a model, without weights.

    Raises  UserError: it has no dims to count. InstantiationException: it cannot be built.
    """
    if not isinstance(config.get("dims"), dict):
        wanted = ", ".join(field.name for field in fields(WanDims))
        raise UserError(f"model {name} has no dims to count: give model.dims with {wanted}")
    model: VideoModel = build("model", config, VideoModel)
    return model


def _num_frames(config: dict[str, Any], model: VideoModel) -> int:
    """Latent frames of a suite's videos."""
    return suite.latent_frames(suite.configured(config), model.chunk_frames, model.fps)


def _method(config: DictConfig) -> Method:
    method: Method = build("method", _resolved(config)["method"], Method)
    return method


def _packed(name: str, config: DictConfig) -> Packed:
    """Build the integration; others than Packed are planned elsewhere."""
    integration = build("integration", _resolved(config)["integration"])
    if not isinstance(integration, Packed):
        raise UserError(
            f"{name} runs under integration={_choice(config, 'integration')}, which is counted "
            "apart: type python -m harness plan integration=published"
        )
    return integration


def backend_of(attention: dict[str, Any]) -> Backend:
    """How attention reads history; plans are for a GPU, where `auto` is staged for whole chunks.

    Raises  UserError: nothing is known of its memory.
    """
    built = build("attention", attention)
    if isinstance(built, Auto):
        return Staged()
    if not isinstance(built, (Portable, Staged, Fused)):
        raise UserError("attention=reference is not planned: choose auto, staged, portable, fused")
    return built


def _resolved(config: DictConfig) -> dict[str, Any]:
    """The configuration without Hydra's own part, checked as a run checks it."""
    own = {key: value for key, value in config.items_ex(resolve=False) if key != "hydra"}
    return settings.resolve(OmegaConf.create(own))
