"""Interface of judges, and the choice of frames that they see."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.scoring.metrics.metric import Frames
from harness.system.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Verdict:
    """Whether each event is completed, in order, and the judge's explanation."""

    completed: tuple[bool, ...]
    explanation: str


class Judge(ABC):
    """Base class of judges. Construction is cheap; the first question loads the model.

    one_at_a_time: whether threads must ask one after the other.
    answers_vary: whether the answer depends on the seed.
    """

    one_at_a_time: bool = False
    answers_vary: bool = True

    @abstractmethod
    def identity(self) -> str:
        """Describe everything that affects the answers: kind, model, frames, sampling."""

    def missing(self) -> str | None:
        """Return why the judge cannot run here and what to type, or None if it can."""
        return None

    def weights(self) -> dict[str, str]:
        """Return the SHA-256 of local files of weights, by name."""
        return {}

    @abstractmethod
    def completed(
        self, events: Sequence[str], frames_THWC: Frames, vote: int = 0, device: str = "cpu"
    ) -> Verdict:
        """Decide which events a video shows.

        vote: number of the question about this video; each one has its own seed.
        Shapes  frames_THWC [T, H, W, 3] u8 RGB, the whole video.
        Raises  Unscorable: a refusal, or an answer that cannot be read. Unavailable: no answer.
        """

    def close(self) -> None:  # noqa: B027  most judges have nothing to free
        """Free the loaded model."""


def spaced(num_frames: int, most: int) -> list[int]:
    """Return indices of at most `most` evenly spaced frames, including the first and the last.

    Five of eleven are 0, 3, 5, 8, 10. A single one is the first.
    """

    wanted = np.linspace(0, num_frames - 1, min(most, num_frames))
    # Round halves up: Python and numpy would round them to even, which spaces frames unevenly.
    return [int(index) for index in np.floor(wanted + 0.5)]


def images(frames_THWC: Frames, most: int, max_side_px: int | None) -> list[Image]:
    """Return at most `most` frames as images, shrunk to `max_side_px` if they are larger."""
    from PIL import Image

    shown = [Image.fromarray(frames_THWC[index]) for index in spaced(len(frames_THWC), most)]
    if max_side_px is not None:
        for image in shown:
            # It keeps the aspect ratio and never enlarges.
            image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    return shown


def check_frames(num_frames: int, max_side_px: int | None) -> None:
    """Validate the number and the size of frames.

    Raises  UserError: no frames, or frames that are too small.
    """
    if num_frames < 1:
        raise UserError(f"judge.num_frames={num_frames}: give at least 1 frame")
    if max_side_px is not None and max_side_px < 16:
        raise UserError(
            f"judge.max_side_px={max_side_px}: give at least 16, or null for frames as made"
        )
