"""Aggregates the rows of a run to one number per column, for tables and the tracker's summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.results.observation import over_videos
from harness.results.scores import Scored
from harness.system import parquet

if TYPE_CHECKING:
    import pandas as pd


def summarize(rows: pd.DataFrame) -> dict[str, float]:
    """Aggregate the rows of one run over the videos that were made.

    Observations: each column declares its aggregate (`harness.results.observation.column`). Peaks
    take the maximum, other measurements the mean; seed, index and size have no aggregate.
    Scores take the mean. Columns without any value are left out.

    Adds num_videos, the videos that were made, and num_failed, those that could not be made.
    """
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    made = rows[rows["failure"].isna()]
    found: dict[str, float] = {"num_videos": len(made), "num_failed": len(rows) - len(made)}
    # Identity columns have no aggregate. Columns of metrics are not known here: they take the mean.
    known = {**dict.fromkeys(parquet.schema(Scored).names, ""), **over_videos()}
    for name in map(str, rows.columns):
        over = known.get(name, "mean")
        if not over:
            continue
        # A column with nulls may hold objects; without them its type shows. To pandas a bool is
        # numeric too.
        values = made[name].dropna().infer_objects()
        if len(values) and is_numeric_dtype(values) and not is_bool_dtype(values):
            found[name] = float(values.max() if over == "max" else values.mean())
    return found
