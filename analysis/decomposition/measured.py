"""Finds the runs of a chain's links in a results folder, with their seconds and FLOPs.

A run belongs to a link if it does the link's work (`analysis.settings`). Only runs of one
network, suite, length and device are compared.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.decomposition.chains import Chain, Link, Part
from analysis.section import Method, Section
from analysis.settings import CHANGED, does
from analysis.statistics import Estimate, by_prompt, ratio
from harness.results.run import Run


@dataclass(frozen=True)
class Measured:
    """What one link measured.

    seconds: of a video, mean over prompts.
    factor: seconds of the nearest link before it that has a run, over its own; None for the first.
    flops_factor: the same of FLOPs.
    """

    link: Link
    method: Method
    seconds: float
    factor: Estimate | None = None
    flops_factor: float = math.nan


@dataclass(frozen=True)
class Setting:
    """The runs of a chain on one network, suite, length and device, in the chain's order."""

    title: str
    found: Sequence[Measured]
    missing: Sequence[Link]


def measured(of: Chain, sections: Sequence[Section]) -> list[Setting]:
    """Return every setting that has runs of two links or more.

    Raises  UserError: a run names a class that is not allowed.
    """
    groups: dict[str, list[tuple[Section, Method]]] = {}
    for section in sections:
        for method in section.methods.values():
            # The published integrations add work of their own to every pass, which is no part of a
            # chain.
            if method.request is not None and method.num_videos and method.build == "packed":
                groups.setdefault(_setting(section, method.request), []).append((section, method))
    # A link without settings has no run of its own: nothing changed.
    links = [link for link in of.links if link.words]
    found = []
    for rows in groups.values():
        runs = {}
        for link in links:
            # Several runs may do the work of a link; the first of the folder's order counts.
            run = next((row for row in rows if does(row[1], of.model, link.words)), None)
            if run is not None:
                runs[link.part] = run
        if len(runs) < 2:  # a factor needs two runs
            continue
        # Links without a run are named, with their settings.
        missing = [link for link in links if link.part not in runs]
        # The rest of the title names the attention window, in which links may differ.
        title = next(iter(runs.values()))[0].title.split(", ")[:2]
        found.append(Setting(", ".join(title), list(_measured(links, runs)), missing))
    return found


def _measured(
    links: Sequence[Link], runs: dict[Part, tuple[Section, Method]]
) -> Iterator[Measured]:
    """Yield what each run measured, compared with the nearest link before it that has a run."""
    before: tuple[pd.Series, float] | None = None
    for link in links:
        if link.part not in runs:
            continue
        section, method = runs[link.part]
        # By prompt, so that a factor pairs the same prompts of both runs.
        seconds = by_prompt(section, "runtime_s")[method.name]
        apart = None if before is None else ratio(before[0], seconds)
        less = math.nan if before is None else before[1] / method.flops
        yield Measured(link, method, float(seconds.mean()), apart, less)
        # The next link is compared with this one even if links between them have no run.
        before = seconds, method.flops


def _setting(section: Section, request: Run) -> str:
    """Return the settings that the runs of a chain share, as a key to group them by."""
    # Links change `CHANGED` and the method; all else must be equal for a factor to mean the link.
    model = {name: value for name, value in request.model.items() if name not in CHANGED}
    devices = [] if section.setting is None else section.setting.devices
    suite = [request.suite.name, request.suite.sha256, request.suite.num_frames, request.seed]
    suite += [request.suite.switches, request.suite.recache]
    return json.dumps([model, suite, devices, request.attention], sort_keys=True)
