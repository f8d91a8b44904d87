"""Quality of videos by the world's own ground truth: what prompts say, what pixels show.

A prompt decides the scene (`harness.small_model.world.interpret`), so each question has a right
answer for every video of this world's size, whatever the suite. A thing is asked about only where
its own geometry says that it can be seen; its answer is the majority of its keyframes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.small_model.rates import Curve, curve
from harness.small_model.world import render
from harness.small_model.world.backgrounds import Array
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

LEAST = 3  # keyframes in which a thing is seen before it is asked about
LEAST_MOTION = 8  # and about its motion
SOON_S = 1.0  # how far from its time an event may happen
HUE_NEAR = 1 / 12  # of the circle
SETTING_STEP = 6  # every so many keyframes are compared for place, camera and light
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
    """What one video, or many, came to.

    answers: right or wrong, by question. off_px: of things, how far from their place. hues: before
    and after, by question of looks. curves: `STATISTICS` per second of a video [seconds, 3].
    """

    answers: dict[str, list[bool]] = field(default_factory=lambda: {q: [] for q in QUESTIONS})
    off_px: list[float] = field(default_factory=list)
    hues: dict[str, list[tuple[float, float]]] = field(
        default_factory=lambda: {"look kept": [], "look in sight": []}
    )
    curves: list[Curve] = field(default_factory=list)

    def add(self, other: Judged) -> None:
        """Take in another video's."""
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
    lit = keyframes.astype(np.float32) / np.float32(255)
    pixels = np.asarray(lit / render.light(scene, times_s))
    judged = Judged(curves=[curve(keyframes)])
    _setting(judged, stage, lit)
    for index in range(len(scene.things)):
        _thing(judged, Fit(stage, index, pixels))
    for question, pairs in judged.hues.items():
        judged.answers[question] += [near(*pair) for pair in pairs]
    return judged


def by_chance(videos: Sequence[tuple[Scene, Frames]]) -> Judged:
    """What the same videos come to under each other's prompts: the level of guessing."""
    total = Judged()
    for i, (scene, _) in enumerate(videos):
        total.add(judge(scene, videos[i - 1][1]))
    return total


def true_clip(prompt: str, seed: int) -> Clip:
    """The world's own clip of a prompt, with marks of a seed."""
    hues = np.random.Generator(np.random.PCG64(seed)).random(MOST)
    return Clip(prompt, interpret(prompt), tuple(hues.tolist()))


def near(before: float, after: float) -> bool:
    """Whether two hues of 0..1 are within a twelfth of the circle; nan is near nothing."""
    apart = abs(before - after) % 1
    return min(apart, 1 - apart) <= HUE_NEAR


def _setting(judged: Judged, stage: Stage, lit: Array) -> None:
    """Place, camera and light: which of all explains the pixels between the things best."""
    scene, times = stage.scene, stage.times_s[::SETTING_STEP]
    lit, free = lit[::SETTING_STEP], stage.open[::SETTING_STEP, ..., None]
    options: dict[str, Sequence[Any]] = {"place": PLACES, "camera": CAMERAS, "light": LIGHTS}
    for facet, values in options.items():
        misses = []
        for value in values:
            other = replace(scene, **{facet: value})
            guess = render.backdrop(other, times) * render.light(other, times)
            misses.append(float((free * (guess - lit) ** 2).sum()))
        best = values[int(np.argmin(misses))]
        judged.answers[facet].append(best == getattr(scene, facet))


def _thing(judged: Judged, fit: Fit) -> None:
    """Everything that is asked about one thing."""
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
        judged.answers["motion"].append(_motion(fit, shape, first, second) == thing.motion)
    _look(judged, fit)


def _motion(fit: Fit, shape: int, first: int, second: int) -> str | None:
    """The motion that explains the video best, of a thing as it was found; None if it was not."""
    if shape < 0 or max(first, second) < 0:
        return None
    colours = [COLOURS[c if c >= 0 else max(first, second)] for c in (first, second)]
    worths = fit.motions(SHAPES[shape], (colours[0], colours[1]))
    return MOTIONS[int(worths.argmax())]


def _most(votes: NDArray[np.intp]) -> int:
    """The majority, -1 without any."""
    return int(Counter(votes.tolist()).most_common(1)[0][0]) if len(votes) else -1


def _events(judged: Judged, fit: Fit) -> None:
    """When a thing enters, turns and leaves: the times that explain the keyframes best."""
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
    return EVENTS_S[event] + length_s / 2


def _presence(fit: Fit, where: NDArray[np.bool_], colours: Sequence[Colour]) -> Times:
    """How much the thing, in one of these colours near its place, explains of keyframes [F]."""
    worth = np.zeros(len(where))
    at = np.flatnonzero(where)
    aim = Aim(at, fit.track, fit.clear, REACH // 2)
    worth[at] = fit.worth(aim, [fit.thing.shape], colours).max((1, 2, 3, 4))
    return worth


def _event(
    judged: Judged, name: str, times_s: Times, worth: Times, where: NDArray[np.bool_], due_s: float
) -> None:
    """Judge a change for which the worth of keyframes speaks after it, and against it before.

    It is asked only where both sides can be seen, and happens at the time from which on the worth
    is largest in sum; of times that cannot be told apart, at the one nearest to its due time.
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
    """Hues of the mark before and after the thing was out of sight, or over all of the video."""
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
        pair = _hue(paints[max(0, a - 3) : a + 1]), _hue(paints[b : b + 4])
        judged.hues["look kept"].append(pair)
    if not gaps and len(at) >= 2 * LEAST_MOTION:
        judged.hues["look in sight"].append((_hue(paints[:4]), _hue(paints[-4:])))


def _hue(paints: Array) -> float:
    """The hue of the mean of some colours [n, 3], 0..1; nan for a grey."""
    red, green, blue = (float(v) for v in paints.mean(0))
    high, low = max(red, green, blue), min(red, green, blue)
    if high - low < 0.08:
        return float("nan")
    if high == red:
        return (green - blue) / (high - low) / 6 % 1
    if high == green:
        return ((blue - red) / (high - low) + 2) / 6
    return ((red - green) / (high - low) + 4) / 6


def hue_chance(pairs: Iterable[tuple[float, float]]) -> list[bool]:
    """Whether looks of different things happen to be near: each before, every other after."""
    pairs = list(pairs)
    return [near(a[0], b[1]) for i, a in enumerate(pairs) for j, b in enumerate(pairs) if i != j]
