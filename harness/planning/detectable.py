"""Statistical power: which differences to BF16 a number of prompts can show.

Methods are compared with BF16 by an exact sign-flip test of the paired differences over prompts,
with Holm's correction over the m comparisons of a table. All numbers here refer to Holm's first
step, which compares the smallest p with alpha / m. A difference that passes this step is
significant whatever the other comparisons give.
"""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

ALPHA = Fraction(5, 100)  # two-sided, for all comparisons together
POWER = 0.8
# Below this number of prompts the normal approximation is too optimistic: the exact test needs
# differences that are larger by a fifth at 15 prompts, by a tenth at 30.
FEW = 30


def smallest_p(num_prompts: int) -> Fraction:
    """Return the smallest two-sided p of an exact sign-flip test."""
    # All differences have one sign: 2 of the 2^n equally likely patterns of signs.
    return Fraction(2, 2**num_prompts)


def level(num_comparisons: int) -> Fraction:
    """Return the threshold for the smallest p in Holm's first step."""
    return ALPHA / num_comparisons


def least_prompts(num_comparisons: int) -> int:
    """Return the smallest number of prompts with which any difference can be significant."""
    # Solves 2 / 2^n <= level for n, see `smallest_p`. 2 / level is 40 for each comparison, never a
    # power of two, so rounding in the logarithm cannot move the result.
    return math.ceil(math.log2(2 / level(num_comparisons)))


def detectable(num_prompts: int, num_comparisons: int) -> float:
    """Return the smallest paired difference found with a power of 0.8, by normal approximation.

    Units  standard deviations of the paired differences.
    """
    z = NormalDist().inv_cdf
    # Half of the level at each end, since the test has two sides.
    quantiles = z(1 - float(level(num_comparisons)) / 2) + z(POWER)
    return quantiles / math.sqrt(num_prompts)


def sentence(num_prompts: int, num_comparisons: int) -> str:
    """Return one sentence about the differences that this number of prompts can show."""
    prompts = _counted(num_prompts, "prompt")
    head = f"{prompts}, {_counted(num_comparisons, 'comparison')}"
    p, limit = smallest_p(num_prompts), level(num_comparisons)
    if p > limit:
        # Not even differences of one sign in all prompts are enough, so a size would mislead.
        return (
            f"{head}: {prompts} cannot show any difference after correction (smallest exact p "
            f"{float(p):.2g}, and it must reach {float(limit):.2g}); at least "
            f"{least_prompts(num_comparisons)} could"
        )
    few = ", which is optimistic for so few prompts" if num_prompts < FEW else ""
    return (
        f"{head}: paired differences of about {detectable(num_prompts, num_comparisons):.2f} s.d. "
        f"are detectable after correction (power {POWER}, normal approximation{few})"
    )


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
