"""Writes the whole report: pages and videos, in a folder that replaces an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from analysis.report import links, pages
from analysis.report.cards import card
from analysis.report.folder import link, replaced
from analysis.report.overview import overview
from analysis.report.parts import Part, parts
from analysis.report.progress import shown
from analysis.report.prompts import Files, prompt_page
from analysis.report.provenance import provenance
from analysis.section import Section
from harness.system.units import size
from harness.system.version import code_version


@dataclass(frozen=True)
class Linked:
    """The MP4s in a report: paths by section, their number and bytes."""

    files: Mapping[str, Files]
    num: int
    nbytes: int


@dataclass(frozen=True)
class Written:
    """Summary of a written report; page_bytes: all pages, without the videos."""

    out: Path
    num_prompts: int
    num_methods: int
    page_bytes: int
    videos: Linked


def write(sections: Sequence[Section], out: Path, command: str, wanted: slice | None) -> Written:
    """Write the report of these sections.

    wanted: prompts that get a page; None for all with a video. command: as the user typed it.
    Raises  UserError: `out` is something else, or the disk does not take it.
    """
    with replaced(out) as folder:
        read = parts(sections, wanted)
        methods = dict.fromkeys(name for each in sections for name in each.methods)
        cards = links.slugs(methods)
        pages.write_assets(folder)
        linked = _linked(read, folder, cards)
        how = "hard links to those of the results where the disk allows it, else copies"
        mp4s = f"{linked.num} MP4s, {size(linked.nbytes)}, {how}" if linked.num else "no MP4"
        said = {
            "made by": command,
            "on": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "version of the harness": code_version(),
            "videos": mp4s,
        }
        made: list[tuple[str, Callable[[], str]]] = [
            *(
                (
                    links.prompt(part.key, index),
                    partial(prompt_page, part, index, cards, linked.files[part.key]),
                )
                for part in read
                for index in part.prompts
            ),
            *((links.card(cards[name]), partial(card, name, read, cards)) for name in methods),
            ("index.html", partial(overview, read, cards, said)),
            ("provenance.html", partial(provenance, read, cards, said)),
        ]
        nbytes = 0
        for name, make in shown(made, "pages"):
            nbytes += pages.write(folder / name, make())
    num_prompts = sum(len(part.prompts) for part in read)
    return Written(out, num_prompts, len(methods), nbytes, linked)


def _linked(read: Sequence[Part], folder: Path, cards: Mapping[str, str]) -> Linked:
    """Link the MP4s of all prompts with a page into the report."""
    wanted = [(part, *video) for part in read for video in part.films()]
    found: dict[str, dict[tuple[str, int, int], str]] = {part.key: {} for part in read}
    nbytes = 0
    for part, name, index, sample, path in shown(wanted, "videos"):
        place = f"videos/{part.key}/{cards[name]}/{index:04d}-{sample}.mp4"
        nbytes += link(path, folder / place)
        found[part.key][name, index, sample] = place
    return Linked(found, len(wanted), nbytes)
