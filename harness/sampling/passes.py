"""The passes of a video: which chunks run in which order, and the observer that times them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from harness.api import CacheSpec, Stores


def chunks(num_frames: int, chunk_frames: int) -> list[range]:
    """Split a video into chunks; the last one may be shorter."""
    return [
        range(start, min(start + chunk_frames, num_frames))
        for start in range(0, num_frames, chunk_frames)
    ]


def step_rows(num_steps: Sequence[int], offset: int | None) -> Iterator[list[tuple[int, int]]]:
    """Yield the rows of a step matrix: unfinished chunks, oldest first, each with its own step.

    For example, two chunks of 3 steps with offset=1 give [(0, 0)], [(0, 1), (1, 0)],
    [(0, 2), (1, 1)] and [(1, 2)].

    num_steps: denoising steps of each chunk.
    offset: rows between the starts of two neighbouring chunks; None, or more rows than a chunk has
        steps, starts a chunk when the one before is done.
    """
    starts = [0]
    for steps in num_steps[:-1]:
        # A longer offset than a chunk has steps would leave empty rows: start when it is done.
        starts.append(starts[-1] + (steps if offset is None else min(offset, steps)))
    under_way = list(zip(starts, num_steps, strict=True))
    for row in range(max((start + steps for start, steps in under_way), default=0)):
        # Chunks are listed from the oldest on, so a later one of a row sees those before it.
        yield [
            (chunk, row - start)
            for chunk, (start, steps) in enumerate(under_way)
            if start <= row < start + steps
        ]


# Loops yield passes without looking at a video, so the planner walks the same ones.
@dataclass(frozen=True)
class Pass:
    """One call of the network; under guidance, one call per branch.

    Frames are counted from the start of the history.

    history: number of the history; 0 except where histories restart.
    frames: frames of the pass.
    step: step of the oldest chunk that advances, from 0; None if the pass advances no chunk. Such a
        pass shows its chunks without noise: it commits a finished chunk, or stores the given start
        of a history.
    stores: what the cache session keeps of the pass.
    advances: frames whose chunks take a solver step; None for all frames of the pass. The network
        also sees the other frames, which are given, finished or waiting to start.
    completes: frames whose latents are final after the pass; no later pass stores them.
    sees: earlier frames that the pass may attend to; None for all.
    causal: chunks in the pass attend to themselves and to earlier ones only.
    prefix_noise: noise that is added to the given start of a history, and its time, 0 to 1000.
    row_frames: frames of all chunks that have a denoising pass in this row; None where the whole
        history is their window.
    row, num_rows: row of the step matrix, from 0, and the rows of the history; None and 0 where
        only one chunk is under way at a time.
    is_oldest: whether no older chunk is unfinished.
    needs_room: whether a policy may cut the history before the pass, because a chunk starts in this
        row beside unfinished ones.
    recached_for: frames of the chunk whose text the pass reads, if it stores an earlier chunk once
        more; None for other passes.
    precedes_commit: whether the next pass over these frames may store them in the history. A policy
        that compares the two looks at no other noisy pass.
    """

    history: int
    frames: range
    step: int | None = None
    stores: Stores = "nothing"
    advances: range | None = None
    completes: range = range(0)
    sees: range | None = None
    causal: bool = False
    prefix_noise: float = 0
    row_frames: range | None = None
    row: int | None = None
    num_rows: int = 0
    is_oldest: bool = True
    needs_room: bool = False
    recached_for: range | None = None
    precedes_commit: bool = True

    @property
    def advancing(self) -> range:
        """Frames whose chunks take a solver step, if the pass has a step."""
        return self.frames if self.advances is None else self.advances


def with_recache(
    passes: Iterable[Pass], switches: Sequence[int], spec: CacheSpec
) -> Iterator[Pass]:
    """Yield passes; before a chunk whose text is new, add passes that store the history again.

    The added passes store every chunk that lies wholly in the window, oldest first, without noise
    and under the new text. The model's sink keeps its keys and values, and so does a chunk of which
    some frames have been evicted.

    switches: first frames of the chunks whose text is new.
    Source  LongLive (arXiv 2509.22622), KV recache; its code with `global_sink`, as its settings
            for several prompts have it.
    """
    for each in passes:
        new = each.frames.start
        if each.step == 0 and new in switches:
            # Behind the sink, and from the oldest frame that the window still shows.
            first = spec.sink + (0 if spec.window is None else max(0, new - spec.window))
            # Round up to a whole chunk: the network cannot run on a part of one.
            first = -(-first // spec.chunk_frames) * spec.chunk_frames
            # Oldest first: each chunk sees those that are stored under the new text already.
            for part in chunks(new, spec.chunk_frames)[first // spec.chunk_frames :]:
                yield Pass(each.history, part, stores="history", recached_for=each.frames)
        yield each


def most_active_frames(passes: Iterable[Pass]) -> int:
    """Return the most frames that a cache holds as active chunks during these passes."""
    held: set[range] = set()
    history = most = 0
    for each in passes:
        if each.history != history:  # a new history starts with an empty cache
            held.clear()
            history = each.history
        if each.stores == "active":
            held.add(each.frames)
        elif each.stores == "history":  # its active keys and values make way for the stored ones
            held.discard(each.frames)
        most = max(most, sum(map(len, held)))
    return most


class Observer(Protocol):
    """Times passes and shows progress."""

    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> AbstractContextManager[None]:
        """Return a context that surrounds one pass or another part of a video.

        name: `denoise` or `commit` for a pass.
        chunk: number of the chunk in the video, from 0; of the oldest if a pass covers several.
        step: step of that chunk, from 0; None in a commit pass.
        branch: number of the guidance branch; 0 without guidance.
        """

    def reused(self) -> None:
        """Count the current pass as skipped."""

    def stored(self, age: int) -> None:
        """Record that the current denoising pass stored its chunk in the history.

        age: passes of the chunk since the one that computed its keys and values.
        """

    def drifted(self, drift: float, accumulated: float) -> None:
        """Record the numbers by which the reuse policy decided on the current pass.

        drift: change of the feature that the policy watches.
        accumulated: number that the policy compares with its threshold.
        """


# In place of None, so that the sampler need not ask whether somebody observes.
class NullObserver:
    """Observer that records nothing."""

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        """Return an empty context."""
        yield

    def reused(self) -> None:
        """Ignore a skipped pass."""

    def stored(self, age: int) -> None:
        """Ignore a stored chunk."""

    def drifted(self, drift: float, accumulated: float) -> None:
        """Ignore a drift."""
