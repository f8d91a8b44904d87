"""Numbers as text: decimals, digits that count, signs, and what is no number."""

from __future__ import annotations

import math

from analysis.numbers import number


def test_decimals_or_digits_that_count() -> None:
    assert (number(1.25, 1), number(1234.5, 0)) == ("1.2", "1234")
    assert (number(0.012345, digits=4), number(12345.6, digits=4)) == ("0.01235", "1.235e+04")


def test_what_decimals_would_round_away_keeps_its_digits_if_asked() -> None:
    assert number(0.0123, 2) == "0.01"
    assert (number(0.0123, 2, digits=3), number(-0.0123, 2, digits=1)) == ("0.0123", "-0.01")
    assert (number(0.1, 2, digits=3), number(0.0, 2, digits=3)) == ("0.10", "0.00")


def test_signs() -> None:
    assert (number(1.0, 1, "+"), number(-1.0, 1, "+")) == ("+1.0", "-1.0")
    assert (number(-0.01, 1), number(-0.01, 1, "z"), number(-0.01, 1, "+z")) == (
        *("-0.0", "0.0", "+0.0"),
    )


def test_what_is_no_number() -> None:
    assert (number(None, 2), number(math.nan, 2), number(math.nan, 2, none="NA")) == (
        *("-", "-", "NA"),
    )
    assert (number(math.inf, 2), number(-math.inf, 2, digits=3)) == ("inf", "-inf")
    assert (number(math.inf, 2, "+"), number(math.inf, 2, "z")) == ("+inf", "inf")
