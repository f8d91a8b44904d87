"""Writes the whole report: pages and videos, in a folder that replaces an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from analysis.report import links, pages
from analysis.report.cards import card
from analysis.report.folder import link, replaced
from analysis.report.overview import overview
from analysis.report.parts import parts
from analysis.report.progress import shown
from analysis.report.prompts import prompt_page
from analysis.report.provenance import provenance
from analysis.section import Section
from harness.system.units import size
from harness.system.version import code_version


@dataclass(frozen=True)
class Videos:
    """Number and bytes of the MP4s in a report."""

    num: int
    nbytes: int


@dataclass(frozen=True)
class Written:
    """Summary of a written report; page_bytes: all pages, without the videos."""

    out: Path
    num_prompts: int
    num_methods: int
    page_bytes: int
    videos: Videos


def write(sections: Sequence[Section], out: Path, command: str, wanted: slice | None) -> Written:
    """Write the report of these sections.

    wanted: prompts that get a page; None for all with a video. command: as the user typed it.
    Raises  UserError: `out` is something else, or the disk does not take it.
    """
    with replaced(out) as folder:
        # Everything is written to a new folder; the old report stays until this one is complete.
        read = parts(sections, wanted)
        # A method of several suites has one card.
        methods = dict.fromkeys(name for each in sections for name in each.methods)
        cards = links.slugs(methods)
        pages.write_assets(folder)
        # Videos first: pages link only to files that are there.
        films = [(part, *film) for part in read for film in part.films()]
        files: dict[str, dict[tuple[str, int, int], str]] = {part.key: {} for part in read}
        video_bytes = 0
        for part, name, index, sample, path in shown(films, "videos"):
            place = f"videos/{part.key}/{cards[name]}/{index:04d}-{sample}.mp4"
            video_bytes += link(path, folder / place)
            files[part.key][name, index, sample] = place
        videos = Videos(len(films), video_bytes)
        # The sizes of linked videos count as bytes of the report, so the page says that links take
        # none.
        how = "hard links to those of the results where the disk allows it, else copies"
        mp4s = f"{videos.num} MP4s, {size(videos.nbytes)}, {how}" if videos.num else "no MP4"
        said = {
            "made by": command,
            "on": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "version of the harness": code_version(),
            "videos": mp4s,
        }
        # Functions instead of texts: each page is rendered when it is written, and then forgotten.
        made: list[tuple[str, Callable[[], str]]] = [
            *(
                (
                    links.prompt(part.key, index),
                    partial(prompt_page, part, index, cards, files[part.key]),
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
    return Written(out, num_prompts, len(methods), nbytes, videos)
