"""Quantities of tables, figures and choices, each with one name, unit and direction.

Sources (`analysis.sources.published`, `analysis.sources.results`) translate their own columns into
these names; the rest of the analysis uses no other column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Quantity:
    """A measured quantity of a video or of a method.

    better: which direction is an improvement.
    decimals: digits printed after the point.
    over: how the values of a method's videos are aggregated.
    fidelity: True for a distance to the BF16 video of the same prompt and seed. BF16 itself has no
    value then, so methods are compared with the noise floor instead of with BF16.
    """

    name: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    decimals: int
    meaning: str
    over: Literal["mean", "max"] = "mean"
    fidelity: bool = False

    @property
    def heading(self) -> str:
        """Title and unit, for the heading of a column or the label of an axis."""
        return f"{self.title} {self.unit}".strip()

    def places(self, size: float) -> int:
        """Return the decimals for numbers of magnitude `size`.

        Small values in GiB or s get more decimals, so that three significant digits remain.
        """
        # Only these two span orders of magnitude between the small models and a card.
        if self.unit not in ("GiB", "s") or not math.isfinite(size) or not size:
            return self.decimals
        return max(self.decimals, 2 - math.floor(math.log10(abs(size))))

    def improves(self, new: float, old: float) -> bool:
        """Whether `new` is better than `old`."""
        return new > old if self.better == "higher" else new < old


_ALL = (
    Quantity(
        "ratio", "ratio", "", "higher", 2,
        "BF16 bytes of the whole video's history over the bytes held at its end",
    ),
    Quantity(
        "ratio_same", "ratio same", "", "higher", 2,
        "BF16 bytes of the frames still attended over the bytes held",
    ),
    Quantity("kv_gib", "KV", "GiB", "lower", 3, "bytes of history held after the last commit"),
    # The maximum: a card must hold the largest video, not the mean.
    Quantity(
        "peak_gib", "peak", "GiB", "lower", 2, "largest memory of any video and phase", over="max"
    ),
    Quantity("runtime_s", "runtime", "s", "lower", 1, "seconds a video"),
    Quantity("seconds_ratio", "s per s", "", "lower", 2, "seconds a generated second takes"),
    Quantity(
        "psnr_db", "PSNR", "dB", "higher", 2, "of the mean squared error of the whole video",
        fidelity=True,
    ),
    # Both readings: only this one may be compared with the study's printed numbers.
    Quantity(
        "psnr_frame_mean_db", "PSNR frame mean", "dB", "higher", 2,
        "the published study's reading: mean over frames of each frame's decibels, so that frames "
        "that equal BF16's lift it",
        fidelity=True,
    ),
    Quantity(
        "psnr_rest_db", "PSNR rest", "dB", "higher", 2,
        "of the mean squared error after the first chunk, which only skipped passes change",
        fidelity=True,
    ),
    # A slope: PSNR falls during a video, so a larger (less negative) number is better.
    Quantity(
        "psnr_drift", "PSNR drift", "dB/s", "higher", 3,
        "change of PSNR in time behind the first chunk, least squares over seconds", fidelity=True,
    ),
    Quantity("ssim", "SSIM", "", "higher", 3, "mean over frames", fidelity=True),
    Quantity("lpips", "LPIPS", "", "lower", 3, "mean over frames, AlexNet", fidelity=True),
    Quantity("background", "background", "", "higher", 3, "VBench background consistency, 0..1"),
    Quantity("imaging", "imaging", "", "higher", 3, "VBench imaging quality, 0..1"),
    Quantity("subject", "subject", "", "higher", 3, "VBench subject consistency, 0..1"),
    Quantity("aesthetic", "aesthetic", "", "higher", 3, "VBench aesthetic quality, 0..1"),
    Quantity(
        "drift_last", "drift last", "", "higher", 3,
        "the published study's terminal drift: imaging quality of the last prefix clip, 0..1",
    ),
    Quantity(
        "imaging_drift", "imaging drift", "", "higher", 3,
        "VBench imaging quality of the last second less that of the first behind the first chunk",
    ),
)  # fmt: skip
QUANTITIES: Mapping[str, Quantity] = {each.name: each for each in _ALL}
SYSTEMS = ("ratio", "peak_gib", "runtime_s")
QUALITY = (
    *("psnr_db", "psnr_frame_mean_db", "psnr_rest_db", "ssim", "lpips"),
    *("background", "imaging", "subject", "aesthetic", "drift_last"),
)


def is_fidelity(name: str) -> bool:
    """Whether this is a quantity that measures a distance to BF16, so that BF16 has no value."""
    # Tables may have columns that are no quantities, such as those of a user's own metric.
    return name in QUANTITIES and QUANTITIES[name].fidelity
