"""The small model's text encoder: a prompt is read as a scene, a scene as rows of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.small_model.world.interpret import interpret
from harness.small_model.world.render import HEIGHT as HEIGHT_PX
from harness.small_model.world.render import WIDTH as WIDTH_PX
from harness.small_model.world.render import track
from harness.small_model.world.scene import (
    CAMERAS,
    COLOURS,
    EVENTS_S,
    LIGHTS,
    MOST,
    MOTIONS,
    PACES,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    Scene,
    Thing,
)

_EVENTS = range(len(EVENTS_S))
LENGTH = 1 + MOST  # one row for the setting, one for each thing
WIDTH = sum(map(len, (PLACES, LIGHTS, CAMERAS, SHAPES, COLOURS, SIZES, TEXTURES, MOTIONS, PACES)))
WIDTH += MOST + 3 * len(EVENTS_S) + len(COLOURS) + 3 * 5  # order, events, second colour, waves
WIDTH += 2 * (17 + 9 + 1)  # where it is at first and a little later
_LATER_S = 0.75


@dataclass(frozen=True)
class WorldText:
    """Rows of what a prompt means in the world: exact, since the world is made of a few facets.

    Row 0 holds place, light and camera, rows 1 to 3 a thing each: one of so many for every facet,
    waves for numbers; where it begins and how fast is worked out. Rows of absent things are zero.

    Source  ours; reading is `harness.small_model.world.interpret`.
    Shapes  num_prompts strings -> [num_prompts, 4, 141] float32 on the CPU.
    """

    @property
    def length(self) -> int:
        """Rows of a prompt."""
        return LENGTH

    @property
    def weight_bytes(self) -> int:
        """No weights."""
        return 0

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Rows of the prompts [num_prompts, 4, 141]."""
        return torch.stack([rows(interpret(prompt)) for prompt in prompts])

    def locate(self, root: Path) -> None:
        """No files; encoders share this call."""

    def to(self, device: torch.device) -> None:
        """Nothing to move; encoders share this call."""

    def is_full(self, rows_TE: Tensor) -> bool:
        """No: a prompt is read whole, whatever its length."""
        return False

    def close(self) -> None:
        """Nothing is held; encoders share this call."""


def rows(scene: Scene) -> Tensor:
    """A scene as rows [4, 141] float32."""
    table = torch.zeros(LENGTH, WIDTH)
    setting = [
        *_one_of(PLACES, scene.place),
        *_one_of(LIGHTS, scene.light),
        *_one_of(CAMERAS, scene.camera),
    ]
    table[0, : len(setting)] = torch.tensor(setting)
    for i, thing in enumerate(scene.things):
        table[1 + i, len(setting) :] = torch.tensor([*_one_of(range(MOST), i), *_thing(thing)])
    return table


def _thing(thing: Thing) -> list[float]:
    return [
        *_one_of(SHAPES, thing.shape),
        *_one_of(COLOURS, thing.colour),
        *_one_of(SIZES, thing.size),
        *_one_of(TEXTURES, thing.texture),
        *_one_of(MOTIONS, thing.motion),
        *_one_of(PACES, thing.pace),
        *_one_of(_EVENTS, thing.enters),
        *_one_of(_EVENTS, thing.leaves),
        *_one_of(_EVENTS, thing.turns),
        *(_one_of(COLOURS, thing.second) if thing.turns else [0.0] * len(COLOURS)),
        *(wave for value in (thing.x, thing.y, thing.phase) for wave in _waves(value)),
        *_start(thing),
    ]


def _start(thing: Thing) -> list[float]:
    """Where a thing is and how large when it comes, and a little later, which tells its speed."""
    since = EVENTS_S[thing.enters]
    features: list[float] = []
    for x, y, radius in zip(*track(thing, np.array([since, since + _LATER_S])), strict=True):
        features += [*_waves(x / WIDTH_PX, 8), *_waves(y / HEIGHT_PX, 4), radius / 16]
    return features


def _one_of(values: Sequence[object], value: object) -> list[float]:
    return [float(value == each) for each in values]


def _waves(value: float, count: int = 2) -> list[float]:
    """A number of 0..1 as itself and waves, which a linear layer can tell apart."""
    angles = [2 * math.pi * k * value for k in range(1, count + 1)]
    return [value, *(wave for angle in angles for wave in (math.sin(angle), math.cos(angle)))]
