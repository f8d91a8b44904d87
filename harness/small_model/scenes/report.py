"""Builds a table of a model's videos: rates by question with intervals, beside those of chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
    Judged,
    chosen,
    judge,
)
from harness.small_model.scenes.motion import SIDE
from harness.small_model.scenes.rates import COLUMNS, collapse, curve, rate, share
from harness.small_model.scenes.scene import MOST, Scene
from harness.system.errors import UserError
from harness.system.text_table import Grid


@dataclass(frozen=True)
class Videos:
    """Videos of one source with their scenes; keyframes [F, 128, 128, 3] uint8 each."""

    title: str
    scenes: tuple[Scene, ...]
    keyframes: tuple[Frames, ...]


def of_world(count: int, num_frames: int) -> Videos:
    """Return the first held-out clips, encoded and decoded linearly.

    Their rates are the upper bound of a model: what the detector misses in true clips.
    """
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
    if not (folder / observations.OBSERVATIONS).is_file():
        raise UserError(
            f"{folder} is no folder of a run: name one with {observations.OBSERVATIONS} in it"
        )
    # Only finished videos: a failed one has no frames.
    rows = all_runs.load_run(folder)
    made = rows[rows["failure"].isna()]
    if made.empty:
        raise UserError(f"{folder} has no finished video: repeat the run that makes it")
    # The detectors fit templates of fixed sizes at fixed times, so other videos cannot be measured.
    sizes = sorted(set(zip(made["height"], made["width"], made["fps"], strict=True)))
    if sizes != [(SIDE, SIDE, FPS)]:
        high, wide, fps = (int(number) for number in sizes[0])
        raise UserError(
            f"{folder} has videos of {high}x{wide} pixels at {fps} a second, the world's are "
            f"{SIDE}x{SIDE} at {FPS}: measure a run of the model that was trained on it"
        )
    # Every fourth pixel frame from the first on is the last one of its latent frame.
    stems = [folder / str(video) for video in made["video"]]
    keyframes = tuple(read_frames(stem)[::TEMPORAL_STRIDE] for stem in stems)
    return Videos(str(folder), tuple(map(interpret, made["prompt"])), keyframes)


def report(videos: Videos) -> Grid:
    """Return a table of all measurements of these videos."""
    pairs = list(zip(videos.scenes, videos.keyframes, strict=True))
    total, guessed = Judged(), Judged()
    for i, (scene, keyframes) in enumerate(pairs):
        total.add(judge(scene, keyframes))
        if len(pairs) > 1:
            # Chance: the same scene compared with the video of another prompt.
            guessed.add(judge(scene, pairs[i - 1][1]))
    rows = [
        (question, *rate(total.answers[question]), *share(guessed.answers[question]), meaning)
        for question, meaning in QUESTIONS.items()
    ]
    # With fewer prompts there are not enough to choose among.
    if len(pairs) >= CHOICES:
        right = [
            # Compare with the next prompts, around the end of the list; its own is the first.
            chosen([*(videos.scenes * 2)[i : i + CHOICES]], keyframes) == 0
            for i, (_, keyframes) in enumerate(pairs)
        ]
        meaning = f"its own prompt of {CHOICES} is the one whose drawing is nearest"
        rows.append((f"one of {CHOICES}", *rate(right), f"{1 / CHOICES:.2f}", "-", meaning))
    # Hues of marks do not change the statistics of a picture much: any will do.
    # Through the codec, since its losses are not the model's.
    truth = [curve(_coded(Clip(scene, (0.0,) * MOST), len(frames))) for scene, frames in pairs]
    curves = [curve(keyframes) for keyframes in videos.keyframes]
    rows += collapse(curves, truth)
    lengths = sorted({len(keyframes) for keyframes in videos.keyframes})
    title = f"{videos.title}: {len(pairs)} videos of {', '.join(map(str, lengths))} keyframes"
    note = "by chance: the same videos under each other's prompts"
    return Grid(title, COLUMNS, rows, notes=[note], words=(0, 3, 6))


def _coded(one: Clip, num_frames: int) -> Frames:
    """Return the keyframes of a clip after encoding and linear decoding."""
    return preview(encode(one.keyframes(range(num_frames))))
