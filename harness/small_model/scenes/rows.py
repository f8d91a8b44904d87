"""Encodes scenes as rows of numbers, which the network reads instead of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from harness.small_model.scenes.looks import looks
from harness.small_model.scenes.motion import SIDE, path
from harness.small_model.scenes.scene import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    EVENTS_S,
    KINDS,
    LENGTH_S,
    LIGHTS,
    MOST,
    PLACES,
    SIZES,
    WEATHERS,
    Scene,
    Thing,
)

PARTS = len(EVENTS_S)
LENGTH = 1 + MOST * PARTS  # one row for the setting, one for each act of each thing
# Every list of names has spare columns. Names appended later then do not move the other columns,
# and a trained network remains valid.
# As wide as the network: `text_dim` of conf/train/forcing.yaml.
WIDTH = 320
ROOM = {"place": 32, "light": 6, "weather": 6, "camera": 8, "kind": 80, "colour": 12, "action": 16}
_SETTING_WIDTH = 64


def rows(scene: Scene, layout: bool = True) -> Tensor:
    """Return a scene as rows [10, 320] float32; rows of absent things are zero.

    Row 0 holds place, light, weather, camera and shift. Row 1 + 3 i + p holds the kind of thing i
    and what it looks like, its action in part p of the clip, and its position at the start, middle
    and end of the part.

    layout: if false, shift, phases and positions are zero.
    """
    # Prompts do not contain positions. Without them in the rows, noise decides them in the first
    # chunk, and only history keeps them (docs/small-model.md).
    table = torch.zeros(LENGTH, WIDTH)
    setting = [
        *one_of(PLACES, scene.place, ROOM["place"]),
        *one_of(LIGHTS, scene.light, ROOM["light"]),
        *one_of(WEATHERS, scene.weather, ROOM["weather"]),
        *one_of(CAMERAS, scene.camera, ROOM["camera"]),
        *(layout * wave for wave in waves(scene.shift, 4)),
    ]
    table[0, : len(setting)] = torch.tensor(setting)
    for i, thing in enumerate(scene.things):
        # The setting and the acts have columns of their own, so no number means two things.
        for p, values in enumerate(_acts(thing, layout)):
            # Cross-attention does not know the order of rows, so thing and part are columns too.
            row = [*one_of(range(MOST), i), *one_of(range(PARTS), p), *values]
            at = 1 + PARTS * i + p
            table[at, _SETTING_WIDTH : _SETTING_WIDTH + len(row)] = torch.tensor(row)
    return table


def _acts(thing: Thing, layout: bool) -> list[list[float]]:
    begins = np.array([*EVENTS_S, LENGTH_S])
    # Sample just before the end of a part: at the end itself, the next part has begun.
    times = np.stack([begins[:-1], (begins[:-1] + begins[1:]) / 2, begins[1:] - 1e-3], 1)
    way = path(thing, times.ravel())
    look = [*one_of(SIZES, thing.size), *(layout * wave for wave in waves(thing.phase, 2))]
    figure = looks()[KINDS.index(thing.kind)].tolist()
    acts = []
    for p, act in enumerate(thing.acts):
        # Positions let the network place a thing without working out its path.
        places: list[float] = []
        for k in range(PARTS * p, PARTS * p + 3):
            # Fine waves of positions were one of the two changes that helped the first model's
            # training most (docs/small-model.md).
            places += waves(way.x[k] / SIDE, 8) + waves(way.y[k] / SIDE, 6)
            places += [way.height[k] / SIDE, way.facing[k], way.angle[k]]
        # A thing that was away enters in this part, which looks unlike its action alone.
        ahead = thing.acts[p - 1].action == "away" if p else False
        acts.append(
            [
                *one_of(KINDS, thing.kind, ROOM["kind"]),
                *one_of(COLOURS, act.colour, ROOM["colour"]),
                *one_of(ACTIONS, act.action, ROOM["action"]),
                float(ahead),
                *look,
                # Multiplied by zero rather than left out, so that all rows have the same columns.
                *(layout * float(v) for v in places),
                *figure,
            ]
        )
    return acts


def one_of(values: Sequence[object], value: object, room: int = 0) -> list[float]:
    """Return a one-hot encoding of `value` among `values`, padded to `room` columns."""
    columns = [float(value == each) for each in values]
    return columns + [0.0] * (room - len(columns))


def waves(value: float, count: int) -> list[float]:
    """Return a number of 0..1 and its sines and cosines, which a linear layer can distinguish."""
    angles = [2 * math.pi * k * value for k in range(1, count + 1)]
    return [value, *(wave for angle in angles for wave in (math.sin(angle), math.cos(angle)))]
