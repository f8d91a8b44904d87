"""Builds columns derived from a method's numbers and BF16's: deltas, gains, frontiers, advice.

Source  arXiv 2603.27469: delta x - b, drop b - x, overhead 100 (x - b) / b %, reduction
100 (1 - x / b) %, speed-up b / x, gain x / b, where b is BF16's. BF16's PSNR is infinite, so PSNR
has no delta.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from analysis.choosing.frontiers import flags, objectives, presets
from analysis.choosing.recommendations import cautions, labels
from analysis.section import cell
from analysis.study import columns as plain
from analysis.study.columns import Column, View, number
from harness.results.quantities import QUANTITIES

Formula = Callable[[np.float64, np.float64], np.float64]
# Name -> (heading, quantity, formula of the method's value x and BF16's value b).
# A delta and a drop of every quantity: the study's derived tables choose among them by name.
FORMULAS: dict[str, tuple[str, str, Formula]] = {
    **{f"{x}_delta": (f"{q.title} - BF16", x, lambda x, b: x - b) for x, q in QUANTITIES.items()},
    **{f"{x}_drop": (f"{q.title} drop", x, lambda x, b: b - x) for x, q in QUANTITIES.items()},
    "runtime_overhead": ("runtime overhead %", "runtime_s", lambda x, b: 100 * (x - b) / b),
    "speed_up": ("speed-up", "runtime_s", lambda x, b: b / x),
    "peak_reduction": ("peak reduction %", "peak_gib", lambda x, b: 100 * (1 - x / b)),
    "compression_gain": ("compression gain", "ratio", lambda x, b: x / b),
}
DECIMALS = 4


def _frontiers(view: View) -> list[Column]:
    """Build a yes/no column for each of the study's four frontiers."""
    # Reruns of BF16 are no choices: their cells stay empty.
    table = flags(view.section).drop(index=view.section.again)
    titles = presets()["frontiers"]
    found = []
    for name in map(str, table):
        is_on = table[name].to_dict()
        texts = [("yes" if is_on[each] else "no") if each in is_on else "" for each in view.names]
        found.append(Column(f"frontier: {titles[name]['title']}", texts))
    return found


def _recommended(view: View) -> list[Column]:
    """Build the column of recommendations by the study's rules."""
    found = labels(view.section)
    return [Column("recommended for", [found.get(name, "") for name in view.names], words=True)]


def _cautions(view: View) -> list[Column]:
    """Build the column of warnings by the study's rules."""
    found = cautions(view.section)
    texts = ["; ".join(found.get(name, ())) for name in view.names]
    return [Column("cautions", texts, words=True)]


DERIVED: dict[str, Callable[[View], list[Column]]] = {
    "frontiers": _frontiers,
    "recommended": _recommended,
    "cautions": _cautions,
}


def columns(view: View, name: str) -> list[Column]:
    """Build the columns for any name in a table's file; empty if no method has a value."""
    if name in DERIVED:
        return DERIVED[name](view)
    if name not in FORMULAS:
        return plain.columns(view, name)
    header, quantity, formula = FORMULAS[name]
    values, reference = objectives(view.section), view.section.reference
    # All of these are relative to BF16.
    if reference is None or not view.section.has(quantity):
        return []
    base = np.float64(cell(values, reference, quantity))
    # `objectives` gives BF16 the fidelity of a video to itself, but leaves out its reruns.
    own = {each: values if each in values.index else view.section.values for each in view.names}
    values_of = [np.float64(cell(table, each, quantity)) for each, table in own.items()]
    with np.errstate(all="ignore"):  # a division by zero gives inf
        # BF16's PSNR is infinite: a delta to it would be minus infinity for every method.
        found = [float(formula(x, base)) if np.isfinite(base) else np.nan for x in values_of]
    places = DECIMALS if view.decimals is None else view.decimals
    return [Column(header, [number(x, places) for x in found])]
