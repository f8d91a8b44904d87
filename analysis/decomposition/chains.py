"""Counts the factors between a paper's vanilla program and its fast rows, in FLOPs.

A chain (`chains.yaml`) is a list of links; each changes one part of the system. The planner counts
the FLOPs after each link at the paper's sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import yaml

from analysis.settings import built
from analysis.sources.published.papers import Number, paper
from harness.planning.flops import video_flops
from harness.system.errors import UserError, did_you_mean
from harness.system.paths import shipped

Part = Literal[
    "vanilla", "execution model", "guidance pass", "bounded history", "compression", "reuse"
]
FILE = shipped("analysis.decomposition", "chains.yaml")
REST = "not in the FLOPs"
# Papers print PFLOP.
PETA = 1e15


@dataclass(frozen=True)
class Link:
    """One link of a chain.

    part: the part of the system that it changes.
    why: what changes, or why nothing does.
    words: settings of its run; empty if nothing changes.
    counted: settings whose FLOPs are counted, if not those of `words`.
    charged: settings whose FLOPs the paper gives for this link, if others.
    finished: finished chunks that a policy keeps (`harness.planning.flops.video_flops`).
    published: take the paper's FLOPs.
    """

    part: Part
    why: str
    words: Sequence[str] = ()
    counted: Sequence[str] = ()
    charged: Sequence[str] = ()
    finished: int | None = None
    published: bool = False


@dataclass(frozen=True)
class Chain:
    """The links between the vanilla row of a paper and another row.

    paper, table, row: where the printed numbers are (`analysis/sources/published`).
    model: name of the preset. num_frames: latent frames. text_rows: rows of the text that count.
    """

    name: str
    title: str
    paper: str
    table: str
    row: str
    model: str
    num_frames: int
    text_rows: int
    links: Sequence[Link]

    def printed(self, row: str, column: str) -> Number:
        """Return a printed number of the chain's table."""
        # Exactly one: a chain that points at a missing or repeated number is wrong.
        (found,) = [
            each
            for each in paper(self.paper).numbers
            if (each.table, each.row, each.column.name) == (self.table, row, column)
        ]
        return found


@dataclass(frozen=True)
class Factor:
    """The share of a speed-up that is due to one part.

    after: FLOPs of a video with this link and all before it; NaN for `REST`.
    factor: FLOPs before over FLOPs after; for `REST`, seconds that FLOPs do not explain.
    bounds: of a factor that comes from a printed number, by its rounding.
    share: of the speed-up's logarithm.
    """

    part: str
    after: float
    factor: float
    share: float
    bounds: tuple[float, float] | None = None


def chains() -> dict[str, Chain]:
    """Return all chains by name."""
    return {
        # An unknown key of the file is a TypeError here, and so is a missing one.
        name: Chain(name, **{**given, "links": [Link(**link) for link in given["links"]]})
        for name, given in yaml.safe_load(FILE.read_text(encoding="utf-8")).items()
    }


def chain(name: str) -> Chain:
    """Return one chain.

    Raises  UserError: there is none of this name.
    """
    known = chains()
    if name not in known:
        near = did_you_mean(name, list(known))
        raise UserError(f"there is no chain {name!r}{near}: choose {', '.join(known)}")
    return known[name]


def factors(of: Chain) -> list[Factor]:
    """Return the factor of every part of a chain, vanilla first, `REST` last."""
    # In seconds, as the paper measured it; the factors below are of FLOPs.
    speedup = of.printed(of.row, "speedup").value
    found: list[Factor] = []
    # What vanilla runs, and not what the paper charges it for (`Link.charged`).
    before = flops(of, of.links[0])
    for link in of.links:
        after, bounds = before, None  # a link without settings changes no FLOPs
        if link.published:
            # How many steps a reuse policy skips depends on trained weights, so the planner cannot
            # count this link: take the paper's number.
            printed = of.printed(of.row, "pflops")
            after = printed.value * PETA
            # More FLOPs after the link are a smaller factor, so the upper end comes first.
            ends = (printed.value + printed.half_unit, printed.value - printed.half_unit)
            bounds = (before / PETA / ends[0], before / PETA / ends[1])
        elif link.words:
            after = flops(of, link)
        # Factors multiply, so their logarithms add up to that of the speed-up.
        share = math.log(before / after) / math.log(speedup)
        found.append(Factor(link.part, after, before / after, share, bounds))
        before = after
    # The first link is vanilla itself, the last one the paper's fast row. Seconds that the FLOPs
    # between them do not explain are a factor of their own.
    rest = speedup / (found[0].after / before)
    found.append(Factor(REST, math.nan, rest, math.log(rest) / math.log(speedup)))
    return found


def flops(of: Chain, link: Link, charged: bool = False) -> float:
    """Return the FLOPs of a video with the settings of a link, without passes that only store.

    charged: with the settings for which the paper gives its FLOPs.
    """
    # The paper's totals leave out passes that only store a chunk.
    words = (link.charged if charged else ()) or link.counted or link.words
    # Only the model's settings matter: what a policy keeps is `finished`, and what it skips is
    # taken from the paper.
    model, _ = built(of.model, tuple(word for word in words if word.startswith("model.")))
    return video_flops(
        model, of.num_frames, text_rows=of.text_rows, commits=False, finished=link.finished
    )
