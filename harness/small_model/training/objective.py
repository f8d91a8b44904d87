"""The loss of `model=small`: the flow of each chunk, at the times of the sampler.

The history before a chunk is imperfect, as it is when the sampler runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

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
    """Windows of true videos.

    x_BFChw: latents.
    text_BTE: rows of the prompts, E numbers each.
    weight_BFhw: weight of each cell in the loss.
    first: the first frame of the windows in their videos. If it is not 0, the first chunk only
        serves as history, since the chunks before it are missing.
    """

    x_BFChw: Tensor
    text_BTE: Tensor
    weight_BFhw: Tensor
    first: int

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        x, text, weight = (t.to(device) for t in (self.x_BFChw, self.text_BTE, self.weight_BFhw))
        return Batch(x, text, weight, self.first)


@dataclass(frozen=True)
class Objective:
    """The training loss of a network for a few-step schedule.

    schedule: gives the times at which the network is trained, which are those of the sampler.
    history_noise: largest level of the noise that is added to clean history.
    pictures: whether it can be trained on windows of one frame.

    Source  flow matching as `Sampler` uses it: x_t = (1 - s) x0 + s n, target n - x0.
    """

    schedule: Schedule
    spec: CacheSpec
    history_noise: float
    pictures: ClassVar[bool] = False

    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Return the weighted mean squared error of the flow, and its mean by time.

        draws: generator on the batch's device, the source of all random numbers.
        """
        text_kv = network.text_kv(batch.text_BTE)
        # The last chunk is the history of no other.
        past = batch.x_BFChw[:, : -self.spec.chunk_frames]
        if stage.rollout:
            past = self._own(network, batch, stage, draws)
        # Generated history is never exact, so the network learns to read history with a little
        # noise, of one level per window.
        level = torch.rand(past.shape[0], 1, 1, 1, 1, generator=draws, device=past.device)
        past = past + self.history_noise * level * randn(past, draws)
        forcing = TeacherForcing(self.spec, past.device, batch.first)
        # The history is computed once and serves all noisy copies.
        commit(network, past, text_kv, forcing, batch.first)
        # The first chunk of a window inside a video cannot be a target: what came before it is
        # missing.
        skipped = self.spec.chunk_frames if batch.first else 0
        frames = range(batch.first + skipped, batch.first + batch.x_BFChw.shape[1])
        x0, weight = batch.x_BFChw[:, skipped:], batch.weight_BFhw[:, skipped:]
        # A mean weight of 1 keeps the scale of the loss, and so the learning rate, independent of
        # how many things a batch shows.
        weight = weight / weight.mean()
        errors, times = [], []
        for _ in range(stage.copies):
            t_BF = self.times(x0.shape[0], frames, draws)
            noise = randn(x0, draws)
            # A noisy pass leaves no trace in the history, so the copies do not see each other.
            plan = forcing.plan(frames, "nothing")
            flow = network(self._noisy(x0, noise, t_BF), t_BF, text_kv, forcing, plan)
            squared_BFhw = (flow.float() - (noise - x0)).square().mean(2)
            errors.append((weight * squared_BFhw).mean((2, 3)))
            times.append(t_BF)
        error, time = torch.cat(errors), torch.cat(times)
        # For the log alone: the loss is the mean over all times.
        by_time = {t: error[time == t].mean().item() for t in time.unique().tolist()}
        return error.mean(), by_time

    def times(self, batch: int, frames: range, draws: torch.Generator) -> Tensor:
        """Return a time of the sampler for each chunk [B, F], each about equally often."""
        # Equal counts make the loss of a batch depend less on the random draw.
        size = self.spec.chunk_frames
        columns = []
        for first in frames[::size]:
            listed = torch.tensor(self.schedule.times(first == 0), device=draws.device)
            whole = -(-batch // len(listed)) * len(listed)
            order = torch.randperm(whole, generator=draws, device=draws.device)[:batch]
            columns.append(listed[order % len(listed)])
        return torch.stack(columns, dim=1).repeat_interleave(size, dim=1)

    def _noisy(self, x0: Tensor, noise: Tensor, t_BF: Tensor) -> Tensor:
        """Return x_t [B, F, C, h, w] at times [B, F]."""
        sigma = self.schedule.sigma(t_BF)[:, :, None, None, None]
        return (1 - sigma) * x0 + sigma * noise

    @torch.no_grad()
    def _own(self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator) -> Tensor:
        """Return history [B, F, C, h, w] in which some chunks are the network's own.

        The network generates each chunk after the history before it, own chunks included. The
        target of the loss stays the true clip, so the network learns to recover from its errors.
        """
        size = self.spec.chunk_frames
        forcing = TeacherForcing(self.spec, batch.x_BFChw.device, batch.first)
        text_kv = network.text_kv(batch.text_BTE)
        past = batch.x_BFChw[:, :-size].clone()
        for begin in range(0, past.shape[1], size):
            first = batch.first + begin
            chunk = past[:, begin : begin + size]  # a view: `copy_` below writes into `past`
            # The first chunk of a window inside a video stays true: the network cannot generate it
            # without the chunks before it.
            if begin or not batch.first:
                times = spread(self.schedule.times(first == 0), stage.rollout)
                plan = forcing.plan(range(first, first + size), "nothing")
                x = randn(chunk, draws)
                # As the sampler: jump to the clean end, then add new noise for the next time.
                for i, time in enumerate(times):
                    t_BF = torch.full(x.shape[:2], time, device=x.device)
                    sigma = self.schedule.sigma(t_BF)[:, :, None, None, None]
                    x = x - sigma * network(x, t_BF, text_kv, forcing, plan).float()
                    if i + 1 < len(times):
                        t_BF = torch.full_like(t_BF, times[i + 1])
                        x = self._noisy(x, randn(x, draws), t_BF)
                # Every window of the batch decides by itself. The chunk that was generated is
                # committed or not, but its noise was drawn, so the numbers of later chunks do not
                # depend on the outcome.
                u = torch.rand(len(chunk), 1, 1, 1, 1, generator=draws, device=chunk.device)
                chunk.copy_(torch.where(u < stage.own, x, chunk))
            commit(network, chunk, text_kv, forcing, first)
        return past


def commit(
    network: Wan, x_BFChw: Tensor, text_kv: TextKV, forcing: TeacherForcing, first: int
) -> None:
    """Add clean chunks [B, F, C, h, w] to the history; the first begins at frame `first`."""
    if not x_BFChw.shape[1]:
        return
    plan = forcing.plan(range(first, first + x_BFChw.shape[1]), "history")
    # At time 0, as the sampler's commit pass. `run` and not the whole network: the head's output
    # would not be used.
    time = network.embed_time(torch.zeros(x_BFChw.shape[:2], device=x_BFChw.device))
    network.run(network.embed(x_BFChw), time, text_kv, forcing, plan)


def spread(times: Sequence[float], count: int) -> list[float]:
    """Return at most `count` of the times, evenly spaced, always with the first."""
    count = min(count, len(times))
    # The first time is that of pure noise, with which generation has to begin.
    return [times[i * len(times) // count] for i in range(count)]


def randn(like: Tensor, draws: torch.Generator) -> Tensor:
    """Return Gaussian noise of the shape of a tensor, on its device."""
    return torch.randn(like.shape, generator=draws, device=like.device)
