"""Builds a page per method: facts, bytes, numbers, best and worst prompts, and its command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from analysis import statistics
from analysis.controls import pairs as controls
from analysis.report import links
from analysis.report.numbers import number
from analysis.report.pages import page
from analysis.report.parts import Part
from harness.results.quantities import QUANTITIES
from harness.system.units import size

NUM_EXTREMES = 3  # prompts listed as best, and as worst
HELD = {
    "nominal": "codes alone, without scales and what else a method needs to read them",
    "stored": "the tensors held after the last commit",
    "peak": "the most that history and scratch ever held together",
}


def card(name: str, parts: Sequence[Part], cards: Mapping[str, str]) -> str:
    """Build the page of a method, with every section that includes it."""
    # One card per name over all suites, so that a reader finds all of a method on one page.
    own = [part for part in parts if name in part.section.methods]
    # Family, source and settings belong to the method, so any section has them.
    method = own[0].section.methods[name]
    return page(
        "card.html",
        "../",
        name=name,
        description=method.description,
        facts=[
            ("family", method.family),
            ("source", method.source),
            ("row of the published study", method.row),
            ("settings typed", method.settings),
        ],
        parts=[_context(part, name) for part in own],
    )


def _context(part: Part, name: str) -> dict[str, Any]:
    """Collect the values that the template shows of a method in one section."""
    section, method, run = part.section, part.section.methods[name], part.runs[name]
    cells, quantity = part.numbers.cells[name], part.quantity
    wanted = f" of {method.num_wanted} asked for" if method.num_wanted else ""
    # Only quantities that no method of the section has; single gaps stand in the cells.
    missing = {
        each.title: method.reasons.get(key, "")
        for key, each in QUANTITIES.items()
        if not section.has(key)
    }
    ranked = bool(quantity and part.order.get(name))
    # An empty list must not look as if something went wrong, so a sentence says why.
    if quantity is None:
        said = "Prompts are not ranked: no quality of single videos was measured."
    elif ranked:
        said = f"By {quantity.title} ({quantity.better} is better), mean over samples."
    elif name == section.reference:
        said = "Prompts are not ranked: it is what the others are held against."
    else:
        said = f"Prompts are not ranked: this method has no {quantity.title}."
    return {
        "id": part.key,
        "title": part.section.title,
        "facts": [
            ("run", method.run_id),
            ("videos", f"{method.num_videos} made{wanted}, {method.num_failed} failed"),
            ("machine", "; ".join(run.said.get("machine", ()))),
            ("finished", run.finished),
            ("could not be read", "; ".join(run.problems)),
        ],
        # Three means over videos that must not be mixed.
        "bytes": [
            (key, f"{size(run.kv_bytes[key])}: {HELD[key]}") for key in HELD if key in run.kv_bytes
        ],
        "cells": [
            (each, cells[each.name], part.numbers.bases[each.name])
            for each in part.numbers.quantities
        ],
        # An adaptive policy is judged by its control of equal cost, so its card names it.
        "controls": controls.notes(section, [name]),
        "missing": [f"{title}: {why}" for title, why in missing.items() if why],
        "ranked": said,
        "extremes": _extremes(part, name) if ranked else [],
        "failures": method.failures,
        "settings": sorted(run.settings.items()),
        "command": method.command,
        "no_command": (
            "These are the study's own numbers; its rows are method=published/… of this harness."
            if section.is_published
            else "The request of this run cannot be read, so its command is not known."
        ),
    }


def _extremes(part: Part, name: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """List the best and worst prompts; no prompt is in both lists."""
    quantity = part.quantity
    assert quantity is not None
    order = list(part.order[name])
    # With few prompts the best get the middle one, and no prompt is listed twice.
    num = min(NUM_EXTREMES, (len(order) + 1) // 2)
    best, worst = order[:num], order[num:][-NUM_EXTREMES:][::-1]
    # The same means over samples that the order was made from.
    values = statistics.by_prompt(part.section, part.rank)[name]

    def said(index: int) -> dict[str, Any]:
        value = f"{quantity.title} {number(float(values[index]), quantity.decimals)}"
        return {
            "index": index,
            "value": f"{value} {quantity.unit}".strip(),
            # A prompt may have been left out by `--prompts`, and a link to no page is worse than
            # none.
            "href": f"../{links.prompt(part.key, index)}" if index in part.prompts else "",
            "text": part.prompts.get(index, ""),
        }

    found = [("Best", [said(index) for index in best])]
    return [*found, ("Worst, the worst first", [said(x) for x in worst])] if worst else found
