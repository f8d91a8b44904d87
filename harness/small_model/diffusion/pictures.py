"""Measures how well a network draws things, on single pictures: seconds instead of minutes.

The detector of `scenes/detect.py` needs whole videos and searches for every thing. Here positions
are part of the rows, so a thing can be compared where it must be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from harness.small_model.codec import encode
from harness.small_model.scenes.clip import Clip
from harness.small_model.scenes.rates import COLUMNS, rate
from harness.small_model.scenes.render import Drawing
from harness.small_model.scenes.scene import COLOURS, KINDS, Thing
from harness.system.text_table import Grid

START_S = np.zeros(1)


def recognized(one: Clip, latents_Chw: Tensor) -> dict[str, list[bool]]:
    """Check the kind and the colour of each visible thing in a generated first frame.

    A kind is right if no other kind, drawn in the place of the thing, is nearer to the picture
    (squared error of latents). The same holds for its colour.

    latents_Chw: the picture [16, 16, 16].
    """
    right: dict[str, list[bool]] = {"kind": [], "colour": []}
    boxes = Drawing(one.scene, START_S).boxes()[:, 0]
    for index, thing in enumerate(one.scene.things):
        if np.isnan(boxes[index]).any():
            continue  # it enters later
        first, second, third = thing.acts
        kinds = [replace(thing, kind=kind) for kind in KINDS]
        painted = [
            replace(thing, acts=(replace(first, colour=colour), second, third))
            for colour in COLOURS
        ]
        right["kind"].append(_nearest(one, index, kinds, latents_Chw).kind == thing.kind)
        found = _nearest(one, index, painted, latents_Chw)
        right["colour"].append(found.acts[0].colour == first.colour)
    return right


def _nearest(one: Clip, index: int, others: Sequence[Thing], latents_Chw: Tensor) -> Thing:
    """Draw each of `others` as thing `index` of a clip; return the one nearest to the latents."""
    before, after = one.scene.things[:index], one.scene.things[index + 1 :]
    scenes = [replace(one.scene, things=(*before, other, *after)) for other in others]
    pictures = np.concatenate([Drawing(scene, START_S).pixels(one.hues) for scene in scenes])
    errors = (encode(pictures) - latents_Chw).square().sum((1, 2, 3))
    return others[int(errors.argmin())]


def report(clips: Sequence[Clip], made_BFChw: Tensor, title: str) -> Grid:
    """Return a table of the rates of generated first pictures [B, F, 16, 16, 16] of clips."""
    found = [recognized(one, made[0]) for one, made in zip(clips, made_BFChw, strict=True)]
    rows = []
    for question, choices in (("kind", KINDS), ("colour", COLOURS)):
        answers = [answer for each in found for answer in each[question]]
        meaning = f"the {question} of a thing in the first picture, of {len(choices)}"
        rows.append((question, *rate(answers), f"{1 / len(choices):.2f}", "-", meaning))
    return Grid(f"{title}: {len(clips)} pictures", COLUMNS, rows, words=(0, 3, 6))
