"""Computes the positions of things: the three acts of a thing as one continuous path.

Shapes  t [F] times in seconds; pixels of a frame of `SIDE` x `SIDE`, y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from harness.small_model.scenes.scene import EVENTS_S, LENGTH_S, Act, Thing

Floats = NDArray[np.float64]

SIDE = 128
# From a quarter to nearly half of the frame.
HEIGHTS = {"small": 34.0, "medium": 46.0, "large": 58.0}  # pixels of a figure
GROUND, FLYING = (100.0, 118.0), (48.0, 78.0)  # y of feet, from far to near
# Their lane is the air, or the water, whatever the place is.
FLYERS = frozenset(
    {"bird", "butterfly", "insect", "plane", "rocket", "balloon", "kite", "cloud", "star"}
    | {"bubble", "ghost", "leaf", "fish", "whale", "dragon"}
)
ENTRY_S = 0.9  # duration of entering and leaving
TOP = 46.0  # y to which things rise
# Periods. An act lasts a whole number of them, so a motion ends in the pose in which it began, and
# the next act continues from there without a jump.
# The first two parts take 3.5 s, and so does the third.
_BEAT_S = 3.5 / 2  # of turning, swaying, nodding and glowing
_HOP_S = 3.5 / 3


@dataclass(frozen=True)
class Path:
    """The state of a thing at several times; every field is [F].

    x, y: position of its feet in pixels; y of flyers is their lower edge.
    height: pixels.
    facing: 1 to the right, -1 to the left, between the two during a turn.
    angle: radians, clockwise.
    gait: swing of the legs, signed. reach, nod, glow: raised arms, bow and light, 0..1.
    shown: whether it is visible.
    """

    x: Floats
    y: Floats
    height: Floats
    facing: Floats
    angle: Floats
    gait: Floats
    reach: Floats
    nod: Floats
    glow: Floats
    shown: NDArray[np.bool_]


_MOVING = tuple(field.name for field in fields(Path) if field.name != "shown")


@dataclass
class _Stance:
    """The state of a thing between two acts."""

    x: float
    y: float
    scale: float
    facing: float
    angle: float


def path(thing: Thing, t: Floats) -> Path:
    """Return the path of a thing; each act starts where the previous one ended."""
    lanes = FLYING if thing.kind in FLYERS else GROUND
    floor = lanes[0] + (lanes[1] - lanes[0]) * thing.y
    # A thing faces the middle of the stage at first.
    stance = _Stance(across(thing.x), floor, 1.0, 1.0 if thing.x < 0.5 else -1.0, 0.0)
    columns = {name: np.zeros(len(t)) for name in _MOVING}
    shown = np.zeros(len(t), bool)
    ends = (*EVENTS_S[1:], LENGTH_S)
    # `_move` and `_gesture` advance the stance to the end of the act, so acts go in order.
    for index, (act, begin, end) in enumerate(zip(thing.acts, EVENTS_S, ends, strict=True)):
        # The last act also covers times after the end of the clip.
        here = t >= begin if index == len(thing.acts) - 1 else (t >= begin) & (t < end)
        s = t[here] - begin
        part = (s / (end - begin)).clip(0, 1)
        # A thing enters and leaves at the nearer side, so that it is quickly out of sight.
        side = -1.0 if stance.x < SIDE / 2 else 1.0
        start = replace(stance)
        values: dict[str, float | Floats] = {"x": start.x, "y": start.y}
        values |= {"facing": start.facing, "angle": start.angle}
        values["height"] = HEIGHTS[thing.size] * start.scale
        values |= _move(act, stance, s, part, thing.phase)
        # An act is a movement or a gesture: the other function returns nothing.
        values |= _gesture(act, stance, s, part, thing)
        # A thing that is away from the start has not left, so it just is not there.
        was_away = index > 0 and thing.acts[index - 1].action == "away"
        shown[here] = act.action != "away"
        if act.action == "away" and index > 0 and not was_away:  # it leaves, faster and faster
            shown[here] = s < ENTRY_S
            values["x"] = start.x + side * 110 * (s / ENTRY_S).clip(0, 1) ** 2
        elif act.action != "away" and was_away:  # it enters, slower and slower
            values["x"] = values["x"] + side * 90 * (1 - (s / ENTRY_S).clip(0, 1)) ** 2
        for name, value in values.items():
            columns[name][here] = value
    return Path(**columns, shown=shown)


def _move(act: Act, stance: _Stance, s: Floats, part: Floats, phase: float) -> dict[str, Floats]:
    """Return the fields of acts that move a thing; `stance` becomes that at the end of the act."""
    wave = 2 * np.pi * (s + phase)
    x, y, angle = stance.x, stance.y, stance.angle
    match act.action:
        case "walk" | "run":
            haste = 1.0 if act.action == "walk" else 2.0
            # `to` may be on either side, and the figure faces the way it walks. One that had fallen
            # stands up at once, since the angle of an upright act is 0.
            stance.x, stance.angle = across(act.to), 0.0
            stance.facing = 1.0 if stance.x > x else -1.0
            # Running takes half of the part; the legs rest for the other half.
            swing = np.sin(wave * (0.3 + 0.5 * haste)) * (part * haste < 1) * (0.7 + 0.3 * haste)
            gone = (part * haste).clip(0, 1)
            return {"x": x + (stance.x - x) * gone, "gait": swing} | _steady(stance, s)
        case "jump":
            hop = np.abs(np.sin(np.pi * s / _HOP_S))
            stance.angle = 0.0
            return {"y": y - 24 * hop, "gait": 0.6 * hop, "reach": hop} | _steady(stance, s)
        case "rise":
            # A thing that rose stays up: its next act happens there.
            stance.y, stance.angle = TOP, 0.0
            reach = 0.5 + 0.5 * np.sin(wave)
            return {"y": y + (TOP - y) * part, "reach": reach} | _steady(stance, s)
        case "fall":
            way = (s / 1.5).clip(0, 1) ** 2  # it accelerates, and lies after 1.5 s
            stance.y, stance.angle = GROUND[1], np.pi / 2 * stance.facing
            return {"y": y + (stance.y - y) * way, "angle": angle + (stance.angle - angle) * way}
    return {}


def _steady(stance: _Stance, s: Floats) -> dict[str, Floats]:
    """Return facing and angle of a thing that stands upright."""
    return {"facing": 0 * s + stance.facing, "angle": 0 * s}


def _gesture(act: Act, stance: _Stance, s: Floats, part: Floats, thing: Thing) -> dict[str, Floats]:
    """Return the fields of acts on the spot; `stance` becomes that at the end of the act."""
    slow = 0.5 - 0.5 * np.cos(2 * np.pi * s / _BEAT_S)
    match act.action:
        case "turn":
            return {"facing": np.cos(2 * np.pi * s / _BEAT_S) * stance.facing}
        case "sway":
            swing = np.sin(2 * np.pi * s / _BEAT_S)
            stance.angle = 0.0
            return {"angle": 0.22 * swing, "reach": 0.5 + 0.5 * swing, "x": stance.x + 5 * swing}
        case "grow" | "shrink":
            more = 1.45 if act.action == "grow" else 0.62
            height = HEIGHTS[thing.size] * stance.scale * (1 + (more - 1) * part)
            stance.scale *= more  # the thing keeps this size
            return {"height": height}
        case "nod" | "glow":
            return {act.action: slow}
    return {}


def across(share: float) -> float:
    """Return the pixel column of a position 0..1 on the stage."""
    # A margin of 20 pixels keeps figures inside the frame.
    return 20 + 88 * share
