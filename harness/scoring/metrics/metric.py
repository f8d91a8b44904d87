"""The contract of a metric: what it takes, which columns it gives, and how they are to be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.results.scores import Column, Value

Frames = NDArray[np.uint8]


class Unscorable(ValueError):
    """One video has no value of a metric; the sentence stands beside the null in its row."""


class Unavailable(Unscorable):
    """What a metric needs fails for now (a server, a key): the video is worth another try."""


@dataclass(frozen=True)
class Clip:
    """A video to score: frames as they were made, before any lossy encoding.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Units   fps in frames a second; first_chunk_frames in pixel frames.
    """

    frames_THWC: Frames
    fps: float
    first_chunk_frames: int
    prompt: str = ""
    events: tuple[str, ...] = ()


class Metric(ABC):
    """One way to score a video. Objects are small: a model is loaded by the first `measure`.

    The process that plans the work builds metrics too, and must stay fast: a module of a metric
    imports what is heavy (torch, skimage, ...) inside functions.
    """

    name: str  # the stem of its columns: <name>_reason, <name>_version and <name>_weights are added
    against_reference: ClassVar[bool] = False  # whether it needs the BF16 video of prompt and seed
    one_at_a_time: bool = False  # whether threads must not measure two videos at once

    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """What `measure` gives, in order.

        Each name begins with the metric's, or with `drift_` and the metric's.
        """

    @abstractmethod
    def version(self) -> str:
        """What decides the values: definition, packages with versions, frames and windows used.

        A row of another version is scored again.
        """

    def missing(self) -> str | None:
        """Why nothing can be measured here (no weights, no package) and what to type; else None."""
        return None

    def weights(self) -> dict[str, str]:
        """SHA-256 of the files of weights that are used, by name."""
        return {}

    @abstractmethod
    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """The values of one video, by column.

        reference: the BF16 video of the same prompt and seed, if the metric is against one.
        device: as torch names it, or `auto`. What is not finite is turned to null with a reason by
        the caller.
        Raises  Unscorable: this video has no value.
        """

    def close(self) -> None:  # noqa: B027  most have nothing to let go of
        """Let go of what `measure` loaded."""


def check_pair(video: Clip, reference: Clip | None) -> tuple[Frames, Frames]:
    """The frames of two videos that can be compared frame by frame.

    Raises  Unscorable: there is no reference, or they differ in length or size.
    """
    if reference is None:
        raise Unscorable("there is no reference video")
    ours, theirs = video.frames_THWC.shape, reference.frames_THWC.shape
    if ours != theirs:
        raise Unscorable(
            f"the video has {_said(ours)}, its reference {_said(theirs)}: they cannot be compared "
            "frame by frame"
        )
    return video.frames_THWC, reference.frames_THWC


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
