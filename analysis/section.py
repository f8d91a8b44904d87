"""Runs that may be compared: the data that every source produces and every view reads.

    study's file, or folder of results -> Section -> statistics -> tables, figures, choices, report
          analysis.sources.published / results

A section holds numbers and where they come from. It knows no file format and prints nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.results.run import Run

# Both sides of a pair need the same noise; the seed is a function of prompt and sample.
VIDEO = ["prompt_index", "sample"]  # pairs a method's video with BF16's; the seed follows


@dataclass(frozen=True)
class Trace:
    """Memory of one video over time.

    Shapes  time_s [T], gib [T].
    """

    time_s: NDArray[np.float64]
    gib: NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """Model, prompts, devices and video size that all runs of a section share.

    `analysis.compare` checks them before it compares runs with printed numbers.

    model: name of conf/model.
    prompts: source of the prompts, as rows name it.
    devices: every device that made a row.
    height, width: pixels.
    """

    model: str
    prompts: str
    devices: Sequence[str] = ()
    num_pixel_frames: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Method:
    """One line of a table: a run of ours, or a method of the study.

    name: printed name, unique in its section.
    row: row of the published study that the method repeats (`RTN_INT4`); else empty.
    family: chooses colour and marker.
    num_videos, num_failed: videos that were made, videos that failed.
    build: the integration (`packed`; `published`: codes unpacked, as in the study's program).
    settings: the overrides of the run.
    run_id, folder, command: where the run is and how to repeat it; empty for published methods.
    num_wanted: videos that the request asks for; None if the request is unknown.
    failures: causes and reasons.
    reasons: by quantity (`harness.results.quantities`), why the method has no value.
    skip_ratio: denoising passes that were skipped over all of them, mean over videos; NaN if
        unknown.
    flops: arithmetic of the blocks in the passes that ran (column `flops` of
        `harness.results.observation`), mean over videos; NaN if unknown.
    request: the stored request of the run; None for published methods, or if it is unreadable.
    """

    name: str
    row: str
    family: str
    num_videos: int
    num_failed: int = 0
    build: str = ""
    source: str = ""
    description: str = ""
    settings: str = ""
    run_id: str = ""
    folder: Path | None = None
    command: str = ""
    num_wanted: int | None = None
    failures: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    # Plain numbers and no columns of `values`: they describe what a run cost, and only controls and
    # decomposition read them. Choices and tables show quantities.
    skip_ratio: float = np.nan
    flops: float = np.nan
    request: Run | None = None


@dataclass(frozen=True, eq=False)  # hashed by identity: `analysis.statistics` caches by section
class Section:
    """Runs that may be compared: one suite, one model, one contract, one source of prompts.

    Tables have one column per quantity, by the names of `harness.results.quantities`.
    """

    title: str
    suite: str
    is_published: bool  # whether the numbers are the study's own

    # By name; the reference first, then in the order of the source.
    methods: Mapping[str, Method]
    # A row per method with its single numbers; NaN if missing. inf is a value: the study printed
    # some.
    values: pd.DataFrame
    # A row per video that was made, indexed by method, prompt_index and sample. A number that a run
    # reports once (`ratio` of the study) repeats in every row.
    videos: pd.DataFrame
    # The BF16 method that fidelity and differences refer to; None if it is missing.
    reference: str | None
    # What `title` says, as data.
    setting: Setting | None = None
    # BF16 with attention summed in another order: its distance to BF16 is the noise floor.
    floors: Sequence[str] = ()
    # BF16 once more, which should equal the reference.
    reruns: Sequence[str] = ()

    # By quantity or signal: a row per second (the index), a column per method; means over videos.
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    # By `kv` or `memory`, then by method: bytes over the time of one video, which `traced` names.
    traces: Mapping[str, Mapping[str, Trace]] = field(default_factory=dict)
    # GiB at the largest peak of that video: a row per method, a column per component.
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    # For sources that publish only the largest value of a trace: GiB, a row per method, a column
    # per kind of memory (`memory`, `reserved`, `kv`).
    trace_maxima: pd.DataFrame = field(default_factory=pd.DataFrame)
    traced: str = ""

    seconds_generated: float | None = None  # length of a video
    phases: str = ""  # the phases that the runtime includes
    notes: Sequence[str] = ()  # printed beneath every table
    # By quantity, `curves` or `traces`: printed wherever that one is shown.
    remarks: Mapping[str, str] = field(default_factory=dict)
    # Sections that differ in their number of denoising steps alone, for controls.
    shorter: Sequence[Section] = ()

    @property
    def again(self) -> list[str]:
        """Noise-floor runs and BF16 reruns; they are no methods to choose among."""
        return [*self.floors, *self.reruns]

    def has(self, quantity: str) -> bool:
        """Return whether any method has a value of a quantity."""
        return quantity in self.values and bool(self.values[quantity].notna().any())

    def why_not(self, quantity: str) -> str:
        """Explain why no method has a value of a quantity."""
        # Methods usually lack a quantity for one reason, such as missing weights: say it once.
        said = dict.fromkeys(
            each.reasons[quantity] for each in self.methods.values() if quantity in each.reasons
        )
        return "; ".join(said) or "not measured"


def row(values: pd.DataFrame, name: str | None) -> pd.Series | None:
    """Return one method's values; None if it is missing."""
    return values.T[name] if name is not None and name in values.index else None


def cell(values: pd.DataFrame, name: str, quantity: str) -> float:
    """Return one value; NaN if there is none."""
    found = row(values, name)
    return float("nan") if found is None else float(found.get(quantity, np.nan))
