"""Second stage: fidelity to the BF16 videos, and files for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness import store
from harness.files import sha256
from harness.metrics import fidelity
from harness.progress import Progress
from harness.run import Item, Run
from harness.sheet import contact_sheet
from harness.store import NO_REFERENCE, Key, Score
from harness.suites import pixel_frames
from harness.video import Frames, pack_frames, read_frames, write_mp4

IS_REFERENCE = "this is the BF16 reference itself"
RANDOM_WEIGHTS = "model.weights=random: values that mean nothing, for systems measurements only"


def score(run: Run, reference: Run, items: Sequence[Item], begins: Callable[[Key], None]) -> None:
    """Score videos of a run, each against that of the reference where there is one.

    begins is called before each.
    """
    referenced = store.made(reference.folder)
    rows = store.Rows(run.folder / store.SCORES, Score)
    with Progress(f"{run.method_name} score", len(items), 1) as progress:
        for item in items:
            begins(item.key)
            pair = (run, reference) if item.key in referenced else (run,)
            frames = [_finish(each, item) for each in pair]
            rows.put(_score(run, reference, item, frames))
            progress.tick()
            progress.finished(item)


def _finish(run: Run, item: Item) -> Frames:
    """Read a video's frames; leave them packed, and an MP4 beside them."""
    stem, fps = run.video(item), run.model["fps"]
    frames = read_frames(stem)
    pack_frames(stem, frames, fps)
    if not stem.with_suffix(".mp4").exists():
        write_mp4(stem.with_suffix(".mp4"), frames, fps)
    return frames


def _score(run: Run, reference: Run, item: Item, frames: list[Frames]) -> Score:
    """The row of one video, and its sheet: the reference above it where there is one."""
    fps = run.model["fps"]
    rows = [(run.method_name, frames[0])]
    reason = _reason(run, reference, len(frames) == 2)
    values: dict[str, object] = {"fidelity_reason": reason, "lpips_reason": reason}
    if len(frames) == 2 and run.run_id != reference.run_id:
        rows.insert(0, (f"{reference.method_name}\nreference", frames[1]))
    if reason is None:
        values |= fidelity(frames[0], frames[1], fps, pixel_frames(run.model["chunk_frames"]))
    contact_sheet(run.video(item).with_suffix(".png"), rows, fps=fps)
    keys = {"run_id": run.run_id, "prompt_index": item.key[0], "sample": item.key[1]}
    values["video_sha256"] = sha256(run.packed(item))
    return Score(**keys, reference_run_id=reference.run_id, **values)  # type: ignore[arg-type]


def _reason(run: Run, reference: Run, has_reference: bool) -> str | None:
    """Why fidelity stays null; None if it can be computed."""
    if run.model["weights"] == "random":
        return RANDOM_WEIGHTS
    if run.run_id == reference.run_id:
        return IS_REFERENCE
    return None if has_reference else NO_REFERENCE
