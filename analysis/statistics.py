"""Means over prompts with intervals, and paired tests against a base.

Prompts are the sample: several videos of one prompt are averaged first. A method is compared with
its base (BF16; for fidelity the noise floor) on the prompts that both have.

- Interval: percentile bootstrap of the mean, with the same resampled prompts for all methods.
- Test: sign flips of the paired differences. If neither side were better, every difference could
  as well have the other sign; p is the share of sign patterns whose mean lies at least as far
  from zero. Up to `EXACT_UP_TO` prompts all 2^n patterns are counted. Beyond, `NUM_FLIPS` random
  patterns and the observed one are counted, which keeps the level at any number of patterns.
- Correction: Holm's, over the methods that are compared with the base in one quantity.

Source  Fisher 1935, section 21 (sign flips); Holm 1979; Phipson and Smyth 2010 (random patterns).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.section import Section
from harness.planning.detectable import ALPHA
from harness.results.quantities import QUANTITIES

Array = NDArray[np.float64]

# A fixed seed: a table that is printed again must show the same intervals.
NUM_DRAWS, NUM_FLIPS, SEED = 10_000, 20_000, 0
EXACT_UP_TO = 30  # prompts
# Prompts. With fewer, a bootstrap interval is just the smallest and the largest value.
FEWEST = 4
AT_ONCE = 1000  # random patterns, to bound memory
KEPT = 1024  # cached results; tables, figures and report ask for the same ones
NUM_NAMED = 6  # methods that a note names; above this it gives their number


@dataclass(frozen=True)
class Estimate:
    """A mean over n prompts and its 95 % interval; bounds is None for too few prompts."""

    mean: float
    bounds: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class Difference(Estimate):
    """Method minus base on the prompts that both have.

    p: two-sided. adjusted: p after Holm's correction.
    """

    p: float
    adjusted: float

    @property
    def is_supported(self) -> bool:
        """Whether the corrected p is at most ALPHA."""
        return self.adjusted <= ALPHA


def by_prompt(section: Section, quantity: str) -> pd.DataFrame:
    """Average the videos of each prompt: a row per prompt, a column per method, NaN if missing."""
    # No run was scored with the metric of this quantity.
    if quantity not in section.videos:
        return pd.DataFrame()
    known = section.videos[quantity].astype(float).dropna()
    # Samples of one prompt are not independent, so their mean is one observation.
    means = known.groupby(level=["prompt_index", "method"], sort=True).mean()
    return means.unstack("method")


@lru_cache(maxsize=KEPT)
def estimates(section: Section, quantity: str) -> Mapping[str, Estimate]:
    """Compute each method's mean over its prompts, with its interval."""
    return _means(by_prompt(section, quantity))


def base_of(section: Section, quantity: str) -> str | None:
    """Return the base of a quantity's differences: BF16, or for fidelity the noise floor."""
    # BF16 equals itself, so a difference to it would be the fidelity itself and always significant.
    if QUANTITIES[quantity].fidelity:
        return next(iter(section.floors), None)
    return section.reference


@lru_cache(maxsize=KEPT)
def differences(section: Section, quantity: str) -> Mapping[str, Difference]:
    """Compare every method with its base on shared prompts; empty without a base.

    BF16, its reruns and the noise-floor runs are left out: they are bases, not methods.
    """
    table, base = by_prompt(section, quantity), base_of(section, quantity)
    if base is None or base not in table:
        return {}
    beside = {base, section.reference, *section.floors, *section.reruns}
    others = [name for name in table if name not in beside]
    # Pairs take out how hard a prompt is: prompts differ far more than methods do (docs/drift.md).
    paired = table[others].sub(table[base], axis=0)
    found = _means(paired)
    # Only methods that have an estimate are tested, so Holm's correction counts no empty column.
    tests = dict(zip(found, sign_flips(paired[list(found)]), strict=True))
    adjusted = holm(tests)
    return {
        name: Difference(**vars(found[name]), p=tests[name], adjusted=adjusted[name])
        for name in found
    }


@lru_cache(maxsize=KEPT)
def again(section: Section, quantity: str) -> Mapping[str, Estimate]:
    """Estimate how BF16's reruns and noise-floor runs differ from BF16; empty for fidelity."""
    table, base = by_prompt(section, quantity), section.reference
    # BF16 has no fidelity of its own, hence no difference of one.
    if QUANTITIES[quantity].fidelity or base not in table:
        return {}
    others = [name for name in (*section.reruns, *section.floors) if name in table]
    # Untested: a rerun shows the size of noise and supports no claim.
    paired = table[others].sub(table[base], axis=0)
    return _means(paired)


def beside_reruns(section: Section, quantity: str, found: Mapping[str, Difference]) -> str | None:
    """Name supported differences to BF16 that are no larger than a rerun's; None if there are none.

    The paired test asks whether prompts agree. A machine that was busier during one of two runs
    shifts all prompts of that run alike. Only a rerun of BF16 shows the size of such a shift.
    """
    gaps = again(section, quantity)
    # Noise-floor runs do not count: another attention backend takes other seconds by itself.
    sizes = [abs(gaps[name].mean) for name in section.reruns if name in gaps]
    largest = max((size for size in sizes if np.isfinite(size)), default=0.0)
    within = [
        name for name, each in found.items() if each.is_supported and abs(each.mean) <= largest
    ]
    if not within:
        return None
    named = ", ".join(within) if len(within) <= NUM_NAMED else f"{len(within)} methods"
    what = QUANTITIES[quantity]
    return (
        f"{what.title}: BF16 made again differs from {section.reference} by "
        f"{largest:.2g} {what.unit}".rstrip()
        + f", so marks of no larger differences may be the machine's: {named}"
    )


def between(section: Section, quantity: str, a: str, b: str) -> Difference | None:
    """Compare method a with method b on the prompts both have; None if there are none.

    This is one comparison, fixed beforehand or between the best two, so p is not corrected.
    """
    table = by_prompt(section, quantity)
    if a not in table or b not in table:
        return None
    with np.errstate(invalid="ignore"):  # infinite less infinite
        paired = (table[[a]] - table[[b]].to_numpy()).replace([np.inf, -np.inf], np.nan)
    found = _means(paired).get(a)
    if found is None:
        return None
    (p,) = sign_flips(paired)
    return Difference(**vars(found), p=p, adjusted=p)


def estimate(values: pd.Series) -> Estimate | None:
    """Estimate the mean over prompts from one value per prompt; None without any."""
    return _means(pd.DataFrame({"values": values})).get("values")


def ratio(before: pd.Series, after: pd.Series) -> Estimate | None:
    """Estimate before / after as a geometric mean over the prompts both have; None without any."""
    # Ratios are averaged as logarithms: 2x and 0.5x are as far from 1x, which their plain mean
    # denies.
    found = estimate(pd.Series(np.log(before / after)))
    if found is None:
        return None
    bounds = None if found.bounds is None else (np.exp(found.bounds[0]), np.exp(found.bounds[1]))
    return Estimate(float(np.exp(found.mean)), bounds, found.n)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """Return Holm's corrected p of each name, in the order given."""
    found, largest = {}, 0.0
    # The smallest p is multiplied by the number of tests, the next by one less, and so on.
    for place, name in enumerate(sorted(values, key=values.__getitem__)):
        # A corrected p is never smaller than that of a test with a smaller p.
        largest = max(largest, min(1.0, (len(values) - place) * values[name]))
        found[name] = largest
    return {name: found[name] for name in values}


def sign_flips(paired: pd.DataFrame) -> list[float]:
    """Return the two-sided p of each column's mean; a NaN marks a prompt without a value."""
    found = np.empty(paired.shape[1])
    for columns, values in _alike(paired):
        if len(values) <= EXACT_UP_TO:
            found[columns] = [exact_p(column) for column in values.T]
        else:
            found[columns] = _random_p(values)
    return [float(p) for p in found]


def exact_p(differences: Array) -> float:
    """Return the share of sign patterns whose sum is at least as far from zero as the observed sum.

    Shapes  [n] -> p.
    """
    # Meet in the middle: list the sums of each half, then count the pairs that reach the target.
    # This costs 2^(n/2) memory, where the full list of patterns would cost 2^n.
    sums = [np.zeros(1), np.zeros(1)]
    for i, d in enumerate(np.abs(differences)):
        # Differences go to the halves in turn, so that each half has n / 2 of them.
        half = sums[i % 2]
        sums[i % 2] = np.concatenate([half - d, half + d])
    target = abs(float(differences.sum()))
    slack = 1e-9 * max(float(np.abs(differences).sum()), 1e-300)  # equal sums differ by rounding
    # Every pattern is at least as far from zero as a sum of zero.
    if target <= slack:
        return 1.0
    # A pair reaches the target if its right sum is at least the target less its left sum, so one
    # sorted half answers for all pairs of the other.
    left, right = sums[0], np.sort(sums[1])
    reached = (len(right) - np.searchsorted(right, target - slack - left)).sum()
    # Only positive sums were counted. Every pattern has a negated twin, hence the factor 2.
    return float(min(1.0, 2 * reached / (len(left) * len(right))))


def _random_p(values: Array) -> Array:
    """Estimate p from random patterns, shared by all columns: [n, M] -> [M]."""
    rng = np.random.default_rng(SEED)
    # Sums that are equal but for rounding count as reached, as in `exact_p`.
    target = np.abs(values.sum(0)) - 1e-9 * np.abs(values).sum(0)
    reached = np.ones(values.shape[1])  # the observed pattern counts as one, so p is never 0
    for start in range(0, NUM_FLIPS, AT_ONCE):
        num = min(AT_ONCE, NUM_FLIPS - start)
        signs = rng.integers(0, 2, (num, len(values)), dtype=np.int8) * 2.0 - 1.0
        reached += (np.abs(signs @ values) >= target).sum(0)
    p: Array = reached / (NUM_FLIPS + 1)
    return p


def _means(table: pd.DataFrame) -> dict[str, Estimate]:
    """Compute mean, interval and number of prompts of each column that has a value."""
    found = {}
    for columns, values in _alike(table):
        if not len(values):
            continue
        means = values.mean(0)
        finite = np.isfinite(means)  # an infinite value has a mean and no interval
        shown = finite if len(values) >= FEWEST else np.zeros_like(finite)
        # Row 0 of the weights is the sample itself. One product serves all columns of the group.
        draws = iter((redrawn(len(values))[1:] @ values[:, shown]).T)
        for column, mean, is_shown in zip(columns, means, shown, strict=True):
            bounds = interval(next(draws)) if is_shown else None
            found[column] = Estimate(float(mean), bounds, len(values))
    names = list(table.columns)
    # Back to the order of the columns, which the groups have mixed.
    return {str(names[i]): found[i] for i in sorted(found)}


def _alike(table: pd.DataFrame) -> list[tuple[list[int], Array]]:
    """Group columns that have values in the same rows; return their places and these values."""
    # One matrix product then serves a whole group, instead of one per column.
    values = table.to_numpy(float)
    groups: dict[bytes, list[int]] = {}
    for i in range(values.shape[1]):
        groups.setdefault((~np.isnan(values[:, i])).tobytes(), []).append(i)
    return [
        (columns, values[np.frombuffer(mask, bool)][:, columns]) for mask, columns in groups.items()
    ]


# A section has few different numbers of prompts, and 10 001 rows of weights are large.
@lru_cache(maxsize=4)
def redrawn(num: int) -> Array:
    """Return bootstrap weights for `num` prompts, the same for every value.

    Shapes  -> [1 + NUM_DRAWS, num].
    """
    return resampled(num, NUM_DRAWS, SEED)


# ---- ranks, and means over resampled prompts; many draws at once ---------------------------------


def ranks(values: Array) -> Array:
    """Rank values from 1 for the smallest along the last axis; equal values share their mean rank.

    Shapes  [..., M] -> [..., M].
    Raises  ValueError: a value is NaN, which has no rank.
    """
    if np.isnan(values).any():
        raise ValueError("a NaN has no rank: leave out what was not measured")
    # All pairs at once instead of a sort: thousands of draws of some thirty methods are ranked in
    # one call, and ties need no care.
    below = (values[..., None, :] < values[..., :, None]).sum(-1)
    equal = (values[..., None, :] == values[..., :, None]).sum(-1)
    found: Array = below + (equal + 1) / 2
    return found


def spearman(first: Array, second: Array) -> Array:
    """Compute Spearman's correlation along the last axis; NaN if all values of one side are equal.

    Shapes  [..., M], [..., M] -> [...], leading axes broadcast.
    Raises  ValueError: a value is NaN.
    """
    # Pearson's correlation of the ranks: the shorter formula by rank differences fails with ties.
    a, b = ((r := ranks(values)) - r.mean(-1, keepdims=True) for values in (first, second))
    size = np.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    product = (a * b).sum(-1)
    rho: Array = np.divide(product, size, out=np.full(np.shape(size), np.nan), where=size > 0)
    return rho


def resampled(num: int, num_draws: int, seed: int) -> Array:
    """Return weights of `num` items: equal ones first, then those of `num_draws` bootstrap samples.

    Shapes  -> [1 + num_draws, num], each row sums to 1.
    """
    # How often each item is drawn decides a sample's mean, so counts stand for lists of indices: a
    # mean over all samples is then one matrix product.
    counts = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), num_draws)
    return np.concatenate([np.ones((1, num)), counts]) / num


def interval(draws: Array, share: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval that holds the middle `share` of the draws, without NaN draws.

    Raises  ValueError: no draw has a value.
    """
    known = draws[~np.isnan(draws)]
    if not known.size:
        raise ValueError("no draw has a value: there is no interval")
    low, high = np.quantile(known, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)
