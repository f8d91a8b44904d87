"""Compares our numbers with published ones: agree, differ, or not comparable.

A number of ours is compared with a printed one only if everything that the printed column needs is
equal (`analysis.sources.published.papers.Column.needs`) and if its run does the same work, where
the paper's file states which (`analysis.sources.published.papers.Work`). The two agree if the
printed number's rounding interval overlaps our 95 % interval.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis.numbers import number as printed
from analysis.pages import show
from analysis.section import Method, Section
from analysis.settings import does
from analysis.sources.published.papers import Number, Paper, names, paper
from analysis.statistics import FEWEST, estimates
from analysis.verb_options import PUBLISHED, of_source, source
from harness.results.quantities import QUANTITIES
from harness.system.errors import UserError
from harness.system.text_table import Grid
from harness.system.units import GIB

Word = Literal["agrees", "differs", "not comparable", "not run"]
# The rest of our quantities are means over prompts, which an interval belongs to.
POINTS = ("ratio", "peak_gib")  # counted or largest: no mean over prompts
COUNTED = "counted by the planner"
LIST = "list"
BESIDE_VANILLA = "distances to vanilla's videos there, to BF16 of the same order of passes here"
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Counted:
    """Quantities of one row of the study, computed by the planner from what the study stored."""

    suite: str
    row: str
    values: dict[str, float]


@dataclass(frozen=True)
class Ours:
    """One number of ours, from a run or the planner; reasons: why it is not comparable."""

    name: str
    source: str
    value: float
    bounds: Bounds | None
    reasons: Sequence[str] = ()


@dataclass(frozen=True)
class Verdict:
    """Result of comparing one printed number with one of ours."""

    number: Number
    ours: Ours | None
    word: Word
    reason: str

    @property
    def difference(self) -> float | None:
        """Ours minus theirs; None unless both are finite."""
        if self.ours is None or not math.isfinite(self.ours.value - self.number.value):
            return None
        return self.ours.value - self.number.value


def verdicts(paper: Paper, sections: Sequence[Section], counts: Sequence[Counted]) -> list[Verdict]:
    """Judge every printed number of a paper against each of our numbers that repeats its row."""
    # The planner's counts stand beside runs and do not replace them: both may disagree with the
    # print.
    known = {(each.suite, each.row): each for each in counts}
    found = []
    for number in paper.numbers:
        ours = list(_of_runs(number, sections))
        row, key = known.get((number.suite, number.row)), number.column.quantity
        if row is not None and key in row.values:
            ours.append(Ours(str(number.method), COUNTED, row.values[key], None))
        found += [judged(number, each) for each in ours]
        # A number without one of ours gets a verdict too, so that none is dropped silently.
        if not ours and number.column.quantity is None:
            found.append(Verdict(number, None, "not comparable", number.column.why_not))
        elif not ours and number.method is None:
            said = "" if number.work is None else number.work.said
            why = said or "no method here repeats this row"
            found.append(Verdict(number, None, "not comparable", why))
        elif not ours:
            found.append(Verdict(number, None, "not run", f"no run of {number.method} has it"))
    return found


def judged(number: Number, ours: Ours) -> Verdict:
    """Judge one pair: not comparable, agrees or differs."""
    note = f"; {number.column.note}" if number.column.note else ""
    # Reasons come first: two numbers that agree by chance say nothing if their settings differ.
    if ours.reasons:
        return Verdict(number, ours, "not comparable", "; ".join(ours.reasons))
    # A count or a maximum is compared as a point, so only the printed number's rounding gives room.
    low, high = ours.bounds or (ours.value, ours.value)
    # The tolerance keeps a value on the edge of the rounding interval inside it, in floating point.
    slack = number.half_unit * (1 + 1e-9)
    overlaps = low <= number.value + slack and high >= number.value - slack
    same = overlaps or ours.value == number.value  # both may be infinite
    return Verdict(number, ours, "agrees" if same else "differs", ours.source + note)


def reasons(number: Number, section: Section, method: Method) -> list[str]:
    """Explain why a run of ours is not comparable with a printed number; empty if it is."""
    theirs, ours = number.setup, section.setting
    # A section without a setting cannot tell model or device, so nothing of it may be compared.
    if ours is None:
        return ["what it was measured on is not known"]
    size = (theirs.height, theirs.width)
    their_size = "a known one" if theirs.height is None else f"{theirs.height}x{theirs.width}"
    device = " and ".join(ours.devices) or "unknown"
    # A check for each word of `papers.NEEDS`. The column decides which of them count: bytes do not
    # depend on the device. The texts name both sides, so that a reader sees what to change.
    checks = {
        "model": (ours.model in theirs.models, f"other model ({ours.model}, not {theirs.model})"),
        "length": (
            theirs.num_pixel_frames == ours.num_pixel_frames,
            f"other length ({ours.num_pixel_frames} frames, not {theirs.num_pixel_frames})",
        ),
        "size": (
            size == (ours.height, ours.width),
            f"other size ({ours.height}x{ours.width}, not {their_size})",
        ),
        "device": (
            bool(theirs.device) and ours.devices == [theirs.device],
            f"other device ({device}, not {theirs.device or 'a known one'})",
        ),
        "prompts": (
            theirs.prompts == ours.prompts and theirs.num_videos == method.num_videos,
            f"other prompts ({method.num_videos} {ours.prompts}, not "
            # A paper that names no source of prompts leaves two spaces behind.
            f"{theirs.num_videos or 'a known number of'} {theirs.prompts})".replace("  ", " "),
        ),
        "build": (
            not theirs.build or theirs.build == method.build,
            f"built in otherwise (integration={method.build or 'unknown'}, not {theirs.build})",
        ),
    }
    found = [said for need in number.column.needs for same, said in [checks[need]] if not same]
    work = number.work
    # Names are no proof of the same work: a run of `flowcache_fast` may have another order of
    # passes, reach or guidance than the row of the paper (docs/compare.md).
    if work is not None and not does(method, theirs.models[0], work.words):
        found.append(f"other work (theirs is {' '.join(work.words)})")
    is_fidelity = QUANTITIES[str(number.column.quantity)].fidelity
    if work is not None and work.is_beside_vanilla and is_fidelity:
        found.append(BESIDE_VANILLA)
    return found


def grid(paper: Paper, found: Sequence[Verdict]) -> Grid:
    """Build the table of compared pairs, in the paper's order; notes count the other numbers."""
    # Most numbers of most papers have none of ours, so a table of all would hide the pairs.
    shown = [each for each in found if each.ours is not None]
    rows = []
    for each in shown:
        number, ours, apart = each.number, each.ours, each.difference
        assert ours is not None
        # As many decimals as the paper prints, so that the two can be compared digit by digit.
        digits = number.column.decimals
        measured = printed(ours.value, digits)
        if ours.bounds is not None:
            measured += f" [{ours.bounds[0]:.{digits}f}, {ours.bounds[1]:.{digits}f}]"
        difference = "" if apart is None else printed(apart, digits, "+z")
        name = f"{number.column.name} {number.column.unit}".strip()
        rows.append([
            number.table, number.suite, number.row, name, number.printed,
            ours.name, measured, difference, each.word, each.reason,
        ])  # fmt: skip
    header = ["table", "suite", "row", "column", "published", "ours", "measured", "difference"]
    return Grid(
        f"{paper.title} (arXiv {paper.arxiv}, {paper.version})",
        [*header, "verdict", "reason"],
        rows,
        list(_notes(paper, found)),
        words=(0, 1, 2, 3, 5, 8, 9),
        name=f"compare-{paper.name}",
    )


def of_work(paper: Paper) -> Grid | None:
    """Build the table of the settings that do the work of each row; None if none are stated."""
    lines = [
        [
            *(table.id, row, "yes" if work.words else "no", " ".join(work.words)),
            "; ".join(filter(None, [work.said, BESIDE_VANILLA * work.is_beside_vanilla])),
        ]
        for table in paper.tables
        for row, work in table.work.items()
    ]
    header = ["table", "row", "same work", "settings", "why, or what differs"]
    title = f"{paper.title}: what does the same work here"
    return Grid(title, header, lines, words=range(5), name=f"work-{paper.name}") if lines else None


def count(found: Sequence[Verdict]) -> Mapping[Word, int]:
    """Count the verdicts of each kind."""
    words: tuple[Word, ...] = ("agrees", "differs", "not comparable", "not run")
    return {word: sum(each.word == word for each in found) for word in words}


def _of_runs(number: Number, sections: Sequence[Section]) -> Iterator[Ours]:
    """Yield our runs that repeat a row, from every section of its suite."""
    key = number.column.quantity
    if key is None:
        return
    for section in sections:
        # Most papers measure on prompts that are no suite of ours: their tables name none, and
        # `reasons` then compares the source of the prompts.
        if number.suite and section.suite != number.suite:
            continue
        for name, method in section.methods.items():
            # Our names are "method settings"; the first word alone decides which row a run repeats.
            repeats = (
                method.row == number.row
                if section.is_published
                else number.method is not None and name.split()[0] == number.method
            )
            if not repeats or key not in section.values:
                continue
            # Scaled before it is tested: the printed number decides the unit (GB, percent).
            value = float(section.values[key][name]) * number.column.scale
            if math.isnan(value):
                continue
            why = reasons(number, section, method)
            if section.is_published:
                # The study's numbers against its own tables: the same videos, so no interval.
                yield Ours(name, "the study's observations", value, None, why)
                continue
            # Bytes and largest peaks are no means over prompts, so they have no interval.
            mean = None if key in POINTS else estimates(section, key).get(name)
            bounds = mean.bounds if mean else None
            if bounds is None and key not in POINTS:
                why.append(f"fewer than {FEWEST} prompts, so no interval")
            yield Ours(name, f"run {method.run_id}", value, bounds, why)


def _notes(paper: Paper, found: Sequence[Verdict]) -> Iterator[str]:
    """Yield the number of each verdict, then the numbers without one of ours, by reason."""
    yield ", ".join(f"{word}: {number}" for word, number in count(found).items())
    # Numbers without one of ours are counted rather than listed: the study alone has 690.
    alone = [each for each in found if each.ours is None]
    without = Counter(
        f"{each.number.column.name}, {each.reason}" for each in alone if each.word != "not run"
    )
    for why, number in without.items():
        yield f"not comparable, {number} numbers of {why}"
    # Rows with stated work have their settings in a table of their own (`of_work`).
    unrun = [each.number for each in alone if each.word == "not run"]
    if known := sum(number.work is not None for number in unrun):
        yield f"not run, {known} numbers: the table of the same work has their settings"
    unrun = [number for number in unrun if number.work is None]
    for suite in dict.fromkeys(number.suite for number in unrun):
        methods = [str(number.method) for number in unrun if number.suite == suite]
        words = [
            f"method={','.join(dict.fromkeys(methods))}",
            *([f"suite={suite}"] if suite else []),
        ]
        # Any of these has the paper's weights; the first is also the one that stated work names.
        words += [f"model={name}" for name in paper.setup.models[:1]]
        yield f"not run, {len(methods)} numbers: python -m harness -m {' '.join(words)}"
    if paper.setup.protocol:
        yield f"theirs: {paper.setup.protocol}"


def counted() -> list[Counted]:
    """Let the planner count every row and suite of the study."""
    # Imports the network and takes some seconds, so only papers that need it pay for it.
    from harness.planning.study_table import rows

    return [
        Counted(each.suite, each.method, {"ratio": each.ratio, "peak_gib": each.peak_bytes / GIB})
        for each in rows()
    ]


# ---- the verb ------------------------------------------------------------------------------------


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `compare`."""
    of_source(parser)
    parser.add_argument(
        "--published",
        # The study is the one whose methods are all here, so it is what a reader most likely asks
        # for.
        default="longhorizon",
        help=f"papers, with commas, or all; {LIST} names them (default: longhorizon, the study)",
    )
    parser.add_argument("--suite", help="only this suite")
    parser.add_argument("--row", help="only rows whose published or our name holds this word")
    parser.add_argument("--format", choices=["text", "md", "latex", "csv"], default="text")


def run(words: argparse.Namespace) -> int:
    """Print one table per paper; its notes count the numbers that have none of ours."""
    if words.published == LIST:
        lines = [[x.name, x.arxiv, str(len(x.numbers)), x.title] for x in map(paper, names())]
        header = ["name", "arXiv", "numbers", "title"]
        Grid("published numbers", header, lines, words=(0, 1, 3)).show()
        return 0
    chosen = names() if words.published == "all" else words.published.split(",")
    # Before the runs are read, so that a wrong name fails at once.
    papers = [_narrowed(paper(name), words.suite, words.row) for name in chosen]
    ours: Sequence[Section] = ()
    why = []
    try:
        ours = source(words)
    except UserError as error:
        # Without runs of ours, printed numbers and planner counts can still be shown.
        if words.source == PUBLISHED:
            raise
        why = [f"no runs of ours: {error}"]
    for each in papers:
        # The study's own numbers need no count beside them: they are the print's source.
        counts = counted() if each.counted and words.source != PUBLISHED else ()
        found = verdicts(each, ours, counts)
        table = grid(each, found)
        table = replace(table, notes=[*table.notes, *why])
        show(table, words.format)
        # A CSV file holds one table.
        if words.format != "csv" and (work := of_work(each)):
            show(work, words.format)
    return 0


def _narrowed(each: Paper, suite: str | None, word: str | None) -> Paper:
    """Keep only the rows that were asked for.

    Raises  UserError: there are none.
    """
    tables = []
    for table in each.tables:
        if suite and table.suite and table.suite != suite:
            continue
        rows = {
            row: values
            for row, values in table.rows.items()
            if not word or word.lower() in f"{row} {each.method_of(table, row)}".lower()
        }
        if rows:
            # `of_work` prints whatever a table states, so rows that are left out must leave it too.
            work = {row: work for row, work in table.work.items() if row in rows}
            tables.append(replace(table, rows=rows, work=work))
    if not tables:
        raise UserError(
            f"{each.name} has no row of suite {suite or 'any'} that holds {word or 'any word'}: "
            f"its suites are {', '.join(dict.fromkeys(t.suite for t in each.tables)) or 'none'}"
        )
    return replace(each, tables=tables)
