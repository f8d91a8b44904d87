"""Defines colours, markers and dashes: one colour and marker per family, in every figure.

Colours alone distinguish few families, and none in greyscale. Therefore markers also differ
between families, and lines of one sheet have different dashes. A family that is not in the table
gets a look derived from its name, so that it is the same in every figure.

Source  colours: Okabe and Ito's, darkened to stand out from white (3 to 1), lightened for black.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Look of a family; light, dark: its colour in either theme; marker: plotly's name."""

    light: str
    dark: str
    marker: str


# plotly's names of markers, since the page uses them as they are; `panels.MARKERS` translates.
REFERENCE = Look("#000000", "#ffffff", "diamond")
FAMILIES = {
    "bf16": REFERENCE,
    "rtn": Look("#0072b2", "#5fb0ea", "circle"),
    "kivi": Look("#c24e00", "#ff8f4d", "square"),
    "quarot": Look("#00805d", "#2fc99e", "triangle-up"),
    "prq": Look("#a8468c", "#e39ccb", "triangle-down"),
    "flowcache": Look("#a37200", "#f0b93a", "star"),
    "age": Look("#6a51a3", "#b5a1ea", "pentagon"),
    "spatial": Look("#2b8cbe", "#8fd3f5", "cross"),
    "qaq": Look("#7a5a2f", "#cfa976", "triangle-left"),
    "tptq": Look("#5b6b00", "#b9cc44", "triangle-right"),
    "eviction": Look("#c0264b", "#ff8da4", "x"),
    "window": Look("#6b6b6b", "#b0b0b0", "hexagon"),
    "reuse": Look("#005b4f", "#63cdbd", "diamond-tall"),
    "merging": Look("#34489c", "#98a9f5", "triangle-ne"),
    "fp": Look("#8a3b1f", "#e8a084", "hexagram"),
    "nuq": Look("#3f7d20", "#97d376", "bowtie"),
    "qvg": Look("#99297a", "#f08fd4", "hourglass"),
    "turboquant": Look("#3a6073", "#9cc3d6", "star-diamond"),
}
# The study's names of families -> ours.
ALIASES = {"quarot_kv": "quarot", "age_tier": "age", "spatial_mixed": "spatial"}
# Plain line first, then dashes and gaps in points.
DASHES: Sequence[tuple[float, ...]] = (
    (), (6, 2.5), (1.5, 2), (8, 2, 1.5, 2), (3.5, 1.5), (11, 3), (4, 1.5, 1.5, 1.5, 1.5, 1.5),
)  # fmt: skip
# Hatching distinguishes stacked parts in greyscale.
PARTS = (
    *(("#0072b2", "#5fb0ea", ""), ("#e69f00", "#f0b93a", "///"), ("#009e73", "#2fc99e", "...")),
    *(("#cc79a7", "#e39ccb", "xx"), ("#d55e00", "#ff8f4d", "\\\\\\"), ("#56b4e9", "#8fd3f5", "--")),
    *(("#999999", "#b0b0b0", "++"), ("#8b6c00", "#cfa976", "oo"), ("#5d3a9b", "#b5a1ea", "||")),
)


def look(family: str, is_reference: bool = False) -> Look:
    """Return the look of a family; the reference is black, or white in the dark theme."""
    # Whatever its family; reruns look alike, since the family bf16 has this look too.
    if is_reference:
        return REFERENCE
    name = family.lower()
    name = ALIASES.get(name, name)
    if name in FAMILIES:
        return FAMILIES[name]
    others = [each for each in FAMILIES.values() if each is not REFERENCE]
    # Python's own hash of a text differs from process to process.
    digest = zlib.crc32(name.encode())
    # Colour and marker from different digits, so that two unknown families rarely share both.
    colour, shape = others[digest % len(others)], others[digest // 97 % len(others)]
    return Look(colour.light, colour.dark, shape.marker)


def told_apart(curves: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Assign an index of `DASHES` to every curve of a sheet, by name.

    curves: names and colours in order. Neighbours get different dashes, and so do curves of one
    colour as long as dashes are left.
    """
    found: dict[str, int] = {}
    taken: dict[str, list[int]] = {}
    last = -1
    for name, colour in curves:
        if name in found:
            continue
        used = taken.setdefault(colour, [])
        # The dashes in turn, from the one after the neighbour's.
        turn = [(last + 1 + i) % len(DASHES) for i in range(len(DASHES))]
        # The last entry of `turn` is the neighbour's own dash.
        last = min(turn[:-1] if len(found) else turn, key=lambda at: used.count(at))
        used.append(last)
        found[name] = last
    return found


def part(at: int) -> tuple[str, str, str]:
    """Return light colour, dark colour and hatching of the nth part of stacked bars."""
    return PARTS[at % len(PARTS)]
