"""Samples a video: runs the passes of a loop with one network, schedule and cache session."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from harness.api import Reuse, Stores
from harness.cache.integration import CacheSession
from harness.cache.numerics import are_finite, demand_finite_passes
from harness.sampling.loop import Loop
from harness.sampling.network import Network, TextKV
from harness.sampling.noise import Noise
from harness.sampling.passes import Observer, step_rows
from harness.sampling.reuse import Residual
from harness.sampling.schedule import Schedule
from harness.sampling.solver import Renoise, Solver


class SegmentDecoder(Protocol):
    """Decodes finished latents between two histories of one video."""

    def rejoin(self, overlap: int) -> Tensor:
        """Return the latents [B, overlap, C, h, w] that the next history starts from."""


@dataclass(frozen=True)
class Generation:
    """Everything that one video needs while it is sampled.

    num_frames: latent frames of the video. segments: needed only where histories restart.
    """

    session: CacheSession
    text_kv: TextKV
    noise: Noise
    num_frames: int
    observer: Observer
    segments: SegmentDecoder | None = None


@dataclass
class ChunkUnderWay:
    """A chunk that is being denoised.

    frames: its frames in the video; placed: its frames in the current history.
    latents: [B, F, C, h, w], noisy until the solver has finished.
    reuse: stands in for passes that the method's reuse policy skips.
    finite: whether the latents of each pass so far were finite.
    """

    frames: range
    placed: range
    latents: Tensor
    solver: Solver
    reuse: Residual | None
    finite: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Sampler:
    """Generates latents with one network, schedule and order of passes.

    reuse: decides which denoising passes are skipped; None runs all.
    """

    network: Network
    schedule: Schedule
    chunk_frames: int
    reuse: Reuse | None = None
    loop: Loop = field(default_factory=Loop)

    @torch.inference_mode()
    def sample(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
        segments: SegmentDecoder | None = None,
    ) -> Iterator[Tensor]:
        """Yield the finished latents of each chunk [B, F, C, h, w] in the network's dtype.

        The commit pass of a chunk has run when its latents arrive. segments: needed where the order
        of passes restarts histories.
        """
        video = Generation(session, text_kv, noise, num_frames, observer, segments)
        yield from self._run(video)

    def flow(
        self,
        x_BFChw: Tensor,
        t_BF: Tensor,
        text_kv: TextKV,
        session: CacheSession,
        frames: range,
        stores: Stores = "nothing",
        reuse: Residual | None = None,
    ) -> Tensor:
        """Run one pass: the flow [B, F, C, h, w] at x_t for times t.

        frames: their place in the history. reuse: may stand in for the blocks of the network; the
        session is not asked then, so what it holds stays as it is.
        """
        net = self.network
        e_BFD = net.embed_time(t_BF.to(x_BFChw.device))

        def run(tokens: Tensor) -> Tensor:
            return net.run(tokens, e_BFD, text_kv, session, session.plan(frames, stores))

        tokens = net.embed(x_BFChw)
        tokens = run(tokens) if reuse is None else reuse.through(tokens, run)
        return net.finish(tokens, e_BFD, x_BFChw)

    def to_network(self, x: Tensor) -> Tensor:
        """Return x on the network's device, in its dtype."""
        return x.to(self.network.device, self.network.dtype)

    def _run(self, video: Generation) -> Iterator[Tensor]:
        """Yield the finished latents [B, F, C, h, w] of each chunk after its commit pass."""
        begin = 0  # where the current history starts in the video
        for number, length in enumerate(self.loop.histories(video.num_frames)):
            parts, given = self.loop.parts(number, length, self.chunk_frames)
            if given:
                assert video.segments is not None, "a video of several histories needs a decoder"
                video.session.restart()
                again_BFChw = video.segments.rejoin(self.loop.overlap)
                for part in parts[:given]:
                    latents = again_BFChw[:, part.start : part.stop]
                    self._commit(video, latents, part, begin)
            yield from self._run_history(video, parts[given:], begin)
            begin += length - self.loop.overlap

    def _run_history(
        self, video: Generation, parts: Sequence[range], begin: int
    ) -> Iterator[Tensor]:
        """Yield the finished chunks of one history, which starts at frame `begin` of the video."""
        starts = [part.start + begin == 0 for part in parts]
        num_steps = [len(self.schedule.times(first)) for first in starts]
        under_way: dict[int, ChunkUnderWay] = {}
        for row in step_rows(num_steps, self.loop.offset):
            if self.loop.joint:
                yield from self._run_joint_row(video, parts, begin, under_way, row)
                continue
            for part, step in row:
                index = (parts[part].start + begin) // self.chunk_frames
                with video.observer.phase("denoise", index, step):
                    if step == 0:
                        under_way[part] = self._start(video, parts[part], begin)
                    chunk = under_way[part]
                    self._denoise(video, chunk)
                if chunk.solver.finished:
                    del under_way[part]
                    # Answers are read once a chunk, so that no pass waits for the device.
                    demand_finite_passes(chunk.finite, self._name(chunk.frames), video.session)
                    self._commit(video, chunk.latents, chunk.placed, begin)
                    yield chunk.latents

    def _run_joint_row(
        self,
        video: Generation,
        parts: Sequence[range],
        begin: int,
        under_way: dict[int, ChunkUnderWay],
        row: Sequence[tuple[int, int]],
    ) -> Iterator[Tensor]:
        """Run one pass over all chunks under way, then a commit pass of the oldest.

        As in the original, the commit pass runs on the oldest chunk's unfinished latents too, but
        they are not stored: no pass would see them before they are stored anew. Also as in the
        original, noise is drawn for the whole pass each time and a chunk takes its own part.
        """
        first, first_step = row[0]
        index = (parts[first].start + begin) // self.chunk_frames
        with video.observer.phase("denoise", index, first_step):
            for part, step in row:
                if step == 0:
                    under_way[part] = self._start(video, parts[part], begin)
            active = [under_way[part] for part, _ in row]
            oldest = active[0]
            placed = range(oldest.placed.start, active[-1].placed.stop)
            x_BFChw = torch.cat([chunk.latents for chunk in active], dim=1)
            times = [chunk.solver.time for chunk in active for _ in chunk.placed]
            t_BF = torch.tensor(times).expand(x_BFChw.shape[0], -1)
            flow_BFChw = self.flow(x_BFChw, t_BF, video.text_kv, video.session, placed)
            for chunk in active:
                own = slice(chunk.placed.start - placed.start, chunk.placed.stop - placed.start)

                def fresh(own: slice = own) -> Tensor:
                    return video.noise.fresh(len(placed))[:, own]

                chunk.latents = chunk.solver.step(chunk.latents, flow_BFChw[:, own], fresh)
        finite = are_finite(*(chunk.solver.clean for chunk in active))
        where = f"the window from {self._name(oldest.frames)} on"
        demand_finite_passes([finite], where, video.session)
        done = oldest.solver.finished
        self._commit(video, oldest.solver.clean, oldest.placed, begin, store=done)
        if done:
            del under_way[first]
            yield oldest.latents

    def _start(self, video: Generation, placed: range, begin: int) -> ChunkUnderWay:
        """Start a chunk from the video's initial noise."""
        frames = range(placed.start + begin, placed.stop + begin)
        times = self.schedule.times(first_chunk=frames.start == 0)
        reuse = None
        if self.reuse is not None:
            reuse = Residual(self.reuse, len(times), video.observer.reused)
        latents = self.to_network(video.noise.initial(frames))
        solver = Renoise(self.schedule, times)
        return ChunkUnderWay(frames, placed, latents, solver, reuse)

    def _denoise(self, video: Generation, chunk: ChunkUnderWay) -> None:
        """Run one denoising pass of a chunk, or its reuse, and one step of its solver."""
        x_BFChw, reuse = chunk.latents, chunk.reuse
        t_BF = torch.full(x_BFChw.shape[:2], chunk.solver.time)
        stores = self.loop.while_noisy
        flow_BFChw = self.flow(
            x_BFChw, t_BF, video.text_kv, video.session, chunk.placed, stores, reuse
        )
        if reuse is not None and reuse.drift is not None and reuse.accumulated is not None:
            video.observer.drifted(reuse.drift, reuse.accumulated)
        chunk.latents = chunk.solver.step(
            x_BFChw, flow_BFChw, lambda: video.noise.fresh(len(chunk.placed))
        )
        chunk.finite.append(are_finite(chunk.solver.clean))

    def _commit(
        self,
        video: Generation,
        x0_BFChw: Tensor,
        placed: range,
        begin: int,
        store: bool = True,
    ) -> None:
        """Run the pass at t = 0 that stores finished latents; store=False only spends its time.

        Raises  NotFinite: keys or values that it stored.
        """
        t_BF = torch.zeros(x0_BFChw.shape[:2])
        stores: Stores = "history" if store else "nothing"
        frames = range(placed.start + begin, placed.stop + begin)
        with video.observer.phase("commit", frames.start // self.chunk_frames):
            self.flow(x0_BFChw, t_BF, video.text_kv, video.session, placed, stores)
        video.session.watch.demand_finite(self._name(frames), video.session)

    def _name(self, frames: range) -> str:
        """Name a chunk in a message by its number and its frames in the video, from 0."""
        number = frames.start // self.chunk_frames
        return f"chunk {number} (frames {frames.start} to {frames.stop - 1})"
