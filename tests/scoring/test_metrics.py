"""Windows, PSNR and LPIPS against hand-worked values and the package that defines them."""

from __future__ import annotations

import math
import subprocess
import sys
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest

from harness.config.compose import choices, configured
from harness.downloads import weights
from harness.prompts.suite import pixel_frames
from harness.scoring.metrics import lpips, psnr
from harness.scoring.metrics.lpips import Lpips
from harness.scoring.metrics.metric import Clip, Frames, Metric, Unscorable
from harness.scoring.metrics.psnr import CAP_DB, Psnr
from harness.scoring.metrics.signals import Signals
from harness.scoring.metrics.ssim import Ssim, SsimGaussian
from harness.scoring.metrics.windows import Quantity, Series, summarise, windows
from tests.support.made_up_frames import moving, noisy


def clip(frames: Frames, fps: float = 16, first_chunk_frames: int = 9) -> Clip:
    return Clip(frames, fps, first_chunk_frames)


def empty(num_frames: int, fps: float, first_chunk_frames: int) -> Clip:
    return clip(np.zeros((num_frames, 2, 2, 3), np.uint8), fps, first_chunk_frames)


# Windows


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
    assert windows(num_frames, length) == expected


def test_summary_by_hand() -> None:
    # 2 frames a second; windows of 1 s behind a first chunk of 2 frames: (4, 6) (8, 8) (10).
    series = np.array([1, 1, 4, 6, 8, 8, 10], dtype=np.float64)
    summary = summarise(series, empty(7, 2, 2))
    assert summary.mean == pytest.approx(38 / 7)
    assert summary.first_chunk == 1
    assert summary.rest == pytest.approx(36 / 5)
    assert summary.windows == [5, 8, 10]
    assert summary.spans == {"0_2s": 3.0, "2_5s": pytest.approx(26 / 3), "after_5s": None}
    assert summary.last_minus_first == 5
    # Centres 1.5, 2.5, 3.25 s. About their means (29/12 s, 23/3): sum of products 4.4167 over
    # sum of squares 1.5417.
    assert summary.slope_per_s == pytest.approx(53 / 18.5)


def test_each_prompt_has_a_segment_behind_the_first_chunk() -> None:
    # 2 frames a second, a first chunk of 2 frames, and prompts that begin at frames 6 and 10.
    series = np.array([9, 9, 1, 1, 3, 5, 2, 2, 2, 2, 8, 8], dtype=np.float64)
    said = Clip(np.zeros((12, 2, 2, 3), np.uint8), 2, 2, switches=(6, 10))
    quantity = Quantity("grey", "grey", suffix="_x")
    row = quantity.row(summarise(series, said))
    assert row["grey_segments_x"] == [2.5, 2, 8]
    assert row["drift_grey_segments_x"] == [3, 0, None]  # the last one lasts a second
    whole = quantity.row(summarise(series, empty(12, 2, 2)))
    assert (whole["grey_segments_x"], whole["drift_grey_segments_x"]) == (None, None)
    assert {n: v for n, v in row.items() if "segments" not in n} == {
        n: v for n, v in whole.items() if "segments" not in n
    }


def test_a_segment_of_the_first_chunk_alone_and_one_equal_to_the_reference_have_no_value() -> None:
    series = np.array([0, 0, 0, 0, 0, 0, 4, 4, 1, 1], dtype=np.float64)
    said = Clip(np.zeros((10, 2, 2, 3), np.uint8), 2, 2, switches=(2, 6))
    found = summarise(series, said, read=lambda error: 100 - error, cap=100).segments
    assert [part and part.mean for part in found] == [None, 100, 97.5]
    assert [part and part.last_minus_first for part in found] == [None, None, 3]
    changes = summarise(series[1:], said, first_frame=1).segments
    assert [part and part.mean for part in changes] == [None, 0, 2.5]


def test_spans_are_cut_by_time() -> None:
    seconds = np.repeat(np.arange(8.0), 16)
    spans = summarise(seconds, empty(128, 16, 9)).spans
    assert spans == {"0_2s": 0.5, "2_5s": 3.0, "after_5s": 6.0}


@pytest.mark.parametrize("first_chunk_frames", [0, 1, 9, 15, 16, 17, 31])
def test_the_first_chunk_has_no_part_in_the_drift(first_chunk_frames: int) -> None:
    line: Series = 5.0 - 0.25 * np.arange(64, dtype=np.float64)
    line[:first_chunk_frames] = 1000.0
    summary = summarise(line, empty(64, 16, first_chunk_frames))
    assert summary.slope_per_s == pytest.approx(-4)
    assert summary.drift_reason is None
    assert summary.last_minus_first is not None and summary.last_minus_first < 0


@pytest.mark.parametrize(
    ("num_frames", "first_chunk_frames", "reason"),
    [
        (1, 9, "no frame behind the first chunk"),
        (9, 9, "no frame behind the first chunk"),
        (20, 9, "a single window of a second behind the first chunk"),
        (32, 9, "a single window of a second behind the first chunk"),
        (33, 9, None),
    ],
)
def test_what_cannot_be_had_is_none_with_a_reason(
    num_frames: int, first_chunk_frames: int, reason: str | None
) -> None:
    summary = summarise(np.arange(float(num_frames)), empty(num_frames, 16, first_chunk_frames))
    assert summary.drift_reason == reason
    assert (summary.slope_per_s is None) == (summary.last_minus_first is None) == bool(reason)
    assert bool(summary.windows) == (num_frames > first_chunk_frames)
    assert summarise(np.array([2.0]), empty(1, 16, 0)).first_chunk is None


@pytest.mark.parametrize("fps", [8.0, 16.0, 23.976])
@pytest.mark.parametrize("first_chunk_frames", [1, 5, 9, 21])
@pytest.mark.parametrize("error", [1, 4, 32])
def test_a_constant_error_behind_an_exact_first_chunk_is_no_drift(
    error: int, first_chunk_frames: int, fps: float
) -> None:
    """By every metric whose value depends on the error alone."""
    reference = np.repeat(moving(1, 16, 16), 90, 0)
    video = reference.copy()
    video[first_chunk_frames:] ^= error
    ours, theirs = (clip(x, fps, first_chunk_frames) for x in (video, reference))
    for metric in (Psnr(), Ssim(), SsimGaussian()):
        row = metric.measure(ours, theirs, "cpu")
        for part in ("last_minus_first", "slope"):
            assert row[metric.quantity.drift_column(part)] == pytest.approx(0, abs=1e-9)
        assert row[metric.quantity.drift_column("reason")] is None
    signals = [Signals().measure(each, None, "cpu") for each in (ours, theirs)]
    for each in (Signals.brightness, Signals.contrast, Signals.sharpness):
        own, base = (row[each.drift_column("slope")] for row in signals)
        assert own == pytest.approx(base, abs=1e-4)


@pytest.mark.parametrize(
    ("exact", "num_capped"),
    [
        (slice(0, 64), 3),  # the whole video
        (slice(0, 32), 1),  # a method that changes nothing for a while
        (slice(40, 64), 1),
        (slice(0, 48), 2),
    ],
)
def test_windows_at_the_cap_are_null_and_there_is_no_drift(exact: slice, num_capped: int) -> None:
    reference = moving(60)
    video = reference ^ 4
    video[exact] = reference[exact]
    row = Psnr().measure(clip(video), clip(reference), "cpu")
    windows = row["psnr_windows_db"]
    assert isinstance(windows, list) and windows.count(None) == num_capped
    assert all(level is None or level < CAP_DB for level in windows)
    assert row["drift_psnr_slope_db_per_s"] is row["drift_psnr_last_minus_first_db"] is None
    reason = row["drift_psnr_reason"]
    assert isinstance(reason, str) and reason.startswith(f"{num_capped} of 3 windows equal")
    assert row["psnr_rest_db"] is not None


@pytest.mark.parametrize(
    ("series", "said"),
    [([], "no frames"), ([1.0, np.nan], "1 of 2 frames"), ([np.inf], "1 of 1 frames")],
)
def test_series_that_are_not_finite_are_refused(series: list[float], said: str) -> None:
    with pytest.raises(Unscorable, match=said):
        summarise(np.array(series), empty(2, 16, 9))


def test_pixel_frames_of_the_first_chunk() -> None:
    assert [pixel_frames(n) for n in (1, 3, 21)] == [1, 9, 81]


def test_a_row_has_what_its_columns_name() -> None:
    quantity = Quantity("loud", "loudness", "lower", "_db", "dB")
    summary = summarise(np.arange(96.0), empty(96, 16, 9))
    row, columns = quantity.row(summary), quantity.columns()
    assert list(row) == [column.name for column in columns]
    assert row["loud_db"] == 47.5 and row["loud_after_5s_db"] == 87.5
    units = {column.name: column.unit for column in columns}
    assert units["drift_loud_slope_db_per_s"] == "dB/s" and units["loud_rest_db"] == "dB"


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


def test_psnr_of_a_video_whose_first_chunk_is_exact() -> None:
    reference = moving(40)
    video = reference.copy()
    video[9:] ^= 4  # every value off by 4: 36.09 dB
    row = Psnr().measure(clip(video), clip(reference), "cpu")
    after_db = 10 * math.log10(255**2 / 16)
    assert row["psnr_first_chunk_db"] == 100
    assert row["psnr_rest_db"] == pytest.approx(after_db)
    assert row["psnr_db"] == pytest.approx(10 * math.log10(255**2 / (16 * 31 / 40)))
    assert row["psnr_frame_mean_db"] == pytest.approx((9 * 100 + 31 * after_db) / 40)
    assert row["psnr_windows_db"] == pytest.approx([after_db, after_db])


# LPIPS


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError(f"tried to download {args}")


@pytest.fixture
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder without any; a download fails the test. Gives the backbone's place."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / weights.FOLDER / "alexnet-owt-7be5be79.pth"


def test_lpips_without_its_file_says_which_where_and_what_to_type(no_weights: Path) -> None:
    reason = Lpips(str(no_weights.parents[1])).missing()
    assert reason is not None
    assert str(no_weights) in reason
    assert "python -m harness fetch weights metrics=lpips" in reason


def test_lpips_refuses_a_file_with_another_checksum(no_weights: Path) -> None:
    no_weights.parent.mkdir(parents=True)
    no_weights.write_bytes(b"half a download")
    reason = Lpips(str(no_weights.parents[1])).missing()
    assert reason is not None and "SHA-256" in reason and str(no_weights) in reason


def test_lpips_refuses_frames_too_small_for_alexnet() -> None:
    small = clip(moving(2, 64, 30))
    with pytest.raises(Unscorable, match="31 pixels or more a side, these are 64x30"):
        Lpips().measure(small, small, "cpu")


def test_lpips_reads_the_file_and_equals_the_package(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lpips as package
    import torch
    from torchvision.models import alexnet  # type: ignore[import-untyped]

    state = alexnet(weights=None).state_dict()
    for name in state.keys() - {n for n in state if n.startswith("features")}:
        state[name] = torch.zeros(()).expand(state[name].shape)  # unused; 230 MB if stored
    no_weights.parent.mkdir(parents=True)
    torch.save(state, no_weights)

    reference = moving(lpips.BATCH_FRAMES + 1, 31, 47)
    video = noisy(reference, sigma=40)
    random_state = torch.random.get_rng_state()
    metric = Lpips(str(no_weights.parents[1]))
    row = metric.measure(clip(video, 4, 1), clip(reference, 4, 1), "cpu")
    assert torch.equal(torch.random.get_rng_state(), random_state), "drew random numbers"

    with warnings.catch_warnings(action="ignore"):
        model = package.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    for name, parameter in model.net.named_parameters():
        parameter.data.copy_(state["features." + name.split(".", 1)[1]])
    scaled = [torch.from_numpy(f).permute(0, 3, 1, 2) / 127.5 - 1 for f in (reference, video)]
    expected = model(*scaled).detach().flatten()
    assert row["lpips"] == pytest.approx(float(expected.mean()), rel=1e-4)
    assert row["lpips_first_chunk"] == pytest.approx(float(expected[0]), rel=1e-4)
    same = metric.measure(clip(reference), clip(reference), "cpu")
    assert same["lpips"] == 0


# Every metric that ships


def shipped() -> list[Metric]:
    from hydra.utils import instantiate

    words = [f"metrics=[{','.join(choices('metrics'))}]"]
    return [instantiate(each) for each in configured(*words)["metrics"].values()]


def test_every_metric_says_how_it_is_read() -> None:
    found = shipped()
    assert {"psnr", "ssim", "lpips"} <= {metric.name for metric in found}
    names = [column.name for metric in found for column in metric.columns()]
    assert len(names) == len(set(names)), "two metrics write one column"
    for metric in found:
        assert metric.version()
        assert all(column.meaning for column in metric.columns())
        names = [column.name.removeprefix("drift_") for column in metric.columns()]
        assert all(name.startswith(metric.name.removeprefix("drift_")) for name in names)


def test_metrics_are_built_without_heavy_imports() -> None:
    code = (
        "import sys; from tests.scoring.test_metrics import shipped; "
        "[(m.version(), m.columns(), m.missing(), m.weights()) for m in shipped()]; "
        "print(*{'torch', 'skimage', 'pandas', 'transformers', 'vbench'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_videos_of_different_shape_are_refused() -> None:
    against = [m for m in shipped() if m.against_reference and m.missing() is None]
    assert against
    for metric in against:
        with pytest.raises(Unscorable, match="20 frames of 40x48, its reference 19 frames of"):
            metric.measure(clip(moving(20)), clip(moving(19)), "cpu")
        with pytest.raises(Unscorable, match="its reference 20 frames of 40x50"):
            metric.measure(clip(moving(20)), clip(moving(20, 40, 50)), "cpu")
