"""Builds tables of choices: overview, answers, equal memory, and longest video of a card."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from analysis.choosing.budget import plan, reasons
from analysis.choosing.choices import Question, ask, ordered, preset, shown
from analysis.choosing.equal_memory import Group, at, groups, share_of_gib
from analysis.choosing.frontiers import frontiers, objectives, usable
from analysis.choosing.recommendations import cards, cautions, plainly
from analysis.controls import pairs as controls
from analysis.numbers import listed, number
from analysis.section import Section, row
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from harness.system.text_table import Grid

SUMMARY = ("ratio", "peak_gib", "runtime_s", "ssim", "lpips", "drift_last")
AGAINST = " (held against)"
NUM_NAMED = 4  # methods that a note names; it counts the rest


def overview(section: Section) -> Iterator[Grid]:
    """Build two tables: the study's frontiers over all methods, and its recommendations.

    Raises  UserError: no method has a value of anything.
    """
    # The order of the study's default recommendation.
    values, order = objectives(section), preset("single_gpu").by
    columns, without = usable(section, SUMMARY)
    if not columns:
        raise UserError("no method has a value of any quantity")
    table = ordered(values, order)[list(columns)]
    # The notes tell an axis as what a reader wants of it: "high SSIM, low peak GiB".
    words = {"higher": "high", "lower": "low"}
    # A column per frontier: which of the four a method is on says what it is good for.
    fronts = frontiers(section)
    notes = []
    for front in fronts:
        axes = [f"{words[QUANTITIES[x].better]} {QUANTITIES[x].title}" for x in front.axes]
        notes.append(f"{front.title}: {', '.join(axes) or 'nothing that was measured'}")
    notes += [f"no {QUANTITIES[name].title}: {why}" for name, why in without.items()]
    kept_off: dict[tuple[str, str], list[str]] = {}
    for front in fronts:
        table[front.title] = ["yes" if name in front.members else "" for name in table.index]
        for name, why in front.unplaced.items():
            kept_off.setdefault((name, why), []).append(front.title)
    # A value that many methods lack keeps all of them off the same frontiers, so they share a note.
    together: dict[str, list[str]] = {}
    for (name, why), titles in kept_off.items():
        together.setdefault(f"{why}, so not on {', '.join(titles)}", []).append(name)
    notes += [f"{listed(names, NUM_NAMED)}: {said}" for said, names in together.items()]
    yield grid(section, f"{section.title}: what no other method beats", table, notes)
    # A table of its own, since a recommendation names one method and the first table shows all.
    yield _recommended(section)


def _recommended(section: Section) -> Grid:
    """Build one line per recommendation; notes give warnings and fallbacks."""
    found, warned = cards(section), cautions(section)
    notes = [
        f"{card.label}: nobody is {', nor '.join(card.fell_back)}, so the rule falls back"
        for card in found
        if card.fell_back
    ]
    # One method may win several cards; its warnings come once.
    named = dict.fromkeys(card.method for card in found)
    notes += [f"{name}: {'; '.join(warned[name])}" for name in named if warned.get(name)]
    return Grid(
        f"{section.title}: whom the study's rules recommend",
        ["label", "method", "chosen"],
        [[card.label, card.method, card.how] for card in found],
        [*notes, *controls.notes(section, set(named)), *plainly(section)],
        words=range(3),
    )


def answer(section: Section, question: Question) -> Iterator[Grid]:
    """Build the table of methods that satisfy the question, with BF16 beneath.

    Raises  UserError: the section lacks a quantity of the question.
    """
    found = ask(section, question)
    table = found.values.astype(object)
    # The number of videos stands first: it tells how much the other columns can be trusted.
    counts = [str(section.methods[str(name)].num_videos) for name in table.index]
    table.insert(0, "n", np.array(counts, dtype=object))
    # On a frontier BF16 may be a row already.
    if found.reference is not None and section.reference not in table.index:
        num = str(section.methods[str(section.reference)].num_videos)
        table.loc[f"{section.reference}{AGAINST}"] = [num, *found.reference]
    # Warnings concern the method that the user will take: the first.
    first = next((str(name) for name in found.values.index if name != section.reference), "")
    # BF16 may be on the frontier, but it needs no warnings.
    warned = cautions(section, question.under).get(first, [])
    more = [f"{first}: {'; '.join(warned)}"] if warned else []
    yield grid(section, found.title, table, [*found.notes, *more])


def equal_memory(section: Section, tolerance: float) -> Iterator[Grid]:
    """Build one table per group of methods with about equal bytes.

    Raises  UserError: there is no such group.
    """
    found = groups(section, tolerance)
    if not found:
        raise UserError(
            f"no two methods hold the same bytes within {tolerance:.0%} and none "
            "drops frames: give a wider --tolerance"
        )
    for each in found:
        yield _group(section, each)


def of_size(
    section: Section, tolerance: float, gib: float | None, ratio: float | None
) -> Iterator[Grid]:
    """Build the table of methods with a given number of GiB or a given ratio.

    Raises  UserError: none is of this size.
    """
    if gib:
        share, said = share_of_gib(section, gib), f"{gib:g} GiB"
    else:
        assert ratio
        # A ratio needs no bytes, which printed numbers may lack.
        share, said = 1 / ratio, f"{ratio:g}x less than BF16"
    yield _group(section, at(section, share, said, tolerance))


def _group(section: Section, group: Group) -> Grid:
    table = group.values.astype(object)
    kinds = [group.kinds[str(name)] or "all kept" for name in table.index]
    table.insert(0, "frames", np.array(kinds, dtype=object))
    base = row(objectives(section), section.reference)
    # BF16 is below the group for comparison; it holds other bytes.
    if base is not None:
        table.loc[f"{section.reference}{AGAINST}"] = ["all kept", *base.reindex(table.columns[1:])]
    # Only the two ratios together show dropped frames of a policy with any name.
    untold = [] if section.has("ratio_same") else ["frames: as far as names tell"]
    return grid(section, group.title, table, [*group.compared, *group.missing, *untold])


def longest(section: Section, card_gib: float) -> Iterator[Grid]:
    """Build one line per method: the planned longest video and measured costs."""
    rows = plan(section, card_gib)

    # Three digits; above 100 without decimals, since `.3g` would print 1234 as 1.23e+03.
    def texts(values: list[float]) -> list[str]:
        return [number(x, 0 if x >= 100 else None, digits=3) for x in values]

    known = {
        "longest video": [each.longest for each in rows],
        "s per s": texts([each.seconds_per_s for each in rows]),
        "KV MiB per s": texts([each.kv_gib_per_s * 1024 for each in rows]),
        "failed": ["; ".join(each.failures) for each in rows],
    }
    notes = [
        f"longest video: planned for {card_gib:g} GiB at best practice (history freed before a "
        "streamed decode); workspaces of kernels and the CUDA context come on top",
        "s per s, KV MiB per s: measured, over the seconds of the video",
        *(
            f"no longest video of {'any' if len(names) == len(rows) else ', '.join(names)}: {why}"
            for why, names in reasons(rows).items()
        ),
    ]
    table = pd.DataFrame(known, index=[each.method for each in rows])
    yield grid(section, f"{section.title}: longest video in {card_gib:g} GiB", table, notes)


def grid(section: Section, title: str, table: pd.DataFrame, notes: Sequence[str]) -> Grid:
    """Format a table's cells, and add the section's notes and the remarks of its quantities."""
    cells: dict[str, list[str]] = {}
    for name, column in table.items():
        cells[str(name)] = [str(value) for value in column]
        if name in QUANTITIES:
            # The largest value decides the decimals of its column, so that numbers line up.
            sizes = column.astype(float).abs()
            places = QUANTITIES[str(name)].places(float(sizes[np.isfinite(sizes)].max()))
            cells[str(name)] = [shown(str(name), float(value), places) for value in column]
    lines = [
        [str(name), *(column[i] for column in cells.values())] for i, name in enumerate(table.index)
    ]
    header = [QUANTITIES[name].heading if name in QUANTITIES else name for name in cells]
    remarks = [said for name, said in section.remarks.items() if name in cells]
    texts = [i for i, name in enumerate(cells, 1) if name in ("frames", "failed")]
    beneath = [
        *notes,
        *controls.notes(section, set(map(str, table.index))),
        *section.notes,
        *remarks,
    ]
    return Grid(title, ["method", *header], lines, beneath, words=(0, *texts))
