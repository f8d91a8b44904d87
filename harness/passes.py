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

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Surrounds one pass; name is `denoise` or `commit`."""

    def reused(self) -> None:
        """A pass was not run: an earlier one stood in for it."""


class Silent:
    """An observer that watches nothing."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Surrounds a pass."""
        yield

    def reused(self) -> None:
        """Nobody counts."""
