"""Selects methods under constraints, orders them, and tests the first against the second.

BF16 is the reference, not a choice, and is shown next to the methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.choosing.constraints import Constraint, fixed, readable
from analysis.choosing.frontiers import EPSILON, frontier, objectives, presets
from analysis.choosing.sureness import sureness
from analysis.numbers import number
from analysis.section import Section, cell, row
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Question:
    """A question to a section.

    under: constraints that methods must satisfy.
    by: quantities that order methods, the most important first.
    front: keep only the methods on the frontier over these quantities.
    is_typed: the user typed it, so a missing quantity is an error. In a preset, quantities that
        no method has are dropped with a note.
    """

    title: str
    under: tuple[Constraint, ...] = ()
    by: tuple[str, ...] = ()
    front: tuple[str, ...] = ()
    is_typed: bool = True

    @property
    def quantities(self) -> list[str]:
        """All quantities of the question, each once."""
        return list(dict.fromkeys([*(c.quantity for c in self.under), *self.by, *self.front]))


@dataclass(frozen=True)
class Answer:
    """The methods that satisfy a question, best first.

    values: one row per method, one column per quantity of the question.
    reference: BF16's values; None without BF16.
    notes: exclusions, missing values and significance.
    """

    title: str
    values: pd.DataFrame
    reference: pd.Series | None
    notes: tuple[str, ...]


def preset(name: str) -> Question:
    """Return one of the study's presets as a question.

    Raises  UserError: there is none of this name.
    """
    known = presets()["presets"]
    if name not in known:
        raise UserError(
            f"there is no preset {name!r}{did_you_mean(name, list(known))}: choose "
            f"{', '.join(known)}"
        )
    found = known[name]
    return Question(
        found["title"], fixed(found.get("under", ())), tuple(found["by"]), is_typed=False
    )


def ask(section: Section, question: Question) -> Answer:
    """Answer a question: filter the methods, order them, and explain.

    Raises  UserError: the section lacks a quantity of the question.
    """
    values = objectives(section)
    missing = {name: section.why_not(name) for name in question.quantities if not section.has(name)}
    # A typed question is answered as it stands or not at all; a preset is answered in part.
    if missing and question.is_typed:
        raise UserError(_cannot_answer(section, missing))
    reference = row(values, section.reference)
    # A bound by BF16's value needs the reference, so bounds become numbers here and not in the
    # parser.
    limits, unread = readable(question.under, values, reference)
    if unread and question.is_typed:
        raise UserError("; ".join(unread))
    met = {each: each.met(values[each.quantity], limit) for each, limit in limits.items()}
    # A method without a value misses its bound: nothing shows that it would keep to it.
    kept = values[pd.DataFrame(met, index=values.index).all(axis=1)]
    by = tuple(name for name in question.by if name not in missing)
    front = tuple(name for name in question.front if name not in missing)
    if question.front and not front:
        raise UserError(_cannot_answer(section, missing))
    # The frontier is of the methods that satisfy the constraints, so it comes after them.
    if front:
        kept = kept.loc[frontier(kept, front)]
    # BF16 is no choice, but it belongs to a frontier that it is on.
    others = [name for name in kept.index if name != section.reference or front]
    kept = ordered(kept.loc[others], by)
    shown = [name for name in question.quantities if name not in missing]
    counts = {name: section.methods[name].num_videos for name in map(str, kept.index)}
    most = max(counts.values(), default=0)
    # Means over fewer prompts are not those of the others.
    few = [f"{name} {num}" for name, num in counts.items() if num < most]
    notes = [
        *(f"left out: {QUANTITIES[name].title}: {why}" for name, why in missing.items()
          if name in (*question.by, *question.front)),
        *(f"left out of what must hold: {why}" for why in unread),
        # BF16 is no choice, so it is not counted among the excluded.
        *_excluded(values.drop(index=[section.reference], errors="ignore"), limits),
        *_of_reference(section, met, bool(front)),
        *([f"fewer videos than the {most} of others: {', '.join(few)}"] if few else []),
        *sureness(section, list(map(str, kept.index)), by),
    ]  # fmt: skip
    return Answer(
        f"{section.title}: {question.title}",
        kept[shown],
        None if reference is None else reference.reindex(shown),
        tuple(notes),
    )


def ordered(values: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Order methods by the first quantity, ties by the next; missing values come last."""
    if not by or values.empty:
        return values
    keys = values.reindex(columns=list(by)).astype(float)
    keys = (keys / EPSILON).round() * EPSILON  # treats values that differ by rounding as ties
    rising = [QUANTITIES[name].better == "lower" for name in by]
    order = keys.sort_values(list(by), ascending=rising, na_position="last", kind="stable").index
    return values.loc[order]


def shown(quantity: str, value: float, places: int | None = None) -> str:
    """Format a value; one that its decimals would round away gets three digits.

    places: decimals of a whole column, else those of this value.
    """
    decimals = QUANTITIES[quantity].places(value) if places is None else places
    return number(value, decimals, digits=3)


def _cannot_answer(section: Section, missing: Mapping[str, str]) -> str:
    """Explain why a question cannot be answered here, and list the available quantities."""
    has = [name for name in QUANTITIES if section.has(name)]
    reasons = "; ".join(f"no {QUANTITIES[name].title} ({why})" for name, why in missing.items())
    return f"{reasons}: choose of {', '.join(has) or 'nothing'}"


def _excluded(values: pd.DataFrame, limits: Mapping[Constraint, float]) -> list[str]:
    """Say how many methods each constraint excludes; if all, name the nearest one."""
    missed = {each: ~each.met(values[each.quantity], limit) for each, limit in limits.items()}
    if not missed or values.empty:
        return []
    # A method with one miss would be a choice without that bound, which is what a user can change.
    together = np.add.reduce([mask.astype(int) for mask in missed.values()])  # misses per method
    found = []
    for each, mask in missed.items():
        if not mask.any():
            continue
        alone, nan = int((mask & (together == 1)).sum()), int(values[each.quantity].isna().sum())
        more = f", {alone} of them by itself" if len(missed) > 1 else ""
        none = f", {nan} for want of a value" if nan else ""
        # A bound relative to BF16 is shown with its number.
        number = "" if each.kind == "number" else f" ({shown(each.quantity, limits[each])})"
        found.append(f"{each}{number} excludes {mask.sum()} of {len(values)}{more}{none}")
    # If nobody is left, the counts alone do not tell which bound to relax.
    if (together > 0).all():
        found = ["no method keeps to all of it", *found, *_nearest(values, limits)]
    return found


def _nearest(values: pd.DataFrame, limits: Mapping[Constraint, float]) -> list[str]:
    """Name the method whose worst miss is the smallest share of its bound."""
    # A method that lacks a value cannot be said to be near.
    over = pd.DataFrame({str(c): c.excess(values[c.quantity], limits[c]) for c in limits}).dropna()
    if over.empty:
        return ["no method has all of these values"]
    # Shares of the bounds make decibels and seconds comparable.
    scale = [max(abs(limit), EPSILON) for limit in limits.values()]
    name = str((over / scale).max(axis=1).idxmin())
    missed = [
        f"{QUANTITIES[c.quantity].title} {shown(c.quantity, cell(values, name, c.quantity))} "
        f"(by {cell(over, name, str(c)):.3g})"
        for c, limit in limits.items()
        if not c.met(values[c.quantity], limit)[name]
    ]
    return [f"nearest miss: {name}, {', '.join(missed)}"]


def _of_reference(
    section: Section, met: Mapping[Constraint, pd.Series], is_listed: bool
) -> list[str]:
    """Say whether BF16 itself satisfies the constraints."""
    if section.reference is None or not met or is_listed:
        return []
    missed = [str(each) for each, mask in met.items() if not mask[section.reference]]
    if missed:
        return [f"{section.reference} itself misses {', '.join(missed)}"]
    return [f"{section.reference} itself keeps to all of this: nothing need be compressed for it"]
