"""Distils a teacher of many steps into a student of few steps: its settings and its loss.

The teacher's guided flow is an ODE, whose path leads from noisy latents to one clean chunk. The
student learns to jump to the end of the path from each noise level of its schedule: consistency
distillation (arXiv 2303.01469) in as many segments as the sampler has steps (arXiv 2403.06807).
Stages with a rollout train on the student's own samples (Self-Forcing, arXiv 2506.08009).

Distribution matching (DMD, arXiv 2405.14867) would also correct the student's distribution, but
it trains a critic as large as the student, with about five steps for each step of the student. Here
a step needs no third network: 4 s of one CPU core for first chunks, 5 s for 12 frames and 13 s for
a rollout of 42, so about a thousand steps fit into five hours of two cores.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.small_model.student.few_steps import FewSteps, Flow, Noisy


@dataclass(frozen=True)
class Student:
    """Settings of a distillation, besides its stages.

    teacher_folder: folder of the teacher's checkpoint, of which the averaged weights are used; None
        for the weights of `model=small_forcing`, which ship.
    substeps: Euler steps of the teacher from one level to the next.
    folder: folder of the checkpoint of the student that `rekey` begins with; None for the weights
        of `model=small`, which ship.
    """

    teacher_folder: str | None = None
    substeps: int = 4
    folder: str | None = None


@dataclass(frozen=True)
class Distillation(FewSteps):
    """Loss of a few-step student of a teacher of many steps.

    guidance: scale of the teacher's classifier-free guidance.
    """

    guidance: float
    substeps: int

    def target_flow(self, noisy: Noisy, flow: Flow) -> Tensor:
        """Return the flow that leads from the noisy latents straight to the end of the path."""
        # The teacher leads to the next lower level, and the student jumps on from there. The start
        # determines the end of a path, so the target is one future and not the mean of many; new
        # noise between the sampler's steps chooses among them.
        later, sigma_BF = self.follow(noisy)
        x0 = later - sigma_BF[:, :, None, None, None] * flow(later, sigma_BF)
        # The noise level is never 0 here: the last level, 0, has no pass.
        return (noisy.x_BFChw - x0) / noisy.sigma_BF[:, :, None, None, None]

    def follow(self, noisy: Noisy) -> tuple[Tensor, Tensor]:
        """Follow the teacher to the next lower level; return latents and levels [B, F] there."""
        with_text = noisy.flow(self.teacher, self.spec)
        without = noisy.flow(self.teacher, self.spec, without_text=True)
        sigmas = torch.tensor(self.levels(), device=noisy.x_BFChw.device)
        shift = self.schedule.shift
        # Steps are even in u, of which the levels are s = shift u / (1 + (shift - 1) u).
        u = sigmas / (shift - (shift - 1) * sigmas)
        begin, end = u[noisy.chosen_BF], u[noisy.chosen_BF + 1]
        now, x = noisy.sigma_BF, noisy.x_BFChw
        for step in range(1, self.substeps + 1):
            guided = without(x, now)
            guided = guided + self.guidance * (with_text(x, now) - guided)
            between = begin + (end - begin) * step / self.substeps
            after = shift * between / (1 + (shift - 1) * between)
            x = x + (after - now)[:, :, None, None, None] * guided
            now = after
        return x, now
