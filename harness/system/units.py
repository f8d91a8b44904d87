"""Formats sizes in bytes."""

from __future__ import annotations

MIB, GIB = 2**20, 2**30


def size(nbytes: float | None) -> str:
    """Format bytes as GiB, MiB or B; "?" for None."""
    if nbytes is None:
        return "?"
    # Two decimals would show fewer bytes as 0.00 MiB.
    if 0 < nbytes < MIB / 100:
        return f"{nbytes:.0f} B"
    # GiB from a tenth on: 0.12 GiB still has two digits.
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB / 10 else f"{nbytes / MIB:.2f} MiB"
