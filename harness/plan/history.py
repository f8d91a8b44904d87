"""How many frames a cache holds over time: the retention policy itself, on made-up profiles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from itertools import count

import torch
from torch import Tensor

from harness.api import CacheSpec, Fate, History, Retention

TOKENS = 8  # of a made-up frame: policies look at frames, not at how many tokens they have
FAR = 160  # chunks


@dataclass(frozen=True)
class Moment:
    """One chunk: what its passes attend to besides itself, and what is held when it is stored.

    num_frames: the video so far, the chunk included.
    """

    num_frames: int
    seen_full: int
    seen_pooled: int
    full: int
    pooled: int


@dataclass(frozen=True)
class Held:
    """The most that was held or seen up to a moment: what must be allocated, in frames."""

    full: int = 0
    pooled: int = 0
    seen_full: int = 0
    seen_pooled: int = 0

    def grown(self, moment: Moment) -> Held:
        """With one chunk more."""
        return Held(
            max(self.full, moment.full),
            max(self.pooled, moment.pooled),
            max(self.seen_full, moment.seen_full),
            max(self.seen_pooled, moment.seen_pooled),
        )


def simulate(spec: CacheSpec, retention: Retention) -> Iterator[Moment]:
    """The chunks of an endless video, for one layer; all layers are alike.

    As the cache does it: the model's window evicts at a chunk's first pass; the policy decides
    before the new frames are stored. Which frames matter is drawn at random, so a policy whose
    number of frames depends on the video is one example of itself.
    """
    generator = torch.Generator().manual_seed(0)
    full: list[int] = []
    pooled: list[int] = []
    notes: dict[int, Tensor] = {}
    for start in count(0, spec.chunk_frames):
        end = start + spec.chunk_frames
        if spec.window is not None:
            first = end - spec.window + spec.sink
            full, pooled = (
                [f for f in frames if f < spec.sink or f >= first] for frames in (full, pooled)
            )
        seen = len(full), len(pooled)
        for frame in range(start, end):
            k, v = torch.randn(2, 1, spec.num_heads, TOKENS, spec.head_dim, generator=generator)
            note = retention.observe(k, v)
            if note is not None:
                notes[frame] = note
        full += range(start, end)
        reach = end if spec.window is None else min(end, spec.window)
        fates = retention.decide(History(tuple(full), reach, notes))
        pooled += sorted(f for f in full if fates.get(f) is Fate.POOL)
        full = [f for f in full if fates.get(f, Fate.KEEP) is Fate.KEEP]
        yield Moment(end, *seen, len(full), len(pooled))


def video(spec: CacheSpec, retention: Retention, num_frames: int) -> list[Moment]:
    """The chunks of a video of so many latent frames."""
    moments = simulate(spec, retention)
    return [next(moments) for _ in range(num_frames // spec.chunk_frames)]


def most(moments: list[Moment]) -> Held:
    """What must be allocated for these chunks."""
    held = Held()
    for moment in moments:
        held = held.grown(moment)
    return held


class Growth:
    """What must be allocated for a video of any length.

    The policy is simulated for FAR chunks. A longer video is taken to grow on as it did over the
    second half of them, rounded up: exact for policies that keep a share or a number of frames, up
    to their own rounding.
    """

    def __init__(self, spec: CacheSpec, retention: Retention) -> None:
        """Nothing is simulated yet."""
        self._chunk_frames = spec.chunk_frames
        self._moments = simulate(spec, retention)
        self._held = [Held()]  # by number of chunks

    def held(self, num_frames: int) -> Held:
        """For so many latent frames, whole chunks."""
        chunks = num_frames // self._chunk_frames
        while len(self._held) <= min(chunks, FAR):
            self._held.append(self._held[-1].grown(next(self._moments)))
        if chunks <= FAR:
            return self._held[chunks]
        half, far = astuple(self._held[FAR // 2]), astuple(self._held[FAR])
        beyond = (chunks - FAR) / (FAR - FAR // 2)
        return Held(*(b + math.ceil((b - a) * beyond) for a, b in zip(half, far, strict=True)))
