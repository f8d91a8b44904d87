"""Builds columns of a table of methods: values, intervals and differences."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from analysis import numbers
from analysis.section import Section, cell
from analysis.statistics import Estimate, again, by_prompt, differences, estimates
from harness.results.quantities import QUANTITIES

MISSING, MARK = "NA", "*"
number = partial(numbers.number, none=MISSING)
COUNTED = ("ratio", "ratio_same", "kv_gib")  # bytes are exact; a repetition counts the same
FOLLOWS = ("seconds_ratio",)  # follows from the runtime; a test of its own would be a duplicate


@dataclass(frozen=True)
class Column:
    """One column: its heading and one text per row."""

    header: str
    texts: Sequence[str]
    words: bool = False


@dataclass(frozen=True)
class View:
    """The methods of a table in order, and the format of their numbers.

    names: may include methods that the section lacks.
    with_statistics: show intervals and differences.
    decimals: for all quantities; None for each quantity's own.
    split: put intervals in columns of their own.
    """

    section: Section
    names: Sequence[str]
    with_statistics: bool = False
    decimals: int | None = None
    split: bool = False

    def values(self, quantity: str) -> Sequence[float]:
        """Return one number per row, NaN if missing."""
        if quantity not in self.section.values:
            return [np.nan] * len(self.names)
        # A row that no method repeats is a name without values.
        column = self.section.values[quantity].reindex(list(self.names))
        return [float(value) for value in column.tolist()]

    def places(self, quantity: str) -> int:
        """Return the decimals of a quantity; small sizes and times get at least three digits."""
        if self.decimals is not None:
            return self.decimals
        asked = QUANTITIES[quantity]
        # The study printed fixed decimals; its numbers must look as printed.
        if self.section.is_published:
            return asked.decimals
        finite = (abs(x) for x in self.values(quantity) if np.isfinite(x))
        return asked.places(max(finite, default=0.0))


def columns(view: View, name: str) -> list[Column]:
    """Build the columns for a name in the table's file; empty if no method has a value."""
    # Columns of words and counts, and of the runtime in percent.
    if name in OTHERS:
        return OTHERS[name](view)
    if not view.section.has(name):
        return []
    # Bytes and maxima have no interval, so their column is the same with and without statistics.
    if not (view.with_statistics and is_sampled(name)):
        return [of_values(view, name)]
    # BF16 has no fidelity to itself, so a fidelity has no difference to BF16.
    if QUANTITIES[name].fidelity or not differences(view.section, name):
        return _with_interval(view, name)
    if name == "runtime_s":  # its difference has a column of its own, in percent
        return [of_values(view, name)]
    header, scale = f"{QUANTITIES[name].title} vs BF16", dict.fromkeys(view.names, 1.0)
    return [
        of_values(view, name),
        *_difference(view, name, header, view.places(name), scale),
    ]


def is_sampled(quantity: str) -> bool:
    """Whether the quantity is a mean over prompts, which other prompts would change."""
    return QUANTITIES[quantity].over == "mean" and quantity not in (*COUNTED, *FOLLOWS)


def of_values(view: View, quantity: str) -> Column:
    """Build the column of a quantity, values only."""
    places = view.places(quantity)
    texts = [number(value, places) for value in view.values(quantity)]
    return Column(QUANTITIES[quantity].heading, texts)


def _with_interval(view: View, name: str) -> list[Column]:
    """Build a value with its interval; a fidelity below the noise floor gets a mark."""
    quantity, places = QUANTITIES[name], view.places(name)
    found, tested = estimates(view.section, name), differences(view.section, name)
    # A fidelity better than the noise floor is no finding, so only supported losses are marked.
    worse = {
        method
        for method, each in tested.items()
        if each.is_supported and not quantity.improves(each.mean, 0.0)
    }
    marks = [method in worse for method in view.names]
    bounds = [_bounds(found.get(method), places) for method in view.names]
    values = of_values(view, name)
    if not view.split:
        return [_joined(values.header, values.texts, bounds, marks)]
    below = Column(f"{quantity.title} below floor", _answers(view.names, tested, marks))
    return [values, *_ends(values.header, bounds), *([below] if tested else [])]


def _runtime_vs(view: View) -> list[Column]:
    """Build the runtime difference to BF16 in percent of BF16's runtime."""
    if not view.section.has("runtime_s") or view.section.reference is None:
        return []
    header, places = "runtime vs BF16", 1
    if view.with_statistics and differences(view.section, "runtime_s"):
        # Seconds become percent of BF16's mean over the prompts that both have, since a difference
        # is over these prompts too.
        table, base_name = by_prompt(view.section, "runtime_s"), view.section.reference
        shared = table.notna().mul(table[base_name], axis=0).where(table.notna())
        scale = {str(each): 100 / float(x) for each, x in shared.mean().items() if x > 0}
        return _difference(view, "runtime_s", header, places, scale, "%")
    base = cell(view.section.values, view.section.reference, "runtime_s")
    base = base if base > 0 else np.nan  # then the percentage is missing, not infinite
    percent = [100 * (value - base) / base for value in view.values("runtime_s")]
    texts = [number(value, places, "+") for value in percent]
    return [Column(header, [text if text == MISSING else f"{text}%" for text in texts])]


def _difference(
    view: View, name: str, header: str, places: int, scale: Mapping[str, float], unit: str = ""
) -> list[Column]:
    """Build scaled paired differences with intervals, and marks on supported ones."""
    found = differences(view.section, name)
    # Reruns of BF16 are shown for scale. They are not tested, so they carry neither mark nor p.
    shown: dict[str, Estimate] = {**again(view.section, name), **found}
    values, bounds, marks = [], [], []
    for method in view.names:
        # BF16 itself has no difference, and its cell stays empty.
        each = shown.get(method)
        factor = scale.get(method, np.nan)
        values.append(number(each.mean * factor, places, "+") + unit if each else "")
        bounds.append(_bounds(each, places, "+", factor))
        marks.append(method in found and found[method].is_supported)
    if not view.split:
        return [_joined(header, values, bounds, marks)]
    tested = _answers(view.names, found, marks)
    # In CSV every number has a column, so a reader can apply another level than ours.
    p = [f"{found[method].adjusted:.4g}" if method in found else "" for method in view.names]
    return [
        Column(header, values),
        *_ends(header, bounds),
        Column(f"{header} p Holm", p),
        Column(f"{header} supported", tested),
    ]


def _joined(
    header: str, values: Sequence[str], bounds: Sequence[tuple[str, str]], marks: Sequence[bool]
) -> Column:
    """Put value, interval and mark in one column."""
    # An empty interval is left out rather than printed as a dash.
    texts = []
    for value, (low, high), mark in zip(values, bounds, marks, strict=True):
        texts.append(value + (f" [{low}, {high}]" if low else "") + MARK * mark)
    return Column(header, texts)


def _bounds(
    each: Estimate | None, places: int, sign: str = "", factor: float = 1.0
) -> tuple[str, str]:
    if each is None or each.bounds is None:
        return "", ""
    low, high = (number(end * factor, places, sign) for end in each.bounds)
    return low, high


def _ends(header: str, bounds: Sequence[tuple[str, str]]) -> list[Column]:
    """Put the ends of intervals in two columns."""
    return [
        Column(f"{header} low", [low for low, _ in bounds]),
        Column(f"{header} high", [high for _, high in bounds]),
    ]


def _answers(names: Sequence[str], tested: Container[str], marks: Sequence[bool]) -> list[str]:
    """Turn marks into yes and no; empty for methods without a test."""
    pairs = zip(names, marks, strict=True)
    return [("yes" if mark else "no") if name in tested else "" for name, mark in pairs]


def _videos(view: View) -> list[Column]:
    methods = view.section.methods
    counts = [methods[name].num_videos if name in methods else 0 for name in view.names]
    return [Column("videos" if view.section.is_published else "n", list(map(str, counts)))]


def _family(view: View) -> list[Column]:
    methods = view.section.methods
    texts = [methods[name].family if name in methods else "" for name in view.names]
    return [Column("family", texts, words=True)]


def _status(view: View) -> list[Column]:
    """Build the status column: complete, partly failed, unfinished or not run."""
    texts = []
    for name in view.names:
        method = view.section.methods.get(name)
        if method is None:
            texts.append("not_run")
        elif method.num_wanted is None or method.num_videos >= method.num_wanted:
            texts.append("complete")
        elif method.num_failed or view.section.is_published:
            # The study lists no failures; its runs are over, so a missing video failed.
            texts.append("partial_failed")
        else:
            texts.append("unfinished")
    return [Column("status", texts, words=True)]


OTHERS: dict[str, Callable[[View], list[Column]]] = {
    "videos": _videos,
    "family": _family,
    "status": _status,
    "runtime_vs": _runtime_vs,
}
