"""Defines the data of a scene, which is the part of a clip that its caption determines.

The order of the values of a facet is the order of columns in the network's rows (`text.py`), so the
weights that ship depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from harness.small_model.world.words import (
    Camera,
    Colour,
    Light,
    Motion,
    Pace,
    Place,
    Shape,
    Size,
    Texture,
)

EVENTS_S = (0.0, 3.5, 6.5)  # start of the three parts of a clip: first, "then", "finally"
MOST = 3  # things in a scene

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
PACES: tuple[Pace, ...] = get_args(Pace)
PLACES: tuple[Place, ...] = get_args(Place)
LIGHTS: tuple[Light, ...] = get_args(Light)
CAMERAS: tuple[Camera, ...] = get_args(Camera)


@dataclass(frozen=True)
class Thing:
    """One object.

    x, y: position on the stage, 0..1.
    phase: phase of its periodic motion, 0..1.
    enters, leaves, turns: index in `EVENTS_S` of the time at which it does so. For `enters`, 0
        means that it is there from the start; for the others, 0 means never.
    second: the colour that it turns to.
    """

    shape: Shape
    colour: Colour
    size: Size
    texture: Texture
    motion: Motion
    pace: Pace
    x: float
    y: float
    phase: float
    enters: int = 0
    leaves: int = 0
    turns: int = 0
    second: Colour = "white"


@dataclass(frozen=True)
class Scene:
    """A background, its light, the camera and up to `MOST` things, the last one in front."""

    place: Place
    light: Light
    camera: Camera
    things: tuple[Thing, ...]
