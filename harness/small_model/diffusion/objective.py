"""The teacher's loss: the flow of every chunk at an independent noise level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.models.wan import Wan
from harness.sampling.schedule import GRID
from harness.small_model.training.objective import Batch, Objective, frame_errors, noised, randn
from harness.small_model.training.stages import Stage
from harness.small_model.training.teacher import TeacherForcing

BINS = 4  # bins of noise levels for logging


@dataclass(frozen=True)
class DiffusionForcing(Objective):
    """The loss of a many-step teacher: one causal pass over chunks at independent noise levels.

    Clean chunks do not count in the loss. The first chunk of a window that starts inside a video is
    always clean, unless it is the only one.

    shift: noise levels are shift * u / (1 + (shift - 1) * u) for uniform u.
    clean: share of chunks without noise, like history during sampling.

    Source  Diffusion Forcing (arXiv 2407.01392) as SkyReels-V2 (arXiv 2504.13074) uses it, with the
            block-causal mask; flow matching x_t = (1 - s) x0 + s n, target n - x0.
    """

    # Levels are continuous, so that one teacher can be sampled in any number of steps.
    shift: float = 2.0
    clean: float = 0.2
    pictures: ClassVar[bool] = True

    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Return the weighted mean squared error of the flow, and its mean by noise level.

        draws: generator on the batch's device, the source of all random numbers.
        """
        x0 = batch.x_BFChw
        sigma_BF = self.levels(x0.shape[0], x0.shape[1], not batch.first, draws)
        noise = randn(x0, draws)
        # One causal pass: every chunk attends to the earlier ones at their own noise levels, since
        # noisy chunks are history too. A new session per batch has no history.
        forcing = TeacherForcing(self._spec(x0.shape[1]), x0.device, batch.first)
        plan = forcing.plan(range(batch.first, batch.first + x0.shape[1]), "history")
        text_kv = network.text_kv(batch.text_BTE)
        flow = network(noised(x0, sigma_BF, noise), GRID * sigma_BF, text_kv, forcing, plan)
        squared_BFhw = (flow.float() - (noise - x0)).square().mean(2)
        error_BF = frame_errors(squared_BFhw, batch.weight_BFhw)
        counts_BF = sigma_BF > 0
        by_time = {}
        for i in range(BINS):
            here = counts_BF & (sigma_BF > i / BINS) & (sigma_BF <= (i + 1) / BINS)
            if here.any():
                by_time[GRID * (i + 0.5) / BINS] = error_BF[here].mean().item()
        # A clean chunk shows its own answer, so it teaches nothing.
        return error_BF[counts_BF].mean(), by_time

    def levels(self, batch: int, frames: int, from_start: bool, draws: torch.Generator) -> Tensor:
        """Return the noise levels of the frames [B, F], equal inside a chunk; some are above 0."""
        # Stratify the levels of a batch, so that its loss depends less on the random draw.
        size = self._spec(frames).chunk_frames
        shape = batch, frames // size
        # One u per chunk, in `count` equal strata in random order.
        count = shape[0] * shape[1]
        order = torch.randperm(count, generator=draws, device=draws.device)
        u = (order + torch.rand(count, generator=draws, device=draws.device)) / count
        sigma = (self.shift * u / (1 + (self.shift - 1) * u)).view(shape)
        sigma = sigma.clamp(min=1e-3)  # 0 marks clean chunks
        is_clean = torch.rand(shape, generator=draws, device=draws.device) < self.clean
        # The last chunk always counts, so no window is without a loss.
        is_clean[:, -1] = False
        if not from_start and shape[1] > 1:
            is_clean[:, 0] = True
        return sigma.masked_fill(is_clean, 0.0).repeat_interleave(size, dim=1)

    def _spec(self, frames: int) -> CacheSpec:
        """Return the model's spec for windows of some frames; a picture is a chunk of its own."""
        return replace(self.spec, chunk_frames=min(frames, self.spec.chunk_frames))
