"""Formats a section's numbers as cells: value, interval, difference to the base, mark.

Every number comes from `analysis.statistics`, once per section; pages only print it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis import numbers as printed
from analysis import statistics
from analysis.report.progress import shown
from analysis.section import Section
from analysis.section import cell as value_of
from analysis.statistics import Difference, Estimate, beside_reruns
from harness.results.quantities import QUANTITIES, Quantity

# Prompts are ranked by the first of these that was measured.
BY_PROMPT = (
    *("lpips", "ssim", "psnr_rest_db", "psnr_db", "psnr_frame_mean_db"),
    *("imaging", "aesthetic"),
)
# As on a printed page; the terminal's tables use plain signs.
NONE = "\u2013"  # a dash
MINUS = "\u2212"


@dataclass(frozen=True)
class Cell:
    """One number of one method; mark: `better` or `worse` if the corrected test supports it."""

    value: float
    text: str
    bounds: str = ""
    difference: str = ""
    mark: str = ""
    said: str = ""

    @property
    def sort_key(self) -> str:
        """Value for the page's sort script; empty for NaN."""
        return "" if math.isnan(self.value) else repr(self.value)


@dataclass(frozen=True)
class Numbers:
    """Cells by method and quantity.

    bases: by quantity, the method that differences refer to.
    missing: by title, why a quantity has no column.
    chances: notes on marks that noise of the machine may explain.
    """

    quantities: Sequence[Quantity]
    cells: Mapping[str, Mapping[str, Cell]]
    bases: Mapping[str, str | None]
    missing: Mapping[str, str]
    chances: Sequence[str] = ()


def numbers(section: Section) -> Numbers:
    """Build all cells of a section."""
    kept = [each for name, each in QUANTITIES.items() if section.has(name)]
    cells: dict[str, dict[str, Cell]] = {name: {} for name in section.methods}
    chances: list[str] = []
    # Intervals and tests are computed here, for all methods at once, so progress is shown here.
    for quantity in shown(kept, f"quantities of {section.suite}"):
        means = statistics.estimates(section, quantity.name)
        tested = statistics.differences(section, quantity.name)
        # Reruns of BF16 are shown for scale, without a test.
        paired = {**statistics.again(section, quantity.name), **tested}
        if quantity.over == "mean" and (said := beside_reruns(section, quantity.name, tested)):
            chances.append(said)
        for name in section.methods:
            cells[name][quantity.name] = cell(
                section, name, quantity, means.get(name), paired.get(name)
            )
    return Numbers(
        kept,
        cells,
        {each.name: statistics.base_of(section, each.name) for each in kept},
        {each.title: section.why_not(name) for name, each in QUANTITIES.items()
         if not section.has(name)},
        chances,
    )  # fmt: skip


def cell(
    section: Section,
    name: str,
    quantity: Quantity,
    mean: Estimate | None,
    paired: Estimate | None,
) -> Cell:
    """Build the cell of a method; only a tested difference can have a mark."""
    value = value_of(section.values, name, quantity.name)
    if math.isnan(value):
        why = "no video was made" if not section.methods[name].num_videos else "not measured"
        if quantity.fidelity and name == section.reference:
            why = "it is what the others are held against"
        # The dash has its reason as a tooltip.
        return Cell(value, NONE, said=section.methods[name].reasons.get(quantity.name, why))
    # Value, interval and difference of a cell share their decimals.
    places = quantity.places(value)
    bounds = _span(mean.bounds, places) if mean and quantity.over == "mean" else ""
    if paired is None or quantity.over != "mean" or not math.isfinite(paired.mean):
        return Cell(value, number(value, places), bounds)
    # Bytes differ by the same amount in every video: such a difference needs no test.
    if paired.bounds is not None and math.isclose(*paired.bounds, rel_tol=1e-9):
        return Cell(value, number(value, places), bounds)
    mark, said = "", f"n = {paired.n}, BF16 again: not tested"
    if isinstance(paired, Difference):
        said = f"n = {paired.n}, p = {paired.adjusted:.3g} after Holm"
        if paired.is_supported and paired.mean:
            mark = "better" if quantity.improves(paired.mean, 0.0) else "worse"
    difference = number(paired.mean, places, sign="+")
    interval = _span(paired.bounds, places)
    return Cell(
        value, number(value, places), bounds, f"{difference} {interval}".strip(),
        mark, said,
    )  # fmt: skip


def number(value: float, decimals: int, sign: str = "") -> str:
    """Format a number with two digits left, with the signs of a page."""
    if not value:
        return "0"  # without decimals: it is exactly zero
    said = printed.number(value, decimals, "" if math.isinf(value) else sign, NONE, 2)
    return said.replace("inf", "∞").replace("-", MINUS)


def ranked(section: Section) -> tuple[str, Mapping[str, Sequence[int]]]:
    """Return the quantity that ranks prompts, and each method's prompts from best to worst."""
    chosen = next((x for x in BY_PROMPT if section.has(x) and x in section.videos), "")
    if not chosen:
        return "", {}
    table = statistics.by_prompt(section, chosen)
    rising = QUANTITIES[chosen].better == "lower"
    order = {
        # NaN is dropped: a prompt without a value has no place in the order.
        str(name): [int(x) for x in column.dropna().sort_values(ascending=rising).index]
        for name, column in table.items()
    }
    return chosen, order


def _span(bounds: tuple[float, float] | None, places: int) -> str:
    """Format an interval in brackets; empty if it is a point."""
    if bounds is None or math.isclose(*bounds, rel_tol=1e-9):
        return ""
    low, high = (number(x, places) for x in bounds)
    return f"[{low}, {high}]" if low != high else ""
