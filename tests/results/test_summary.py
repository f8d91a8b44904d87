"""The tracker's summary, the table after a run and the report say the same of the same rows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.sources.columns import SOURCES
from harness.benchmarks.made_up import SECONDS
from harness.results import all_runs, summary_table, wandb_mirror
from harness.results.observation import over_videos
from harness.results.quantities import QUANTITIES
from harness.results.summary import summarize
from harness.system.units import GIB, MIB
from tests.support.observations import observation

PEAKS = [name for name, over in over_videos().items() if over == "max"]
NOT_SUMMED = ("seed", "prompt_index", "sample", "fps", "height", "width", "schema_version")


def rows(num: int, num_failed: int = 0) -> pd.DataFrame:
    """Videos whose measurements all differ, and failed ones after them."""
    rng = np.random.default_rng(num)
    names = [name for name, over in over_videos().items() if over]
    made = [
        observation(i, fps=16, **{name: float(rng.uniform(1, 9)) for name in names})
        for i in range(num)
    ]
    failed = [observation(num + i, failure="oom", peak_bytes=999) for i in range(num_failed)]
    table = pd.DataFrame([vars(each) for each in (*made, *failed)])
    scores = {name: rng.uniform(size=len(table)) for name in ("psnr_db", "ssim", "lpips")}
    scores["drift_psnr_slope_db_per_s"] = -rng.uniform(size=len(table))
    return table.assign(**scores, ssim_windows=[[0.5] * SECONDS] * len(table), psnr_reason=None)


@pytest.mark.parametrize(("num", "num_failed"), [(1, 0), (2, 0), (5, 2), (0, 1)])
def test_only_what_means_something_is_aggregated(num: int, num_failed: int) -> None:
    table = rows(num, num_failed)
    found = summarize(table)
    assert (found.pop("num_videos"), found.pop("num_failed")) == (num, num_failed)
    assert not found.keys() & {*NOT_SUMMED, "ssim_windows", "psnr_reason", "scores_version"}
    made = table[table["failure"].isna()]
    for name, value in found.items():
        expected = made[name].max() if name in PEAKS else made[name].mean()
        assert value == pytest.approx(float(expected)), name
    assert bool(found) == bool(num)
    if num:
        assert {"peak_bytes", "generate_s", "psnr_db", "drift_psnr_slope_db_per_s"} <= set(found)


@pytest.mark.parametrize("num", [1, 3, 8])
def test_the_summary_is_what_the_table_shows(num: int) -> None:
    table = rows(num, num_failed=1)
    found, (line,) = summarize(table), summary_table.summarize([table])
    shown = {
        "num_videos": line.n,
        "kv_ratio_full_length": line.ratio_full_length,
        "kv_ratio_same_frames": line.ratio_same_frames,
        "kv_stored_bytes": (line.kv_mib or 0) * MIB,
        "peak_bytes": (line.peak_gib or 0) * GIB,
        "generate_s": line.seconds,
        "psnr_db": line.psnr_db,
        "ssim": line.ssim,
        "lpips": line.lpips,
        "drift_psnr_slope_db_per_s": line.drift_psnr,
    }
    assert shown == pytest.approx({name: found[name] for name in shown})


def test_quantities_of_the_report_are_aggregated_as_in_the_table() -> None:
    overs = over_videos()
    for name, source in SOURCES.items():
        assert QUANTITIES[name].over == (overs.get(source.column) or "mean"), name


def test_headings_of_the_table_are_the_names_of_the_quantities() -> None:
    own = {"method", "n", "KV MiB", "as published"}  # MiB where the report has GiB
    assert set(summary_table.COLUMNS.values()) - own <= {
        each.heading for each in QUANTITIES.values()
    }


def test_no_word_names_two_quantities() -> None:
    titles = [each.title for each in QUANTITIES.values()]
    columns = [each.column for each in SOURCES.values()]
    assert len(set(titles)) == len(titles) and len(set(columns)) == len(columns)
    assert SOURCES["psnr_db"].column == "psnr_db"
    assert SOURCES["psnr_frame_mean_db"].column == "psnr_frame_mean_db"


def test_the_tracker_gets_the_summary_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a session that only keeps what it is given."""
    table, kept = rows(4, num_failed=1), {}

    class Session:
        summary = kept

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def log(self, values: dict[str, Any]) -> None:
            assert set(values) <= {"observations", "sheet"}

    fake = SimpleNamespace(init=lambda **_: Session(), Table=lambda dataframe: dataframe)
    monkeypatch.setitem(__import__("sys").modules, "wandb", fake)
    monkeypatch.setattr(all_runs, "load_run", lambda folder: table)
    run = {
        "folder": tmp_path, "track": {"project": "p", "mode": "offline"}, "model_name": "m",
        "suite": SimpleNamespace(name="s"), "track_id": "t",
    }  # fmt: skip
    settings: dict[str, Any] = {x: {} for x in ("model", "method", "attention", "integration")}
    wandb_mirror._mirror(SimpleNamespace(**run, **settings))  # type: ignore[arg-type]
    assert kept == summarize(table)
