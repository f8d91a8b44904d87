"""Compares videos with the scenes of their prompts, question by question."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.codec import encode
from harness.small_model.scenes.clip import FPS
from harness.small_model.scenes.detect import (
    Frames,
    View,
    acts,
    explained,
    figure,
    in_cells,
    mark,
    miss,
    setting,
)
from harness.small_model.scenes.motion import ENTRY_S
from harness.small_model.scenes.scene import COLOURS, EVENTS_S, KINDS, LENGTH_S, Scene, Thing

QUESTIONS = {
    "place": "the place, of 20",
    "shape": "the kind of a thing, of 66",
    "colour": "its colour, of 11, at first and after it changes",
    "motion": "its action in a third of the clip, of 12",
    "look kept": "out of sight and back, its mark has the hue it had (within 1/12 of the circle)",
}
CHOICES = 10  # prompts among which the right one is found
_SAME = 1e-3  # of the gain: actions that look the same on a figure are both right
_HUE_NEAR = 1 / 12  # of the circle
_GREY = 0.08  # chroma below which a colour has no hue
_COMPARED = 4  # keyframes of a figure that are compared


@dataclass
class Judged:
    """Answers of one or more videos, right or wrong, by question."""

    answers: dict[str, list[bool]] = field(default_factory=lambda: {q: [] for q in QUESTIONS})

    def add(self, other: Judged) -> None:
        """Add another video's answers."""
        for question, answers in other.answers.items():
            self.answers[question] += answers


def judge(scene: Scene, keyframes: Frames) -> Judged:
    """Compare a video with its scene, and return which answers are right.

    Shapes  keyframes [F, 128, 128, 3] uint8, the last pixel frame of each latent frame, 42 at
            most count.
    """
    # After the end of a clip its last act goes on, which no question is about.
    keyframes = keyframes[: round(LENGTH_S * FPS / TEMPORAL_STRIDE)]
    times_s = np.arange(len(keyframes)) * TEMPORAL_STRIDE / FPS
    cells, latents = in_cells(keyframes), encode(keyframes)
    judged = Judged()
    # A place does not change: three keyframes show a pan too.
    few = np.linspace(0, len(cells) - 1, 3).astype(np.intp)
    judged.answers["place"].append(setting(scene, cells[few], times_s[few])[0] == scene.place)
    view = View.of(scene, cells, times_s)
    for index, thing in enumerate(scene.things):
        # The others are drawn into the place first, so that their cells do not count for this
        # thing.
        others = [*scene.things[:index], *scene.things[index + 1 :]]
        _ask(judged, explained(view, others), latents, thing)
    return judged


def _ask(judged: Judged, view: View, latents: Tensor, thing: Thing) -> None:
    """Answer all questions about one thing."""
    answers = judged.answers
    # Two things of a kind differ by their positions, which no prompt contains: their colours and
    # looks could be those of either.
    alone = sum(other.kind == thing.kind for other in view.scene.things) == 1
    # Parts with a few keyframes of the thing in full sight. While it enters, it is not.
    visible: dict[int, NDArray[np.intp]] = {}
    ends_s = (*EVENTS_S[1:], LENGTH_S)
    for part, act in enumerate(thing.acts):
        enters = part > 0 and thing.acts[part - 1].action == "away"
        begin_s = EVENTS_S[part] + ENTRY_S * enters
        frames = np.flatnonzero((view.times_s >= begin_s) & (view.times_s < ends_s[part]))
        if act.action != "away" and len(frames) >= _COMPARED:
            visible[part] = frames
    previous = found = ""
    for part, frames in visible.items():
        colour = thing.acts[part].colour
        if colour != previous:  # ask once per colour: parts of one colour give the same answer
            few = frames[np.linspace(0, len(frames) - 1, _COMPARED).astype(np.intp)]
            gain_KC = figure(view.at(few), thing)
            found = COLOURS[int(gain_KC[KINDS.index(thing.kind)].argmax())]
            if not previous:
                answers["shape"].append(KINDS[int(gain_KC.amax(1).argmax())] == thing.kind)
            if alone:
                answers["colour"].append(found == colour)
            previous = colour
        # A thing that enters in this part moves in, which hides the action.
        if part == 0 or thing.acts[part - 1].action != "away":
            # Use the colour that was found: a thing of a wrong colour may still move as asked.
            gains = acts(view.at(frames[::2]), thing, part, found)
            best = max(gains.values())
            answers["motion"].append(gains[thing.acts[part].action] >= best - _SAME * abs(best))
    if alone and 0 in visible and 2 in visible and thing.acts[1].action == "away":
        colour = thing.acts[0].colour
        before, after = (
            _hue(mark(view.at(at), latents[torch.from_numpy(at)], thing, colour).mean(0))
            for at in (visible[0][-_COMPARED:], visible[2][:_COMPARED])
        )
        apart = abs(before - after) % 1  # hues lie on a circle
        answers["look kept"].append(min(apart, 1 - apart) <= _HUE_NEAR)


def _hue(rgb: Iterable[float]) -> float:
    """Return the hue of a colour [3] of 0..1 as a share of the circle; NaN for grey."""
    # NaN compares as unequal, so a grey mark counts as a look that was not kept.
    red, green, blue = (float(value) for value in rgb)
    # The hue of a nearly grey colour is that of its noise.
    is_grey = max(red, green, blue) - min(red, green, blue) < _GREY
    return math.nan if is_grey else colorsys.rgb_to_hsv(red, green, blue)[0]


def chosen(scenes: Sequence[Scene], keyframes: Frames) -> int:
    """Return which of some scenes a video shows: the one whose best drawing is nearest to it."""
    times_s = np.arange(len(keyframes)) * TEMPORAL_STRIDE / FPS
    times_s = times_s[times_s < LENGTH_S]
    few = np.linspace(0, len(times_s) - 1, 6).astype(np.intp)  # six keyframes are compared
    cells, few_s = in_cells(keyframes[few]), times_s[few]
    return int(np.argmin([miss(View.of(scene, cells, few_s)) for scene in scenes]))
