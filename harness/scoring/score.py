"""Second stage: finds the scores that videos lack, and measures them."""

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

from hydra.utils import get_class

from harness.prompts.suite import TEMPORAL_STRIDE, pixel_frames
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

# Videos in memory at once; 10 s of 480x832 with its reference take half a GiB.
MOST_AT_ONCE = 16
IS_REFERENCE = "this is the BF16 reference itself"
NO_REFERENCE = "the BF16 reference is not there"
RANDOM_WEIGHTS = "model.weights=random: values that mean nothing, for systems measurements only"
PREVIEW = "model.decoder is a preview's: its pixels are to look at, not to measure"


@dataclass(frozen=True)
class Task:
    """One video to score.

    metrics: the metrics that it lacks; empty if only its files are missing.
    reference: the folder of the run that has the BF16 video; None if there is no such video.
    """

    run: Run
    item: Item
    metrics: tuple[Metric, ...]
    reference: Path | None = None


def lacking(run: Run, state: RunState | None = None) -> list[Task]:
    """Return the generated videos that lack a score of the run's metrics, or packed frames.

    A score is lacking if it does not exist, if the frames have changed since, if the metric has a
    new version that works here, or if the metric did not work before and does now.

    state: state of the run, if it has been read already.
    Raises  UserError: rows cannot be read, or a metric rejects its settings.
    """
    metrics = built(json.dumps(run.metrics, sort_keys=True))
    # Versions and reasons decide: no value is read, and the parent imports no torch.
    names = [f"{metric.name}_{what}" for metric in metrics for what in ("version", "reason")]
    known = scores.rows(run.folder, names)
    made = (state or RunState.read(run.folder)).made
    against = run.reference_folder
    of_reference = made
    if against != run.folder:
        of_reference = RunState.read(against).made if against is not None else {}
    # Asked once for all videos: to answer, a metric may read files or start another interpreter.
    can_try = {metric: metric.missing() is None for metric in metrics}

    def is_lacking(metric: Metric, row: Row, reference: str | None) -> bool:
        version, reason = (row.get(f"{metric.name}_{what}") for what in ("version", "reason"))
        # The metric did not work then: a server, its weights or the reference was missing.
        if version is None and reason is not None:
            return can_try[metric] and (reference is not None or not metric.against_reference)
        # Another reference makes other values; a reference that is gone removes none.
        if metric.against_reference and reference not in (None, row["reference_frames_sha256"]):
            return True
        # A metric that cannot run here never replaces a value.
        if version is not None and not can_try[metric]:
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
        # Scoring also packs frames and makes MP4 and contact sheet, so a missing one is a task too.
        has_pictures = all(run.video(item).with_suffix(x).exists() for x in (".mp4", ".png"))
        if lacks or frames_file(run.video(item)) != run.packed(item) or not has_pictures:
            tasks.append(Task(run, item, lacks, against if item.key in of_reference else None))
    return tasks


# Runs with equal settings share the objects, and with them the loaded models. The settings come as
# JSON, because a cache needs keys that can be hashed.
@lru_cache(maxsize=64)
def built(settings: str) -> tuple[Metric, ...]:
    """Build the metrics of a configuration, given as JSON; equal settings share the objects.

    Raises  UserError: a metric rejects a setting.
    """
    from hydra.errors import InstantiationException

    try:
        return tuple(build(f"metrics.{name}", each) for name, each in json.loads(settings).items())
    except InstantiationException as error:
        from harness.config.messages import construction_message

        raise UserError(f"metrics: {construction_message(error)}") from error


def score(
    tasks: Sequence[Task], begins: Callable[[Key], None], device: str, threads: int, name: str
) -> None:
    """Score videos in parallel and write the row of each one as soon as it is done.

    Each metric loads its model once for all videos.

    begins: called before each video.
    device: as torch names it, or `auto`. threads: videos in parallel. name: label of the progress.
    """
    # Threads, not processes: they share the loaded models, and numpy and torch compute outside of
    # Python's lock.
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
                # Rows are written by this thread alone, in the order in which videos are done.
                for done in as_completed(waiting):
                    task, (scored, results) = waiting[done], done.result()
                    # Tasks of several runs come mixed; each run's file is read once.
                    path = task.run.folder / scores.SCORES
                    rows[path] = rows.get(path) or Scores(path)
                    rows[path].put(scored, results)
                    progress.tick()
                    progress.finished()
            except BaseException:
                # Without this the pool would score all waiting videos before the error is raised.
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        for metric in metrics:
            metric.close()


@dataclass(frozen=True)
class _Bench:
    """Scores videos; its methods run in several threads.

    alone: a lock for each metric that measures one video at a time.
    files: a lock for each video that is packed here, since another thread may read it as reference.
    """

    device: str
    alone: Mapping[Metric, Lock]
    files: Mapping[Path, Lock]
    begins: Callable[[Key], None]

    def score(self, task: Task) -> tuple[Scored, dict[Metric, Result]]:
        """Score one video: write its files and return its identity and the metrics' results."""
        self.begins(task.item.key)
        run, item = task.run, task.item
        video = self._read(run.folder, run, item)
        # A reference is its own: `_reason` then says so, and nothing is measured.
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
        """Read a video of a run or of its reference; the run's own is packed."""
        # Only under its own run: a run writes no files of another one.
        stem = folder / "videos" / item.stem
        with self.files.get(stem, nullcontext()):
            return _Video.read(stem, run, item, pack=stem == run.video(item))

    def _result(self, metric: Metric, task: Task, video: _Video, reference: _Video) -> Result:
        """Return the result of one metric; an error becomes the reason of this video only."""
        used = "; ".join(f"{name} {sha}" for name, sha in metric.weights().items()) or None
        # Asked again here: a server may have stopped, or a file may be gone, since the planning.
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
            # A row without a version is tried again by the next command.
            except Unavailable as error:
                return Result({}, str(error), None, used)
            except Unscorable as error:
                reason = str(error)
            except Exception as error:
                # Disk and memory errors are not the fault of the video, so its row must not say so.
                if isinstance(error, OSError) or cause_of(error) == "oom":
                    raise
                reason = f"{metric.name} failed: {first_line(error)} ({last_frame(error)})"
        # NaN and infinity are no values; a list of windows with one of them is dropped as a whole.
        strange = []
        for name, value in values.items():
            numbers = value if isinstance(value, list) else [value]
            if any(isinstance(x, float) and not math.isfinite(x) for x in numbers):
                strange.append(name)
        values = {name: None if name in strange else value for name, value in values.items()}
        if strange:
            reason = f"not finite: {', '.join(strange)}"
        # Without a version the metric is tried again, once the reference is there.
        version = None if reason == NO_REFERENCE else metric.version()
        constant = _constant(video, reference, metric.against_reference)
        return Result(values, "; ".join(filter(None, (reason, constant))) or None, version, used)


@dataclass(frozen=True)
class _Video:
    """The frames of a video, or the reason for their absence."""

    clip: Clip | None
    sha256: str | None
    reason: str | None = None

    @cached_property
    def flat(self) -> bool:
        """Whether every frame has a single colour, which may change from frame to frame."""
        return self.clip is not None and all(
            (frame_HWC == frame_HWC[0, 0]).all() for frame_HWC in self.clip.frames_THWC
        )

    @classmethod
    def read(cls, stem: Path, run: Run, item: Item, pack: bool) -> _Video:
        """Read the frames at `stem`; pack: also store them packed and as an MP4."""
        fps = run.model["fps"]
        try:
            frames = read_frames(stem)
        except UserError as error:
            return cls(None, None, str(error))
        if pack:
            pack_frames(stem, frames, fps)
            if not stem.with_suffix(".mp4").exists():
                write_mp4(stem.with_suffix(".mp4"), frames, fps)
        # The first latent frame decodes to fewer pixel frames (one in Wan's decoder) than the rest.
        of_first = run.model["decoder"].get("first_pixel_frames", 1)
        first = pixel_frames(run.model["chunk_frames"], of_first)
        joints = tuple(range(first, len(frames), TEMPORAL_STRIDE * run.model["chunk_frames"]))
        # VBench knows the official wording of a prompt, also if the model read a longer one.
        prompt = item.prompt.scored_as or item.prompt.text
        switches = tuple(pixel_frames(latent, of_first) for latent in run.suite.switches)
        clip = Clip(frames, fps, first, prompt, item.prompt.events, joints, switches)
        return cls(clip, digest(frames))


def _reason(metric: Metric, task: Task, video: _Video, reference: _Video) -> str | None:
    """Return the reason not to measure an available metric for this video, or None."""
    if task.run.model["weights"] == "random":
        return RANDOM_WEIGHTS
    # A decoder's class says itself whether it is a preview's; others need not know the word.
    if getattr(get_class(task.run.model["decoder"]["_target_"]), "preview", False):
        return PREVIEW
    if video.reason is not None or not metric.against_reference:
        return video.reason
    if reference is video:
        return IS_REFERENCE
    if reference.reason in (None, NO_REFERENCE):
        return reference.reason
    return f"the reference: {reference.reason}"


def _constant(video: _Video, reference: _Video, against_reference: bool) -> str | None:
    """Return a remark if the video or its reference is constant, else None."""
    # Two black videos score as perfect, so the row needs the remark next to its values.
    whose = {"the video": video.flat}
    if against_reference and reference is not video:
        whose["its reference"] = reference.flat
    flat = " and ".join(name for name, is_flat in whose.items() if is_flat)
    return f"{flat}: {scores.CONSTANT}" if flat else None


def _draw(task: Task, video: _Video, reference: _Video) -> None:
    """Write the contact sheet, with the reference above the video if there is one."""
    # Drawn again when a metric compares: the reference may not have been there the first time.
    path = task.run.video(task.item).with_suffix(".png")
    against = any(metric.against_reference for metric in task.metrics)
    if video.clip is None or (path.exists() and not against):
        return
    rows: list[tuple[str, Frames]] = [(task.run.method_name, video.clip.frames_THWC)]
    if reference is not video and reference.clip is not None:
        rows.insert(0, ("bf16\nreference", reference.clip.frames_THWC))
    contact_sheet(path, rows, fps=task.run.model["fps"])
