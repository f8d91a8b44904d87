"""Average ranks, Spearman's correlation, and means over resampled prompts; many draws at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def ranks(values: Array) -> Array:
    """Ranks from 1 for the smallest along the last axis; equal values share the mean of theirs.

    Shapes  [..., M] -> [..., M].
    Raises  ValueError: a value is NaN, which has no rank.
    """
    if np.isnan(values).any():
        raise ValueError("a NaN has no rank: leave out what was not measured")
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    found: Array = below + (equal + 1) / 2
    return found


def spearman(first: Array, second: Array) -> Array:
    """Spearman's correlation along the last axis; NaN where all values of one side are equal.

    Shapes  [..., M], [..., M] -> [...], leading axes broadcast.
    Raises  ValueError: a value is NaN.
    """
    a, b = ((r := ranks(values)) - r.mean(-1, keepdims=True) for values in (first, second))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    product = (a * b).sum(-1)
    rho: Array = np.divide(product, size, out=np.full(np.shape(size), np.nan), where=size > 0)
    return rho


def resampled(num: int, num_draws: int, seed: int) -> Array:
    """Weights of `num` equal items: first all alike, then `num_draws` bootstrap samples of them.

    Shapes  -> [1 + num_draws, num], each row sums to 1.
    """
    counts = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), num_draws)
    return np.concatenate([np.ones((1, num)), counts]) / num


def interval(draws: Array, share: float = 0.95) -> tuple[float, float]:
    """The middle `share` of draws by percentiles; a draw without a value (NaN) is passed over.

    Raises  ValueError: no draw has a value.
    """
    known = draws[~np.isnan(draws)]
    if not known.size:
        raise ValueError("no draw has a value: there is no interval")
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
