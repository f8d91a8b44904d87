"""Builds the model and the methods of a plan, without weights, as for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from harness.api import Method
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend
from harness.cache.attention.fused import Fused
from harness.cache.attention.int8 import Int8
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged
from harness.cache.integration import Packed
from harness.checks.parts import demand_fit, demand_switches
from harness.models.preset import VideoModel
from harness.models.wan import WanDims
from harness.planning.forecast import Setting
from harness.planning.model_needs import Needs, needs
from harness.planning.request import Request
from harness.prompts import suite
from harness.system.errors import UserError
from harness.system.typed import build


def resolve(
    asked: Request, count: Callable[[VideoModel], Needs] = needs
) -> tuple[Setting, dict[str, Method]]:
    """Return the shared setting (one model and suite), and the requested methods by name.

    count: counts the memory of a model, like `needs`.

    Raises  UserError, HydraException, ValueError: wrong settings.
    """
    shared = next(iter(asked.configs.values()))
    model = model_of(asked.model_name, shared["model"])
    asked_suite = suite.configured(shared["suite"])
    size = model.chunk_frames, model.fps, model.first_pixel_frames
    num_frames = suite.latent_frames(asked_suite, *size)
    switches = suite.switches(asked_suite, num_frames, *size)
    # Everything is built before anything is counted, so that wrong settings are refused at once.
    packed = {
        name: _packed(name, asked.integrations[name], each) for name, each in asked.configs.items()
    }
    methods: dict[str, Method] = {
        name: build("method", each["method"], Method) for name, each in asked.configs.items()
    }
    # A run makes the same demands, so no plan shows a method that cannot run. Of all methods, those
    # that cannot serve the model are left out; a named one is an error.
    refused: dict[str, str] = {}
    for name, method in list(methods.items()):
        try:
            demand_fit(model, method, packed[name], num_frames)
            if switches:
                demand_switches(model, method, packed[name], asked_suite.recache)
        except ValueError as error:
            if not asked.is_all:
                raise
            refused[name] = f"{name} is left out: {error}"
            del methods[name]
    setting = Setting(
        model_name=asked.model_name,
        suite_name=asked.suite_name,
        model=model,
        needs=count(model),
        num_frames=num_frames,
        backend=backend_of(shared["attention"]),
        ceilings=asked.ceilings,
        memory_gib=asked.memory_gib,
        refused=refused,
        switches=switches,
        recached=switches if asked_suite.recache else (),
    )
    return setting, methods


def model_of(name: str, config: dict[str, Any]) -> VideoModel:
    """Build a model without weights.

    Raises  UserError: it has no `dims`. InstantiationException: it cannot be built.
    """
    # Before it is built, since the count needs `dims` and a user's own model may have none.
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
    # Plans are for a GPU, where `auto` takes `staged` for whole chunks.
    if isinstance(built, Auto):
        return Staged()
    # `Int8` is a `Portable`, but its threads hold codes and values of a head beside the scratch.
    if isinstance(built, Int8) or not isinstance(built, (Portable, Staged, Fused)):
        name = built.name
        raise UserError(f"attention={name} is not planned: choose auto, staged, portable, fused")
    return built
