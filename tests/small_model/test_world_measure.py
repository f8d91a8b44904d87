"""Quality by the world's ground truth, held against clips whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.prompts.suite import BUNDLED
from harness.results.observations import OBSERVATIONS, Rows
from harness.results.video_files import write_raw
from harness.small_model.rates import curve, wilson
from harness.small_model.world import clip, interpret
from harness.small_model.world.__main__ import HELD_OUT, main
from harness.small_model.world.measure import (
    Frames,
    Judged,
    by_chance,
    hue_chance,
    judge,
    near,
)
from harness.small_model.world.render import track
from harness.small_model.world.report import of_run, of_world, report
from harness.small_model.world.scene import Scene
from harness.system.errors import UserError
from tests.support.observations import observation

SEEDS = range(HELD_OUT, HELD_OUT + 8)
OF_THINGS = ("colour", "shape", "motion")


@pytest.fixture(scope="module")
def videos() -> list[tuple[Scene, Frames]]:
    return [(clip(seed).scene, clip(seed).keyframes(range(42))) for seed in SEEDS]


def judged(videos: list[tuple[Scene, Frames]]) -> Judged:
    total = Judged()
    for scene, keyframes in videos:
        total.add(judge(scene, keyframes))
    return total


def rate(total: Judged, *questions: str) -> float:
    answers = [answer for question in questions for answer in total.answers[question]]
    assert answers, f"no video answers {questions}"
    return float(np.mean(answers))


def blurred(keyframes: Frames, sigma: float) -> Frames:
    """Gaussian blur of rows and columns."""
    steps = np.arange(-6, 7)
    kernel = np.exp(-(steps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    image = keyframes.astype(np.float64)
    for axis in (1, 2):
        wide = np.pad(image, [(6, 6) if a == axis else (0, 0) for a in range(4)], mode="edge")
        length = image.shape[axis]
        image = sum(
            weight * np.take(wide, range(i, i + length), axis) for i, weight in enumerate(kernel)
        )
    return image.round().astype(np.uint8)


def test_the_worlds_own_clips_are_right(videos: list[tuple[Scene, Frames]]) -> None:
    total = judged(videos)
    for question in (*OF_THINGS, "place", "camera", "light", "look in sight"):
        assert rate(total, question) >= 0.9, question
    assert rate(total, "enters", "turns", "leaves") >= 0.9
    assert rate(total, "look kept") >= 0.75  # of few
    assert np.median(total.off_px) <= 1


def test_under_other_captions_they_are_near_chance(videos: list[tuple[Scene, Frames]]) -> None:
    total = by_chance(videos)
    assert rate(total, "colour") <= 0.4
    assert rate(total, "shape") <= 0.5
    assert rate(total, "motion") <= 0.4
    assert rate(total, "place") <= 0.5
    assert rate(total, "enters", "turns", "leaves") <= 0.6
    assert np.median(total.off_px) >= 5


@pytest.mark.slow
def test_blur_is_forgiven(videos: list[tuple[Scene, Frames]]) -> None:
    total = judged([(scene, blurred(keyframes, 1.5)) for scene, keyframes in videos])
    assert rate(total, "colour") >= 0.5
    assert rate(total, "shape", "motion") >= 0.75
    assert np.median(total.off_px) <= 2


def test_what_is_never_in_sight_is_not_judged() -> None:
    scene = interpret("A red ball rests, in a field.")
    far = replace(scene, things=(replace(scene.things[0], x=-9.0),))
    answers = judge(far, clip_of(far)).answers
    assert not answers["colour"] and not answers["motion"]
    assert answers["place"] == [True]


def test_a_video_that_stands_still_has_no_events_and_no_other_motion() -> None:
    scene = interpret("A big red ball swings, then the ball turns blue, in a field.")
    frozen = np.repeat(clip_of(scene)[:1], 42, 0)
    answers = judge(scene, frozen).answers
    assert answers["turns"] == [False]
    assert answers["motion"] == [False]
    assert answers["place"] == [True]
    assert judge(scene, clip_of(scene)).answers["turns"] == [True]


def test_an_event_at_another_time_is_late() -> None:
    scene = interpret("A big red ball rests on the left, then a big blue box rests on the right.")
    late = replace(scene, things=(scene.things[0], replace(scene.things[1], enters=2)))
    assert judge(scene, clip_of(scene)).answers["enters"] == [True]
    assert judge(scene, clip_of(late)).answers["enters"] == [False]


def test_a_mark_of_another_hue_after_hiding_is_not_the_look_that_was() -> None:
    scene = interpret("A big red ball hides slowly in the middle, in a field.")
    before, after = clip_of(scene, 0.3), clip_of(scene, 0.8)
    kept = judge(scene, before).answers["look kept"]
    assert kept and all(kept)
    x, _, _ = track(scene.things[0], np.arange(42) / 4)
    aside = (x > 20 + 88 * scene.things[0].x)[:, None, None, None]  # to the right of the pillar
    other = judge(scene, np.where(aside, after, before)).answers["look kept"]
    assert len(other) == len(kept)
    assert not any(other)


def clip_of(scene: Scene, hue: float = 0.3) -> Frames:
    whole = replace(clip(0), scene=scene, hues=(hue, hue, hue))
    return whole.keyframes(range(42))


def test_statistics_of_known_pictures() -> None:
    grey = np.full((8, 64, 128, 3), 90, np.uint8)
    np.testing.assert_allclose(curve(grey), np.zeros((2, 3)), atol=1e-4)
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[:, None] * 2, (4, 64, 128, 3))
    ((contrast, edges, colourfulness),) = curve(ramp)
    assert contrast == pytest.approx(2 * np.arange(128).std(), rel=1e-3)
    assert edges == pytest.approx(2, rel=1e-3)
    assert colourfulness == pytest.approx(0, abs=1e-3)


def test_hues_are_near_around_the_circle() -> None:
    assert near(0.98, 0.03)
    assert not near(0.2, 0.3)
    assert not near(float("nan"), 0.3)
    assert hue_chance([(0.0, 0.5), (0.5, 0.99)]) == [True, True]
    assert hue_chance([(0.0, 0.0), (0.5, 0.5)]) == [False, False]


def test_intervals_of_wilson() -> None:
    assert wilson(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_suite_is_what_its_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["captions"]) == 0
    assert capsys.readouterr().out == (BUNDLED / "world.txt").read_text()


def run_of(folder: Path, count: int, **changed: int) -> Path:
    """A run's folder with clips of the world as its videos."""
    (folder / "videos").mkdir()
    rows = Rows(folder / OBSERVATIONS)
    for index in range(count):
        made = clip(HELD_OUT + index)
        write_raw(folder / "videos" / f"{index:04d}-0.npy", made.pixels(range(42)))
        size = {"height": 64, "width": 128, "fps": 16} | changed
        row = observation(index, prompt=made.prompt, video=f"videos/{index:04d}-0", **size)
        rows.put(row)
    return folder


def test_videos_of_a_run_are_those_of_its_rows(tmp_path: Path) -> None:
    read, made = of_run(run_of(tmp_path, 2)), of_world(HELD_OUT, 2)
    assert read.prompts == made.prompts
    for one, other in zip(read.keyframes, made.keyframes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_run_is_measured_in_both_styles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(run_of(tmp_path, 2)), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    assert "| place | 1.00 | 2 | 0.34 to 1.00 |" in printed
    text = report(of_world(HELD_OUT, 1))
    assert "|" not in text
    assert "contrast, last second" in text


def test_what_cannot_be_measured_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["measure", str(tmp_path)]) == 2
    assert "is no folder of a run" in capsys.readouterr().err
    assert main(["measure"]) == 2
    assert "measure --truth 32" in capsys.readouterr().err
    assert main(["measure", "--truth", "1"]) == 2
    assert "at least 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="128x192 pixels at 16 a second"):
        of_run(run_of(tmp_path, 1, height=128, width=192))
