"""The contract of a judge, and which frames it is shown."""

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
    """Which events a video shows, in their order, and why, in the judge's words."""

    completed: tuple[bool, ...]
    explanation: str


class Judge(ABC):
    """Someone who looks at frames. Objects are small: a model is loaded by the first question.

    one_at_a_time: whether threads must not ask at once. answers_vary: whether another seed can
    bring another answer.
    """

    one_at_a_time: bool = False
    answers_vary: bool = True

    @abstractmethod
    def identity(self) -> str:
        """What decides its answers: kind, model, frames, sampling."""

    def missing(self) -> str | None:
        """Why nobody can be asked here, and what to type; else None."""
        return None

    def weights(self) -> dict[str, str]:
        """SHA-256 of the files of weights that are here, by name."""
        return {}

    @abstractmethod
    def completed(
        self, events: Sequence[str], frames_THWC: Frames, vote: int = 0, device: str = "cpu"
    ) -> Verdict:
        """Which of the events the frames of a video show.

        vote: counts the questions about one video; each has a seed of its own.
        Shapes  frames_THWC [T, H, W, 3] u8 RGB, the whole video.
        Raises  Unscorable: a refusal, or an answer that cannot be read. Unavailable: no answer.
        """

    def close(self) -> None:  # noqa: B027  most have nothing to let go of
        """Let go of what was loaded."""


def spaced(num_frames: int, most: int) -> list[int]:
    """Indices of at most so many frames, evenly spaced, the first and the last among them.

    Five of eleven: 0, 3, 5, 8, 10. One alone is the first.
    """
    wanted = np.linspace(0, num_frames - 1, min(most, num_frames))
    return [int(index) for index in np.floor(wanted + 0.5)]


def images(frames_THWC: Frames, most: int, max_side_px: int | None) -> list[Image]:
    """The frames a judge is shown, made smaller if they are larger than it is to see."""
    from PIL import Image

    shown = [Image.fromarray(frames_THWC[index]) for index in spaced(len(frames_THWC), most)]
    if max_side_px is not None:
        for image in shown:
            image.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    return shown


def check_frames(num_frames: int, max_side_px: int | None) -> None:
    """Refuse what nobody could look at.

    Raises  UserError: no frames, or ones too small to see.
    """
    if num_frames < 1:
        raise UserError(f"judge.num_frames={num_frames}: give at least 1 frame")
    if max_side_px is not None and max_side_px < 16:
        raise UserError(
            f"judge.max_side_px={max_side_px}: give at least 16, or null for frames as made"
        )
