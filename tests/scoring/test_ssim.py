"""SSIM under both windows against scikit-image, frame by frame."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.commands.bench import main
from harness.scoring.metrics.metric import Clip, Frames, Unscorable
from harness.scoring.metrics.psnr import per_frame_mse
from harness.scoring.metrics.ssim import Ssim, SsimGaussian, per_frame
from tests.conftest import ROOT

METRICS = (Ssim(), SsimGaussian())
DEFINITION: dict[str, dict[str, Any]] = {
    "ssim": {},
    "ssim_gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
}
TOLERANCE = 2e-7
Pair = tuple[Frames, Frames]

both = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def as_defined(metric: Ssim, video: Frames, reference: Frames) -> list[float]:
    from skimage.metrics import structural_similarity

    how = {"channel_axis": -1, "data_range": 255, **DEFINITION[metric.name]}
    pairs = zip(reference, video, strict=True)
    return [float(structural_similarity(r, v, **how)) for r, v in pairs]


def ours(metric: Ssim, video: Frames, reference: Frames) -> list[float]:
    values: list[float] = per_frame(video, reference, metric.window).tolist()
    return values


def noise(height: int, width: int, seed: int = 0) -> Pair:
    random = np.random.default_rng(seed)
    video, reference = random.integers(0, 256, (2, 1, height, width, 3), dtype=np.uint8)
    return video, reference


def smooth(height: int, width: int, sigma: float = 5) -> Pair:
    """A smooth image and the same with noise."""
    y, x, c = np.mgrid[:height, :width, :3]
    reference = 128 + 90 * np.sin(0.05 * x + 0.02 * y * (c + 1))
    video = reference + np.random.default_rng(0).normal(0, sigma, reference.shape)
    return (
        video.clip(0, 255).astype(np.uint8)[None],
        reference.astype(np.uint8)[None],
    )


def flat(video: int, reference: int, height: int = 40, width: int = 33) -> Pair:
    shape = (1, height, width, 3)
    return np.full(shape, video, np.uint8), np.full(shape, reference, np.uint8)


def bright() -> Pair:
    """White but for a dark corner, one or two grey levels apart: variances of almost nothing."""
    video, reference = flat(255, 255, 60, 70)
    video[:, 30:, 20:] -= np.random.default_rng(1).integers(0, 3, (30, 50, 3), dtype=np.uint8)
    for frames in (video, reference):
        frames[:, :9, :9] = 0
    return video, reference


def cases() -> Iterator[Any]:
    yield pytest.param(*noise(64, 96), id="noise")
    yield pytest.param(*noise(101, 77), id="odd")
    yield pytest.param(*noise(11, 11), id="smallest")
    yield pytest.param(*noise(12, 15), id="tiny")
    yield pytest.param(*noise(11, 200), id="one row of windows")
    yield pytest.param(*smooth(300, 401), id="several bands")
    yield pytest.param(*smooth(64, 96, 1), id="smooth")
    yield pytest.param(*flat(255, 0), id="white and black")
    yield pytest.param(*flat(255, 254), id="white and almost")
    yield pytest.param(*flat(0, 1), id="black and almost")
    yield pytest.param(*flat(128, 131), id="grey")
    yield pytest.param(*bright(), id="bright")


@both
@pytest.mark.parametrize(("video", "reference"), list(cases()))
def test_it_is_scikit_images(metric: Ssim, video: Frames, reference: Frames) -> None:
    expected = as_defined(metric, video, reference)
    np.testing.assert_allclose(ours(metric, video, reference), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("size", [(7, 7), (8, 9), (9, 7)])
def test_it_is_scikit_images_on_the_smallest_frames(size: tuple[int, int]) -> None:
    for pair in (noise(*size), smooth(*size), flat(0, 255, *size)):
        expected = as_defined(METRICS[0], *pair)
        np.testing.assert_allclose(ours(METRICS[0], *pair), expected, rtol=0, atol=TOLERANCE)


@both
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    height=st.integers(11, 90),
    width=st.integers(11, 90),
    low=st.integers(0, 255),
    spread=st.integers(0, 255),
    seed=st.integers(0, 2**31),
)
def test_it_is_scikit_images_at_any_size_and_range(
    metric: Ssim, height: int, width: int, low: int, spread: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = (1, height, width, 3)
    pair = [
        random.integers(low, min(255, low + each) + 1, shape, dtype=np.uint8)
        for each in (spread, spread // 8)
    ]
    expected = as_defined(metric, *pair)
    np.testing.assert_allclose(ours(metric, *pair), expected, rtol=0, atol=TOLERANCE)


@both
def test_identical_frames_give_exactly_one_and_order_does_not_matter(metric: Ssim) -> None:
    for video, reference in (noise(45, 61), bright(), smooth(45, 61)):
        assert ours(metric, video, video.copy()) == [1.0]
        there, back = ours(metric, video, reference), ours(metric, reference, video)
        assert there == back and there[0] < 1


@both
def test_a_row_has_the_columns_told_and_the_mean_of_frames(metric: Ssim) -> None:
    frames = np.concatenate([noise(20, 24, seed)[0] for seed in range(6)])
    reference = frames.copy()
    reference[3:] = 255 - reference[3:]
    row = metric.measure(Clip(frames, 2, 1), Clip(reference, 2, 1), "cpu")
    assert list(row) == [column.name for column in metric.columns()]
    expected = np.array(as_defined(metric, frames, reference))
    assert expected[:3].tolist() == [1, 1, 1] and (expected[3:] < 0).all()
    assert row[metric.name] == pytest.approx(expected.mean(), abs=TOLERANCE)
    windows = [expected[1:3].mean(), expected[3:5].mean(), expected[5]]  # the last is half full
    assert row[f"{metric.name}_windows"] == pytest.approx(windows, abs=TOLERANCE)
    assert row[f"{metric.name}_first_chunk"] == 1


@pytest.mark.parametrize(
    ("metric", "size", "needed"),
    [
        (METRICS[0], (6, 40), "7x7"),
        (METRICS[0], (40, 6), "7x7"),
        (METRICS[1], (10, 40), "11x11"),
        (METRICS[1], (40, 10), "11x11"),
    ],
)
def test_frames_smaller_than_the_window_have_no_value(
    metric: Ssim, size: tuple[int, int], needed: str
) -> None:
    video, reference = (Clip(frames, 16, 1) for frames in noise(*size))
    with pytest.raises(Unscorable, match=f"{needed}.*{size[0]}x{size[1]}"):
        metric.measure(video, reference, "cpu")


def test_the_windows_are_told_apart() -> None:
    uniform, gaussian = METRICS
    assert uniform.version() != gaussian.version()
    assert not {c.name for c in uniform.columns()} & {c.name for c in gaussian.columns()}
    for metric in METRICS:
        file = OmegaConf.load(ROOT / "conf" / "metrics" / f"{metric.name}.yaml")
        assert instantiate(file).name == metric.name
        assert metric.missing() is None and metric.weights() == {}


def test_what_plans_the_work_waits_for_no_package() -> None:
    code = """
import sys
from harness.scoring.metrics.ssim import Ssim, SsimGaussian
for metric in (Ssim(), SsimGaussian()):
    metric.columns(), metric.version(), metric.missing()
print({"torch", "skimage", "scipy", "pandas"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "set()\n", done.stderr


def test_the_squared_error_of_a_frame_is_exact() -> None:
    for video, reference in (noise(33, 41), flat(0, 255), flat(255, 0)):
        apart = video.astype(int) - reference
        assert per_frame_mse(video, reference).tolist() == [(apart**2).sum() / apart.size]


def test_the_bench_of_scoring_holds_every_frame_against_scikit_image(tmp_path: Path) -> None:
    assert main(["scoring", "--quick", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*-scoring-quick.json")
    found = json.loads(path.read_text())
    rows = {row["case"]: row for row in found["rows"]}
    for name in ("ssim", "psnr"):
        row = rows[f"{name}, any of 24 frames"]
        assert row["item"] == "largest difference" and row["value"] < TOLERANCE
    (ratio,) = (row for row in found["rows"] if row["item"].endswith("scorer, 2 threads"))
    assert "4 clips of 6 frames" in ratio["case"] and ratio["target"] == 2 and ratio["at_least"]
    assert found["versions"]["scikit-image"] and found["state"] == "done"
