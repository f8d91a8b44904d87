"""Interface of metrics: their input, their columns and the meaning of their values."""

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
    """Raised if a video has no value of a metric; the message becomes the reason in its row."""


# Apart from `Unscorable`, whose reason is final: the same video would get the same answer.
class Unavailable(Unscorable):
    """Raised if a metric cannot run now (server or key missing); the video is tried again later."""


@dataclass(frozen=True)
class Clip:
    """A video to score: its frames before any lossy encoding.

    Shapes  frames_THWC [T, H, W, 3] u8 RGB.
    Units   fps in frames a second; first_chunk_frames in pixel frames.
    joints: the first pixel frame of each chunk after the first; empty for a single chunk.
    switches: the first pixel frame of each later prompt; empty if the video follows one.
    """

    frames_THWC: Frames
    fps: float
    first_chunk_frames: int
    prompt: str = ""
    events: tuple[str, ...] = ()
    joints: tuple[int, ...] = ()
    switches: tuple[int, ...] = ()


class Metric(ABC):
    """Base class of metrics. Construction is cheap; the first `measure` loads the model."""

    # The parent process builds metrics too, to find missing scores, and must stay fast. So modules
    # of metrics import heavy packages (torch, skimage, ...) inside functions.
    name: str  # the stem of its columns: <name>_reason, <name>_version and <name>_weights are added
    against_reference: ClassVar[bool] = False  # whether it needs the BF16 video of prompt and seed
    one_at_a_time: bool = False  # whether threads must not measure two videos at once

    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """Return the columns of `measure`, in order.

        Each name begins with the metric's name, or with `drift_` and the metric's name.
        """

    @abstractmethod
    def version(self) -> str:
        """Describe everything that affects the values: definition, packages, frames, windows.

        A row with a different version is scored again.
        """

    def missing(self) -> str | None:
        """Return why the metric cannot run here and what to type, or None if it can."""
        return None

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of the weights used, by name."""
        return {}

    @abstractmethod
    def measure(self, clip: Clip, reference: Clip | None, device: str) -> Mapping[str, Value]:
        """Return the values of one video, by column.

        The caller replaces values that are not finite by null with a reason.

        reference: the BF16 video of the same prompt and seed, if the metric needs one.
        device: as torch names it, or `auto`.
        Raises  Unscorable: this video has no value.
        """

    def close(self) -> None:  # noqa: B027  most metrics have nothing to free
        """Free what `measure` loaded."""


def check_pair(video: Clip, reference: Clip | None) -> tuple[Frames, Frames]:
    """Return the frames of both videos, after checking that they have equal shapes.

    Raises  Unscorable: there is no reference, or the videos differ in length or size.
    """
    if reference is None:
        raise Unscorable("there is no reference video")
    # A video of another length is another video: never compare what happens to overlap.
    ours, theirs = video.frames_THWC.shape, reference.frames_THWC.shape
    if ours != theirs:
        raise Unscorable(
            f"the video has {_said(ours)}, its reference {_said(theirs)}: they cannot be compared "
            "frame by frame"
        )
    return video.frames_THWC, reference.frames_THWC


def _said(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} frames of {shape[1]}x{shape[2]}"
