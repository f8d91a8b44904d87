"""What every source gives and everything downstream takes: runs that may be compared.

    study's file, or folder of results -> Section -> statistics -> tables, figures, choices, report
          analysis.sources.published / results

A section holds numbers and where they come from; it knows no file format and no way of printing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

VIDEO = ["prompt_index", "sample"]  # what pairs a method's video with BF16's; the seed follows


@dataclass(frozen=True)
class Trace:
    """Memory of one video over time.

    Shapes  time_s [T], gib [T].
    """

    time_s: NDArray[np.float64]
    gib: NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """What the runs of a section share, as another source's numbers are held against it.

    model: name of conf/model. prompts: the source of the prompts. devices: of all rows.
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

    name: unique in its section, as it is printed. row: the published study's row that it repeats
    (`RTN_INT4`), empty for any other. family: chooses colour and marker. build: the integration
    (`packed`; `published`: codes unpacked, as the study's program). settings: the words that
    changed it. run_id, folder, command: how it was made, empty for published ones. num_wanted:
    videos that its request asks for, None where no request tells. failures: causes and reasons.
    reasons: why it has no value of a quantity (by name of `harness.results.quantities`).
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


@dataclass(frozen=True, eq=False)  # itself alone, so that what is worked out of it can be kept
class Section:
    """Runs that may be compared: one suite, one model, one contract, one source of prompts.

    title: all of that in words, setting: for programs. is_published: the study's own numbers.
    methods: by name, the reference first, then as they come.
    values: a row a method (its name), a column a quantity (`harness.results.quantities`), each the
    one number of that method, NaN where there is none; inf is a value (the study printed some).
    videos: a row a video that was made, indexed by method, prompt_index and sample; a column a
    quantity. What a run reports once for all videos (`ratio` of the study) is the same in all.
    reference: the BF16 method that fidelity and differences are held against; None: not among them.
    floors: methods that are BF16 changed harmlessly (attention summed in another order): what they
    lose is the noise floor. reruns: BF16 once more, which should differ in nothing.
    curves: by quantity or by column of a signal, a row a point in time (index in seconds), a column
    a method: the mean over videos.
    traces: by `kv` or `memory`, each method's bytes over the time of the video `traced`.
    components: a row a method, a column a component, GiB at the largest peak of the traced video.
    trace_maxima: for sources that kept only the largest value of a trace: a row a method, a column
    a kind of memory (`memory`, `reserved`, `kv`), GiB.
    phases: which seconds the runtime includes. notes: what the reader must know beneath a table;
    remarks: the same, wherever a quantity (by its name), `curves` or `traces` are shown.
    """

    title: str
    suite: str
    is_published: bool
    methods: Mapping[str, Method]
    values: pd.DataFrame
    videos: pd.DataFrame
    reference: str | None
    setting: Setting | None = None
    floors: Sequence[str] = ()
    reruns: Sequence[str] = ()
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    traces: Mapping[str, Mapping[str, Trace]] = field(default_factory=dict)
    components: pd.DataFrame = field(default_factory=pd.DataFrame)
    trace_maxima: pd.DataFrame = field(default_factory=pd.DataFrame)
    traced: str = ""
    seconds_generated: float | None = None
    phases: str = ""
    notes: Sequence[str] = ()
    remarks: Mapping[str, str] = field(default_factory=dict)

    @property
    def again(self) -> list[str]:
        """BF16 done once more or with attention in another order: no methods to choose among."""
        return [*self.floors, *self.reruns]

    def has(self, quantity: str) -> bool:
        """Whether any method has a value of a quantity."""
        return quantity in self.values and bool(self.values[quantity].notna().any())

    def why_not(self, quantity: str) -> str:
        """Why nothing here has a value of a quantity, in words."""
        said = dict.fromkeys(
            each.reasons[quantity] for each in self.methods.values() if quantity in each.reasons
        )
        return "; ".join(said) or "not measured"
