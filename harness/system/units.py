"""Bytes as people read them."""

from __future__ import annotations

MIB, GIB = 2**20, 2**30


def size(nbytes: float | None) -> str:
    """GiB, or MiB or bytes where that says more; a question mark where it is unknown."""
    if nbytes is None:
        return "?"
    if 0 < nbytes < MIB / 100:
        return f"{nbytes:.0f} B"
    return f"{nbytes / GIB:.2f} GiB" if nbytes >= GIB / 10 else f"{nbytes / MIB:.2f} MiB"
