"""What a scene is made of: the part of a clip that its prompt decides.

The order of every tuple of names is the order of columns in the rows that the network reads
(`rows.py`), so names may be appended but never moved or removed.
"""

from __future__ import annotations

from dataclasses import dataclass

EVENTS_S = (0.0, 3.5, 7.0)  # when the three parts of a clip begin: first, then, finally
LENGTH_S = 10.5  # the sun crosses the sky in this time, and the light changes
MOST = 3  # things in a scene

KINDS = (
    *("man", "woman", "child", "chef", "astronaut", "robot", "snowman", "ghost"),
    *("dog", "cat", "horse", "cow", "bear", "lion", "elephant", "rabbit", "mouse", "monkey"),
    *("kangaroo", "bird", "penguin", "fish", "whale", "butterfly", "insect", "turtle", "snake"),
    *("dragon", "car", "truck", "train", "bicycle", "boat", "plane", "rocket", "balloon"),
    *("ball", "book", "box", "table", "chair", "lamp", "candle", "cup", "bottle", "bowl"),
    *("clock", "umbrella", "bag", "screen", "guitar", "hat", "cake", "fruit", "pencil", "door"),
    *("tree", "flower", "leaf", "rock", "star", "cloud", "bubble", "fire", "house", "kite"),
)
LIVING = frozenset(KINDS[: KINDS.index("dragon") + 1])  # people and animals come first
COLOURS = (
    *("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black", "brown"),
    "grey",
)
SIZES = ("small", "medium", "large")
ACTIONS = (
    *("rest", "walk", "run", "jump", "turn", "sway", "rise", "fall", "grow", "shrink", "nod"),
    *("glow", "away"),
)
PLACES = (
    *("room", "kitchen", "study", "hall", "shop", "street", "road", "field", "garden", "forest"),
    *("river", "beach", "sea", "underwater", "mountain", "snow", "desert", "sky", "space", "cave"),
)
LIGHTS = ("day", "night", "dusk", "dawn")
WEATHERS = ("clear", "rain", "snowfall", "fog")
CAMERAS = ("still", "left", "right", "in", "out")

INDOORS = frozenset({"room", "kitchen", "study", "hall", "shop", "cave"})
SHELTERED = INDOORS | {"underwater", "space"}  # no weather


@dataclass(frozen=True)
class Act:
    """What a thing does in one part of the clip, and the colour it has then.

    to: where it goes if it goes anywhere, 0..1 across the stage.
    """

    action: str
    colour: str
    to: float


@dataclass(frozen=True)
class Thing:
    """One figure. x, y, phase: 0..1, of the stage and of the period of its motions.

    acts: one for each of `EVENTS_S`. An act "away" is not in the picture; who comes back has the
    look that it had.
    """

    kind: str
    size: str
    x: float
    y: float
    phase: float
    acts: tuple[Act, Act, Act]


@dataclass(frozen=True)
class Scene:
    """A place, its light and weather, the camera and up to `MOST` things, the last one in front.

    shift: 0..1, by how much the place is moved sideways; places repeat.
    """

    place: str
    light: str
    weather: str
    camera: str
    shift: float
    things: tuple[Thing, ...]
