"""Signals of pixels, against hand-worked images and what is done to a video."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from harness.scoring.metrics.metric import Clip, Frames, Unscorable
from harness.scoring.metrics.signals import (
    Signals,
    change,
    colourfulness,
    contrast,
    luma,
    sharpness,
)
from harness.scoring.metrics.windows import summarise

FPS = 4


def row(frames_THWC: Frames, first_chunk_frames: int = 4) -> dict[str, object]:
    return dict(Signals().measure(Clip(frames_THWC, FPS, first_chunk_frames), None, "cpu"))


def textured(num_frames: int) -> Frames:
    """The same grainy image again and again."""
    image = np.random.default_rng(0).integers(60, 200, (24, 32, 3), dtype=np.uint8)
    return np.repeat(image[None], num_frames, 0)


def test_luma_weighs_colours_as_bt601() -> None:
    primaries = 255 * np.eye(3, dtype=np.float32)[None]
    assert luma(primaries)[0] == pytest.approx([76.245, 149.685, 29.07])


def test_contrast_of_two_halves_is_half_their_distance() -> None:
    image = np.zeros((4, 6), np.float32)
    image[:, 3:] = 50
    assert contrast(image) == pytest.approx(25)


def test_sharpness_of_one_bright_pixel() -> None:
    image = np.zeros((5, 5), np.float32)
    image[2, 2] = 10  # of nine inner pixels: -40 once, 10 four times, mean 0
    assert sharpness(image) == pytest.approx((40**2 + 4 * 10**2) / 9)


def test_sharpness_does_not_see_a_ramp() -> None:
    ramp = np.add.outer(3 * np.arange(6), 2 * np.arange(8)).astype(np.float32)
    assert sharpness(ramp) == pytest.approx(0)


def test_colourfulness_by_hand() -> None:
    grey = np.full((4, 4, 3), 90, np.float32)
    assert colourfulness(grey) == 0
    half = np.zeros((2, 2, 3), np.float32)
    half[0, :, 0] = 200  # red above black: a is 200 and 0, b is 100 and 0
    assert colourfulness(half) == pytest.approx(math.hypot(100, 50) + 0.3 * math.hypot(100, 50))


def test_functions_of_many_images_are_those_of_each() -> None:
    pixels = np.random.default_rng(1).uniform(0, 255, (3, 8, 9, 3)).astype(np.float32)
    for function, images in (
        (contrast, luma(pixels)),
        (sharpness, luma(pixels)),
        (colourfulness, pixels),
    ):
        assert function(images) == pytest.approx([float(function(x)) for x in images], rel=1e-5)
    before, after = luma(pixels)[:2]
    assert change(after, before) == pytest.approx(np.abs(after - before).mean())


def test_a_still_video_does_not_drift() -> None:
    values = row(textured(12))
    assert values["signals_flicker"] == 0
    for name in ("brightness", "contrast", "sharpness", "colourfulness", "flicker"):
        assert values[f"drift_signals_{name}_last_minus_first"] == pytest.approx(0, abs=1e-9)
        assert values[f"drift_signals_{name}_slope_per_s"] == pytest.approx(0, abs=1e-9)
        assert len(values[f"signals_{name}_windows"]) == 2  # type: ignore[arg-type]


def test_each_signal_sees_its_own_fault() -> None:
    """Twelve frames, the last second dimmed, washed out, blurred, or grey."""
    first = textured(12).astype(np.float64)
    last = slice(8, 12)

    def drift(changed: np.ndarray) -> dict[str, float]:
        video = first.copy()
        video[last] = changed
        values = row(video.round().astype(np.uint8))
        suffix = "_last_minus_first"
        return {
            name.removesuffix(suffix).removeprefix("drift_signals_"): float(value)  # type: ignore[arg-type]
            for name, value in values.items()
            if name.endswith(suffix)
        }

    tail = first[last]
    dimmed = drift(tail - 40)
    assert dimmed["brightness"] == pytest.approx(-40, abs=0.1)
    assert abs(dimmed["contrast"]) < 0.1 and abs(dimmed["sharpness"]) < 1
    washed = drift(tail.mean((1, 2), keepdims=True) + (tail - tail.mean((1, 2), keepdims=True)) / 2)
    assert washed["contrast"] < -5 and abs(washed["brightness"]) < 0.5
    blurred = (tail + np.roll(tail, 1, 1) + np.roll(tail, 1, 2) + np.roll(tail, (1, 1), (1, 2))) / 4
    assert drift(blurred)["sharpness"] < 0.5 * -float(row(textured(2))["signals_sharpness"])  # type: ignore[arg-type]
    grey = drift(np.repeat((tail @ [0.299, 0.587, 0.114])[..., None], 3, -1))
    assert grey["colourfulness"] < -30 and abs(grey["brightness"]) < 0.5


def test_flicker_counts_from_the_second_frame_in_the_windows_of_all() -> None:
    levels = [0, 10, 10, 10, 40, 40, 40, 40, 44]  # changes: 10 in the first chunk, then 30 and 4
    video = np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 4, 4, 3))
    values = row(video, first_chunk_frames=4)
    assert values["signals_flicker"] == pytest.approx(44 / 8, rel=1e-5)
    assert values["signals_flicker_windows"] == pytest.approx([34 / 5], rel=1e-5)
    assert values["signals_flicker_first_chunk"] == pytest.approx(10 / 3, rel=1e-5)
    assert values["signals_flicker_rest"] == pytest.approx(34 / 5, rel=1e-5)
    assert len(values["signals_brightness_windows"]) == 1  # type: ignore[arg-type]


def test_a_window_without_a_value_is_left_out() -> None:
    clip = Clip(np.zeros((4, 4, 4, 3), np.uint8), 1, 1)  # a frame a second
    assert summarise(np.array([1.0, 2, 4]), clip, first_frame=1).windows == [1, 2, 4]
    assert summarise(np.array([1.0, 2, 4]), clip, first_frame=1).first_chunk is None


def test_columns_are_what_is_measured_and_neither_way_is_better() -> None:
    columns = Signals().columns()
    assert [column.name for column in columns] == list(row(textured(12)))
    assert {column.better for column in columns} == {None}
    assert all(column.name.startswith(("signals_", "drift_signals_")) for column in columns)


@pytest.mark.parametrize("shape", [(1, 8, 8, 3), (4, 2, 8, 3), (4, 8, 2, 3)])
def test_too_little_to_look_at_is_said(shape: tuple[int, ...]) -> None:
    with pytest.raises(Unscorable, match=f"has {shape[0]} of {shape[1]}x{shape[2]}"):
        row(np.zeros(shape, np.uint8))


def test_describing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; from harness.scoring.metrics.signals import Signals; s = Signals(); "
        "s.columns(); "
        "s.version(); s.missing(); print({'torch', 'skimage', 'pandas'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
