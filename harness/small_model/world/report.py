"""Builds tables of a model's videos: rates by question with intervals, beside those of chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.small_model.rates import (
    COLUMNS,
    STATISTICS,
    Row,
    collapse,
    curve,
    rate,
    share,
    videos_of_run,
)
from harness.small_model.world.backgrounds import Array
from harness.small_model.world.clip import clip
from harness.small_model.world.interpret import interpret
from harness.small_model.world.measure import (
    QUESTIONS,
    Frames,
    Judged,
    by_chance,
    hue_chance,
    judge,
    true_clip,
)
from harness.small_model.world.render import HEIGHT, WIDTH


@dataclass(frozen=True)
class Videos:
    """Videos of one source with their prompts; keyframes [F, 64, 128, 3] uint8 each."""

    title: str
    prompts: tuple[str, ...]
    keyframes: tuple[Frames, ...]


def of_world(first: int, count: int) -> Videos:
    """Return the world's own clips of `count` seeds, 42 keyframes each."""
    clips = [clip(seed) for seed in range(first, first + count)]
    keyframes = tuple(each.keyframes(range(42)) for each in clips)
    return Videos("the world's own clips", tuple(each.prompt for each in clips), keyframes)


def of_run(folder: Path) -> Videos:
    """Return the videos of a run of a model of this world.

    Raises  UserError: no run here, no video in it, videos of another size or rate, a damaged file.
    """
    prompts, keyframes = videos_of_run(folder, HEIGHT, WIDTH)
    return Videos(str(folder), prompts, keyframes)


def report(videos: Videos, style: str = "text") -> str:
    """Return all measurements of these videos as `text`, or as Markdown (`md`)."""
    scenes = [interpret(prompt) for prompt in videos.prompts]
    pairs = list(zip(scenes, videos.keyframes, strict=True))
    total = Judged()
    for scene, keyframes in pairs:
        total.add(judge(scene, keyframes))
    guessed = by_chance(pairs) if len(pairs) > 1 else Judged()
    truth = [
        curve(true_clip(prompt, i).keyframes(range(len(keyframes))))
        for i, (prompt, keyframes) in enumerate(zip(videos.prompts, videos.keyframes, strict=True))
    ]
    chance = guessed.answers | {q: hue_chance(hues) for q, hues in total.hues.items()}
    rows = [
        (question, *rate(total.answers[question]), *share(chance[question]), meaning)
        for question, meaning in QUESTIONS.items()
    ]
    rows += collapse(total.curves, truth)
    off = " / ".join(f"{median(each.off_px):.1f}" for each in (total, guessed))
    notes = [
        f"distance of a thing from its place, median: {off} px (by chance), of "
        f"{len(total.off_px)} things found within 12 px to each side",
        "by chance: the same videos under each other's prompts; of looks: pairs of things",
    ]
    title = f"{videos.title}: {len(pairs)} videos"
    tables = [table(COLUMNS, rows, style), table(*_by_second(total.curves, truth), style)]
    return "\n\n".join([title, tables[0], "\n".join(f"- {note}" for note in notes), tables[1], ""])


def median(values: Sequence[float]) -> float:
    """Return the median; NaN of no values."""
    return float(np.median(values)) if values else math.nan


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], style: str) -> str:
    """Return a table as text or Markdown (`md`)."""
    if style == "md":
        lines = [columns, ["---"] * len(columns), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
        for line in [columns, *rows]
    )


def _by_second(curves: Sequence[Array], truth: Sequence[Array]) -> tuple[Row, list[Row]]:
    """Return the means over videos and over the world's clips, second by second.

    Videos may differ in length: each counts in the seconds that it has.
    """
    seconds = max(map(len, curves))
    lines = [
        (
            f"{name}{whose}",
            *(f"{np.mean([c[s, i] for c in of if s < len(c)]):.1f}" for s in range(seconds)),
        )
        for i, name in enumerate(STATISTICS)
        for whose, of in (("", curves), (", world", truth))
    ]
    return ("second", *(str(s) for s in range(seconds))), lines
