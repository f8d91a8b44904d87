"""Schedule, noise and passes of few-step sampling; the chunk loop: denoise, commit, go on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from harness.api import Method, Reuse
from harness.integration import CacheSession, Integration
from harness.models.decoder import Decoder
from harness.models.wan import TextKV, Wan
from harness.noise import Noise
from harness.passes import Observer, Pass, chunks
from harness.residual import Residual

GRID = 1000  # training timesteps


@dataclass(frozen=True)
class Schedule:
    """Times of a few-step flow-matching sampler.

    steps: the published list, e.g. 1000, 750, 500, 250. warp: read an entry as an index into the
    shifted schedule, else use it as the time itself. shift: s = shift * u / (1 + (shift - 1) * u).

    Source  Self-Forcing (arXiv 2506.08009): x_t = (1 - s) x0 + s n, v = n - x0.
    Raises  ValueError: an empty list, or steps that do not fall from 1000 towards 0.
    """

    steps: tuple[int, ...] = (1000, 750, 500, 250)
    first_steps: tuple[int, ...] | None = None
    shift: float = 5.0
    warp: bool = True

    def __post_init__(self) -> None:
        """Refuse lists that are no descent."""
        for name in ("steps", "first_steps"):
            steps = getattr(self, name)
            if steps is None:
                continue
            object.__setattr__(self, name, tuple(steps))  # lists come from YAML
            falling = all(a > b for a, b in pairwise(steps))
            if not steps or not falling or not all(0 < s <= GRID for s in steps):
                raise ValueError(f"schedule.{name}={list(steps)}: give falling times in 1..{GRID}")

    @cached_property
    def _sigmas(self) -> Tensor:
        u = 1 - torch.arange(GRID, dtype=torch.float64) / GRID
        return (self.shift * u / (1 + (self.shift - 1) * u)).float()

    def times(self, first_chunk: bool) -> list[float]:
        """Times of the denoising passes of a chunk, in 0..1000."""
        steps = self.first_steps if first_chunk and self.first_steps else self.steps
        if not self.warp:
            return [float(step) for step in steps]
        return [(self._sigmas[GRID - step] * GRID).item() for step in steps]

    def sigma(self, t: Tensor) -> Tensor:
        """Noise level of the grid entry nearest to each time t [...]; fp32."""
        grid = self._sigmas * GRID
        return self._sigmas[(t.cpu().float()[..., None] - grid).abs().argmin(-1)].to(t.device)


class Joint(Protocol):
    """Joins histories: whoever collects a video's latents as they come, and decodes them."""

    def rejoin(self, overlap: int) -> Tensor:
        """The newest latents [B, overlap, C, h, w], as the beginning of a video of its own."""


class Loop(ABC):
    """In which order a video's passes are made: `model.loop` of a preset. Without state."""

    @abstractmethod
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
        """Yield the finished latents of each chunk, once they are committed."""

    @abstractmethod
    def passes(self, schedule: Schedule, num_frames: int, chunk_frames: int) -> Iterator[Pass]:
        """The passes that `run` makes, one by one; reuse may leave some of them out."""

    def num_passes(self, schedule: Schedule, num_frames: int, chunk_frames: int) -> int:
        """How many there are, commits included."""
        return sum(1 for _ in self.passes(schedule, num_frames, chunk_frames))

    def check(  # noqa: B027  most serve all
        self, integration: Integration, method: Method, decoder: Decoder
    ) -> None:
        """Raise ValueError, before anything is generated, if a part cannot be served."""

    def histories(self, num_frames: int) -> Sequence[int]:
        """Frames of every history that a video begins anew, the longest first."""
        return (num_frames,)

    def pass_frames(self, schedule: Schedule, chunk_frames: int) -> int:
        """The most frames of one pass."""
        return chunk_frames


@dataclass(frozen=True)
class ChunkLoop(Loop):
    """Denoise a chunk, commit it, go on to the next.

    Source  Self-Forcing (arXiv 2506.08009).
    """

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
        """The last chunk holds what is left of num_frames."""
        for frames in chunks(num_frames, sampler.chunk_frames):
            latents = sampler.denoise(session, text_kv, noise, frames, observer)
            sampler.commit(session, text_kv, latents, frames, observer)
            yield latents

    def passes(self, schedule: Schedule, num_frames: int, chunk_frames: int) -> Iterator[Pass]:
        """Every step and a commit of every chunk."""
        for frames in chunks(num_frames, chunk_frames):
            for step in range(len(schedule.times(frames.start == 0))):
                yield Pass(0, frames, step)
            yield Pass(0, frames, stores=True)


@dataclass(frozen=True)
class Sampler:
    """Generates latents chunk by chunk with one network and schedule.

    reuse: which denoising passes need not be run; None runs all.
    """

    network: Wan
    schedule: Schedule
    chunk_frames: int
    reuse: Reuse | None = None
    loop: Loop = field(default_factory=ChunkLoop)

    @torch.inference_mode()
    def sample(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
        joint: Joint | None = None,
    ) -> Iterator[Tensor]:
        """Yield the finished latents of each chunk [B, F, C, h, w] in the network's dtype.

        The commit pass of a chunk has run when its latents arrive. joint: asked by a loop that
        begins histories anew.
        """
        yield from self.loop.run(self, session, text_kv, noise, num_frames, observer, joint)

    def flow(
        self,
        x_BFChw: Tensor,
        t_BF: Tensor,
        text_kv: TextKV,
        session: CacheSession,
        frames: range,
        commit: bool,
    ) -> Tensor:
        """One pass of the network: the flow at x_t for times t, stored if `commit`."""
        plan = session.plan(frames, commit)
        flow: Tensor = self.network(x_BFChw, t_BF.to(x_BFChw.device), text_kv, session, plan)
        return flow

    def commit(
        self,
        session: CacheSession,
        text_kv: TextKV,
        x0_BFChw: Tensor,
        frames: range,
        observer: Observer,
        store: bool = True,
        begin: int = 0,
    ) -> None:
        """The pass at t = 0 that stores finished latents; `store=False` only spends its time.

        begin: the frame of the video that its history begins at.
        """
        with observer.phase("commit", (begin + frames.start) // self.chunk_frames):
            self.flow(x0_BFChw, torch.zeros(x0_BFChw.shape[:2]), text_kv, session, frames, store)

    def noised(self, x0_BFChw: Tensor, draw: Tensor, time: float) -> Tensor:
        """Latents with the noise of a time; draw fp32 on the CPU."""
        sigma = self.schedule.sigma(torch.tensor(time)).item()
        return (1 - sigma) * x0_BFChw + sigma * self.to_network(draw)

    def to_network(self, x: Tensor) -> Tensor:
        """On the network's device, in its dtype."""
        weight = self.network.head.head.weight
        return x.to(weight.device, weight.dtype)

    def clean(self, x_BFChw: Tensor, flow: Tensor, t_BF: Tensor) -> Tensor:
        """x0 = x_t - s v, computed in float64, in the dtype of x_t."""
        sigma = self.schedule.sigma(t_BF).to(x_BFChw.device, torch.float64)[:, :, None, None, None]
        return (x_BFChw.double() - sigma * flow.double()).to(x_BFChw.dtype)

    def _reused(
        self,
        residual: Residual,
        x_BFChw: Tensor,
        t_BF: Tensor,
        text_kv: TextKV,
        session: CacheSession,
        frames: range,
    ) -> Tensor:
        """As `flow` in a denoising pass; where the policy skips it, the blocks are not run."""
        net = self.network
        e_BFD = net.embed_time(t_BF.to(x_BFChw.device))

        def run(tokens: Tensor) -> Tensor:
            return net.run(tokens, e_BFD, text_kv, session, session.plan(frames, False))

        return net.finish(residual.through(net.embed(x_BFChw), run), e_BFD, x_BFChw)

    def denoise(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        frames: range,
        observer: Observer,
        begin: int = 0,
    ) -> Tensor:
        """All denoising passes of one chunk of the video; its history begins at frame `begin`."""
        x = self.to_network(noise.initial(frames))
        placed = range(frames.start - begin, frames.stop - begin)
        times = self.schedule.times(first_chunk=frames.start == 0)
        residual = None if self.reuse is None else Residual(self.reuse, len(times), observer.reused)
        for i, time in enumerate(times):
            t_BF = torch.full(x.shape[:2], time)
            with observer.phase("denoise", frames.start // self.chunk_frames, i):
                if residual is None:
                    flow = self.flow(x, t_BF, text_kv, session, placed, False)
                else:
                    flow = self._reused(residual, x, t_BF, text_kv, session, placed)
                    if residual.drift is not None and residual.accumulated is not None:
                        observer.drifted(residual.drift, residual.accumulated)
                x = self.clean(x, flow, t_BF)
                if i + 1 < len(times):
                    x = self.noised(x, noise.fresh(len(frames)), times[i + 1])
        return x
