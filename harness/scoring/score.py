"""Second stage: what each video still lacks of the metrics asked for, and measuring it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

from hydra.utils import get_class

from harness.prompts.suite import pixel_frames
from harness.results import scores
from harness.results.contact_sheet import contact_sheet
from harness.results.run import Item, Run
from harness.results.run_state import RunState
from harness.results.scores import Key, Result, Row, Scored, Scores, Value
from harness.results.video_files import (
    Frames,
    digest,
    frames_file,
    pack_frames,
    read_frames,
    write_mp4,
)
from harness.scoring.metrics.metric import Clip, Metric, Unavailable, Unscorable
from harness.system.errors import UserError, cause_of, first_line, last_frame
from harness.system.files import sha256
from harness.system.progress import Progress
from harness.system.typed import build

MOST_AT_ONCE = 16  # videos: with its reference, 10 s of 480x832 are half a GiB
IS_REFERENCE = "this is the BF16 reference itself"
NO_REFERENCE = "the BF16 reference is not there"
RANDOM_WEIGHTS = "model.weights=random: values that mean nothing, for systems measurements only"
PREVIEW = "model.decoder is a preview's: its pixels are to look at, not to measure"


@dataclass(frozen=True)
class Task:
    """One video to score by the metrics that it lacks; none if only its files are to be made.

    reference: the folder of the run that has the BF16 video; None if that is not there.
    """

    run: Run
    item: Item
    metrics: tuple[Metric, ...]
    reference: Path | None = None


def lacking(run: Run, state: RunState | None = None) -> list[Task]:
    """The videos made that lack a score of the run's metrics, or packed frames.

    state: of the run, where it is known already.

    A score is lacking if there is none, if it is of other frames than are there now, of another
    version of the metric that can be tried here, or if it could not be tried before and can be now.
    Raises  UserError: rows cannot be read, or a metric's settings.
    """
    metrics = built(json.dumps(run.metrics, sort_keys=True))
    names = [f"{metric.name}_{what}" for metric in metrics for what in ("version", "reason")]
    known = scores.rows(run.folder, names)
    made = (state or RunState.read(run.folder)).made
    against = run.reference_folder
    of_reference = made
    if against != run.folder:
        of_reference = RunState.read(against).made if against is not None else {}
    can_try = {metric: metric.missing() is None for metric in metrics}

    def is_lacking(metric: Metric, row: Row, reference: str | None) -> bool:
        version, reason = (row.get(f"{metric.name}_{what}") for what in ("version", "reason"))
        if version is None and reason is not None:  # it could not be tried
            return can_try[metric] and (reference is not None or not metric.against_reference)
        if metric.against_reference and reference not in (None, row["reference_frames_sha256"]):
            return True
        if version is not None and not can_try[metric]:  # a value that is there is kept
            return False
        return bool(version != metric.version())

    tasks = []
    for item in run.items:
        if item.key not in made:
            continue
        row, lacks = known.get(item.key), metrics
        if row is not None and row["frames_sha256"] == made[item.key]:
            reference = of_reference.get(item.key)
            lacks = tuple(metric for metric in metrics if is_lacking(metric, row, reference))
        if lacks or frames_file(run.video(item)) != run.packed(item) or _lacks_pictures(run, item):
            tasks.append(Task(run, item, lacks, against if item.key in of_reference else None))
    return tasks


def _lacks_pictures(run: Run, item: Item) -> bool:
    """Whether the files for people are not there, which scoring makes of the frames."""
    return not all(run.video(item).with_suffix(end).exists() for end in (".mp4", ".png"))


@lru_cache(maxsize=64)
def built(settings: str) -> tuple[Metric, ...]:
    """The metrics of a configuration, given as JSON; the same objects for the same settings.

    Raises  UserError: a setting that a metric refuses.
    """
    from hydra.errors import InstantiationException

    try:
        return tuple(build(f"metrics.{name}", each) for name, each in json.loads(settings).items())
    except InstantiationException as error:
        from harness.config.messages import of_construction

        raise UserError(f"metrics: {of_construction(error)}") from error


def score(
    tasks: Sequence[Task], begins: Callable[[Key], None], device: str, threads: int, name: str
) -> None:
    """Score videos, several at once; each has its row before another takes its place.

    A metric loads its model once for all of them. begins is called before each video.
    """
    metrics = {metric for task in tasks for metric in task.metrics}
    bench = _Bench(
        device,
        {metric: Lock() for metric in metrics if metric.one_at_a_time},
        {task.run.video(task.item): Lock() for task in tasks},
        begins,
    )
    rows: dict[Path, Scores] = {}
    try:
        with (
            Progress(name, len(tasks), 1) as progress,
            ThreadPoolExecutor(min(threads, MOST_AT_ONCE)) as pool,
        ):
            waiting = {pool.submit(bench.score, task): task for task in tasks}
            try:
                for done in as_completed(waiting):
                    task, (scored, results) = waiting[done], done.result()
                    path = task.run.folder / scores.SCORES
                    rows[path] = rows.get(path) or Scores(path)
                    rows[path].put(scored, results)
                    progress.tick()
                    progress.finished()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        for metric in metrics:
            metric.close()


@dataclass(frozen=True)
class _Bench:
    """Where videos are scored; its methods run in several threads.

    files: a lock a video that is packed here: it may be another's reference in another thread.
    """

    device: str
    alone: Mapping[Metric, Lock]
    files: Mapping[Path, Lock]
    begins: Callable[[Key], None]

    def score(self, task: Task) -> tuple[Scored, dict[Metric, Result]]:
        """One video: its files for people, its row's identity and what each metric says."""
        self.begins(task.item.key)
        run, item = task.run, task.item
        video = self._read(run.folder, run, item)
        reference = video
        if run.reference_id != run.run_id:
            reference = _Video(None, None, NO_REFERENCE)
            if task.reference is not None:
                reference = self._read(task.reference, run, item)
        results = {metric: self._result(metric, task, video, reference) for metric in task.metrics}
        _draw(task, video, reference)
        scored = Scored(
            run_id=run.run_id,
            prompt_index=item.key[0],
            sample=item.key[1],
            reference_run_id=run.reference_id,
            frames_sha256=video.sha256,
            reference_frames_sha256=reference.sha256,
            video_sha256=sha256(run.packed(item)) if video.clip else None,
        )
        return scored, results

    def _read(self, folder: Path, run: Run, item: Item) -> _Video:
        """A video of a run or of its reference; the run's own is left packed."""
        stem = folder / "videos" / item.stem
        with self.files.get(stem, nullcontext()):
            return _Video.read(stem, run, item, pack=stem == run.video(item))

    def _result(self, metric: Metric, task: Task, video: _Video, reference: _Video) -> Result:
        """What one metric says; a reason instead of an error, for this video alone."""
        used = "; ".join(f"{name} {sha}" for name, sha in metric.weights().items()) or None
        missing = metric.missing()
        if missing is not None:
            return Result({}, missing, None, used)
        reason = _reason(metric, task, video, reference)
        values: Mapping[str, Value] = {}
        if reason is None:
            try:
                with self.alone.get(metric, nullcontext()):
                    assert video.clip is not None  # else there is a reason
                    values = metric.measure(video.clip, reference.clip, self.device)
            except Unavailable as error:  # without a version it is tried again
                return Result({}, str(error), None, used)
            except Unscorable as error:
                reason = str(error)
            except Exception as error:
                if isinstance(error, OSError) or cause_of(error) == "oom":  # not of the video
                    raise
                reason = f"{metric.name} failed: {first_line(error)} ({last_frame(error)})"
        values, strange = _finite(values)
        if strange:
            reason = f"not finite: {', '.join(strange)}"
        version = None if reason == NO_REFERENCE else metric.version()
        constant = _constant(video, reference, metric.against_reference)
        return Result(values, "; ".join(filter(None, (reason, constant))) or None, version, used)


@dataclass(frozen=True)
class _Video:
    """The frames of a video, or why there are none."""

    clip: Clip | None
    sha256: str | None
    reason: str | None = None

    @cached_property
    def flat(self) -> bool:
        """Whether every frame is of one colour, the same one or not."""
        return self.clip is not None and all(
            (frame_HWC == frame_HWC[0, 0]).all() for frame_HWC in self.clip.frames_THWC
        )

    @classmethod
    def read(cls, stem: Path, run: Run, item: Item, pack: bool) -> _Video:
        """Read its frames; pack: leave them packed, with an MP4 beside them."""
        fps = run.model["fps"]
        try:
            frames = read_frames(stem)
        except UserError as error:
            return cls(None, None, str(error))
        if pack:
            pack_frames(stem, frames, fps)
            if not stem.with_suffix(".mp4").exists():
                write_mp4(stem.with_suffix(".mp4"), frames, fps)
        first = pixel_frames(run.model["chunk_frames"])
        return cls(Clip(frames, fps, first, item.prompt.text, item.prompt.events), digest(frames))


def _reason(metric: Metric, task: Task, video: _Video, reference: _Video) -> str | None:
    """Why a metric that could be tried is not; None if it is."""
    if task.run.model["weights"] == "random":
        return RANDOM_WEIGHTS
    if _is_preview(task.run.model["decoder"]["_target_"]):
        return PREVIEW
    if video.reason is not None or not metric.against_reference:
        return video.reason
    if reference is video:
        return IS_REFERENCE
    if reference.reason in (None, NO_REFERENCE):
        return reference.reason
    return f"the reference: {reference.reason}"


@lru_cache
def _is_preview(decoder: str) -> bool:
    """Whether a class of decoders says so of itself."""
    return getattr(get_class(decoder), "preview", False)


def _finite(values: Mapping[str, Value]) -> tuple[dict[str, Value], list[str]]:
    """The values with null for what is not finite, and the names of those columns."""

    def is_strange(value: Any) -> bool:
        numbers = value if isinstance(value, list) else [value]
        return any(isinstance(x, float) and not math.isfinite(x) for x in numbers)

    strange = [name for name, value in values.items() if is_strange(value)]
    return {n: None if n in strange else value for n, value in values.items()}, strange


def _constant(video: _Video, reference: _Video, against_reference: bool) -> str | None:
    """Says beside the values if a video shows nothing, as two black videos score as perfect."""
    whose = {"the video": video.flat}
    if against_reference and reference is not video:
        whose["its reference"] = reference.flat
    flat = " and ".join(name for name, is_flat in whose.items() if is_flat)
    return f"{flat}: {scores.CONSTANT}" if flat else None


def _draw(task: Task, video: _Video, reference: _Video) -> None:
    """The contact sheet: the reference above the video where there is one."""
    path = task.run.video(task.item).with_suffix(".png")
    against = any(metric.against_reference for metric in task.metrics)
    if video.clip is None or (path.exists() and not against):
        return
    rows: list[tuple[str, Frames]] = [(task.run.method_name, video.clip.frames_THWC)]
    if reference is not video and reference.clip is not None:
        rows.insert(0, ("bf16\nreference", reference.clip.frames_THWC))
    contact_sheet(path, rows, fps=task.run.model["fps"])
