"""The world's detector, held against clips whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.small_model.codec import encode, preview
from harness.small_model.scenes.__main__ import main
from harness.small_model.scenes.clip import Clip, clip
from harness.small_model.scenes.detect import (
    Frames,
    View,
    acts,
    explained,
    figure,
    in_cells,
    mark,
    setting,
)
from harness.small_model.scenes.judge import chosen, judge
from harness.small_model.scenes.rates import curve, wilson
from harness.small_model.scenes.report import Videos, of_run, report
from harness.small_model.scenes.scene import COLOURS, KINDS, Act, Scene, Thing
from harness.system.errors import UserError

TIMES_S = np.arange(42) / 4
HUES = (0.1, 0.45, 0.8)
ACTIONS = ("rest", "walk", "run", "jump", "turn", "rise", "fall", "grow")


def thing(kind: str, colour: str, *actions: str, x: float = 0.3) -> Thing:
    first, second, third = (Act(name, colour, 0.9) for name in (*actions, *actions[-1:] * 2)[:3])
    return Thing(kind, "medium", x, 0.5, 0.2, (first, second, third))


def scene(*things: Thing, place: str = "field", light: str = "day") -> Scene:
    return Scene(place, light, "clear", "still", 0.37, things)


def video(shown: Scene, noise: float = 0.0, hues: tuple[float, ...] = HUES) -> Frames:
    """Keyframes through the codec, which blurs them, with noise in latents."""
    latents = encode(Clip(shown, hues).keyframes(range(42)))
    draws = torch.Generator().manual_seed(0)
    return preview(latents + noise * torch.randn(latents.shape, generator=draws))


def view(shown: Scene, keyframes: Frames, frames: range = range(42)) -> View:
    return View.of(shown, in_cells(keyframes[frames]), TIMES_S[frames])


def tiered(values: Sequence[float | str], *quick: float | str) -> list[Any]:
    """Mark all values but those in `quick` as slow: each is the same search in another clip."""
    return [x if x in quick else pytest.param(x, marks=pytest.mark.slow) for x in values]


@pytest.mark.parametrize("seed", tiered(range(6), 5))
def test_the_place_and_its_shift_are_found(seed: int) -> None:
    own = clip(seed).scene
    few = [0, 20, 41]
    place, shift = setting(own, in_cells(video(own)[few]), TIMES_S[few])
    assert place == own.place
    apart = abs(shift - own.shift)
    assert apart < 0.07


@pytest.mark.parametrize("noise", tiered([0.0, 0.15], 0.15))
def test_kind_and_colour_are_found_beside_another_thing(noise: float) -> None:
    man, car = thing("man", "green", "rest"), thing("car", "red", "walk", x=0.9)
    shown = scene(man, car, light="dusk")
    frames = range(4, 14, 6)
    seen = view(shown, video(shown, noise), frames)
    for index, each in enumerate((man, car)):
        worth_KC = figure(explained(seen, [(car, man)[index]]), each)
        kind, colour = divmod(int(worth_KC.argmax()), len(COLOURS))
        assert (KINDS[kind], COLOURS[colour]) == (each.kind, each.acts[0].colour)


@pytest.mark.parametrize("action", tiered(ACTIONS, "walk", "grow"))
def test_actions_are_found_wherever_they_happen(action: str) -> None:
    shown = scene(thing("dog", "orange", action, x=0.7))
    frames = range(0, 14, 2)
    worths = acts(view(shown, video(shown), frames), shown.things[0], 0, "orange")
    assert max(worths, key=lambda name: worths[name]) == action


def test_the_hue_of_a_mark_is_measured_and_a_change_is_noticed() -> None:
    shown = scene(thing("woman", "blue", "rest", "away", "nod"), light="night")
    kept, other = video(shown), video(shown, hues=(0.6, 0, 0))
    latents = encode(kept)
    at = np.arange(8, 12)
    found = mark(view(shown, kept).at(at), latents[at], shown.things[0], "blue").mean(0)
    # A hue of 0.1 is mostly red, then green.
    assert found[0] > 0.8 and 0.3 < found[1] < 0.8 and found[2] < 0.2
    changed = np.concatenate([kept[:21], other[21:]])
    assert judge(shown, kept).answers["look kept"] == [True]
    assert judge(shown, changed).answers["look kept"] == [False]


def test_a_video_of_another_prompt_is_mostly_wrong() -> None:
    shown = scene(thing("chef", "yellow", "walk", "jump"), place="kitchen")
    told = scene(thing("whale", "black", "sway", "grow", "turn"), place="sea", light="night")
    right, wrong = judge(shown, video(shown)), judge(told, video(shown))
    assert all(all(answers) for answers in right.answers.values())
    assert [len(right.answers[q]) for q in ("place", "shape", "colour", "motion")] == [1, 1, 1, 3]
    assert not any(wrong.answers[q][0] for q in ("place", "shape", "colour"))


def test_the_right_prompt_of_several_is_chosen() -> None:
    own = scene(thing("horse", "white", "run"))
    others = [
        scene(thing("horse", "red", "run")),
        scene(thing("truck", "white", "run")),
        replace(own, place="desert"),
    ]
    assert chosen([*others, own], video(own, noise=0.3)) == 3


def test_the_report_lists_rates_and_notices_a_collapse() -> None:
    shown = scene(thing("ball", "purple", "jump"), place="beach")
    keyframes = video(shown)
    faded = keyframes.copy()
    faded[24:] = 128
    lines = {}
    for name, frames in (("kept", keyframes), ("faded", faded)):
        grid = report(Videos(name, (shown,), (frames,)))
        lines[name] = {row[0]: row[1] for row in grid.lines}
        assert grid.title == f"{name}: 1 videos of 42 keyframes"
    assert lines["kept"]["place"] == "1.00"
    assert lines["faded"]["contrast, last second"] == "0.00"
    assert lines["faded"]["look kept"] == "-"
    assert curve(keyframes).shape == (11, 3)


def test_wrong_folders_are_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="is no folder of a run"):
        of_run(tmp_path)
    assert main(["measure"]) == 2
    assert "name the folder of a run" in capsys.readouterr().err


def test_intervals_of_rates() -> None:
    low, high = wilson(8, 10)
    assert 0.48 < low < 0.5 and 0.94 < high < 0.95
    assert wilson(0, 0) == (0.0, 1.0)
