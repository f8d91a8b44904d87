"""Builds the overview page: one section after another with plots, table and prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.choosing.frontiers import frontiers, objectives
from analysis.controls import pairs as controls
from analysis.figures.page import looks
from analysis.report import links
from analysis.report.pages import page, plotly
from analysis.report.parts import Part
from analysis.section import row
from harness.planning.detectable import ALPHA
from harness.results.quantities import QUALITY, QUANTITIES

LEAD = (
    "Each method is held against BF16 on the same prompts and seeds. The table links to a card a "
    "method"
)
IN_STEP = ", and every prompt with videos has a page where they all play in step"
MOST_LETTERS = 160  # letters of a prompt in the list
ACROSS = ("ratio", "kv_gib", "peak_gib", "runtime_s")  # candidates for the first axis


def overview(parts: Sequence[Part], cards: Mapping[str, str], said: Mapping[str, str]) -> str:
    """Build the overview page.

    cards: slug of every method's card. said: facts of the whole report.
    """
    # Contexts first: they tell whether any part has a plot.
    contexts = [_context(part, cards) for part in parts]
    # Plotly's script takes megabytes, so pages without plots do not include it.
    inline = (
        [plotly()]
        if any(each["choices"] or any(x.figures for x in each["figures"]) for each in contexts)
        else []
    )
    return page(
        "index.html",
        "",
        inline,
        title=", ".join(dict.fromkeys(part.section.suite for part in parts)) or "nothing measured",
        lead=f"{LEAD}{IN_STEP if any(part.prompts for part in parts) else ''}.",
        # The other facts are long and stand on the provenance page.
        summary=[each for each in said.items() if each[0] in ("on", "videos")],
        notes=[] if parts else ["There is no run below this folder."],
        parts=contexts,
    )


def label(part: Part) -> str:
    """Return the suite, numbered if it has several sections."""
    return part.key if part.key.startswith(part.section.suite) else part.section.suite


def shared_facts(part: Part) -> list[tuple[str, str]]:
    """List facts of a section, for the overview and the provenance page."""
    section = part.section
    wanted = sum(each.num_wanted or 0 for each in section.methods.values())
    # Failed and not yet tried are different things: only the second is finished by the same
    # command.
    tried = part.num_made + part.num_failed
    videos = f"{part.num_made} made" + (f", {part.num_failed} failed" if part.num_failed else "")
    if wanted > tried:
        videos += f", {wanted - tried} not tried yet (unfinished)"
    prompts = section.videos.index.get_level_values("prompt_index").nunique()
    reference = section.reference or "none among the runs: no differences to it"
    seconds = section.seconds_generated
    return [
        ("methods", str(len(section.methods))),
        ("prompts", str(prompts)),
        ("videos", videos + (f", of {seconds:.4g} s" if seconds else "")),
        ("machine", "; ".join(part.said("machine"))),
        ("weights", "; ".join(part.said("weights"))),
        ("reference", reference),
        ("noise floor", ", ".join(section.floors)),
        ("seconds include", section.phases),
    ]


def _context(part: Part, cards: Mapping[str, str]) -> dict[str, Any]:
    """Collect the values that the template shows of a section."""
    section, shown = part.section, part.numbers.quantities
    rows = [_row(part, name, cards[name]) for name in section.methods]
    # The plot starts with ratio across and quality upwards, if both were measured.
    names = [each.name for each in shown]
    upwards = next((x for x in ("ssim", *QUALITY, *names) if x in names), "")
    across = next((x for x in (*ACROSS, *names) if x in names and x != upwards), "")
    return {
        "id": part.key,
        "label": label(part),
        "title": section.title,
        "facts": shared_facts(part),
        "notes": section.notes,
        # One quantity has nothing to be plotted against.
        "choices": shown if len(shown) > 1 else [],
        "axes": [("x", across), ("y", upwards)],
        "reference": section.reference or "left out: there is no BF16",
        "data": _data(part),
        "frontiers": [
            {
                "title": each.title,
                "axes": ", ".join(QUANTITIES[axis].title for axis in each.axes),
                "members": [{"name": x, "href": links.card(cards[x])} for x in each.members],
                "left_out": ", ".join(QUANTITIES[axis].title for axis in each.left_out),
            }
            for each in frontiers(section)
            # On one axis a frontier is just the best method.
            if len(each.axes) > 1
        ],
        "rows": rows,
        "families": sorted({row["family"] for row in rows}),
        "quantities": shown,
        "legend": _legend(part),
        "figures": part.groups,
        "prompts": [
            {
                "index": index,
                "href": links.prompt(part.key, index),
                "text": text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} …",
            }
            for index, text in part.prompts.items()
        ],
        "prompts_said": _prompts_said(part),
    }


def _row(part: Part, name: str, slug: str) -> dict[str, Any]:
    section, method = part.section, part.section.methods[name]
    # Reruns look like methods but only show how far BF16 is from itself.
    label = {section.reference: "the reference"}
    label |= dict.fromkeys(section.reruns, "BF16 again")
    label |= dict.fromkeys(section.floors, "noise floor: BF16, summed in another order")
    cells = part.numbers.cells[name]
    return {
        "name": name,
        "label": label.get(name, ""),
        "href": links.card(slug),
        "family": method.family,
        # What the page's filter searches, in lower case as the filter's own words are.
        "words": f"{name} {method.settings} {method.row} {method.description}".lower(),
        "n": method.num_videos,
        "failed": method.num_failed,
        "is_reference": name == section.reference,
        "cells": [cells[quantity.name] for quantity in part.numbers.quantities],
    }


def _data(part: Part) -> dict[str, Any]:
    """Collect the data of the axes script."""
    section, among = part.section, objectives(part.section)
    methods = []
    for name, method in section.methods.items():
        # Reruns of BF16 are no choices, so `objectives` lacks them.
        known = row(among if name in among.index else section.values, name)
        values = {} if known is None else known.to_dict()
        methods.append({
            "name": name,
            "family": method.family,
            "reference": name == section.reference,
            "again": name not in among.index,
            # JSON knows neither NaN nor infinity.
            "values": {str(x): float(y) if math.isfinite(y) else None for x, y in values.items()},
        })  # fmt: skip
    return {
        "quantities": {
            each.name: {"name": each.name, "heading": each.heading, "better": each.better}
            for each in part.numbers.quantities
        },
        "methods": methods,
        "looks": looks(method.family for method in section.methods.values()),
    }


def _legend(part: Part) -> list[str]:
    """Explain how to read the table, and which columns are missing."""
    shown, said = part.numbers.quantities, part.section.remarks
    bases: dict[str, list[str]] = {}
    for quantity in shown:
        base = part.numbers.bases[quantity.name]
        # A base is explained only where a difference to it is shown.
        if base and any(cells[quantity.name].difference for cells in part.numbers.cells.values()):
            bases.setdefault(base, []).append(quantity.title)
    found = [
        f"{', '.join(titles)}: the line below is the method less {base} on shared prompts"
        for base, titles in bases.items()
    ]
    return [
        "in brackets: 95 % bootstrap interval over prompts",
        *found,
        f"▲ better and ▼ worse stand only where the paired test, corrected over all methods of the "
        f"column, supports it (p ≤ {float(ALPHA):g})",
        *part.numbers.chances,
        *(f"control of {said}" for said in controls.notes(part.section, part.section.methods)),
        *(said[each.name] for each in shown if each.name in said),
        *(f"{title}: not shown, {why}" for title, why in part.numbers.missing.items()),
    ]


def _prompts_said(part: Part) -> str:
    """Say how many prompts have a page, and why others have none."""
    if not part.num_filmed:
        return "No prompt has a page: there is no MP4 of any video here."
    if not part.prompts:
        return f"No prompt has a page: --prompts leaves out the {part.num_filmed} with an MP4."
    said = f"{len(part.prompts)} prompts have a page."
    if part.without:
        said += f" {part.without} others have none: without an MP4, or left out by --prompts."
    return said
