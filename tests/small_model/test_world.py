"""The procedural world: bit for bit from a seed, read from any prompt, told in any words."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.prompts import suite as suites
from harness.small_model.world import Scene, Thing, WorldText, clip, interpret
from harness.small_model.world.render import place, render
from harness.small_model.world.words import SAID, meaning

# Of 20 clips, prompts and all keyframes: training data must never change under a trained model.
CLIPS = "8ee789a984831893648e77a185095086b7c7ebed8d908c913e745ddae13dba3f"
BALL = Thing("circle", "red", "medium", "plain", "still", "slow", 0.5, 0.5, 0.0)
ALONE = Scene("field", "steady", "still", (BALL,))


def frames(scene: Scene, *seconds: float) -> np.ndarray:
    """Frames of a scene [F, 64, 128, 3] as integers, with a blue mark."""
    return render(scene, (2 / 3,), np.array(seconds)).astype(int)


def test_clips_are_the_same_bit_for_bit() -> None:
    digest = hashlib.sha256()
    for seed in range(20):
        digest.update(clip(seed).prompt.encode())
        digest.update(clip(seed).keyframes(range(42)).tobytes())
    assert digest.hexdigest() == CLIPS


def test_keyframes_are_the_last_pixel_frames() -> None:
    one = clip(7)
    keys, all_frames = one.keyframes(range(3, 6)), one.pixels(range(3, 6))
    assert all_frames.shape == (12, 64, 128, 3)
    assert np.array_equal(all_frames[3::4], keys)
    assert one.pixels(range(2)).shape == (5, 64, 128, 3)


def test_a_scene_follows_from_its_prompt_and_the_look_does_not() -> None:
    one, other = clip(3), clip(4)
    assert one.scene == interpret(one.prompt)
    assert one.hues != other.hues
    changed = replace(one, hues=(0.1, 0.2, 0.3))
    assert not np.array_equal(one.keyframes(range(1)), changed.keyframes(range(1)))


def test_captions_say_what_the_scene_shows() -> None:
    scene = interpret(
        "A large striped red ball bounces quickly on the left while a tiny violet cube rolls, "
        "next the ball turns green, finally a gem hides, in the desert at sunset, panning left."
    )
    assert (scene.place, scene.light, scene.camera) == ("desert", "dusk", "left")
    ball, cube, gem = scene.things
    assert (ball.shape, ball.colour, ball.size, ball.texture) == (
        "circle",
        "red",
        "large",
        "striped",
    )
    assert (ball.motion, ball.pace, ball.x < 0.2) == ("bounce", "fast", True)
    assert (ball.turns, ball.second, ball.enters, ball.leaves) == (1, "green", 0, 0)
    assert (cube.colour, cube.size, cube.motion) == ("purple", "small", "roll")
    assert (gem.shape, gem.motion, gem.enters) == ("diamond", "hide", 2)


@pytest.mark.parametrize("facet", sorted(SAID))
def test_every_word_has_one_meaning(facet: str) -> None:
    for value, words in SAID[facet].items():
        assert {meaning(word) for word in words.replace("|", " ").split()} == {(facet, value)}


def test_endings_do_not_change_a_meaning() -> None:
    for word in ("rolling", "rolled", "roll", "rolls"):
        assert meaning(word) == ("motion", "roll")
    assert meaning("balls") == meaning("ball")
    assert meaning("xylograph") is None


def test_letter_case_and_spaces_do_not_count() -> None:
    assert interpret("A  red ball ROLLS.\n") == interpret("a red ball rolls.")


def test_unknown_words_still_give_distinct_stable_scenes() -> None:
    one, other = interpret("Zyx qua brimble."), interpret("Zyx qua bramble.")
    assert one == interpret("Zyx qua brimble.")
    assert one != other and one.things and other.things
    assert interpret("").things


@pytest.mark.parametrize("suite", ["moviegen", "storyeval"])
def test_prompts_of_the_suites_give_distinct_scenes(suite: str) -> None:
    folder = Path(suites.__file__).parent
    prompts = (folder / f"{suite}.txt").read_text().splitlines()
    scenes = {interpret(prompt) for prompt in prompts}
    assert len(scenes) == len(prompts)
    assert all(1 <= len(scene.things) <= 3 for scene in scenes)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=80))
def test_any_text_is_a_scene_and_rows(text: str) -> None:
    rows = WorldText().encode([text])
    assert rows.shape == (1, 4, 141) and torch.isfinite(rows).all()
    assert rows.abs().max() <= 2 and rows[0, 0].sum() == 3


def test_rows_tell_scenes_apart() -> None:
    rows = WorldText().encode([clip(seed).prompt for seed in range(40)])
    different = {clip(seed).scene for seed in range(40)}
    assert len({row.numpy().tobytes() for row in rows}) == len(different)


def test_a_thing_has_its_colour_its_mark_and_its_place() -> None:
    image = frames(ALONE, 0.0)[0]
    assert abs(image[32, 64] - [0, 0, 255]).max() < 8  # the mark, hue 2/3
    assert abs(image[32, 57] - [220, 30, 35]).max() < 8
    assert abs(image[32, 90] - [220, 30, 35]).max() > 40


@pytest.mark.parametrize(
    ("change", "seen"),
    [({"enters": 1}, (False, True, True)), ({"leaves": 1}, (True, False, False))],
)
def test_events_happen_in_their_order(change: dict[str, int], seen: tuple[bool, ...]) -> None:
    scene = replace(ALONE, things=(replace(BALL, **change),))
    image = frames(scene, 2.0, 5.0, 9.0)
    assert tuple((abs(image[:, 32, 57] - [220, 30, 35]).max(-1) < 8).tolist()) == seen


def test_a_thing_turns_to_its_second_colour() -> None:
    scene = replace(ALONE, things=(replace(BALL, turns=1, second="white"),))
    image = frames(scene, 3.0, 5.0)
    assert image[0, 32, 57, 1] < 40 and image[1, 32, 57, 1] > 240


def test_a_rolling_thing_leaves_and_comes_back() -> None:
    x, _, radius = place(replace(BALL, motion="roll", pace="fast"), np.arange(0, 10, 0.25))
    outside = (x < -radius) | (x > 127 + radius)
    back = np.flatnonzero(outside)[-1] + 1
    assert outside.any() and back < len(x) and not outside[0]


def test_camera_and_light_change_the_picture_over_time() -> None:
    for change in ({"camera": "left"}, {"camera": "in"}, {"light": "dusk"}):
        still, moving = frames(ALONE, 8.0), frames(replace(ALONE, **change), 8.0)
        assert abs(still - moving).mean() > 2, change
