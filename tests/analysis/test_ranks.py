"""Ranks, correlations and redrawn prompts, against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr

from analysis.statistics import interval, ranks, resampled, spearman

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("levels", [3, 1000])  # many ties, hardly any
def test_ranks_and_correlation_are_scipys(levels: int) -> None:
    first, second = RNG.integers(0, levels, (2, 50, 33)).astype(float)
    assert np.array_equal(ranks(first), rankdata(first, axis=-1))
    expected = [spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    assert spearman(first, second) == pytest.approx(expected, abs=1e-12)


def test_a_correlation_broadcasts_over_draws() -> None:
    draws, fixed = RNG.normal(size=(7, 9)), RNG.normal(size=9)
    assert spearman(draws, fixed) == pytest.approx([spearmanr(d, fixed).statistic for d in draws])


def test_equal_values_have_no_correlation_and_a_nan_no_rank() -> None:
    assert math.isnan(spearman(np.ones(4), np.arange(4.0)))
    with pytest.raises(ValueError, match="NaN has no rank"):
        ranks(np.array([1.0, np.nan]))


def test_the_first_sample_is_the_data_and_the_others_are_drawn_from_it() -> None:
    weights = resampled(8, 4000, seed=3)
    assert weights.shape == (4001, 8)
    assert np.array_equal(weights[0], np.full(8, 1 / 8))
    assert weights.sum(1) == pytest.approx(np.ones(4001))
    assert weights[1:].mean(0) == pytest.approx(np.full(8, 1 / 8), abs=0.01)
    assert np.array_equal(weights, resampled(8, 4000, seed=3))
    assert not np.array_equal(weights, resampled(8, 4000, seed=4))


def test_the_interval_is_the_middle_of_the_draws_that_have_a_value() -> None:
    draws = np.append(np.arange(101.0), np.nan)
    assert interval(draws, 0.9) == pytest.approx((5.0, 95.0))
    with pytest.raises(ValueError, match="no draw has a value"):
        interval(np.array([np.nan]))
