"""Collects the data of a section's pages: run folders, numbers, page names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from analysis.report import links
from analysis.report.numbers import Numbers, numbers, ranked
from analysis.report.plots import Group, groups
from analysis.report.progress import shown
from analysis.report.runs import OF_VIDEOS, Facts, facts
from analysis.section import VIDEO, Section
from harness.results.quantities import QUANTITIES, Quantity


@dataclass(frozen=True)
class Part:
    """One section of the report.

    key: its slug.
    runs: by method, the contents of its folder.
    videos: one row per video that can be shown or failed.
    prompts: texts of the prompts that have a page.
    num_filmed: prompts that have an MP4.
    without: prompts that were made and have no page.
    rank: quantity that ranks prompts; empty for none.
    order: each method's prompts from best to worst.
    groups: its figures.
    """

    key: str
    section: Section
    runs: Mapping[str, Facts]
    numbers: Numbers
    videos: pd.DataFrame
    prompts: Mapping[int, str]
    num_filmed: int
    without: int
    rank: str
    order: Mapping[str, Sequence[int]]
    groups: Sequence[Group]

    @property
    def quantity(self) -> Quantity | None:
        """The quantity that ranks prompts."""
        return QUANTITIES.get(self.rank)

    def films(self) -> list[tuple[str, int, int, Path]]:
        """List the MP4s of all prompts with a page: method, prompt, sample, file."""
        # Failed videos have rows too, but no film.
        rows = self.videos[self.videos["mp4"].astype(bool)]
        names, stems = (rows[column].astype(str) for column in ("method", "video"))
        keys = (rows[column].astype(int) for column in VIDEO)
        # A row comes from a folder, so its method has one; `Path()` only satisfies the types.
        folders = {name: method.folder or Path() for name, method in self.section.methods.items()}
        return [
            (name, index, sample, folders[name] / f"{stem}.mp4")
            for name, index, sample, stem in zip(names, *keys, stems, strict=True)
        ]

    def said(self, what: str) -> list[str]:
        """Return the distinct values of one fact in the rows of this section."""
        return list(dict.fromkeys(x for run in self.runs.values() for x in run.said.get(what, ())))

    @property
    def num_made(self) -> int:
        """Number of videos that were made."""
        return sum(method.num_videos for method in self.section.methods.values())

    @property
    def num_failed(self) -> int:
        """Number of videos that failed."""
        return sum(method.num_failed for method in self.section.methods.values())


def parts(sections: Sequence[Section], wanted: slice | None) -> list[Part]:
    """Read all sections; `wanted`: prompts that get a page, None for all that have a video."""
    # Several sections may have one suite, so their keys are numbered.
    keys = links.slugs_of([section.suite for section in sections])
    found = []
    for key, section in zip(keys, sections, strict=True):
        runs = {
            # The study's methods have no folder here.
            name: facts(method.folder) if method.folder else Facts()
            for name, method in shown(list(section.methods.items()), f"runs of {section.suite}")
        }
        named = [run.videos.assign(method=name) for name, run in runs.items() if len(run.videos)]
        videos = pd.DataFrame(columns=["method", *OF_VIDEOS, "mp4"])
        # `concat` refuses an empty list: no run left a video or a failure.
        if named:
            videos = pd.concat(named, ignore_index=True)
        filmed = sorted(videos.loc[videos["mp4"].astype(bool), "prompt_index"].unique())
        num_filmed = len(filmed)
        if wanted is not None:
            # Slices may count from the end, which only a range of all indices resolves.
            asked = range(*wanted.indices(max(filmed, default=-1) + 1))
            filmed = [index for index in filmed if index in asked]
        # Of all prompts with numbers, whether they have a film or not.
        made = {int(x) for x in section.videos.index.get_level_values("prompt_index").unique()}
        # All methods have the same prompts, so the first row of a prompt has its text.
        texts = videos.drop_duplicates("prompt_index").set_index("prompt_index")["prompt"]
        rank, order = ranked(section)
        found.append(
            Part(
                key=key,
                section=section,
                runs=runs,
                numbers=numbers(section),
                videos=videos[videos["prompt_index"].isin(filmed)],
                prompts={int(index): str(texts[index]) for index in filmed},
                num_filmed=num_filmed,
                without=len(made - set(filmed)),
                rank=rank,
                order=order,
                groups=groups(section, key),
            )
        )
    return found
