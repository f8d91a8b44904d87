"""The study's own data: its 63 summaries by its own rules, and files that are not it."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.sources.published.observations import sections
from harness.system.errors import UserError
from tests.conftest import SHARED
from tests.support.study_observations import row, written

STUDY = SHARED / "published"
NAMES = {
    "compression_ratio": "ratio",
    "peak_vram_gb": "peak_gib",
    "runtime_s": "runtime_s",
    "psnr": "psnr_frame_mean_db",
    "ssim": "ssim",
    "lpips": "lpips",
    "background_consistency": "background",
    "imaging_quality": "imaging",
    "subject_consistency": "subject",
    "aesthetic_quality": "aesthetic",
    "drift_last": "drift_last",
}


@pytest.fixture
def study() -> Path:
    if not (STUDY / "observations.parquet").is_file():
        pytest.skip(f"the study's data not found: {STUDY}")
    return STUDY


@pytest.mark.parametrize("file", ["observations.parquet", "observations.csv.gz"])
def test_all_63_summaries_follow_from_the_observations(study: Path, file: str) -> None:
    summaries = pd.read_csv(study / "summaries.csv")
    found = sections(study / file)
    assert [section.suite for section in found] == ["moviegen", "storyeval"]
    assert sum(len(section.methods) for section in found) == len(summaries) == 63
    for section in found:
        expected = summaries[summaries["benchmark"] == section.suite].set_index("method")
        assert set(expected.index) == set(section.methods)
        for theirs, ours in NAMES.items():
            values = section.values[ours].reindex(expected.index).to_numpy()
            np.testing.assert_allclose(values, expected[theirs].to_numpy(), rtol=1e-12, atol=1e-12)
        for name, method in section.methods.items():
            assert method.family == expected.loc[name, "family"]
            assert method.num_videos == expected.loc[name, "n_videos"]
        assert next(iter(section.methods)) == section.reference == "BF16"


def test_videos_are_in_our_units(study: Path) -> None:
    moviegen, storyeval = sections(study / "observations.parquet")
    assert moviegen.videos.groupby(level="method").size().sum() == 310
    for section in (moviegen, storyeval):
        means = section.videos.groupby(level="method").mean()
        for quantity in ("imaging", "subject", "ssim", "runtime_s", "ratio"):
            both = pd.concat([means[quantity], section.values[quantity]], axis=1).dropna()
            assert len(both) >= 11
            assert both.iloc[:, 0].to_numpy() == pytest.approx(both.iloc[:, 1].to_numpy())
    assert moviegen.values.loc["BF16", "kv_gib"] == 12_076_646_400 / 2**30


def test_drift_ends_with_the_video_and_what_is_not_published_is_said(study: Path) -> None:
    moviegen, storyeval = sections(study / "observations.parquet")
    # Caps of 200 to 700 frames all are the whole clip of 165.
    assert list(moviegen.curves["drift_last"].index) == [3.125, 6.25, 9.375, 10.3125]
    assert moviegen.curves["drift_last"].loc[10.3125, "BF16"] == pytest.approx(0.7394145)
    assert list(storyeval.curves["drift_last"].index) == [3.125, 6.25, 9.375]
    assert not moviegen.traces
    assert moviegen.trace_maxima.loc["RTN_INT4_REFRESH", "memory"] == pytest.approx(21.410126)
    assert "largest" in moviegen.remarks["traces"]
    assert "28 of 33" in moviegen.remarks["curves"]
    assert "3 of 10" in moviegen.methods["KIVI_K2_V4"].reasons["ratio"]


# ---- hand-made files ---------------------------------------------------------------------------


def test_the_rules_by_hand(tmp_path: Path) -> None:
    (section,) = sections(
        written(
            tmp_path,
            row("A", 0, compression_ratio=math.nan, peak_vram_bytes=3 * 2**30, ssim_agg=math.nan),
            row("A", 1, compression_ratio=4.0, peak_vram_bytes=2 * 2**30, ssim_agg=0.25, ssim=0.5),
            row("BF16", 0, run_avg_runtime_s_per_prompt=math.nan, wall_time_sec=2.0),
            row("BF16", 1, run_avg_runtime_s_per_prompt=math.nan, wall_time_sec=5.0),
        )
    )
    assert section.values.loc["A", "ratio"] == 4.0  # the first that is there
    assert section.values.loc["A", "ssim"] == 0.25  # the aggregate, not the mean of the videos
    assert section.values.loc["A", "peak_gib"] == 3.0
    assert section.values.loc["BF16", "runtime_s"] == 3.5
    assert section.videos.loc[("A", 1, 0), "imaging"] == 0.01
    assert section.curves == {} and section.trace_maxima.empty
    assert {"curves", "traces"} <= set(section.remarks)


def test_a_study_without_bf16_says_so(tmp_path: Path) -> None:
    (section,) = sections(written(tmp_path, row("A", 0)))
    assert section.reference is None
    assert "BF16" in section.notes[0]


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-200])
    return path


def renamed(folder: Path) -> Path:
    path = folder / "other.csv"
    path.write_text("benchmark,method,score\nmoviegen,A,1\n")
    return path


def cut_gzip(folder: Path) -> Path:
    path = folder / "observations.csv.gz"
    path.write_bytes(
        gzip.compress(pd.DataFrame([row("A", i) for i in range(99)]).to_csv().encode())
    )
    return cut(path)


def binary(folder: Path) -> Path:
    path = folder / "observations.csv"
    path.write_bytes(bytes(range(256)) * 9)
    return path


def empty(folder: Path) -> Path:
    path = folder / "observations.parquet"
    pd.DataFrame([row("A", 0)]).iloc[:0].to_parquet(path)
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "absent": (lambda folder: folder / "none.parquet", "no such file"),
    "folder": (lambda folder: folder, "cannot be read"),
    "truncated parquet": (lambda folder: cut(written(folder, row("A", 0))), "cannot be read"),
    "truncated csv.gz": (cut_gzip, "cannot be read"),
    "no text": (binary, "cannot be read"),
    "another table": (renamed, "another table, without family, prompt_index"),
    "no rows": (empty, "has no rows"),
    "words": (
        lambda folder: written(folder, row("A", 0, ssim="high")),
        "words for numbers in ssim",
    ),
    "twice": (lambda folder: written(folder, row("A", 0), row("A", 0)), "two rows of one video"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_not_the_study_is_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    make, why = BAD[kind]
    path = make(tmp_path)
    with pytest.raises(UserError) as refused:
        sections(path)
    said = str(refused.value)
    assert why in said and str(path) in said and "\n" not in said
    assert "--observations" in said and "HARNESS_PUBLISHED" in said


@pytest.mark.parametrize("name", ["drift_points.csv", "trace_peaks.csv"])
def test_a_damaged_companion_is_named(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, row("BF16", 0))
    (tmp_path / name).write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=name):
        sections(path)
