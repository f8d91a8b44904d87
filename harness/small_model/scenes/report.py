"""Videos to a table: rates by question with their intervals, beside what guessing comes to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.prompts.suite import TEMPORAL_STRIDE
from harness.results import all_runs, observations
from harness.results.video_files import read_frames
from harness.small_model.codec import encode, preview
from harness.small_model.scenes.clip import FPS, Clip, clip
from harness.small_model.scenes.detect import Frames
from harness.small_model.scenes.interpret import interpret
from harness.small_model.scenes.judge import (
    CHOICES,
    QUESTIONS,
    STATISTICS,
    Judged,
    chosen,
    curve,
    judge,
)
from harness.small_model.scenes.motion import SIDE
from harness.small_model.scenes.scene import MOST, Scene
from harness.system.errors import UserError
from harness.system.text_table import Grid

BAND = (5, 95)  # percentiles of the world's own clips
COLUMNS = ("question", "rate", "n", "95 % interval", "by chance", "n", "what is right")
Row = tuple[str, ...]


@dataclass(frozen=True)
class Videos:
    """Videos of one source with their scenes; keyframes [F, 128, 128, 3] uint8 each."""

    title: str
    scenes: tuple[Scene, ...]
    keyframes: tuple[Frames, ...]


def of_world(count: int, num_frames: int) -> Videos:
    """Return the first held-out clips, encoded and decoded linearly: the bound of a model."""
    clips = [clip(seed) for seed in range(count)]
    return Videos(
        "the world's own clips",
        tuple(each.scene for each in clips),
        tuple(_coded(each, num_frames) for each in clips),
    )


def of_run(folder: Path) -> Videos:
    """Return the videos of a run of a model of this world.

    Raises  UserError: no run here, no video in it, videos of another size or rate, a damaged file.
    """
    prompts, keyframes = videos_of_run(folder, SIDE, SIDE)
    return Videos(str(folder), tuple(map(interpret, prompts)), keyframes)


def report(videos: Videos) -> Grid:
    """Return a table of everything measured of these videos."""
    pairs = list(zip(videos.scenes, videos.keyframes, strict=True))
    total, guessed = Judged(), Judged()
    for i, (scene, keyframes) in enumerate(pairs):
        total.add(judge(scene, keyframes))
        if len(pairs) > 1:
            guessed.add(judge(scene, pairs[i - 1][1]))
    rows = [
        (question, *_rate(total.answers[question]), *_share(guessed.answers[question]), meaning)
        for question, meaning in QUESTIONS.items()
    ]
    if len(pairs) >= CHOICES:
        right = [
            chosen([*(videos.scenes * 2)[i : i + CHOICES]], keyframes) == 0
            for i, (_, keyframes) in enumerate(pairs)
        ]
        meaning = f"its own prompt of {CHOICES} is the one whose drawing is nearest"
        rows.append((f"one of {CHOICES}", *_rate(right), f"{1 / CHOICES:.2f}", "-", meaning))
    # Hues of marks do not change the statistics of a picture much: any will do.
    truth = [curve(_coded(Clip(scene, (0.0,) * MOST), len(frames))) for scene, frames in pairs]
    curves = [curve(keyframes) for keyframes in videos.keyframes]
    for when, second in (("first", 0), ("last", -1)):
        low, high = np.percentile([each[second] for each in truth], BAND, axis=0)
        for i, name in enumerate(STATISTICS):
            answers = [bool(low[i] <= each[second, i] <= high[i]) for each in curves]
            meaning = f"{low[i]:.1f} to {high[i]:.1f}, the middle 90 % of the world's own clips"
            rows.append((f"{name}, {when} second", *_rate(answers), "-", "-", meaning))
    lengths = sorted({len(keyframes) for keyframes in videos.keyframes})
    title = f"{videos.title}: {len(pairs)} videos of {', '.join(map(str, lengths))} keyframes"
    note = "by chance: the same videos under each other's prompts"
    return Grid(title, COLUMNS, rows, notes=[note], words=(0, 3, 6))


def videos_of_run(
    folder: Path, height: int, width: int
) -> tuple[tuple[str, ...], tuple[Frames, ...]]:
    """Return the prompts and keyframes [F, H, W, 3] uint8 of a run's finished videos.

    Raises  UserError: as `of_run`.
    """
    if not (folder / observations.OBSERVATIONS).is_file():
        raise UserError(
            f"{folder} is no folder of a run: name one with {observations.OBSERVATIONS} in it"
        )
    rows = all_runs.load_run(folder)
    made = rows[rows["failure"].isna()]
    if made.empty:
        raise UserError(f"{folder} has no finished video: repeat the run that makes it")
    sizes = sorted(set(zip(made["height"], made["width"], made["fps"], strict=True)))
    if sizes != [(height, width, FPS)]:
        high, wide, fps = (int(number) for number in sizes[0])
        raise UserError(
            f"{folder} has videos of {high}x{wide} pixels at {fps} a second, the world's are "
            f"{height}x{width} at {FPS}: measure a run of the model that was trained on it"
        )
    stems = [folder / str(video) for video in made["video"]]
    keyframes = tuple(read_frames(stem)[::TEMPORAL_STRIDE] for stem in stems)
    return tuple(made["prompt"]), keyframes


def wilson(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a rate (Wilson 1927); (0, 1) of nothing."""
    if n == 0:
        return 0.0, 1.0
    z2 = 1.959964**2
    middle = (right + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (right * (n - right) / n + z2 / 4)) / (n + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def _coded(one: Clip, num_frames: int) -> Frames:
    return preview(encode(one.keyframes(range(num_frames))))


def _rate(answers: Sequence[bool]) -> Row:
    """Return rate, count and interval."""
    low, high = wilson(sum(answers), len(answers))
    return *_share(answers), f"{low:.2f} to {high:.2f}" if answers else "-"


def _share(answers: Sequence[bool]) -> Row:
    return f"{sum(answers) / len(answers):.2f}" if answers else "-", str(len(answers))
