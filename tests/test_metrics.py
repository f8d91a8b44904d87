"""Fidelity metrics against hand-worked values and the packages that define them."""

from __future__ import annotations

import hashlib
import math
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harness import metrics
from harness.metrics import Frames, Summary, lpips, psnr, ssim
from harness.suites import pixel_frames

LPIPS_COLUMNS = Summary().columns("lpips")


def moving(num_frames: int = 20, height: int = 40, width: int = 48) -> Frames:
    t, y, x, c = np.mgrid[:num_frames, :height, :width, :3]
    frames: Frames = (128 + 90 * np.sin(0.2 * x + 0.1 * y * (c + 1) + 0.3 * t)).astype(np.uint8)
    return frames


def noisy(frames: Frames, sigma: float = 8.0) -> Frames:
    noise = np.random.default_rng(0).normal(0, sigma, frames.shape)
    return (frames + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty torch home; any attempt to download fails the test. Gives the folder searched."""
    import torch

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"tried to download {args}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    lpips._model.cache_clear()
    yield tmp_path / "hub" / "checkpoints"
    lpips._model.cache_clear()


# PSNR


def test_psnr_by_hand() -> None:
    reference = np.zeros((3, 2, 2, 3), np.uint8)
    video = reference.copy()
    video[1] = 255  # error 255 everywhere: 0 dB
    video[2, 0, 0, 0] = 12  # one of twelve values wrong by 12: MSE 144 / 12
    np.testing.assert_allclose(psnr.per_frame_mse(video, reference), [0, 255**2, 12])
    expected = [psnr.CAP_DB, 0, 10 * math.log10(255**2 / 12)]
    np.testing.assert_allclose(psnr.per_frame(video, reference), expected)
    np.testing.assert_allclose(psnr.per_frame(reference, video), expected)


def test_psnr_is_capped_never_infinite() -> None:
    assert psnr.from_mse(0.0) == psnr.from_mse(1e-300) == psnr.CAP_DB == 100.0
    assert psnr.from_mse(255**2 * 1e-9) == pytest.approx(90)


# SSIM


def test_ssim_is_scikit_images_default() -> None:
    from skimage.metrics import structural_similarity

    reference = moving(3)
    video = noisy(reference)
    expected = [structural_similarity(r, v, channel_axis=-1) for r, v in zip(reference, video)]  # noqa: B905
    np.testing.assert_array_equal(ssim.per_frame(video, reference), expected)
    assert 0 < min(expected) < max(expected) < 1


# LPIPS


def test_lpips_without_its_file_says_which_and_where(no_weights: Path) -> None:
    reason = lpips.unavailable_reason()
    assert reason is not None
    assert "alexnet-owt-7be5be79.pth" in reason
    assert str(no_weights) in reason
    assert lpips.backbone_sha256() is None
    with pytest.raises(ValueError, match="alexnet"):
        lpips.per_frame(moving(2), moving(2))


def test_lpips_refuses_a_file_with_another_checksum(no_weights: Path) -> None:
    no_weights.mkdir(parents=True)
    (no_weights / lpips.BACKBONE).write_bytes(b"half a download")
    digest = hashlib.sha256(b"half a download").hexdigest()
    reason = lpips.unavailable_reason()
    assert reason is not None
    assert "begins with 7be5be79" in reason
    assert digest[:8] in reason
    assert lpips.backbone_sha256() == digest
    (no_weights / lpips.BACKBONE).write_bytes(b"the other half")
    assert lpips.backbone_sha256() == hashlib.sha256(b"the other half").hexdigest()


def test_lpips_refuses_frames_too_small_for_alexnet(no_weights: Path) -> None:
    assert "31 pixels" in str(lpips.unavailable_reason((64, 30)))


def test_lpips_reads_the_file_and_equals_the_package(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lpips as package
    import torch
    from torchvision.models import alexnet  # type: ignore[import-untyped]

    weights = alexnet(weights=None).state_dict()
    for name in weights.keys() - {n for n in weights if n.startswith("features")}:
        weights[name] = torch.zeros(()).expand(weights[name].shape)  # unused; 230 MB if stored
    no_weights.mkdir(parents=True)
    torch.save(weights, no_weights / lpips.BACKBONE)
    monkeypatch.setattr(lpips, "SHA256_PREFIX", "")
    assert lpips.unavailable_reason() is None

    reference = moving(lpips.BATCH_FRAMES + 1, 31, 47)
    video = noisy(reference, sigma=40)
    random_state = torch.random.get_rng_state()
    row = metrics.fidelity(video, reference, fps=4, first_chunk_frames=1)
    distances = lpips.per_frame(video, reference)
    assert torch.equal(torch.random.get_rng_state(), random_state), "drew random numbers"

    with warnings.catch_warnings(action="ignore"):
        model = package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    for name, parameter in model.net.named_parameters():
        parameter.data.copy_(weights["features." + name.split(".", 1)[1]])
    scaled = [torch.from_numpy(f).permute(0, 3, 1, 2) / 127.5 - 1 for f in (reference, video)]
    np.testing.assert_allclose(distances, model(*scaled).detach().flatten(), rtol=1e-4)
    assert (distances > 0).all()
    np.testing.assert_array_equal(lpips.per_frame(reference, reference), 0)
    assert row["lpips"] == pytest.approx(distances.mean())
    assert row["lpips_reason"] is None
    assert row["lpips_backbone_sha256"] == lpips.backbone_sha256()


def test_lpips_that_is_not_finite_is_missing_with_a_reason(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lpips, "unavailable_reason", lambda size_HW=None: None)
    monkeypatch.setattr(lpips, "per_frame", lambda *_: np.array([0.1, np.nan, np.inf]))
    row = metrics.fidelity(moving(3), moving(3), fps=16, first_chunk_frames=1)
    assert row["lpips_reason"] == "LPIPS is not finite in 2 of 3 frames"
    assert {name: row[name] for name in LPIPS_COLUMNS} == LPIPS_COLUMNS


# Windows, drift and the row


@pytest.mark.parametrize(
    ("num_frames", "length", "expected"),
    [
        (16, 8, [(0, 8), (8, 16)]),
        (20, 8, [(0, 8), (8, 16), (16, 20)]),  # half full: counted
        (19, 8, [(0, 8), (8, 19)]),  # less: merged
        (13, 5, [(0, 5), (5, 10), (10, 13)]),
        (12, 5, [(0, 5), (5, 12)]),
        (3, 8, [(0, 3)]),  # nothing to merge into
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_windows(num_frames: int, length: int, expected: list[tuple[int, int]]) -> None:
    assert metrics.windows(num_frames, length) == expected


def test_summary_by_hand() -> None:
    # 2 frames a second; windows of 1 s: (1, 1) (4, 6) (8, 8) (10); the first chunk fills the first.
    series = np.array([1, 1, 4, 6, 8, 8, 10], dtype=np.float64)
    summary = metrics.summarise(series, fps=2, first_chunk_frames=2)
    assert summary.mean == pytest.approx(38 / 7)
    assert summary.first_chunk == 1
    assert summary.rest == pytest.approx(36 / 5)
    assert summary.windows == [1, 5, 8, 10]
    # Centres 1.5, 2.5, 3.25 s. About their means (29/12 s, 23/3): sum of products 4.4167 over
    # sum of squares 1.5417.
    assert summary.slope_per_s == pytest.approx(53 / 18.5)


def test_slope_counts_a_window_only_partly_in_the_first_chunk() -> None:
    line: metrics.Series = 5.0 - 0.25 * np.arange(64, dtype=np.float64)
    for first_chunk_frames in (0, 9, 15, 16, 17, 32):
        summary = metrics.summarise(line, 16, first_chunk_frames)
        assert summary.slope_per_s == pytest.approx(-4)
    line[:16] = 1000.0
    assert metrics.summarise(line, 16, 16).slope_per_s == pytest.approx(-4)
    assert metrics.summarise(line, 16, 15).slope_per_s != pytest.approx(-4)
    assert metrics.summarise(line, 16, 48).slope_per_s is None


def test_what_cannot_be_had_is_none() -> None:
    one = metrics.summarise(np.array([2.0]), fps=16, first_chunk_frames=9)
    assert one == Summary(mean=2.0, first_chunk=2.0, rest=None, windows=[2.0], slope_per_s=None)
    assert metrics.summarise(np.array([2.0]), 16, 0).first_chunk is None


@pytest.mark.parametrize("series", [[], [1.0, np.nan], [np.inf]])
def test_series_that_are_not_finite_are_refused(series: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        metrics.summarise(np.array(series), 16, 9)
    with pytest.raises(ValueError, match="positive"):
        metrics.summarise(np.ones(3), 0, 9)


def test_pixel_frames_of_the_first_chunk() -> None:
    assert [pixel_frames(n) for n in (1, 3, 21)] == [1, 9, 81]


def test_row_of_a_video_whose_first_chunk_is_exact(no_weights: Path) -> None:
    reference = moving(40)
    video = reference.copy()
    video[9:] ^= 4  # every value off by 4: 36.09 dB
    row = metrics.fidelity(video, reference, fps=16, first_chunk_frames=9)
    after_db = 10 * math.log10(255**2 / 16)
    assert row["psnr_first_chunk_db"] == 100
    assert row["psnr_rest_db"] == pytest.approx(after_db)
    assert row["psnr_db"] == pytest.approx(10 * math.log10(255**2 / (16 * 31 / 40)))
    assert row["psnr_frame_mean_db"] == pytest.approx((9 * 100 + 31 * after_db) / 40)
    mixed_db = 10 * math.log10(255**2 / (16 * 7 / 16))
    assert row["psnr_windows_db"] == pytest.approx([mixed_db, after_db, after_db])
    assert row["ssim_first_chunk"] == pytest.approx(1)
    assert isinstance(row["ssim_rest"], float)
    assert row["ssim_rest"] < 1
    assert {name: row[name] for name in LPIPS_COLUMNS} == LPIPS_COLUMNS
    assert "alexnet" in str(row["lpips_reason"])


def test_identical_videos_give_the_cap_and_one_and_finite_numbers(no_weights: Path) -> None:
    row = metrics.fidelity(moving(33), moving(33), fps=16, first_chunk_frames=9)
    assert row["psnr_db"] == row["psnr_rest_db"] == row["psnr_frame_mean_db"] == 100
    assert row["ssim"] == row["ssim_rest"] == pytest.approx(1)
    assert row["psnr_slope_db_per_s"] == 0
    assert row["ssim_slope_per_s"] == pytest.approx(0, abs=1e-12)
    for value in row.values():
        if isinstance(value, float | list):
            assert np.isfinite(value).all()


def test_columns_of_the_row(no_weights: Path) -> None:
    parts = ("", "_first_chunk", "_rest", "_windows")
    expected = {f"psnr{part}_db" for part in parts} | {"psnr_slope_db_per_s", "psnr_frame_mean_db"}
    for name in ("ssim", "lpips"):
        expected |= {name + part for part in parts} | {f"{name}_slope_per_s"}
    expected |= {"lpips_reason", "lpips_backbone_sha256"}
    assert set(metrics.fidelity(moving(2), moving(2), 16, 1)) == expected


def test_videos_of_different_shape_are_refused(no_weights: Path) -> None:
    for other in (moving(19), moving(20, 40, 50), moving(1)):
        for compare in (psnr.per_frame, ssim.per_frame, lpips.per_frame):
            with pytest.raises(ValueError, match=r"\(20, 40, 48, 3\).*against.*3\)"):
                compare(moving(20), other)
        with pytest.raises(ValueError, match="against"):
            metrics.fidelity(moving(20), other, 16, 9)
    with pytest.raises(ValueError, match="uint8"):
        psnr.per_frame(moving(2).astype(np.float64), moving(2).astype(np.float64))
