"""Compares the row of a video with the request, the video's files and its trace."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from harness.checks.files import Wrong, rows
from harness.results.observation import PHASES, TracePoint
from harness.results.run import SAMPLE_SEED_STEP, Run
from harness.results.scores import key
from harness.results.video_files import digest, frames_file
from harness.system.files import sha256

Row = dict[str, Any]
NOT_STORED = ("active", "scratch", "in_use")  # components of a trace that are not history


def request_differences(row: Row, run: Run) -> Iterator[str]:
    """Yield how a row differs from the run's request."""
    index, sample = key(row)
    # Method and settings are not compared here: the id of the run contains them.
    # The seed is that of `Run.items`, which has only the prompts of the newest request.
    expected = {
        "seed": run.seed + index + SAMPLE_SEED_STEP * sample,
        "suite": run.suite.name,
        "model": run.model_name,
        "num_latent_frames": run.suite.num_frames,
        "fps": run.model["fps"],
    }
    # An earlier command may have requested other prompts, whose texts this request does not have.
    texts = {prompt.index: prompt.text for prompt in run.suite.prompts}
    expected["prompt"] = texts.get(index, row["prompt"])
    for name, value in expected.items():
        if row[name] != value:
            yield f"its {name} is not what the request says (found {row[name]}, expected {value})"


def frame_problems(stem: Path, row: Row, score: Row | None) -> Iterator[str]:
    """Yield what is wrong with a video's exact frames: missing, or not as generated and scored."""
    # The strongest comparison that each state allows: raw frames by their digest, a scored file
    # by the checksum of all its bytes, and a packed one that is not scored yet by its header.
    path = frames_file(stem)
    if path is None:
        yield "its frames are missing (no .mkv, no .npy)"
    elif path.suffix == ".npy":
        import numpy as np

        if score is not None:
            yield "it is scored, but its frames were never packed (found .npy, expected .mkv)"
        try:
            found = digest(np.load(path))
        except (OSError, ValueError, EOFError):
            found = "damaged"
        if found != (expected := str(row["frames_sha256"])):
            hashes = f"found {found[:12]}, expected {expected[:12]}"
            yield f"its raw frames are not those of its row ({hashes})"
    elif score is not None and (found := sha256(path)) != score["video_sha256"]:
        expected = str(score["video_sha256"])
        hashes = f"found digest {found[:12]}, expected {expected[:12]}"
        yield f"its .mkv is not the one scored ({hashes})"
    else:
        yield from _container_problems(path, row)


def _container_problems(path: Path, row: Row) -> Iterator[str]:
    """Yield how a lossless file's header differs from the row."""
    # Frames are not decoded, which would take as long as scoring; their digest is a tag.
    import av

    try:
        with av.open(str(path)) as container:
            tags = {name.lower(): value for name, value in container.metadata.items()}
            stream = container.streams.video[0]
            rate = stream.average_rate or Fraction(0)
            # The container gives its duration in microseconds, and no number of frames.
            length = round(Fraction(container.duration or 0, 1_000_000) * rate)
            found = (length, stream.height, stream.width, float(rate))
    except (av.FFmpegError, LookupError):
        yield "its .mkv is damaged (it has no header)"
        return
    if tags.get("sha256") != row["frames_sha256"]:
        names = [str(value)[:12] for value in (tags.get("sha256"), row["frames_sha256"])]
        yield f"its .mkv holds other frames than were made (found {names[0]}, expected {names[1]})"
    expected = (row["num_pixel_frames"], row["height"], row["width"], row["fps"])
    if found != expected:
        yield (f"its .mkv has another shape (found {_shape(*found)}, expected {_shape(*expected)})")


def _shape(frames: Any, height: Any, width: Any, fps: Any) -> str:
    return f"{frames} frames of {height}x{width} at {fps:g} a second"


def byte_problems(row: Row, trace: Path) -> Iterator[str]:
    """Yield where the bytes of a row contradict each other or the trace."""
    stored = row["kv_stored_bytes"]
    not_counted = ("kv_encode_bytes", "kv_decode_bytes")  # null in older rows
    # Every size that a finished video must have.
    measured = [name for name in row if name.startswith("kv_") and name.endswith("_bytes")]
    measured = [name for name in measured if name not in not_counted]
    measured += [f"peak_{phase}_bytes" for phase in PHASES] + ["peak_bytes"]
    if empty := [name for name in measured if row[name] is None]:
        yield f"its row has no {', '.join(empty)}"
        return
    # Codes are a part of what is stored, and the peak includes it.
    if not row["kv_nominal_bytes"] <= stored <= row["kv_peak_bytes"]:
        sizes = [row[f"kv_{name}_bytes"] for name in ("nominal", "stored", "peak")]
        yield f"its KV bytes do not grow from nominal to stored to peak (found {sizes})"
    for frames in ("same_frames", "full_length"):
        found = row[f"kv_ratio_{frames}"] or 0.0
        ratio = row[f"kv_bf16_{frames}_bytes"] / stored if stored else 0.0
        # The same division of the same integers: only the last digits of a float may differ.
        if not math.isclose(found, ratio, rel_tol=1e-9):
            yield (
                f"its kv_ratio_{frames} is not that of its bytes "
                f"(found {found:.4f}, expected {ratio:.4f})"
            )
    # Without `text`: the encoder is freed before the other phases.
    largest = max(row[f"peak_{phase}_bytes"] for phase in PHASES[1:])
    if row["peak_bytes"] != largest:
        yield f"its peak_bytes are not its largest (found {row['peak_bytes']}, expected {largest})"
    if not trace.exists():
        yield "the trace of its memory is missing"
        return
    try:
        points = rows(trace, TracePoint)
    except Wrong as wrong:
        yield f"the trace of its memory cannot be used: {wrong}"
        return
    yield from _trace_problems(row, points)


def _trace_problems(row: Row, points: list[Row]) -> Iterator[str]:
    """Yield where the sums of a trace differ from the row: bytes at the end, and each peak."""
    if any((point["run_id"], *key(point)) != (row["run_id"], *key(row)) for point in points):
        yield "the trace of its memory is another video's"
        return
    # After the last chunk the trace lists what the row counts as stored.
    chunks = [point for point in points if point["moment"] == "chunk"]
    last = max((point["chunk"] for point in chunks), default=None)
    held: Counter[str] = Counter()  # summed over guidance branches, as in `cond.codes`
    for point in chunks:
        if point["chunk"] == last:
            held[str(point["component"]).rpartition(".")[2]] += point["bytes"]
    sums = {
        "kv_stored_bytes": sum(n for name, n in held.items() if name not in NOT_STORED),
        "scratch_bytes": held["scratch"],
    }
    # The parts of a peak add up to what was measured: `other` holds what belongs to no component.
    peaks: defaultdict[str, int] = defaultdict(int)
    for point in points:
        if point["moment"] == "peak":
            peaks[point["phase"]] += point["bytes"]
    sums |= {f"peak_{phase}_bytes": peaks[phase] for phase in PHASES}
    for name, size in sums.items():
        if row[name] != size:
            yield f"its {name} is not the sum of its trace (found {row[name]}, expected {size})"
