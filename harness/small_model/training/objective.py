"""What is learned: the flow of every chunk at the sampler's own times, given an imperfect past."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.models.wan import Wan
from harness.sampling.network import TextKV
from harness.sampling.schedule import Schedule
from harness.small_model.training.stages import Stage
from harness.small_model.training.teacher import TeacherForcing


@dataclass(frozen=True)
class Batch:
    """Windows of true videos: latents [B, F, C, h, w], rows of their prompts [B, T, width].

    weight: how much every cell counts in the loss [B, F, h, w].
    from_start: the windows begin with the video. Else their first chunk only serves as history,
    since what comes before it is not there.
    """

    x_BFChw: Tensor
    text_BTE: Tensor
    weight_BFhw: Tensor
    from_start: bool

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        x, text, weight = (t.to(device) for t in (self.x_BFChw, self.text_BTE, self.weight_BFhw))
        return Batch(x, text, weight, self.from_start)


@dataclass(frozen=True)
class Objective:
    """The training loss of a network under a schedule.

    Source  flow matching as `Sampler` uses it: x_t = (1 - s) x0 + s n, target n - x0.
    """

    schedule: Schedule
    spec: CacheSpec
    history_noise: float

    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Mean squared error of the flow as cells are weighed, and its mean at each time.

        All random numbers come from `draws`, a generator on the batch's device.
        """
        text_kv = network.text_kv(batch.text_BTE)
        past = batch.x_BFChw[:, : -self.spec.chunk_frames]
        if stage.rollout:
            past = self._own(network, batch, stage, draws)
        past = self._disturbed(past, draws)
        forcing = TeacherForcing(self.spec, past.device)
        commit(network, past, text_kv, forcing, first=0)
        frames = range(0 if batch.from_start else self.spec.chunk_frames, batch.x_BFChw.shape[1])
        x0, weight = batch.x_BFChw[:, frames.start :], batch.weight_BFhw[:, frames.start :]
        weight = weight / weight.mean()
        errors, times = [], []
        for _ in range(stage.copies):
            t_BF = self.times(x0.shape[0], frames, draws)
            noise = randn(x0, draws)
            plan = forcing.plan(frames, "nothing")
            flow = network(self._noisy(x0, noise, t_BF), t_BF, text_kv, forcing, plan)
            squared_BFhw = (flow.float() - (noise - x0)).square().mean(2)
            errors.append((weight * squared_BFhw).mean((2, 3)))
            times.append(t_BF)
        error, time = torch.cat(errors), torch.cat(times)
        by_time = {t: error[time == t].mean().item() for t in time.unique().tolist()}
        return error.mean(), by_time

    def times(self, batch: int, frames: range, draws: torch.Generator) -> Tensor:
        """A time of the sampler's list for every chunk [B, F], each equally often in a batch."""
        size = self.spec.chunk_frames
        columns = []
        for first in frames[::size]:
            listed = torch.tensor(self.schedule.times(first == 0), device=draws.device)
            whole = -(-batch // len(listed)) * len(listed)
            order = torch.randperm(whole, generator=draws, device=draws.device)[:batch]
            columns.append(listed[order % len(listed)])
        return torch.stack(columns, dim=1).repeat_interleave(size, dim=1)

    def _noisy(self, x0: Tensor, noise: Tensor, t_BF: Tensor) -> Tensor:
        sigma = self.schedule.sigma(t_BF)[:, :, None, None, None]
        return (1 - sigma) * x0 + sigma * noise

    def _disturbed(self, past: Tensor, draws: torch.Generator) -> Tensor:
        """The history with a little noise, of one level a window."""
        level = torch.rand(past.shape[0], 1, 1, 1, 1, generator=draws, device=past.device)
        return past + self.history_noise * level * randn(past, draws)

    @torch.no_grad()
    def _own(self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator) -> Tensor:
        """A history in which the network drew some of the chunks, each after what came before it.

        The truth follows from prompt and past, so a network that then has to find the true flow
        learns to come back from its own errors.
        """
        size = self.spec.chunk_frames
        forcing = TeacherForcing(self.spec, batch.x_BFChw.device)
        text_kv = network.text_kv(batch.text_BTE)
        past = batch.x_BFChw[:, :-size].clone()
        for first in range(0, past.shape[1], size):
            chunk = past[:, first : first + size]  # a view: what is copied to it enters the past
            if first or batch.from_start:
                times = spread(self.schedule.times(first == 0), stage.rollout)
                flow = _Flow(network, text_kv, forcing, range(first, first + size))
                drawn = self._denoised(flow, randn(chunk, draws), times, draws)
                own = torch.rand(len(chunk), 1, 1, 1, 1, generator=draws, device=chunk.device)
                chunk.copy_(torch.where(own < stage.own, drawn, chunk))
            commit(network, chunk, text_kv, forcing, first)
        return past

    def _denoised(
        self, flow: _Flow, x_BFChw: Tensor, times: Sequence[float], draws: torch.Generator
    ) -> Tensor:
        """One chunk from noise, as the sampler does it."""
        for i, time in enumerate(times):
            t_BF = torch.full(x_BFChw.shape[:2], time, device=x_BFChw.device)
            sigma = self.schedule.sigma(t_BF)[:, :, None, None, None]
            x_BFChw = x_BFChw - sigma * flow(x_BFChw, t_BF)
            if i + 1 < len(times):
                t_BF = torch.full_like(t_BF, times[i + 1])
                x_BFChw = self._noisy(x_BFChw, randn(x_BFChw, draws), t_BF)
        return x_BFChw


@dataclass(frozen=True)
class _Flow:
    """The network as a function of one chunk and its times."""

    network: Wan
    text_kv: TextKV
    forcing: TeacherForcing
    frames: range

    def __call__(self, x_BFChw: Tensor, t_BF: Tensor) -> Tensor:
        plan = self.forcing.plan(self.frames, "nothing")
        flow: Tensor = self.network(x_BFChw, t_BF, self.text_kv, self.forcing, plan)
        return flow.float()


def commit(
    network: Wan, x_BFChw: Tensor, text_kv: TextKV, forcing: TeacherForcing, first: int
) -> None:
    """Make clean chunks, the first of which begins at frame `first`, part of the history."""
    if not x_BFChw.shape[1]:
        return
    plan = forcing.plan(range(first, first + x_BFChw.shape[1]), "history")
    time = network.embed_time(torch.zeros(x_BFChw.shape[:2], device=x_BFChw.device))
    network.run(network.embed(x_BFChw), time, text_kv, forcing, plan)


def spread(times: Sequence[float], count: int) -> list[float]:
    """At most `count` of the times, evenly, the first of them always."""
    count = min(count, len(times))
    return [times[i * len(times) // count] for i in range(count)]


def randn(like: Tensor, draws: torch.Generator) -> Tensor:
    """Gaussian noise of the shape of a tensor, on its device."""
    return torch.randn(like.shape, generator=draws, device=like.device)
