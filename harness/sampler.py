"""The few-step chunk loop: denoise a chunk, commit its keys and values, go on to the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from harness.api import Reuse
from harness.integration import CacheSession
from harness.models.wan import TextKV, Wan
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

    def num_passes(self, num_chunks: int) -> int:
        """Network passes of a video, the commit pass of every chunk included."""
        first = len(self.first_steps or self.steps)
        return first + (num_chunks - 1) * len(self.steps) + num_chunks


class Noise(Protocol):
    """Where random numbers come from."""

    def initial(self, frames: range) -> Tensor:
        """The noise that a chunk starts from [B, F, C, h, w] fp32 on the CPU."""

    def fresh(self, num_frames: int) -> Tensor:
        """New noise for the next denoising pass [B, F, C, h, w] fp32 on the CPU."""


class SeededNoise:
    """Gaussian noise of one video, drawn in fp32 on the CPU: the same on every device.

    The whole video's initial noise is drawn first, so that a method cannot shift the draws.
    """

    def __init__(self, seed: int, shape_FChw: Sequence[int]) -> None:
        """Seeded by prompt and sample alone."""
        self._generator = torch.Generator().manual_seed(seed)
        self._shape = tuple(shape_FChw)
        self.video = torch.randn(1, *self._shape, generator=self._generator)

    def initial(self, frames: range) -> Tensor:
        """The chunk's part of the video's noise."""
        return self.video[:, frames.start : frames.stop]

    def fresh(self, num_frames: int) -> Tensor:
        """The next draw."""
        return torch.randn(1, num_frames, *self._shape[1:], generator=self._generator)


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


@dataclass(frozen=True)
class Sampler:
    """Generates latents chunk by chunk with one network and schedule.

    reuse: which denoising passes need not be run; None runs all.
    """

    network: Wan
    schedule: Schedule
    chunk_frames: int
    reuse: Reuse | None = None

    @torch.inference_mode()
    def sample(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        num_frames: int,
        observer: Observer,
    ) -> Iterator[Tensor]:
        """Yield the finished latents of each chunk [B, F, C, h, w] in the network's dtype.

        The last chunk holds what is left of num_frames. The commit pass of a chunk has run when its
        latents arrive.
        """
        for start in range(0, num_frames, self.chunk_frames):
            frames = range(start, min(start + self.chunk_frames, num_frames))
            latents = self._denoise(session, text_kv, noise, frames, observer)
            with observer.phase("commit"):
                self.flow(latents, torch.zeros(latents.shape[:2]), text_kv, session, frames, True)
            yield latents

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

    def _denoise(
        self,
        session: CacheSession,
        text_kv: TextKV,
        noise: Noise,
        frames: range,
        observer: Observer,
    ) -> Tensor:
        """All denoising passes of one chunk."""
        weight = self.network.head.head.weight
        x = noise.initial(frames).to(weight.device, weight.dtype)
        times = self.schedule.times(first_chunk=frames.start == 0)
        residual = None if self.reuse is None else Residual(self.reuse, len(times), observer.reused)
        for i, time in enumerate(times):
            t_BF = torch.full(x.shape[:2], time)
            with observer.phase("denoise"):
                if residual is None:
                    flow = self.flow(x, t_BF, text_kv, session, frames, False)
                else:
                    flow = self._reused(residual, x, t_BF, text_kv, session, frames)
                x = self.clean(x, flow, t_BF)
                if i + 1 < len(times):
                    sigma = self.schedule.sigma(torch.tensor(times[i + 1])).item()
                    draw = noise.fresh(len(frames)).to(x.device, x.dtype)
                    x = (1 - sigma) * x + sigma * draw
        return x
