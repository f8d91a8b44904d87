"""What a scene of the world is made of: the part of a clip that its caption decides."""

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

EVENTS_S = (0.0, 3.5, 6.5)  # the beginning, "then", "finally"
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
    """One object. x, y, phase: 0..1, of the stage and of its period.

    enters, leaves, turns: which of `EVENTS_S` begins it; 0 enters means from the start, 0 leaves or
    turns means never. second: the colour it turns to.
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
