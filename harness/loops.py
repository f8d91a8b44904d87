"""Loops beside the chunk loop: several chunks in one pass, and histories that begin anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from harness.api import Method
from harness.cache import Session
from harness.integration import CacheSession, Integration, Packed
from harness.models.decoder import Codec, Decoder
from harness.models.wan import TextKV
from harness.noise import Noise
from harness.passes import Observer, Pass, chunks
from harness.sampler import Joint, Loop, Sampler, Schedule


@dataclass(frozen=True)
class RollingLoop(Loop):
    """Several chunks are denoised in one pass, each a step behind the one before it.

    A window of as many chunks as there are steps moves on by a chunk a pass: one chunk of fresh
    noise comes in, and the one at the last step is finished and committed. The first windows hold
    fewer chunks, and begin with the same one: the commit pass of its unfinished latents is run as
    published, but nothing is stored, since no pass would see it before it is stored anew.

    Source  Rolling Forcing (arXiv 2509.25161).
    """

    def check(self, integration: Integration, method: Method, decoder: Decoder) -> None:
        """A chunk's passes are shared with others, none of which may be left out."""
        if method.reuse is not None:
            raise ValueError(
                f"{type(method.reuse).__name__} skips passes of one chunk, but RollingLoop "
                "denoises several chunks in one pass: choose a method without reuse"
            )

    def run(
        self,
        sampler: Sampler,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
        joint: Joint | None,
    ) -> Iterator[Tensor]:
        """A chunk of latents a window, once the first chunk is finished."""
        parts = chunks(num_frames, sampler.chunk_frames)
        num_steps = len(sampler.schedule.times(False))
        under_way = _UnderWay(sampler, session, text_kv, noise, parts)
        for last in range(len(parts) + num_steps - 1):
            first = max(0, last - num_steps + 1)
            with observer.phase("denoise", first, last - first):
                if last < len(parts):
                    under_way.come(last)
                x0 = under_way.step(last)
            finished = last - first == num_steps - 1
            sampler.commit(session, text_kv, x0, parts[first], observer, finished)
            if finished:
                del under_way.latents[first]
                yield x0

    def passes(self, schedule: Schedule, num_frames: int, chunk_frames: int) -> Iterator[Pass]:
        """A joint pass and a commit a window."""
        parts, num_steps = chunks(num_frames, chunk_frames), len(schedule.steps)
        for last in range(len(parts) + num_steps - 1):
            first = max(0, last - num_steps + 1)
            newest = parts[min(last, len(parts) - 1)]
            yield Pass(0, range(parts[first].start, newest.stop), last - first)
            yield Pass(0, parts[first], stores=last - first == num_steps - 1)

    def pass_frames(self, schedule: Schedule, chunk_frames: int) -> int:
        """A chunk a step."""
        return len(schedule.steps) * chunk_frames


@dataclass
class _UnderWay:
    """The chunks of a video that are being denoised, by number, noised to their next times."""

    sampler: Sampler
    session: CacheSession
    text_kv: TextKV
    noise: Noise
    parts: Sequence[range]
    latents: dict[int, Tensor] = field(default_factory=dict)

    def come(self, chunk: int) -> None:
        """One more, of fresh noise."""
        self.latents[chunk] = self.sampler.to_network(self.noise.initial(self.parts[chunk]))

    def step(self, last: int) -> Tensor:
        """One pass over all of them, chunk i at step last - i; the clean latents of the first.

        Those that are not at their last step are noised again. As published, noise is drawn for
        the whole window each time, and a chunk takes its part.
        """
        sampler, parts = self.sampler, self.parts
        times = sampler.schedule.times(False)
        frames = range(parts[min(self.latents)].start, parts[max(self.latents)].stop)
        x = torch.cat(list(self.latents.values()), dim=1)
        t = torch.tensor([times[last - i] for i in self.latents for _ in parts[i]])
        t_BF = t.expand(x.shape[0], -1)
        flow = sampler.flow(x, t_BF, self.text_kv, self.session, frames, False)
        clean = sampler.clean(x, flow, t_BF)
        for i in self.latents:
            if last - i + 1 < len(times):
                own = slice(parts[i].start - frames.start, parts[i].stop - frames.start)
                draw = self.noise.fresh(len(frames))[:, own]
                self.latents[i] = sampler.noised(clean[:, own], draw, times[last - i + 1])
        return clean[:, : len(parts[min(self.latents)])]


@dataclass(frozen=True)
class RestartLoop(Loop):
    """The chunk loop, but history ends after some frames and begins anew from the last of them.

    frames: of one history. overlap: the newest of them, which the next history begins with: they
    pass once more at t = 0, at positions from 0, and are not denoised again. A history is a video
    of its own to the decoder: what is done of it is decoded before the next begins, and the last
    picture that came of the first overlapping frame is encoded as the first of a video.

    Source  CausVid (arXiv 2412.07772) and its program for long videos.
    Raises  ValueError: no frames, or as many overlapping as there are.
    """

    frames: int = 21
    overlap: int = 3

    def __post_init__(self) -> None:
        """Refuse histories that do not get on."""
        whole = all(type(n) is int for n in (self.frames, self.overlap))
        if not whole or not 0 < self.overlap < self.frames:
            raise ValueError(
                f"model.loop.frames={self.frames}, overlap={self.overlap}: give whole numbers, "
                "more frames than overlap and at least 1 of it"
            )

    def check(self, integration: Integration, method: Method, decoder: Decoder) -> None:
        """The cache must be able to forget, and the decoder to encode."""
        if not isinstance(integration, Packed):
            raise ValueError(
                f"integration={integration.name} keeps one history a video, but RestartLoop begins "
                f"a new one after {self.frames} frames: choose integration=packed"
            )
        if not isinstance(decoder, Codec):
            raise ValueError(
                f"{type(decoder).__name__} does not encode, but RestartLoop begins a history with "
                "a picture: choose model.decoder._target_=harness.models.vae.WanCodec"
            )

    def run(
        self,
        sampler: Sampler,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
        joint: Joint | None,
    ) -> Iterator[Tensor]:
        """Chunks of the first history, then those of the next behind its overlap."""
        assert isinstance(session, Session)
        self._demand_chunks(sampler.chunk_frames)
        begin = 0
        for frames in chunks(num_frames, sampler.chunk_frames):
            if frames.start == begin + self.frames:
                begin = frames.start - self.overlap
                session.restart()
                assert joint is not None, "a video of several histories needs somebody to join them"
                again = joint.rejoin(self.overlap)
                for part in chunks(self.overlap, sampler.chunk_frames):
                    latents = again[:, part.start : part.stop]
                    sampler.commit(session, text_kv, latents, part, observer, begin=begin)
            latents = sampler.denoise(session, text_kv, noise, frames, observer, begin)
            placed = range(frames.start - begin, frames.stop - begin)
            sampler.commit(session, text_kv, latents, placed, observer, begin=begin)
            yield latents

    def passes(self, schedule: Schedule, num_frames: int, chunk_frames: int) -> Iterator[Pass]:
        """Those of the chunk loop, and commits of the overlaps."""
        for number, length in enumerate(self.histories(num_frames)):
            for frames in chunks(length, chunk_frames):
                again = number > 0 and frames.start < self.overlap
                steps = 0 if again else len(schedule.times(number == 0 and frames.start == 0))
                for step in range(steps):
                    yield Pass(number, frames, step)
                yield Pass(number, frames, stores=True)

    def histories(self, num_frames: int) -> Sequence[int]:
        """Whole ones, then what is left."""
        found, left = [min(num_frames, self.frames)], num_frames - self.frames
        while left > 0:
            found.append(min(self.frames, self.overlap + left))
            left -= self.frames - self.overlap
        return found

    def _demand_chunks(self, chunk_frames: int) -> None:
        if self.frames % chunk_frames or self.overlap % chunk_frames:
            raise ValueError(
                f"model.loop.frames={self.frames}, overlap={self.overlap}: give multiples of the "
                f"model's chunk of {chunk_frames}"
            )
