"""Applies the study's rules of recommendation and warning, and reports where they fall back.

The study first looks for methods within every tolerance. If there is none, it silently falls back
on other methods. The same rules reproduce its labels here, but every fallback is reported.

Source  arXiv 2603.27469, the study's dashboard.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.choosing.choices import ordered, shown
from analysis.choosing.constraints import Constraint, fixed, readable
from analysis.choosing.frontiers import EPSILON, frontiers, objectives, presets
from analysis.section import Section, cell, row
from harness.results.quantities import QUANTITIES


@dataclass(frozen=True)
class Card:
    """One recommendation.

    how: the candidates and the order, in words.
    fell_back: sets of candidates that were empty.
    """

    label: str
    method: str
    how: str
    fell_back: tuple[str, ...] = ()


def cards(section: Section) -> list[Card]:
    """Compute the study's recommendations, BF16 last; those without a candidate are left out."""
    values = objectives(section)
    others = values.drop(index=[section.reference], errors="ignore")
    found = []
    for card in presets()["cards"].values():
        # The file gives a list of quantities or the name of a preset.
        by = card["by"] if isinstance(card["by"], list) else _order(card["by"])
        # A card ordered by a quantity that nothing has would name an arbitrary method.
        if by[0] not in others or others[by[0]].isna().all():
            continue
        known = others[others[by[0]].notna()]  # a method whose videos all failed has no value
        names, how, tried = _among(section, known, card)
        if names:
            best = ordered(known.loc[names], by)
            how += f", {QUANTITIES[by[0]].title} first"
            found.append(Card(card["label"], str(best.index[0]), how, tried))
    # BF16 is no recommendation; its card names what the others are compared with.
    if section.reference in values.index:
        label = presets()["reference_label"]
        found.append(Card(label, str(section.reference), "what the others are held against"))
    return found


def labels(section: Section) -> dict[str, str]:
    """Return each method's recommendations in the study's words; empty for most."""
    found: dict[str, list[str]] = {name: [] for name in section.methods}
    for card in cards(section):
        found[card.method].append(card.label)
    return {name: "; ".join(said) for name, said in found.items()}


def cautions(section: Section, caps: Sequence[Constraint] = ()) -> dict[str, list[str]]:
    """Return warnings by method, without BF16.

    caps: constraints of the user.
    """
    values = objectives(section)
    reference = row(values, section.reference)
    found: dict[str, list[str]] = {
        str(name): [] for name in values.index if name != section.reference
    }
    # The study's sentence, where it has one; any other bound that is missed is named as it is
    # typed.
    words = {fixed([each["unless"]])[0]: str(each["say"]) for each in presets()["cautions"]}
    limits, _ = readable([*caps, *words, *tolerances()], values, reference)
    for each, limit in limits.items():
        column = values[each.quantity]
        # A missing value is no missed bound: the table shows the gap.
        missed = ~each.met(column, limit) & column.notna()
        for name in found:
            if missed[name]:
                value = shown(each.quantity, float(column[name]))
                found[name].append(words.get(each, f"misses {each}: {value}"))
    # Compression that does not lower the peak lets no longer video fit.
    if reference is not None and {"ratio", "peak_gib"} <= set(values):
        is_as_large = values["peak_gib"] >= float(reference["peak_gib"]) - EPSILON
        for name in values.index[(values["ratio"] > 1 + EPSILON) & is_as_large]:
            if name in found:
                found[str(name)].append("compresses, and its peak is not below that of BF16")
    return found


def plainly(section: Section) -> list[str]:
    """Report tolerances that no method keeps, and those that methods keep by construction."""
    values = objectives(section)
    reference = row(values, section.reference)
    others = values.drop(index=[section.reference], errors="ignore")
    # A tolerance that no single method keeps shows that the study's defaults do not fit here.
    limits, unread = readable(tolerances(), values, reference)
    if others.empty:
        return ["there is no method beside BF16 to recommend"]
    found = []
    for each, limit in limits.items():
        column = others[each.quantity].dropna()
        if len(column) and not each.met(column, limit).any():
            best = ordered(others, [each.quantity]).index[0]
            value = shown(each.quantity, cell(others, str(best), each.quantity))
            found.append(f"no method keeps to {each}: nearest is {best} with {value}")
    if limits and not _tolerant(section, others):
        found.append("no method keeps to all tolerances at once")
    found += [f"tolerance not looked at: {why}" for why in unread]
    return [*found, *_circular(others)]


def tolerances() -> tuple[Constraint, ...]:
    """Return the study's default tolerances."""
    return fixed(presets()["tolerances"])


def calibrated(values: pd.DataFrame, name: str, top: int = 3) -> dict[str, float]:
    """Return tolerances that admit the best `top` candidates of an order, as the study's page does.

    values: candidates from `objectives`, without BF16.
    """
    # As on the study's page: the tolerances are the worst values of its own favourites, which is
    # circular (`_circular` says so).
    best = ordered(values, _order(name)).iloc[:top]
    found = {}
    for each in tolerances():
        column = best[each.quantity].dropna() if each.quantity in best else pd.Series(dtype=float)
        if len(column):
            found[each.quantity] = float(column.max() if each.op == "<=" else column.min())
    return found


def _circular(others: pd.DataFrame) -> list[str]:
    """Describe the calibrated tolerances and the methods that satisfy them by construction."""
    name = presets()["cards"]["default"]["by"]
    if others.empty or not (limits := calibrated(others, name)):
        return []
    bounds = [
        f"{QUANTITIES[key].title} {'>=' if QUANTITIES[key].better == 'higher' else '<='} "
        f"{shown(key, value)}"
        for key, value in limits.items()
    ]
    # A method without a value of some tolerance cannot keep to it, so it is not named.
    first = ordered(others, _order(name)).iloc[:3]
    best = ", ".join(map(str, first.index[first[list(limits)].notna().all(axis=1)]))
    return [
        f"the study's page moves the tolerances to the worst of the first three in its own order "
        f"({', '.join(bounds)}), which {best} then keep to by construction"
    ]


def _order(name: str) -> list[str]:
    return list(presets()["presets"][name]["by"])


def _among(
    section: Section, others: pd.DataFrame, card: Mapping[str, Any]
) -> tuple[list[str], str, tuple[str, ...]]:
    """Return a card's first non-empty set of candidates, its description, and the empty sets."""
    fronts = frontiers(section)
    members = {each.name: set(each.members) for each in fronts}
    words = {each.name: f"on the frontier {each.title!r}" for each in fronts}
    words |= {"tolerant": "within all tolerances", "densest": "near the largest ratio"}
    tried: list[str] = []
    # The study's order: the first set of candidates that is not empty decides.
    for wanted in card["of"]:
        # The words of one set are all required: each narrows the candidates down.
        names = [str(name) for name in others.index]
        for word in wanted:
            if word == "tolerant":
                kept = _tolerant(section, others)
            elif word == "densest":
                # Keep methods whose ratio is within a share of the largest.
                ratios = others.get("ratio", pd.Series(dtype=float)).dropna()
                least = ratios.max() * (1 - float(card["share"]))
                kept = set(ratios.index[ratios >= least].astype(str))
            else:
                kept = members[word]
            names = [name for name in names if name in kept]
        said = " and ".join(words[word] for word in wanted)
        if names:
            return names, f"of the {len(names)} {said}".rstrip(), tuple(tried)
        tried.append(said)
    return [], "", tuple(tried)


def _tolerant(section: Section, others: pd.DataFrame) -> set[str]:
    """Return methods within every tolerance that can be evaluated; empty if none can."""
    reference = row(objectives(section), section.reference)
    limits, _ = readable(tolerances(), others, reference)
    met = [each.met(others[each.quantity], limit) for each, limit in limits.items()]
    return set(others.index[np.logical_and.reduce(met)].astype(str)) if met else set()
