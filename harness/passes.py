"""The passes of a video: over which frames, and who watches them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol


def chunks(num_frames: int, chunk_frames: int) -> list[range]:
    """The chunks of a video; the last one holds what is left."""
    return [
        range(start, min(start + chunk_frames, num_frames))
        for start in range(0, num_frames, chunk_frames)
    ]


@dataclass(frozen=True)
class Pass:
    """One call of the network.

    history: its number, 0 but for loops that begin anew. frames: their places in it. step: of the
    oldest of them; None in a commit. stores: whether it stores them.
    """

    history: int
    frames: range
    step: int | None = None
    stores: bool = False


class Observer(Protocol):
    """Who watches the passes: times them and shows progress."""

    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None
    ) -> AbstractContextManager[None]:
        """Surround one pass, or another part of a video.

        name: `denoise` or `commit` for a pass. chunk: of the video, from 0; the oldest where a pass
        is over several. step: of that chunk, from 0; None in a commit.
        """

    def reused(self) -> None:
        """Take note that the pass under way is skipped: an earlier one stands in for it."""

    def drifted(self, drift: float, accumulated: float) -> None:
        """Take note of what the reuse policy decided on the pass under way by.

        drift: relative L1 change of the pass's input since the pass before. accumulated: the sum of
        the drifts since the last pass that ran, this one included.
        """


class Silent:
    """An observer that watches nothing."""

    @contextmanager
    def phase(self, name: str, chunk: int | None = None, step: int | None = None) -> Iterator[None]:
        """Do nothing."""
        yield

    def reused(self) -> None:
        """Do nothing."""

    def drifted(self, drift: float, accumulated: float) -> None:
        """Do nothing."""
