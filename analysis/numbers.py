"""Formats numbers and lists of names for tables, choices, figures and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence


def number(
    value: float | None,
    decimals: int | None = None,
    sign: str = "",
    none: str = "-",
    digits: int | None = None,
) -> str:
    """Format a number; infinite ones become `inf` or `-inf`.

    decimals: digits after the point; None uses `digits` significant digits.
    digits: with decimals, the significant digits of a value below 10^(1 - decimals), of which the
        decimals would show one digit or none; None keeps the decimals.
    sign: as in a format string: `+` always shows a sign, `z` drops the sign of zero.
    none: text for None and NaN.
    """
    # A missing value is a dash and never 0 or nan: a reader must see that nothing was measured.
    if value is None or math.isnan(value):
        return none
    if math.isinf(value):
        return f"{value:{sign}}"  # as a literal `inf`, which the study prints too
    if decimals is None or (digits and value and abs(value) < 10.0 ** (1 - decimals)):
        return f"{value:{sign}.{digits}g}"
    return f"{value:{sign}.{decimals}f}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """Join the first `most` names and say how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
