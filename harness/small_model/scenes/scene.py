"""The data of a scene, which is the part of a clip that its prompt determines.

The order of every tuple of names is the order of columns in the network's rows (`rows.py`), so
names may be appended but never moved or removed.
"""

from __future__ import annotations

from dataclasses import dataclass

# Thirds, so that every act has the same time.
EVENTS_S = (0.0, 3.5, 7.0)  # start of the three parts of a clip: first, then, finally
# A video of 42 latent frames lasts 10.3 s.
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
    """The action and the colour of a thing in one part of the clip.

    to: target of a movement, 0..1 across the stage.
    """

    action: str
    colour: str
    to: float


@dataclass(frozen=True)
class Thing:
    """One figure.

    x, y: position on the stage, 0..1. phase: phase of its periodic motions, 0..1.
    acts: one for each of `EVENTS_S`. A thing is invisible during the action "away", and looks the
    same when it returns.
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

    shift: sideways shift of the place, 0..1; places repeat.
    """

    place: str
    light: str
    weather: str
    camera: str
    shift: float
    things: tuple[Thing, ...]
