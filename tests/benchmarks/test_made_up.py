"""The bench of the analysis: its made-up rows are as real ones, and it runs."""

from __future__ import annotations

from pathlib import Path

from harness.benchmarks.made_up import write_results
from harness.results import all_runs


def test_made_up_rows_are_read_as_real_ones(tmp_path: Path) -> None:
    assert write_results(tmp_path, 10, 3) == 12
    table = all_runs.load(tmp_path)
    assert len(table) == 12
    assert table["method"].nunique() == 3
    bf16 = table[table["method"] == "bf16"]
    assert bf16["ssim"].isna().all()
    assert bf16["signals_sharpness"].notna().all()
    assert table[table["method"] != "bf16"]["ssim_windows"].map(len).eq(10).all()
    assert (table["reference_run_id"] == bf16["run_id"].iloc[0]).all()
