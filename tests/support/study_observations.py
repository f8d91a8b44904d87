"""Rows in the format of the published study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.sources.published.observations import NUMBERS


def row(method: str, prompt: int, **values: object) -> dict[str, object]:
    plain = dict.fromkeys(NUMBERS, 1.0)
    names = {"benchmark": "moviegen", "method": method, "family": "X", "prompt_index": prompt}
    return {**plain, **names, **values}


def written(folder: Path, *rows: dict[str, object]) -> Path:
    pd.DataFrame(rows).to_parquet(folder / "observations.parquet")
    return folder / "observations.parquet"
