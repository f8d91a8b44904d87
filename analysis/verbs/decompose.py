"""Verb `decompose`: prints which part of a system each share of a published speed-up is due to."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from analysis.decomposition.chains import PETA, REST, Chain, Factor, chain, chains, factors, flops
from analysis.decomposition.measured import Measured, Setting, measured
from analysis.figures.figure import Axis, Bar, Bars, Panels
from analysis.figures.paper import svg
from analysis.numbers import number
from analysis.pages import show, write
from analysis.section import Section
from analysis.sources.results import sections
from analysis.statistics import FEWEST, NUM_DRAWS, SEED
from analysis.verb_options import of_results, of_text
from harness.system.errors import UserError
from harness.system.text_table import Grid

MEASURED_NOTE = (
    "factor: the link before over this one; of seconds a geometric mean over the prompts of both, "
    f"in brackets 95 % of {NUM_DRAWS} means over redrawn prompts (seed {SEED}), from {FEWEST} "
    "prompts on"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `decompose`."""
    of_results(parser)
    of_text(parser)
    parser.add_argument("--chain", help=f"only this one of {', '.join(chains())} (default: all)")
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="also write the factors as SVG to this file"
    )


def run(words: argparse.Namespace) -> int:
    """Print the counted factors of each chain, then those of its runs.

    Raises  UserError: there is no such chain.
    """
    chosen = [chain(words.chain)] if words.chain else list(chains().values())
    # The counted factors need no runs, so it is no error if there are none.
    try:
        read: Sequence[Section] = sections(Path(words.results))
        none = ""
    except UserError as error:
        read, none = [], f"no runs of ours: {error}"
    grids = [grid for of in chosen for grid in tables(of, read)]
    for grid in grids:
        show(grid, words.format)
    # After the tables and not as an error: the counted factors above are complete.
    if none:
        print(none)
    if words.figure is not None:
        write(words.figure, svg(figure(chosen)))
        print(words.figure)
    return 0


def tables(of: Chain, read: Sequence[Section]) -> list[Grid]:
    """Return the table of a chain's counted factors, then those of its runs.

    Raises  UserError: as `analysis.decomposition.measured.measured`.
    """
    return [_counted(of), *(_measured(of, each) for each in measured(of, read))]


def figure(chosen: Sequence[Chain]) -> Panels:
    """Draw the factors of chains, a panel each; their product is the speed-up."""
    panels = []
    for of in chosen:
        bars = [
            Bar(each.part, each.part, [each.factor], *(each.bounds or (None, None)))
            for each in factors(of)
            # Vanilla is the base of all factors and has none itself.
            if each.part != "vanilla"
        ]
        title = f"{of.title}: {of.printed(of.row, 'speedup').printed}x"
        # No direction is better: a factor below 1 is a part that costs.
        axis = Axis("factor; their product is the speed-up")
        panels.append(Bars(of.name, title, axis, bars, mark=1.0, mark_said="no change"))
    return Panels(
        "decompose",
        # Two in a row: the fast and the slow row of one model stand side by side.
        [panels[i : i + 2] for i in range(0, len(panels), 2)],
        title="What published speed-ups are due to",
        note="FLOPs counted by the planner at the paper's sizes, reuse by the paper's own FLOPs",
    )


def _counted(of: Chain) -> Grid:
    """Return the table of the factors in FLOPs at the paper's sizes."""
    vanilla, speedup = of.printed("vanilla", "pflops"), of.printed(of.row, "speedup")
    found = factors(of)
    # `REST` is a factor without a link, so a lookup by part may find none.
    links = {link.part: link for link in of.links}
    lines = []
    for each in found:
        words = " ".join(links[each.part].words) if each.part in links else ""
        is_first = each.part == "vanilla"
        lines.append([
            each.part,
            number(each.after / PETA, 1),
            "" if is_first else number(each.factor, 2) + _bounds(each),
            "" if is_first else f"{number(100 * each.share, 0, 'z')} %",
            # A link without settings is in the table all the same, so that a reader sees it was
            # looked at.
            words or "unchanged" * (each.part != REST),
        ])  # fmt: skip
    seconds = [of.printed(row, "runtime_s").printed for row in ("vanilla", of.row)]
    # The paper charges its vanilla run for other work than it does; its printed total checks the
    # planner's count.
    charged = flops(of, of.links[0], charged=True)
    gap = charged / PETA / vanilla.value - 1
    notes = [
        f"published: {speedup.printed}x in seconds ({seconds[0]} to {seconds[1]}), "
        f"{vanilla.printed} to {of.printed(of.row, 'pflops').printed} PFLOP; the planner counts "
        f"{number(charged / PETA, 1)} for its vanilla ({number(100 * gap, 1, '+z')} %)",
        "PFLOP: of a video after this link and all before it; factor: before over after; share: of "
        "the speed-up's logarithm, since factors multiply",
        "reuse: the paper's FLOPs, since which steps it skips depends on trained weights; in "
        f"brackets: by their rounding; {REST}: seconds that FLOPs do not explain",
        *(f"{link.part}: {link.why}" for link in of.links),
    ]
    header = ["part", "PFLOP", "factor", f"share of {speedup.printed}x", "settings"]
    return Grid(of.title, header, lines, notes, words=(0, 4))


def _measured(of: Chain, setting: Setting) -> Grid:
    """Return the table of the runs of one network, suite and device."""
    lines = [
        [
            each.link.part,
            number(each.method.flops / 1e12, digits=3),
            number(each.flops_factor, 2),
            number(each.seconds, 2),
            # The first run of a chain has nothing before it to be compared with.
            "-" if each.factor is None else number(each.factor.mean, 2) + _bounds(each),
            str(each.method.num_videos),
            each.method.name,
        ]
        for each in setting.found
    ]
    notes = [MEASURED_NOTE]
    # Policies decide by features of the network, which random weights make arbitrary.
    weights = {
        each.method.request.model["weights"] for each in setting.found if each.method.request
    }
    if weights & {"seeded", "random"}:
        notes.append(
            "untrained weights: videos are noise, and which steps a policy skips means little"
        )
    notes += [
        f"no run of {link.part}: its settings are {' '.join(link.words)}"
        for link in setting.missing
    ]
    header = ["part", "TFLOP", "factor", "seconds", "factor", "n", "run"]
    return Grid(f"{of.title}, as run: {setting.title}", header, lines, notes, words=(0, 6))


def _bounds(each: Factor | Measured) -> str:
    """Format the interval of a factor; empty without one."""
    bounds = each.bounds if isinstance(each, Factor) else each.factor and each.factor.bounds
    # Ends that agree would print as an interval without a width.
    if not bounds or math.isclose(*bounds, rel_tol=1e-9):
        return ""
    return f" [{number(bounds[0], 2)}, {number(bounds[1], 2)}]"
