"""How much runs differ without any method: what a mark beside a method is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.section import Section
from analysis.statistics import Difference, again
from harness.results.quantities import QUANTITIES

NUM_NAMED = 6  # methods; more are counted


def beside_reruns(section: Section, quantity: str, found: Mapping[str, Difference]) -> str | None:
    """Which supported differences to BF16 are no larger than that of BF16 made again; None if none.

    The paired test asks whether prompts agree. A machine that was busier during one of two runs
    moves all of its prompts, so that only a rerun tells.
    """
    gaps = again(section, quantity)
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
