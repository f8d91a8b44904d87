"""Tests whether the best method differs from the runner-up and from the noise floor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from analysis.choosing.frontiers import EPSILON
from analysis.section import Section, cell
from analysis.statistics import Difference, between
from harness.planning.detectable import ALPHA, smallest_p
from harness.results.quantities import QUANTITIES


def sureness(section: Section, names: Sequence[str], by: Sequence[str]) -> list[str]:
    """Describe how the first of an order compares with the second.

    names: best first.
    by: quantities that order them; the first one in which the two differ is tested.
    """
    others = [name for name in names if name != section.reference]
    if not others or not by:
        return []
    # With nothing to be better than, only the noise floor is left to compare with.
    if len(others) == 1:
        return _of_floor(section, by[0], others[0])
    first, second = others[:2]
    # Ties in the first quantity are broken by the next, so the first that differs is tested.
    for deciding in by:
        a, b = (cell(section.values, name, deciding) for name in (first, second))
        # Equal infinities have no finite difference, hence `a != b`. A value that only one of them
        # has makes the difference NaN, which counts as one.
        if not (np.isnan(a) and np.isnan(b)) and a != b and not abs(a - b) <= EPSILON:
            break
    else:
        return [f"{first} and {second} are equal in all of {', '.join(by)}"]
    # Two questions: is it better than the next one, and is its error more than rounding.
    return [*compared(section, deciding, first, second), *_of_floor(section, deciding, first)]


def compared(section: Section, quantity: str, first: str, second: str) -> list[str]:
    """Describe the paired difference of two methods in one quantity."""
    what = QUANTITIES[quantity]
    # A maximum over videos is one number without a sample, so there is no test of it.
    if what.over == "max":
        a, b = (cell(section.values, name, quantity) for name in (first, second))
        gap = abs(a - b)
        said = f"{what.title}: {first} is {gap:.3g} {what.unit} ahead of {second}, of the largest "
        return [said + f"of each; no test is made of maxima{_beside_noise(section, quantity, gap)}"]
    found = between(section, quantity, first, second)
    if found is None:
        return [f"{what.title}: no prompt has both {first} and {second}, so they are not compared"]
    verdict = "told apart" if found.p <= ALPHA else "not told apart"
    # So few prompts could not show any difference, which is another verdict than "equal".
    if smallest_p(found.n) > ALPHA:
        verdict = f"not told apart, which no difference could be with {found.n} prompts"
    noise = _beside_noise(section, quantity, abs(found.mean))
    # Exact quantities, such as bytes, differ by the same amount in every video.
    if found.bounds is not None and found.bounds[0] == found.bounds[1]:
        said = f"{found.mean:+.3g}, in every video alike"
    else:
        said = f"{_described(found)}: {verdict}"
    return [f"{what.title}: {first} less {second} {said}{noise}"]


def _described(found: Difference) -> str:
    """Format a difference with its interval, prompts and p."""
    span = ""
    if found.bounds is not None:
        span = f"95 % {found.bounds[0]:+.3g} to {found.bounds[1]:+.3g}, "
    return f"{found.mean:+.3g} ({span}n {found.n}, p {found.p:.2g})"


def _beside_noise(section: Section, quantity: str, gap: float) -> str:
    """Say whether a BF16 rerun or noise-floor run differs from BF16 at least as much."""
    # BF16 has no fidelity of its own, so its reruns have no difference in it.
    if QUANTITIES[quantity].fidelity or section.reference is None:
        return ""
    base = cell(section.values, section.reference, quantity)
    gaps = [abs(cell(section.values, name, quantity) - base) for name in section.again]
    largest = max((each for each in gaps if np.isfinite(each)), default=0.0)
    if largest < gap or not largest:
        return ""
    return f"; BF16 made again differs from BF16 by {largest:.3g}, so this may be chance"


def _of_floor(section: Section, quantity: str, first: str) -> list[str]:
    """Compare the fidelity of the best method with the noise floor."""
    what = QUANTITIES[quantity]
    if not what.fidelity:
        return []
    # The study ran no noise floor, and none can be made of its data.
    if not section.floors:
        return [] if section.is_published else [
            f"{what.title}: no noise floor among these runs (docs/drift.md tells how to make one)"
        ]  # fmt: skip
    floor = section.floors[0]
    found = between(section, quantity, first, floor)
    if found is None:
        return [f"{what.title}: no prompt has both {first} and the noise floor"]
    is_better = what.improves(found.mean, 0.0)
    if found.p > ALPHA:
        where = "not told apart from the noise floor"
    else:
        where = "better than the noise floor" if is_better else "worse than the noise floor"
    return [f"{what.title}: {first} less the noise floor ({floor}) {_described(found)}: {where}"]
