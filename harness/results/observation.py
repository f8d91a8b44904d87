"""The columns of a run's files: observations with one row per video, and a trace per video.

Every column declares its meaning and unit. The parquet files carry both in the metadata of their
fields, and `python -m harness ls columns` prints them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

SCHEMA_VERSION = 5  # of both files; part of every run's id
PHASES = ("text", "denoise", "commit", "decode")  # of a video, in order
Over = Literal["mean", "max"]


def column(meaning: str, unit: str = "", over: Over | None = None, **default: Any) -> Any:
    """Declare a column.

    unit: empty for pure numbers and text.
    over: how tables and the tracker's summary aggregate a run's videos; None: not at all.
    """
    about = {"meaning": meaning, "unit": unit, "over": over or ""}
    return dataclasses.field(metadata=about, **default)


def measured(meaning: str, unit: str = "", over: Over | None = None) -> Any:
    """Declare a column that is null for a video that could not be made."""
    return column(meaning, unit, over, default=None)


# Readers refuse a file whose columns have other names or another order, so a change here needs a
# new SCHEMA_VERSION, which gives all runs new ids. A meaning may change without one.
@dataclass(frozen=True)
class Observation:
    """A row of observations.parquet: one video and the measurements of generating it."""

    # Identity: known before the video is made, so a failed video has it too.
    run_id: str = column("digest of what decides the rows; ends the name of the run's folder")
    suite: str = column("name of the prompt suite (conf/suite)")
    model: str = column("name of the model (conf/model)")
    method: str = column("name of the method (conf/method)")
    settings: str = column("words of the command line that changed method or model")
    prompt_index: int = column("line of the prompt in its file, from 0")
    sample: int = column("number of the video among those of its prompt, from 0")
    seed: int = column("seed of the noise")
    prompt: str = column("text of the prompt")
    prompt_source: str = column("where the prompts are from: official, bundled or custom")
    num_latent_frames: int = column("length asked for", "latent frames")
    num_pixel_frames: int | None = measured("length of the video", "frames")
    first_chunk_pixel_frames: int | None = measured(
        "frames of the first chunk, which is made before any history exists; windows of a second "
        "begin behind it",
        "frames",
    )
    height: int | None = measured("height of a frame", "pixels")
    width: int | None = measured("width of a frame", "pixels")
    fps: int | None = measured("frame rate", "frames/s")
    notes: str | None = measured(
        "what to know about this video: where its prompt changes, positions beyond the model's "
        "training, a prompt that may have been cut; null: nothing"
    )
    failure: str | None = measured(
        "why the video could not be made (docs/sweeps.md lists the causes); null if it was made"
    )
    failure_reason: str | None = measured("the same in a sentence")
    # Time takes the mean over videos, peaks the maximum: the largest video decides what fits.
    text_s: float | None = measured(
        "encoding the prompt, in the run that did it where runs share it, and projecting it", "s",
        "mean",
    )  # fmt: skip
    denoise_s: float | None = measured("denoising passes", "s", "mean")
    commit_s: float | None = measured("passes that store keys and values", "s", "mean")
    decode_s: float | None = measured("latents to pixels", "s", "mean")
    # Not the duration of the command: set-up, warm-up, files and scores are in no phase.
    generate_s: float | None = measured(
        "sum of the four phases, each read after the device has finished", "s", "mean"
    )
    chunk_s: list[float] | None = measured(
        "denoising and commit passes of each chunk; a pass over several chunks counts for the "
        "oldest of them",
        "s",
    )
    num_passes: int | None = measured(
        "denoising and commit passes, skipped ones included", "passes", "mean"
    )
    num_commits: int | None = measured("commit passes among them", "passes", "mean")
    num_reused: int | None = measured(
        "denoising passes that a reuse policy skipped, an earlier one standing in", "passes", "mean"
    )
    skip_ratio: float | None = measured(
        "realised skip ratio: skipped over all denoising passes", "", "mean"
    )
    flops: float | None = measured(
        "arithmetic of the blocks in the passes that ran, as each pass attended; embeddings, head, "
        "text encoder, decoder and the method's own work are not counted",
        "FLOP",
        "mean",
    )
    memory_source: str | None = measured("how peaks were read: allocator, or process")
    peak_bytes: int | None = measured(
        "largest of the peaks of denoise, commit and decode; text is apart, since its encoder is "
        "gone before the first video starts",
        "bytes",
        "max",
    )
    peak_reserved_bytes: int | None = measured(
        "most memory reserved by the allocator in the phases of peak_bytes", "bytes", "max"
    )
    peak_text_bytes: int | None = measured("peak of the phase text", "bytes", "max")
    peak_denoise_bytes: int | None = measured("peak of the phase denoise", "bytes", "max")
    peak_commit_bytes: int | None = measured("peak of the phase commit", "bytes", "max")
    peak_decode_bytes: int | None = measured("peak of the phase decode", "bytes", "max")
    kv_nominal_bytes: int | None = measured(
        "codes of the history alone, without scales and tables", "bytes", "mean"
    )
    kv_stored_bytes: int | None = measured(
        "tensors of the history held after the last commit", "bytes", "mean"
    )
    kv_stored_bytes_by_branch: list[int] | None = measured(
        "the same by guidance branch; one entry where a model has one", "bytes"
    )
    kv_peak_bytes: int | None = measured(
        "most that history and scratch ever held together", "bytes", "max"
    )
    # BF16 in as many guidance branches, so that a ratio compares the method and not the guidance.
    kv_bf16_same_frames_bytes: int | None = measured(
        "BF16 bytes of the frames that still have a place in attention", "bytes", "mean"
    )
    kv_bf16_full_length_bytes: int | None = measured(
        "BF16 bytes of all frames of the video", "bytes", "mean"
    )
    kv_ratio_same_frames: float | None = measured(
        "kv_bf16_same_frames_bytes over kv_stored_bytes; null where nothing is stored", "", "mean"
    )
    kv_ratio_full_length: float | None = measured(
        "kv_bf16_full_length_bytes over kv_stored_bytes; null where nothing is stored", "", "mean"
    )
    kv_frames_held: float | None = measured(
        "frames with a place in attention after the last commit, mean over layers", "latent frames",
        "mean",
    )  # fmt: skip
    kv_encode_calls: int | None = measured(
        "times that a quantizer encoded keys or values of a layer; exact storage does not count; "
        "null: made before it was counted",
        "calls",
        "mean",
    )
    kv_encode_bytes: int | None = measured(
        "BF16 bytes of what was encoded; null: made before it was counted", "bytes", "mean"
    )
    kv_decode_calls: int | None = measured(
        "times that keys or values of a layer were decoded to be attended, one for each pass and "
        "segment of history; null: made before it was counted",
        "calls",
        "mean",
    )
    kv_decode_bytes: int | None = measured(
        "BF16 bytes of what was decoded; null: made before it was counted", "bytes", "mean"
    )
    scratch_bytes: int | None = measured(
        "room for decoded history that all layers share", "bytes", "mean"
    )
    # What the numbers depend on besides the settings; `summary_table.notes` reports mixed rows.
    attention_backend: str | None = measured("what attended to history (conf/attention)")
    integration: str | None = measured("how the method is built in (conf/integration)")
    contract: str | None = measured("how much history attention may reach: full or window<frames>")
    preset: str | None = measured("sizes of the network")
    weights: str | None = measured("files of weights and their checksums")
    device: str | None = measured("card or processor")
    torch_version: str | None = measured("version of torch")
    code_version: str | None = measured("version of the harness that made the video")
    video: str | None = measured("files of the video, without ending, below the run's folder")
    frames_sha256: str | None = measured("digest of shape and pixels of the frames")
    schema_version: int = column("version of these columns", default=SCHEMA_VERSION)


@dataclass(frozen=True)
class TracePoint:
    """A row of a file below trace/: one event while a video is generated.

    `moment` names the kind of event; columns that a kind does not use are null.
    `chunk`  after the commit of a chunk: bytes of one component of the cache, or of the whole
             process (component `in_use`).
    `peak`   the moment of a phase's memory peak: bytes of one component. The components add up to
             the measured peak.
    `pass`   one pass of the network: the decision of the reuse policy and the numbers behind it.
             All passes of a video form the bitmap chunk x step x branch.
    """

    run_id: str = column("as in the observations")
    prompt_index: int = column("as in the observations")
    sample: int = column("as in the observations")
    moment: str = column("kind of the row: chunk, peak or pass")
    phase: str = column("phase of the video: text, denoise, commit or decode")
    chunk: int | None = measured("chunk of the video, from 0; the oldest in a pass over several")
    time_s: float | None = measured("since the video began; at the end of a pass", "s")
    component: str | None = measured("what the bytes are of")
    bytes: int | None = measured("size of the component", "bytes")
    step: int | None = measured("denoising step of the chunk, from 0; null in a commit")
    branch: int | None = measured("guidance branch, from 0; always 0 where a model has one")
    reused: int | None = measured("1: the policy skipped the pass; 0: it ran")
    drift: float | None = measured(
        "change of the feature that the reuse policy watches; null where it made no test: without "
        "a feature, in a chunk's first pass, and in passes that always run"
    )
    accumulated_drift: float | None = measured(
        "what the policy compares with its threshold: the sum of the rescaled drifts since the "
        "last pass that ran, this one included"
    )
    kv_age: int | None = measured(
        "passes of the chunk since those that its stored keys and values are from; 0 where the "
        "commit itself ran; null in a denoising pass",
        "passes",
    )
    seconds: float | None = measured("duration of the pass", "s")


def described(row_type: type) -> Iterator[tuple[str, str, str]]:
    """Yield name, unit and meaning of each column of a row type, in order."""
    for each in dataclasses.fields(row_type):
        yield each.name, each.metadata.get("unit", ""), each.metadata.get("meaning", "")


def over_videos() -> dict[str, str]:
    """Return how each column of `Observation` is aggregated over videos; "" for not at all."""
    return {each.name: each.metadata["over"] for each in dataclasses.fields(Observation)}
