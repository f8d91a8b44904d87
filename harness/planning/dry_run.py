"""Dry runs (`run.dry=true`): list what is done and left, and estimate time and disk space.

A dry run generates nothing and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.planning import detectable, past_runs
from harness.results.run import Item, Run
from harness.results.run_state import RunState
from harness.scoring.score import lacking
from harness.system.errors import UserError
from harness.system.text_table import Grid, with_names
from harness.system.units import size

if TYPE_CHECKING:
    from harness.checks.parts import Parts

Videos = tuple[str, ...]  # file names without suffix
HEADER = ("method", "state", "made", "left", "failed", "minutes", "from", "KV", "peak", "disk")


@dataclass(frozen=True)
class Outlook:
    """One run of a sweep. Unknown numbers are None; `reasons` says why.

    table: title of the results table that the run will be in.
    is_job: a job requests the run itself; otherwise the run is only the reference of a job.
    is_reference: other runs are compared with it.
    asked: requested videos. left: videos still to generate.
    failed: also in `left` if they will be retried. unscored: generated, not yet scored.
    video_s: seconds to generate one video. timed_by: the source of this estimate.
    video_bytes: bytes on disk of one scored video. raw_bytes: of its raw frames before scoring.
    kv_bytes: history at the end of a video. peak_bytes: largest memory. Both come from the planner.
    """

    run_id: str
    table: str
    suite: str
    model: str
    method: str
    settings: str
    folder: str
    is_job: bool
    is_reference: bool
    num_prompts: int
    asked: Videos
    failed: Videos
    left: Videos
    unscored: Videos
    video_s: float | None
    timed_by: str
    video_bytes: float | None
    raw_bytes: int | None
    kv_bytes: int | None
    peak_bytes: int | None
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """Method and settings, as results tables name a run."""
        words = [self.method, self.settings, "" if self.is_job else "(reference)"]
        return " ".join(filter(None, words))

    @property
    def num_made(self) -> int:
        """Number of generated videos."""
        # A failed video is in `left` too only if it will be retried, so subtract both.
        return len(set(self.asked) - set(self.left) - set(self.failed))

    @property
    def state(self) -> str:
        """`done`, `partial`, or `missing` if there is no video yet."""
        if not (self.left or self.failed or self.unscored):
            return "done"
        return "partial" if self.num_made else "missing"

    @property
    def minutes(self) -> float | None:
        """Minutes to generate the videos that are left; None if unknown."""
        return _times(len(self.left), self.video_s, 1 / 60)

    @property
    def disk_bytes(self) -> float | None:
        """Bytes of the files still to be written; None if unknown."""
        return _times(len(self.left), self.video_bytes, 1)

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Outlook:
        """Rebuild an outlook from the JSON of its `asdict`, where tuples have become lists."""
        # A launcher may run the jobs of a sweep elsewhere; their results arrive as JSON records.
        fields: Any = {name: tuple(x) if isinstance(x, list) else x for name, x in read.items()}
        return cls(**fields)


def _times(number: int, each: float | None, unit: float) -> float | None:
    if not number:  # nothing is left, whatever one video would take
        return 0.0
    return None if each is None else number * each * unit


def outlooks(run: Run, reference: Run) -> list[Outlook]:
    """Return the outlook of a job's run, preceded by that of its reference if the job executes it.

    Raises  UserError: rows of these two runs cannot be read, or the settings cannot run.
    """
    # A finished run needs no reference, so its job does not execute it.
    own = _look(run, reference, is_job=True)
    if own.is_reference or own.state == "done":
        return [own]
    return [_look(reference, reference, is_job=False), own]


def _look(run: Run, reference: Run, is_job: bool) -> Outlook:
    # Imports torch, which other parents never do: they stay small and start at once.
    from harness.planning.run_memory import memory
    from harness.system import machine

    # First, since wrong settings must not be reported as a plan.
    parts = _parts(run)
    state = RunState.read(run.folder)
    failed, left = state.failed(run), state.missing(run)
    without = {item.key for item in left}  # these have no frames to score yet
    device = run.execution.device
    try:
        here = past_runs.machine(machine.device_name(machine.choose_device(device)))
    except ValueError:
        # The device is not on this machine. The sweep may be meant for another one, so plan it.
        here = None
    time = past_runs.seconds(run, reference, here)
    disk = past_runs.disk_bytes(run, reference)
    planned = memory(run)
    told = (*time.reasons, *disk.reasons, *_refused_here(run, parts))
    if here is None:
        told = (f"run.device={device} is not here: minutes are of any machine", *told)
    # Runs with another attention window or other prompts are never in one table.
    window = run.model.get("window")
    history = "full history" if window is None else f"contract window{window}"
    return Outlook(
        run_id=run.run_id,
        table=f"{run.suite.name}, {run.model_name}, {history}, {run.suite.source} prompts",
        suite=run.suite.name,
        model=run.model_name,
        method=run.method_name,
        settings=run.settings,
        folder=run.folder.name,
        is_job=is_job,
        is_reference=run.run_id == reference.run_id,
        num_prompts=len(run.suite.prompts),
        asked=_stems(run.items),
        failed=_stems([item for item in run.items if item.key in failed]),
        left=_stems(left),
        unscored=_stems([x.item for x in lacking(run, state) if x.item.key not in without]),
        video_s=time.value,
        timed_by=time.source,
        video_bytes=disk.value,
        raw_bytes=planned.raw_bytes,
        kv_bytes=planned.kv_bytes,
        peak_bytes=planned.peak_bytes,
        # Estimates for videos that are left explain nothing if none is left.
        reasons=(*run.notes, *(told if left else ()), *planned.reasons),
    )


def _parts(run: Run) -> Parts:
    """Build the parts of a run, with the same refusals as the run itself.

    Raises  UserError: its settings cannot run on any machine.
    """
    from hydra.errors import InstantiationException

    from harness.checks.parts import Parts
    from harness.config.messages import construction_message

    try:
        return Parts.of(run)
    except InstantiationException as error:
        raise UserError(construction_message(error)) from error
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def _refused_here(run: Run, parts: Parts) -> list[str]:
    """Return why the run cannot start on this machine, although it may on another."""
    from harness.system import machine

    # Reasons, not errors: a sweep may be planned on another machine than the one that runs it.
    told = []
    model, data_dir = parts.model, Path(run.data_dir)
    try:
        device = machine.choose_device(run.execution.device)
        parts.integration.resolve(parts.attention, model.spec, parts.method, device)
    except (UserError, ValueError) as error:
        told.append(f"it cannot start here: {error}")
    if model.weights == "checkpoint" and not model.path(data_dir).is_file():
        told.append(
            f"it cannot start here: {model.path(data_dir)} is not there, python -m harness check "
            f"model={run.model_name} says what to fetch"
        )
    return told


def _stems(items: Sequence[Item]) -> Videos:
    return tuple(item.stem for item in items)


def merged(found: Sequence[Outlook]) -> list[Outlook]:
    """Merge the outlooks of each run; references that are done are left out."""
    # All methods of a model share one BF16 run, so many jobs bring an outlook of it.
    runs: dict[str, Outlook] = {}
    for each in found:
        one = runs.setdefault(each.run_id, each)
        if one is each:
            continue
        # The jobs of one run may request different prompts of it.
        asked = _union(one.asked, each.asked)
        runs[each.run_id] = replace(
            one,
            is_job=one.is_job or each.is_job,
            # The name of a video begins with its prompt; several samples of it are one prompt.
            num_prompts=len({stem.partition("-")[0] for stem in asked}),
            asked=asked,
            failed=_union(one.failed, each.failed),
            left=_union(one.left, each.left),
            unscored=_union(one.unscored, each.unscored),
            reasons=_union(one.reasons, each.reasons),
        )
    return [each for each in runs.values() if each.is_job or each.state != "done"]


def _union(one: Sequence[str], other: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one, *other)))


def print_outlooks(found: Sequence[Outlook]) -> None:
    """Print one table per comparison with its statistical power, then totals and notes."""
    runs = merged(found)
    # Titles and runs stay in the order of the jobs.
    for title in dict.fromkeys(each.table for each in runs):
        together = [each for each in runs if each.table == title]
        Grid(title, HEADER, [cells(each) for each in together]).show()
        for line in (*shown(together), *remarks(together)):
            print(line)
    for line in (total(runs), *notes(runs), "nothing was run"):
        print(line)


def cells(each: Outlook) -> list[str]:
    """Return the text of a run's cells, in the order of HEADER; a dash if nothing is left to do."""
    # "unknown" and not a dash: a dash says that nothing is left to do.
    minutes = "unknown" if each.minutes is None else _minutes(each.minutes)
    return [
        each.name,
        each.state,
        f"{each.num_made}/{len(each.asked)}",
        str(len(each.left)),
        str(len(each.failed)),
        minutes if each.left else "-",
        each.timed_by if each.left else "",
        size(each.kv_bytes),
        size(each.peak_bytes),
        size(each.disk_bytes) if each.left else "-",
    ]


def shown(together: Sequence[Outlook]) -> list[str]:
    """Return one line on detectable differences for each number of prompts in a table."""
    # Each method is one comparison with BF16; Holm's correction is over those of a table.
    compared = [each for each in together if each.is_job and not each.is_reference]
    numbers = sorted({each.num_prompts for each in compared})
    return [detectable.sentence(number, len(compared)) for number in numbers]


def total(runs: Sequence[Outlook]) -> str:
    """Return the line with videos, minutes and disk space of all runs together."""
    num_left = sum(len(each.left) for each in runs)
    minutes = _sum([each.minutes for each in runs], _minutes)
    disk = _sum([each.disk_bytes for each in runs], size)
    return f"left: {num_left} videos; minutes, one video after another: {minutes}; disk: {disk}"


def _sum(values: Sequence[float | None], text: Callable[[float], str]) -> str:
    """Return the sum as text, with the number of unknown values."""
    # Unknown values are named, since leaving them out would look like zero.
    known = sum(value for value in values if value is not None)
    num_unknown = values.count(None)
    if not num_unknown:
        return text(known)
    return f"{text(known)} and {num_unknown} runs unknown" if known else "unknown"


def remarks(together: Sequence[Outlook]) -> list[str]:
    """Return remarks on the runs of a table: failed and unscored videos, unknown numbers."""
    found = []
    for each in together:
        # A failed video that is not left either stays as it is, which the table does not show.
        stuck = len(set(each.failed) - set(each.left))
        if stuck:
            found.append(f"{each.name}: {stuck} failed before; run.retry=failed tries them again")
        if each.unscored:
            found.append(f"{each.name}: {len(each.unscored)} made, not scored yet")
    return [*found, *with_names([(each.name, each.reasons) for each in together])]


def notes(runs: Sequence[Outlook]) -> list[str]:
    """Return notes that explain the columns."""
    # Scoring packs the raw frames of a run before the next run begins, so they do not add up.
    raw = [len(each.left) * each.raw_bytes for each in runs if each.raw_bytes is not None]
    most = f"; raw frames lie there until a run is scored, up to {size(max(raw, default=0))}"
    return [
        "minutes: to generate what is left (text, denoise, commit, decode) at the median of "
        "earlier videos of the same model and length on such a machine; starting, loading, warming "
        "up, packing and scoring come on top",
        "from: own, this run's earlier videos; method, its method's in other runs; bf16, those of "
        "the reference as they are, though no method is exactly as fast",
        "KV: at a video's end; peak: the largest of denoise, commit and decode; tensors on the "
        "device, counted by the planner (python -m harness plan)",
        f"disk: lossless frames, MP4, picture and trace{most if any(raw) else ''}",
    ]


def _minutes(minutes: float) -> str:
    return f"{minutes:.2f}" if minutes < 10 else f"{minutes:.0f}"
