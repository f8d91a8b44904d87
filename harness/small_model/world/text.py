"""Text encoder of `model=small`: a prompt becomes a scene, and the scene rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.small_model.scenes.rows import one_of, waves
from harness.small_model.scenes.text import RuleText
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
)

_EVENTS = range(len(EVENTS_S))
LENGTH = 1 + MOST  # one row for the setting, one for each thing
# The setting and things share no columns, so that one linear layer reads all rows.
WIDTH = sum(map(len, (PLACES, LIGHTS, CAMERAS, SHAPES, COLOURS, SIZES, TEXTURES, MOTIONS, PACES)))
WIDTH += MOST + 3 * len(EVENTS_S) + len(COLOURS) + 3 * 5  # order, events, second colour, waves
WIDTH += 2 * (17 + 9 + 1)  # position and size at the start and a little later
_LATER_S = 0.75


@dataclass(frozen=True)
class WorldText(RuleText):
    """Encodes prompts as the rows of their scenes; every row is exact, since a scene is discrete.

    Row 0 holds place, light and camera; rows 1 to 3 hold one thing each. A facet takes one column
    per value, a number several waves. Where a thing starts and how fast it moves is computed, so
    the network need not derive it. Rows of absent things are zero.

    Source  ours; reading is `harness.small_model.world.interpret`.
    Shapes  num_prompts strings -> [num_prompts, 4, 141] float32 on the CPU.
    """

    @property
    def length(self) -> int:
        """Return the number of rows of a prompt."""
        return LENGTH

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the rows of prompts [num_prompts, 4, 141]."""
        return torch.stack([rows(interpret(prompt)) for prompt in prompts])


def rows(scene: Scene) -> Tensor:
    """Return a scene as rows [4, 141] float32."""
    table = torch.zeros(LENGTH, WIDTH)
    setting = [
        *one_of(PLACES, scene.place),
        *one_of(LIGHTS, scene.light),
        *one_of(CAMERAS, scene.camera),
    ]
    table[0, : len(setting)] = torch.tensor(setting)
    for i, thing in enumerate(scene.things):
        # Two positions a little apart tell the speed.
        since = EVENTS_S[thing.enters]
        start: list[float] = []
        for x, y, radius in zip(*track(thing, np.array([since, since + _LATER_S])), strict=True):
            start += [*waves(x / WIDTH_PX, 8), *waves(y / HEIGHT_PX, 4), radius / 16]
        row = [
            *one_of(range(MOST), i),
            *one_of(SHAPES, thing.shape),
            *one_of(COLOURS, thing.colour),
            *one_of(SIZES, thing.size),
            *one_of(TEXTURES, thing.texture),
            *one_of(MOTIONS, thing.motion),
            *one_of(PACES, thing.pace),
            *one_of(_EVENTS, thing.enters),
            *one_of(_EVENTS, thing.leaves),
            *one_of(_EVENTS, thing.turns),
            *(one_of(COLOURS, thing.second) if thing.turns else [0.0] * len(COLOURS)),
            *(wave for value in (thing.x, thing.y, thing.phase) for wave in waves(value, 2)),
            *start,
        ]
        table[1 + i, len(setting) :] = torch.tensor(row)
    return table
