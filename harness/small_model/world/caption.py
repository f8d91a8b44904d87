"""Draws random captions in plain English, which `interpret` turns into the scenes of clips.

The clip of a seed depends on the order of draws, so the order never changes.
"""

from __future__ import annotations

import numpy as np

from harness.small_model.world.scene import (
    COLOURS,
    LIGHTS,
    MOTIONS,
    PACES,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
)
from harness.small_model.world.words import spoken

_PLACES = {
    "field": ("in a {}", "on a green {}"),
    "sea": ("by the {}", "over the {}"),
    "city": ("in a busy {}", "in the {}"),
    "room": ("in a {}", "inside a bright {}"),
    "desert": ("in the {}", "among the {}"),
    "night": ("at {}", "in the quiet of {}"),
    "forest": ("in a {}", "in the deep {}"),
    "snow": ("in the {}", "among the {}"),
}
_CAMERAS = {
    "left": ("the camera pans left", "panning left"),
    "right": ("the camera pans right", "panning to the right"),
    "in": ("the camera zooms in", "a close-up"),
    "out": ("the camera zooms out", "a wide view"),
}
_SIDES = ("on the left", "on the right", "in the middle")
_LATER = ("then", "next")


def caption(rng: np.random.Generator) -> str:
    """Draw a caption of one to three things, some without adjectives, some with later events."""
    count = int(rng.choice([1, 2, 3], p=[0.35, 0.45, 0.2]))
    nouns = [
        _one(rng, spoken("shape", shape)) for shape in rng.choice(SHAPES, count, replace=False)
    ]
    later = count > 1 and rng.random() < 0.4
    now, then = (nouns[:-1], nouns[-1]) if later else (nouns, None)
    clauses = [_clause(rng, noun) for noun in now]
    parts = [_one(rng, (" while ", " and ", ", ")).join(clauses)]
    if then:
        word = "finally" if rng.random() < 0.3 else _one(rng, _LATER)
        parts.append(f"{word} {_clause(rng, then)}")
        if word == "finally":  # it begins the third part of a clip, so the second needs an event
            parts[-1] = f"then the {nouns[0]} {_change(rng)}, " + parts[-1]
    elif rng.random() < 0.35:
        parts.append(f"{_one(rng, _LATER)} the {nouns[0]} {_change(rng)}")
    text = ", ".join(parts)
    setting = _setting(rng)
    text = f"{setting}, {text}" if rng.random() < 0.4 else f"{text}, {setting}"
    return text[0].upper() + text[1:] + "."


def _clause(rng: np.random.Generator, noun: str) -> str:
    """Draw a thing, with or without adjectives, and what it does."""
    words = [
        _one(rng, spoken(facet, str(rng.choice(values))))
        for facet, values, often in (
            ("size", SIZES, 0.8),
            ("texture", TEXTURES, 0.6),
            ("colour", COLOURS, 0.95),
        )
        if rng.random() < often
    ]
    article = "an" if (words or [noun])[0][0] in "aeiou" else "a"
    words = [article, *words, noun, _one(rng, spoken("motion", str(rng.choice(MOTIONS))))]
    if rng.random() < 0.4:
        words.append(_one(rng, spoken("pace", str(rng.choice(PACES)))))
    if rng.random() < 0.3:
        words.append(_one(rng, _SIDES))
    return " ".join(words)


def _change(rng: np.random.Generator) -> str:
    """Draw what happens to a thing in a later part: it leaves or turns to another colour."""
    if rng.random() < 0.4:
        return _one(rng, ("leaves", "vanishes", "departs"))
    word = _one(rng, ("turns", "becomes"))
    return f"{word} {_one(rng, spoken('colour', str(rng.choice(COLOURS))))}"


def _setting(rng: np.random.Generator) -> str:
    """Draw the words for place, light and camera."""
    place = str(rng.choice(PLACES))
    words = [_one(rng, _PLACES[place]).format(_one(rng, spoken("place", place)))]
    light = str(rng.choice(LIGHTS))
    if light != "steady":
        words.append(f"at {_one(rng, spoken('light', light))}")
    text = " ".join(words)
    if rng.random() < 0.5:
        text += ", " + _one(rng, _CAMERAS[str(rng.choice(list(_CAMERAS)))])
    return text


def _one(rng: np.random.Generator, words: list[str] | tuple[str, ...]) -> str:
    """Draw one of some words."""
    return words[int(rng.integers(len(words)))]
