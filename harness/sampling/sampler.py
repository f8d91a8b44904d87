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
from harness.sampling.guidance import BRANCHES, Branch, Guidance
from harness.sampling.loop import Loop
from harness.sampling.network import Network, TextKV
from harness.sampling.noise import Noise
from harness.sampling.passes import Observer, Pass
from harness.sampling.reuse import Residual
from harness.sampling.schedule import Schedule
from harness.sampling.solver import Renoise, Solver


class SegmentDecoder(Protocol):
    """Decodes finished latents between two histories of one video."""

    def rejoin(self, overlap: int) -> Tensor:
        """Return the latents [B, overlap, C, h, w] that the next history starts from."""


@dataclass(frozen=True)
class Generation:
    """Inputs of one video while it is sampled.

    branches: one, or two under guidance.
    num_frames: latent frames of the video.
    segments: needed only if the loop restarts histories.
    """

    branches: tuple[Branch, ...]
    noise: Noise
    num_frames: int
    observer: Observer
    segments: SegmentDecoder | None = None


@dataclass
class ChunkUnderWay:
    """A chunk that is being denoised.

    frames: its frames in the video.
    placed: its frames in the current history.
    latents: [B, F, C, h, w], noisy until the solver has finished.
    reuse: replaces passes that the reuse policy skips, one per branch; empty without a policy.
    finite: for each pass so far, whether its latents were finite [] bool, on the device.
    """

    frames: range
    placed: range
    latents: Tensor
    solver: Solver
    reuse: tuple[Residual, ...]
    finite: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Sampler:
    """Generates latents with one network, schedule and order of passes.

    chunk_frames: latent frames of a chunk.
    reuse: decides which denoising passes are skipped; None runs all.
    guidance: combines two branches of every pass; None runs one.
    """

    network: Network
    schedule: Schedule
    chunk_frames: int
    reuse: Reuse | None = None
    loop: Loop = field(default_factory=Loop)
    guidance: Guidance | None = None

    def sample(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
        segments: SegmentDecoder | None = None,
    ) -> Iterator[Tensor]:
        """Yield the latents of a video without guidance, as `run` does."""
        branches = (Branch(session, text_kv),)
        return self.run(Generation(branches, noise, num_frames, observer, segments))

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
        """Run one pass and return the flow [B, F, C, h, w] at x_t for times t [B, F], 0 to 1000.

        frames: frames of x in the history. reuse: may replace the blocks of the network; the cache
        session then stays unchanged.
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

    @torch.inference_mode()
    def run(self, video: Generation) -> Iterator[Tensor]:
        """Yield the finished latents of each chunk [B, F, C, h, w] in the network's dtype.

        A chunk is yielded after its commit pass.

        Raises  NotFinite: latents, keys or values that are not finite.
        """
        expected = 1 if self.guidance is None else len(BRANCHES)
        assert len(video.branches) == expected, "guidance combines two branches"
        lengths = self.loop.histories(video.num_frames)
        history = begin = 0  # the current history, and where it starts in the video
        under_way: dict[int, ChunkUnderWay] = {}  # by first frame in the history
        again_BFChw: Tensor | None = None  # what the current history starts from
        for each in self.loop.passes(self.schedule, video.num_frames, self.chunk_frames):
            # The next history begins inside the last one, with the overlapping frames.
            if each.history > history:
                begin, history = begin + lengths[history] - self.loop.overlap, each.history
                again_BFChw = self._restart(video)
            chunk = under_way.get(each.frames.start)
            if each.step is not None:
                self._denoise(video, each, begin, under_way)
            elif chunk is None:  # given by the history before
                assert again_BFChw is not None
                latents = again_BFChw[:, each.frames.start : each.frames.stop]
                self._commit(video, latents, each, begin)
            else:
                if not self.loop.joint:
                    # Answers are read once a chunk, so that no pass waits for the device.
                    self._demand_finite(video, chunk.finite, self._name(chunk.frames))
                # With a joint pass the commit also runs on unfinished latents, as in the original
                # code, but stores nothing: the next commit would replace it before a pass reads it.
                self._commit(video, chunk.solver.clean, each, begin)
                if each.stores == "history":
                    del under_way[each.frames.start]
                    yield chunk.latents

    def _restart(self, video: Generation) -> Tensor:
        """Free the history; return the latents [B, overlap, C, h, w] that the next starts from."""
        assert video.segments is not None, "a video of several histories needs a decoder"
        for branch in video.branches:
            branch.session.restart()
        return video.segments.rejoin(self.loop.overlap)

    def _denoise(
        self, video: Generation, each: Pass, begin: int, under_way: dict[int, ChunkUnderWay]
    ) -> None:
        """Run one denoising pass of a chunk, or of several jointly, and one step of each solver.

        The first branch starts new chunks and the last one combines the flows, both inside a timed
        phase.
        """
        starts = range(each.frames.start, each.frames.stop, self.chunk_frames)
        index = (each.frames.start + begin) // self.chunk_frames
        flows: list[Tensor] = []
        for number, branch in enumerate(video.branches):
            with video.observer.phase("denoise", index, each.step, number):
                for start in starts:
                    if start not in under_way:
                        stop = min(start + self.chunk_frames, each.frames.stop)
                        under_way[start] = self._start(video, range(start, stop), begin)
                chunks = [under_way[start] for start in starts]
                x_BFChw = torch.cat([chunk.latents for chunk in chunks], dim=1)
                times = [chunk.solver.time for chunk in chunks for _ in chunk.placed]
                t_BF = torch.tensor(times).expand(x_BFChw.shape[0], -1)
                reuse = chunks[0].reuse[number] if chunks[0].reuse else None
                flows.append(
                    self.flow(
                        x_BFChw,
                        t_BF,
                        branch.text_kv,
                        branch.session,
                        each.frames,
                        each.stores,
                        reuse,
                    )
                )
                if reuse is not None and reuse.drift is not None and reuse.accumulated is not None:
                    video.observer.drifted(reuse.drift, reuse.accumulated)
                if len(flows) == len(video.branches):
                    self._step(video, each, chunks, flows)
        if self.loop.joint:
            finite = are_finite(*(chunk.solver.clean for chunk in chunks))
            where = f"the window from {self._name(chunks[0].frames)} on"
            self._demand_finite(video, [finite], where)

    def _step(
        self,
        video: Generation,
        each: Pass,
        chunks: Sequence[ChunkUnderWay],
        flows_BFChw: Sequence[Tensor],
    ) -> None:
        """Combine the flows of all branches, and advance every chunk of a pass by one step."""
        flow_BFChw = flows_BFChw[0]
        if self.guidance is not None:
            flow_BFChw = self.guidance.combine(*flows_BFChw)
        for chunk in chunks:
            own = slice(
                chunk.placed.start - each.frames.start, chunk.placed.stop - each.frames.start
            )

            # As in Rolling Forcing's code, each draw covers the whole pass and a chunk takes its
            # own part. The default argument binds the slice of this iteration.
            def fresh(own: slice = own) -> Tensor:
                return video.noise.fresh(len(each.frames))[:, own]

            chunk.latents = chunk.solver.step(chunk.latents, flow_BFChw[:, own], fresh)
            if not self.loop.joint:
                chunk.finite.append(are_finite(chunk.solver.clean))

    def _start(self, video: Generation, placed: range, begin: int) -> ChunkUnderWay:
        """Start a chunk from the video's initial noise."""
        frames = range(placed.start + begin, placed.stop + begin)
        times = self.schedule.times(first_chunk=frames.start == 0)
        # Branches differ in their text and so in their residuals: each needs its own state.
        reuse: tuple[Residual, ...] = ()
        if self.reuse is not None:
            policy, reused = self.reuse, video.observer.reused
            reuse = tuple(Residual(policy, len(times), reused) for _ in video.branches)
        latents = self.to_network(video.noise.initial(frames))
        return ChunkUnderWay(frames, placed, latents, Renoise(self.schedule, times), reuse)

    def _commit(self, video: Generation, x0_BFChw: Tensor, each: Pass, begin: int) -> None:
        """Run the pass at t = 0 over finished latents, in every branch.

        Raises  NotFinite: new or stored keys or values that are not finite.
        """
        # Time 0: the history holds keys and values of clean latents.
        t_BF = torch.zeros(x0_BFChw.shape[:2])
        frames = range(each.frames.start + begin, each.frames.stop + begin)
        for number, branch in enumerate(video.branches):
            session = branch.session
            with video.observer.phase("commit", frames.start // self.chunk_frames, None, number):
                self.flow(x0_BFChw, t_BF, branch.text_kv, session, each.frames, each.stores)
            session.watch.demand_finite(self._name(frames), session)

    def _demand_finite(self, video: Generation, finite: list[Tensor], where: str) -> None:
        """Raise NotFinite if the latents of a pass were not finite."""
        demand_finite_passes(finite, where, video.branches[0].session)

    def _name(self, frames: range) -> str:
        """Name a chunk in a message by its number and its frames in the video, from 0."""
        number = frames.start // self.chunk_frames
        return f"chunk {number} (frames {frames.start} to {frames.stop - 1})"
