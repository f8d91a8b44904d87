"""A small section for tests of choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from analysis.section import Method, Section


def section(values: dict[str, dict[str, float]], **more: Any) -> Section:
    """Build a section from values by method; the first method is the reference."""
    methods = {name: Method(name, "", "RTN", 8) for name in values}
    given: dict[str, Any] = {"reference": next(iter(values)), "videos": pd.DataFrame(), **more}
    return Section("ours", "moviegen", False, methods, pd.DataFrame(values).T, **given)


SMALL = {
    "bf16": {"ratio": 1.0, "peak_gib": 20.0, "runtime_s": 10.0, "ssim": np.nan},
    "a": {"ratio": 4.0, "peak_gib": 9.0, "runtime_s": 10.5, "ssim": 0.9},
    "b": {"ratio": 2.0, "peak_gib": 7.0, "runtime_s": 12.0, "ssim": 0.97},
    "c": {"ratio": 8.0, "peak_gib": 6.0, "runtime_s": 20.0, "ssim": 0.5},
    "d": {"ratio": 3.0, "peak_gib": 21.0, "runtime_s": 9.0, "ssim": np.nan},
}
