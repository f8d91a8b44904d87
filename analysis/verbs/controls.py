"""Verb `controls`: prints methods that skip or evict beside controls of equal cost."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from analysis.controls.commands import BYTES
from analysis.controls.fewer_steps import with_fewer_steps
from analysis.controls.pairs import SKIPS, Kind, Pair, pairs, unknown
from analysis.numbers import number
from analysis.pages import show
from analysis.section import Section, cell
from analysis.sources.results import sections
from analysis.statistics import FEWEST, NUM_DRAWS, SEED, between
from analysis.verb_options import of_results, of_text
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from harness.system.text_table import Grid
from harness.system.user_folder import expose

SHOWN = ("psnr_db", "ssim", "runtime_s")
NOTES = (
    f"control: the same settings apart from the policy; a skip ratio within {SKIPS:g}, the number "
    f"of steps nearest in FLOPs, or bytes of history within {BYTES:.0%}",
    # Their own BF16 videos have fewer steps too, so a distance to these would hide what fewer steps
    # cost.
    "fewer steps: all of them run; PSNR and SSIM are to the BF16 videos of the full schedule",
    "TFLOP: arithmetic of the blocks in the passes that ran; embeddings and head are not counted",
    "difference: method less control over the prompts that both have; in brackets: 95 % of "
    f"{NUM_DRAWS} means over redrawn prompts (seed {SEED}), from {FEWEST} prompts on, each for one "
    "comparison alone",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `controls`."""
    of_results(parser)
    of_text(parser)
    parser.add_argument(
        "--config-dir", type=Path, metavar="FOLDER",
        help="your own folder, whose methods may be among the results",
    )  # fmt: skip


def run(words: argparse.Namespace) -> int:
    """Print a table per section and kind of control.

    Raises  UserError: no method skips or evicts.
    """
    if words.config_dir is not None:
        expose(words.config_dir.absolute())
    # Only folders of results: the study's data hold no settings, which decide what is a control.
    read = sections(Path(words.results))
    grids = [grid for section in read for grid in tables(section)]
    if not grids:
        raise UserError(
            f"{words.results}: no method there skips passes or evicts history, so none needs a "
            "control; add one, for example method=flowcache_slow or method=flowcache_bf16"
        )
    for grid in grids:
        show(grid, words.format)
    return 0


def tables(section: Section) -> list[Grid]:
    """Return one table for each kind of control that a method of the section needs.

    Raises  UserError: as `analysis.controls.pairs.pairs`.
    """
    # Controls on fewer steps lie in sections of their own; the wide section has them as methods.
    found, wide = pairs(section), with_fewer_steps(section)
    kinds = [kind for kind in get_args(Kind) if any(pair.kind == kind for pair in found)]
    return [_table(wide, kind, [pair for pair in found if pair.kind == kind]) for kind in kinds]


def _table(section: Section, kind: Kind, found: Sequence[Pair]) -> Grid:
    # A kind is equal in one cost, and its column shows how equal.
    cost = {"uniform skip": "skipped", "fewer steps": "steps"}.get(kind, "MiB")
    header = ["method", "control", cost, "of control", "TFLOP", "of control"]
    for name in SHOWN:
        header += [QUANTITIES[name].heading, "of control", "difference"]
    # A missing control keeps its line, so that no method looks as if it needed none.
    lines = []
    for pair in found:
        cells = [pair.method, pair.control or "missing"]
        cells += [_cost(pair.kind, pair.cost), _cost(pair.kind, pair.control_cost)]
        # TFLOP stands beside every kind: equal bytes or steps need not be equal arithmetic.
        for run in (pair.method, pair.control):
            flops = section.methods[run].flops if run else math.nan
            cells.append(number(flops / 1e12, digits=3))
        for name in SHOWN:
            cells += _compared(section, name, pair)
        lines.append(cells)
    missing = [f"{pair.method}: {pair.missing}" for pair in found if pair.control is None]
    unreadable = [
        f"{name}: its request cannot be read, so it has no control" for name in unknown(section)
    ]
    notes = [*NOTES, *missing, *unreadable, *section.notes]
    return Grid(f"{section.title}: beside {kind}", header, lines, notes, words=(0, 1))


def _cost(kind: Kind, value: float | None) -> str:
    """Format a skip ratio, steps, or GiB in MiB."""
    if value is None:
        return "-"
    if kind == "fewer steps":
        return number(value, 0)
    # Histories of tiny models are far below a GiB.
    return number(value, 3) if kind == "uniform skip" else number(value * 1024, 3)


def _compared(section: Section, quantity: str, pair: Pair) -> list[str]:
    """Return the cells of one quantity: of the method, of its control, and the difference."""

    def mean(name: str | None) -> str:
        if name is None or quantity not in section.values:
            return "-"
        return number(cell(section.values, name, quantity), places)

    # SSIM and seconds of two similar policies often differ in the digit after the usual ones.
    places = QUANTITIES[quantity].decimals + (quantity != "psnr_db")
    cells = [mean(pair.method), mean(pair.control)]
    found = pair.control and between(section, quantity, pair.method, pair.control)
    if not found:
        return [*cells, "-"]
    span = ""
    if found.bounds is not None:
        span = " [" + ", ".join(number(bound, places, "+z") for bound in found.bounds) + "]"
    return [*cells, number(found.mean, places, "+z") + span]
