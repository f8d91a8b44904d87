"""Lists every figure by name, in the order of the study, then our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from analysis.figures import over_time
from analysis.figures.figure import Absent, Bars, Curves, Panels, Scatter
from analysis.figures.lengths import SHEETS
from analysis.figures.places import SCATTERS, Places
from analysis.section import Section
from analysis.study.spec import suite_title
from analysis.verb_options import named

Drawn = Scatter | Curves | Bars | Panels | Absent
# A figure is a function of a section, so a description (`Places`, `Lengths`) can stand for one.
Builder = Callable[[Section], Drawn]


def efficiency(section: Section) -> Drawn:
    """Build the panels of bytes and seconds against imaging quality and SSIM."""
    name, title = "experiments-efficiency", "quality against bytes and seconds"
    found = [
        Places(f"{x}-{y}", x, y)(section)
        for x in ("ratio", "runtime_s")
        for y in ("imaging", "ssim")
    ]
    # Substitutes for missing quantities may give two panels the same axes: one of them is enough.
    shown = {(p.x.title, p.y.title): p for p in found if isinstance(p, Scatter)}
    if not shown:
        return Absent(name, title, "; ".join(p.reason for p in found if isinstance(p, Absent)))
    panels = list(shown.values())
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    return Panels(name, rows, title=f"{suite_title(section.suite)}: {title}")


# In the order of the study: its static pack, its deck, its registry, its notes; then ours.
# `figures` prints them in this order.
FIGURES: Mapping[str, Builder] = {
    **{name: build for name, build in SCATTERS.items() if not name.startswith("deck")},
    "drift": over_time.drift,
    "memory-trace": partial(over_time.trace, kind="memory"),
    "kv-trace": partial(over_time.trace, kind="kv"),
    "deck-bars": SHEETS["deck-bars"],
    "deck-runtime-quality": SCATTERS["deck-runtime-quality"],
    "deck-drift": SHEETS["deck-drift"],
    **{name: build for name, build in SHEETS.items() if name.startswith("registry")},
    **{name: build for name, build in SHEETS.items() if name.startswith("experiments")},
    "experiments-efficiency": efficiency,
    "fidelity": SHEETS["fidelity"],
    "components": over_time.components,
    "over-time": over_time.quality,
}


def chosen(words: str | None) -> list[str]:
    """Return the figures named like `drift,kv-trace`; all without a word.

    Raises  UserError: there is no such figure.
    """
    return list(dict.fromkeys(named(words, FIGURES, "figure")))


def drawn(section: Section, names: Sequence[str] | None = None) -> list[Drawn]:
    """Build the figures of a section; `Absent` gives the reason of a missing one."""
    # Absent figures are part of the answer: the verb and the report print their reasons.
    return [FIGURES[name](section) for name in (names or FIGURES)]
