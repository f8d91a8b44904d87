"""What the planner counts of the study's methods at their own sizes: bytes and peaks, no run."""

from __future__ import annotations

from dataclasses import dataclass

from harness.system.units import GIB


@dataclass(frozen=True)
class Counted:
    """Quantities of one row of the study, counted from what it stored."""

    suite: str
    row: str
    values: dict[str, float]


def counted() -> list[Counted]:
    """Every row and suite of the study; imports the network, takes some seconds."""
    from harness.planning.study_table import rows

    return [
        Counted(each.suite, each.method, {"ratio": each.ratio, "peak_gib": each.peak_bytes / GIB})
        for each in rows()
    ]
