"""Compares videos with the scenes of their prompts, question by question.

A prompt determines its scene (`harness.small_model.world.interpret`), so each question has a right
answer for every video of this world's size, whatever its suite. A question about a thing uses only
keyframes in which the scene predicts that the thing can be seen; the majority of them answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.rates import Curve, curve, hue_of, near
from harness.small_model.world import render
from harness.small_model.world.clip import FPS, Clip
from harness.small_model.world.fit import REACH, Aim, Fit, entered_s
from harness.small_model.world.interpret import interpret
from harness.small_model.world.render import Times
from harness.small_model.world.scene import (
    CAMERAS,
    COLOURS,
    EVENTS_S,
    LIGHTS,
    MOST,
    MOTIONS,
    PLACES,
    SHAPES,
    Scene,
)
from harness.small_model.world.stage import Stage
from harness.small_model.world.words import Colour

Frames = NDArray[np.uint8]

LEAST = 3  # keyframes in which a thing must be seen for questions about it
LEAST_MOTION = 8  # the same for its motion
SOON_S = 1.0  # largest distance of an event from its time
SETTING_STEP = 6  # every sixth keyframe is compared for place, camera and light
QUESTIONS = {
    "colour": "the colour of a thing is the one its caption names",
    "shape": "its shape, of seven",
    "motion": "its motion, of nine",
    "place": "the background, of eight",
    "camera": "what the camera does, of five",
    "light": "what the light does, of three",
    "enters": f"a thing that enters late does so within {SOON_S:.0f} s of its time",
    "turns": "the same of one that turns to another colour",
    "leaves": "the same of one that leaves",
    "look kept": "out of sight and back, its mark has the hue it had (within 1/12 of the circle)",
    "look in sight": "the same of things never out of sight, from their first second to the last",
}


@dataclass
class Judged:
    """Answers and measurements of one or more videos.

    answers: right or wrong, by question.
    off_px: distance of each thing that was found from its predicted place, in pixels.
    hues: hues of a mark before and after, by question about looks.
    curves: `STATISTICS` per second of each video [seconds, 3].
    """

    answers: dict[str, list[bool]] = field(default_factory=lambda: {q: [] for q in QUESTIONS})
    off_px: list[float] = field(default_factory=list)
    hues: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"look kept": [], "look in sight": []}
    )
    curves: list[Curve] = field(default_factory=list)

    def add(self, other: Judged) -> None:
        """Add another video's answers and measurements."""
        for question, answers in other.answers.items():
            self.answers[question] += answers
        for question, pairs in other.hues.items():
            self.hues[question] += pairs
        self.off_px += other.off_px
        self.curves += other.curves


def judge(scene: Scene, keyframes: Frames) -> Judged:
    """Compare a video with its scene, and return which answers are right.

    Shapes  keyframes [F, 64, 128, 3] uint8, the last pixel frame of each latent frame.
    """
    times_s = np.arange(len(keyframes)) * TEMPORAL_STRIDE / FPS
    stage = Stage(scene, times_s)
    # Things are compared without the light of the scene, the setting with it.
    lit = keyframes.astype(np.float32) / np.float32(255)
    pixels = np.asarray(lit / render.light(scene, times_s))
    judged = Judged(curves=[curve(keyframes)])
    # Place, camera and light: which value explains the pixels between the things best, if all else
    # is as in the scene?
    few_s, few = times_s[::SETTING_STEP], lit[::SETTING_STEP]
    free = stage.open[::SETTING_STEP, ..., None]
    options: dict[str, Sequence[Any]] = {"place": PLACES, "camera": CAMERAS, "light": LIGHTS}
    for facet, values in options.items():
        misses = []
        for value in values:
            other = replace(scene, **{facet: value})
            guess = render.backdrop(other, few_s) * render.light(other, few_s)
            misses.append(float((free * (guess - few) ** 2).sum()))
        best = values[int(np.argmin(misses))]
        judged.answers[facet].append(best == getattr(scene, facet))
    for index in range(len(scene.things)):
        _thing(judged, Fit(stage, index, pixels))
    for question, pairs in judged.hues.items():
        judged.answers[question] += [near(*pair) for pair in pairs]
    return judged


def by_chance(videos: Sequence[tuple[Scene, Frames]]) -> Judged:
    """Return the answers if each scene is compared with another's video: the level of chance."""
    total = Judged()
    for i, (scene, _) in enumerate(videos):
        total.add(judge(scene, videos[i - 1][1]))
    return total


def true_clip(prompt: str, seed: int) -> Clip:
    """Return the world's own clip of a prompt; the seed gives the hues of its marks."""
    hues = np.random.Generator(np.random.PCG64(seed)).random(MOST)
    return Clip(prompt, interpret(prompt), tuple(hues.tolist()))


def _thing(judged: Judged, fit: Fit) -> None:
    """Answer all questions about one thing."""
    thing, found = fit.thing, fit.found
    _events(judged, fit)
    if len(found.at) < LEAST:
        return
    turned = fit.turned[found.at]
    shape = _most(found.shape)
    first, second = (_most(found.colour[turned == when]) for when in (False, True))
    judged.answers["shape"].append(shape == SHAPES.index(thing.shape))
    if (~turned).sum() >= LEAST:
        judged.answers["colour"].append(first == COLOURS.index(thing.colour))
    present = found.shape >= 0
    if present.any():
        judged.off_px.append(float(np.median(np.hypot(found.dx, found.dy)[present])))
    if len(found.at) >= LEAST_MOTION:
        motion = None  # a thing that was not found has no motion, which is a wrong answer
        if shape >= 0 and max(first, second) >= 0:
            # Use the look that was found: a thing of a wrong colour may still move as asked. A
            # colour that was not found is that of the other part.
            colours = [COLOURS[c if c >= 0 else max(first, second)] for c in (first, second)]
            worths = fit.motions(SHAPES[shape], (colours[0], colours[1]))
            motion = MOTIONS[int(worths.argmax())]
        judged.answers["motion"].append(motion == thing.motion)
    _look(judged, fit)


def _most(votes: NDArray[np.intp]) -> int:
    """Return the most frequent index; -1 without votes."""
    return int(Counter(votes.tolist()).most_common(1)[0][0]) if len(votes) else -1


def _events(judged: Judged, fit: Fit) -> None:
    """Judge when a thing enters, leaves and turns to another colour."""
    thing, times = fit.thing, fit.stage.times_s
    both = list(dict.fromkeys([thing.colour, thing.second])) if thing.turns else [thing.colour]
    here = fit.reachable
    if thing.enters:
        until = here & (times < EVENTS_S[thing.leaves]) if thing.leaves else here
        worth = _presence(fit, until, both)
        _event(judged, "enters", times, worth, until, _middle(thing.enters, render.ENTRY_S))
    if thing.leaves:
        since = here & (times >= entered_s(thing))
        worth = -_presence(fit, since, both)
        _event(judged, "leaves", times, worth, since, _middle(thing.leaves, render.ENTRY_S))
    if thing.turns and thing.second != thing.colour:
        worth = _presence(fit, fit.seen, [thing.second]) - _presence(fit, fit.seen, [thing.colour])
        _event(judged, "turns", times, worth, fit.seen, _middle(thing.turns, render.TURN_S))


def _middle(event: int, length_s: float) -> float:
    """Return the time in seconds of the middle of a change."""
    return EVENTS_S[event] + length_s / 2


def _presence(fit: Fit, where: NDArray[np.bool_], colours: Sequence[Colour]) -> Times:
    """Return the worth of the thing near its place, in the best of some colours [F]."""
    worth = np.zeros(len(where))
    at = np.flatnonzero(where)
    aim = Aim(at, fit.track, fit.clear, REACH // 2)
    worth[at] = fit.worth(aim, [fit.thing.shape], colours).max((1, 2, 3, 4))
    return worth


def _event(
    judged: Judged, name: str, times_s: Times, worth: Times, where: NDArray[np.bool_], due_s: float
) -> None:
    """Judge whether a change happens near its due time.

    The change happens at the time after which the sum of the worth is largest. Of times with equal
    sums, it is the one nearest to the due time.

    worth: positive in keyframes after the change, negative before it [F].
    where: keyframes that can be used; without `LEAST` of them on each side nothing is judged.
    """
    if min((where & (times_s < due_s)).sum(), (where & (times_s >= due_s)).sum()) < LEAST:
        return
    after = np.append(np.cumsum(worth[::-1])[::-1], 0.0)  # from each keyframe on, and never
    starts = np.append(times_s, np.inf)
    best = starts[after >= after.max() - 1e-6]
    first, last = times_s[where][[0, -1]]
    happens = first < best[np.abs(best - due_s).argmin()] <= last
    judged.answers[name].append(bool(happens and np.abs(best - due_s).min() <= SOON_S))


def _look(judged: Judged, fit: Fit) -> None:
    """Record the hues of a mark before and after an absence, or at both ends of the video."""
    found, paints = fit.found, fit.mark_paint()
    clean = ~np.isnan(paints[:, 0])
    at, paints = found.at[clean], paints[clean]
    shown = fit.mark_shown()
    if len(at) < 2:
        return
    gaps = [
        (a, b)
        for a, b in zip(range(len(at) - 1), range(1, len(at)), strict=True)
        if (shown[at[a] + 1 : at[b]] < 0.1).any()
    ]
    for a, b in gaps:
        # The mean of four keyframes on each side is less noisy than one.
        pair = hue_of(paints[max(0, a - 3) : a + 1].mean(0)), hue_of(paints[b : b + 4].mean(0))
        judged.hues["look kept"].append(pair)
    if not gaps and len(at) >= 2 * LEAST_MOTION:
        pair = hue_of(paints[:4].mean(0)), hue_of(paints[-4:].mean(0))
        judged.hues["look in sight"].append(pair)


def hue_chance(pairs: Iterable[tuple[float, float]]) -> list[bool]:
    """Return whether looks of different things are near by chance.

    The look of each thing before is compared with that of every other thing after.
    """
    pairs = list(pairs)
    return [near(a[0], b[1]) for i, a in enumerate(pairs) for j, b in enumerate(pairs) if i != j]
