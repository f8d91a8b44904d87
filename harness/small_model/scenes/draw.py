"""Draws random scenes, on which the model is trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.small_model.scenes.scene import (
    ACTIONS,
    CAMERAS,
    COLOURS,
    KINDS,
    LIGHTS,
    MOST,
    PLACES,
    SHELTERED,
    SIZES,
    WEATHERS,
    Act,
    Scene,
    Thing,
)

# People are in most prompts, so they are drawn more often.
_OFTEN = {"man": 6.0, "woman": 4.0, "child": 3.0}
_SHARES = np.array([_OFTEN.get(kind, 1.0) for kind in KINDS])
_MOVES = tuple(action for action in ACTIONS if action != "away")


def draw_scene(rng: np.random.Generator, things: int | None = None) -> Scene:
    """Draw a scene of one to three things, each with an act for every part of the clip.

    things: how many, 1 to `MOST`; None draws the number too.
    """
    # Drawn in any case, so that all later draws are independent of `things`.
    drawn = int(rng.choice((1, 2, 3), p=(0.4, 0.4, 0.2)))
    count = drawn if things is None else things
    # Slots keep things apart, so that most are seen whole.
    slots = rng.permutation(MOST)[:count] / (MOST - 1)
    # Draw the weather in sheltered places too: all later draws then stay independent of the place.
    place = _one(rng, PLACES)
    weather = _one(rng, WEATHERS, (0.7, 0.1, 0.1, 0.1))
    return Scene(
        place=place,
        light=_one(rng, LIGHTS, (0.55, 0.15, 0.15, 0.15)),
        weather="clear" if place in SHELTERED else weather,
        camera=_one(rng, CAMERAS, (0.4, 0.15, 0.15, 0.15, 0.15)),
        shift=float(rng.random()),
        things=tuple(
            draw_thing(rng, _one(rng, KINDS, _SHARES / _SHARES.sum()), float(slot))
            for slot in slots
        ),
    )


def draw_thing(rng: np.random.Generator, kind: str, slot: float) -> Thing:
    """Draw a thing near a slot 0..1 of the stage.

    Half of the things repeat one action. Of the others, some enter late, leave, or leave and come
    back, and some change their colour.
    """
    x = float(np.clip(slot + 0.2 * (rng.random() - 0.5), 0, 1))
    colour, first = _one(rng, COLOURS), _one(rng, _MOVES)
    actions, colours = [first] * 3, [colour] * 3
    if rng.random() < 0.5:
        actions = [first, _one(rng, _MOVES), _one(rng, _MOVES)]
        # One number decides among late, gone and away in between, so that a thing is absent once at
        # most.
        turn = rng.random()
        if turn < 0.15:
            actions[0] = "away"
        elif turn < 0.3:
            actions[2] = "away"
        elif turn < 0.5:
            actions[1] = "away"
        # A colour changes only while the thing is visible: a thing that comes back must look as
        # before, since that is how a video shows whether the model remembers.
        visible = [p for p in (1, 2) if "away" not in actions[p - 1 : p + 1]]
        if visible and rng.random() < 0.3:
            since = int(rng.choice(visible))
            colours[since:] = [_one(rng, COLOURS)] * (3 - since)
    acts = []
    here = x
    for action, paint in zip(actions, colours, strict=True):
        goal = here
        if action in ("walk", "run"):  # to the other side of the stage, as in `interpret`
            goal = float(rng.random() * 0.4 + (0.6 if here < 0.5 else 0.0))
        acts.append(Act(action, paint, goal))
        here = goal
    size = _one(rng, SIZES)  # the clip of a seed depends on the order of draws: keep it
    return Thing(
        kind, size, x, float(rng.random()), float(rng.random()), (acts[0], acts[1], acts[2])
    )


def _one(
    rng: np.random.Generator,
    values: tuple[str, ...],
    shares: tuple[float, ...] | NDArray[np.float64] | None = None,
) -> str:
    """Draw one of some values; shares: their probabilities, equal if None."""
    return values[int(rng.choice(len(values), p=shares))]
