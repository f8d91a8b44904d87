"""What a number of prompts can show, said before any of them is made.

Methods are held against BF16 prompt by prompt: the exact sign-flip test of the differences, Holm's
correction over all comparisons of a table. Its first step asks for alpha / m of the smallest p, and
everything here is for that step: what passes there passes whatever the others turn out to be.
"""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import NormalDist

ALPHA = Fraction(5, 100)  # two-sided, for all comparisons together
POWER = 0.8
FEW = 30  # prompts, below which the normal approximation promises too much


def smallest_p(num_prompts: int) -> Fraction:
    """The smallest two-sided p of an exact sign-flip test: all differences on one side."""
    return Fraction(2, 2**num_prompts)


def level(num_comparisons: int) -> Fraction:
    """What the smallest p must not exceed in Holm's first step."""
    return ALPHA / num_comparisons


def least_prompts(num_comparisons: int) -> int:
    """The fewest prompts with which any difference can pass."""
    return math.ceil(math.log2(2 / level(num_comparisons)))


def detectable(num_prompts: int, num_comparisons: int) -> float:
    """The smallest paired difference that is found with a power of 0.8, by normal approximation.

    The test itself needs rather more where prompts are few (a fifth at 15 of them, a tenth at 30).

    Units  standard deviations of the paired differences.
    """
    z = NormalDist().inv_cdf
    quantiles = z(1 - float(level(num_comparisons)) / 2) + z(POWER)
    return quantiles / math.sqrt(num_prompts)


def sentence(num_prompts: int, num_comparisons: int) -> str:
    """What so many prompts can show, for people."""
    prompts = _counted(num_prompts, "prompt")
    head = f"{prompts}, {_counted(num_comparisons, 'comparison')}"
    p, limit = smallest_p(num_prompts), level(num_comparisons)
    if p > limit:
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
