"""Whom the study recommends and warns of, and what a plain reading of the same rules says.

Its recommendation asks first for methods that keep to every tolerance. Where none does, it falls
back on others without a word; here the rule is kept, so that its labels are found again, and what
it came to is said beside it.

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
from analysis.choosing.frontiers import EPSILON, cell, frontiers, objectives, presets, row
from analysis.section import Section
from harness.results.quantities import QUANTITIES


@dataclass(frozen=True)
class Card:
    """One recommendation.

    how: among whom and by what, in words. fell_back: the sets that nobody was in before.
    """

    label: str
    method: str
    how: str
    fell_back: tuple[str, ...] = ()


def cards(section: Section) -> list[Card]:
    """The study's cards of a section, BF16 last; one that nothing here can fill is left out."""
    values = objectives(section)
    others = values.drop(index=[section.reference], errors="ignore")
    found = []
    for card in presets()["cards"].values():
        by = card["by"] if isinstance(card["by"], list) else _order(card["by"])
        if by[0] not in others or others[by[0]].isna().all():
            continue
        known = others[others[by[0]].notna()]  # a method whose videos all failed is no choice
        names, how, tried = _among(section, known, card)
        if names:
            best = ordered(known.loc[names], by)
            how += f", {QUANTITIES[by[0]].title} first"
            found.append(Card(card["label"], str(best.index[0]), how, tried))
    if section.reference in values.index:
        label = presets()["reference_label"]
        found.append(Card(label, str(section.reference), "what the others are held against"))
    return found


def labels(section: Section) -> dict[str, str]:
    """What each method is recommended for, in the study's words; empty for most."""
    found: dict[str, list[str]] = {name: [] for name in section.methods}
    for card in cards(section):
        found[card.method].append(card.label)
    return {name: "; ".join(said) for name, said in found.items()}


def cautions(section: Section, caps: Sequence[Constraint] = ()) -> dict[str, list[str]]:
    """What a reader is warned of, by method; nothing of BF16.

    caps: constraints of the reader's own.
    """
    values = objectives(section)
    reference = row(values, section.reference)
    found: dict[str, list[str]] = {
        str(name): [] for name in values.index if name != section.reference
    }
    told = [(each, str(each["say"])) for each in presets()["cautions"]]
    words = {fixed([each["unless"]])[0]: said for each, said in told}
    limits, _ = readable([*caps, *words, *tolerances()], values, reference)
    for each, limit in limits.items():
        column = values[each.quantity]
        missed = ~each.met(column, limit) & column.notna()
        for name in found:
            if missed[name]:
                value = shown(each.quantity, float(column[name]))
                found[name].append(words.get(each, f"misses {each}: {value}"))
    for name in _no_smaller(values, reference):
        if name in found:
            found[name].append("compresses, and its peak is not below that of BF16")
    return found


def plainly(section: Section) -> list[str]:
    """What the study's rules come to here, said outright."""
    values = objectives(section)
    reference = row(values, section.reference)
    others = values.drop(index=[section.reference], errors="ignore")
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
    """What the study tolerates unless told otherwise."""
    return fixed(presets()["tolerances"])


def calibrated(values: pd.DataFrame, name: str, top: int = 3) -> dict[str, float]:
    """Tolerances moved to the worst of an order's own first three, as the study's page does.

    values: candidates as `objectives` gives them, without BF16.
    """
    best = ordered(values, _order(name)).iloc[:top]
    found = {}
    for each in tolerances():
        column = best[each.quantity].dropna() if each.quantity in best else pd.Series(dtype=float)
        if len(column):
            found[each.quantity] = float(column.max() if each.op == "<=" else column.min())
    return found


def _circular(others: pd.DataFrame) -> list[str]:
    """The calibrated tolerances, and who passes them."""
    name = presets()["cards"]["default"]["by"]
    if others.empty or not (limits := calibrated(others, name)):
        return []
    bounds = [
        f"{QUANTITIES[key].title} {'>=' if QUANTITIES[key].better == 'higher' else '<='} "
        f"{shown(key, value)}"
        for key, value in limits.items()
    ]
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
    """The first set of a card's list that anybody is in, in words too, and those before it."""
    fronts = frontiers(section)
    members = {each.name: set(each.members) for each in fronts}
    words = {each.name: f"on the frontier {each.title!r}" for each in fronts}
    words |= {"tolerant": "within all tolerances", "densest": "near the largest ratio"}
    tried: list[str] = []
    for wanted in card["of"]:
        names = [str(name) for name in others.index]
        for word in wanted:
            if word == "tolerant":
                kept = _tolerant(section, others)
            elif word == "densest":
                # Whose ratio is within a share of the largest.
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
    """Who keeps to every tolerance that can be read here; nobody if none can."""
    reference = row(objectives(section), section.reference)
    limits, _ = readable(tolerances(), others, reference)
    met = [each.met(others[each.quantity], limit) for each, limit in limits.items()]
    return set(others.index[np.logical_and.reduce(met)].astype(str)) if met else set()


def _no_smaller(values: pd.DataFrame, reference: pd.Series | None) -> list[str]:
    """Who compresses history and takes as much memory as BF16 all the same."""
    if reference is None or not {"ratio", "peak_gib"} <= set(values):
        return []
    base = float(reference["peak_gib"])
    mask = (values["ratio"] > 1 + EPSILON) & (values["peak_gib"] >= base - EPSILON)
    return [str(name) for name in values.index[mask]]
