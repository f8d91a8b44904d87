"""A number and a list of names, as tables, choices, figures and the report print them."""

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
    """The text of a number, `inf` or `-inf` for infinite ones.

    decimals: after the point; None for `digits` that count instead. digits: with decimals, how many
    are shown of a value that the decimals would round away; None to round it away. sign: of a
    format, `+` for a sign always, `z` for no sign of zero. none: stands for None and NaN.
    """
    if value is None or math.isnan(value):
        return none
    if math.isinf(value):
        return f"{value:{sign.rstrip('z')}}"
    if decimals is None or (digits and value and abs(value) < 10.0 ** (1 - decimals)):
        return f"{value:{sign}.{digits}g}"
    return f"{value:{sign}.{decimals}f}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
