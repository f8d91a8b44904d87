"""Distils a teacher of many steps into a student of few steps: its settings and its loss.

The teacher's guided flow is an ODE, whose path leads from noisy latents to one clean chunk. The
student learns to jump to the end of the path from each noise level of its schedule: consistency
distillation (arXiv 2303.01469) in as many segments as the sampler has steps (arXiv 2403.06807).
Stages with a rollout train on the student's own samples (Self-Forcing, arXiv 2506.08009).

A student of this loss is blurred where noise decides much: paths from nearly equal noise end in
very different places, and the student learns their mean. `match.py` makes it sharp.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.small_model.student.few_steps import Flow, Noisy, Regression


@dataclass(frozen=True)
class Student:
    """Settings of a distillation, besides its stages.

    teacher_folder: folder of the teacher's checkpoint, of which the averaged weights are used; None
        for the weights of `model=small_forcing`, which ship.
    substeps: Euler steps of the teacher from one level to the next, in `train`.
    folder: folder of the checkpoint of the student that `match` and `rekey` begin with; None for
        the weights of `model=small`, which ship.
    critic_lr: learning rate of the critic of `match`, in multiples of the student's.
    guided_below: noise level below which the teacher of `match` is guided, 0..1.
    critic_shift: shift of the noise levels at which `match` compares student and teacher.
    """

    teacher_folder: str | None = None
    substeps: int = 4
    folder: str | None = None
    critic_lr: float = 4.0
    guided_below: float = 0.8
    critic_shift: float = 3.0


@dataclass(frozen=True)
class Distillation(Regression):
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
            between = begin + (end - begin) * step / self.substeps
            after = shift * between / (1 + (shift - 1) * between)
            guided = without(x, now)
            guided = guided + self.guidance * (with_text(x, now) - guided)
            x = x + (after - now)[:, :, None, None, None] * guided
            now = after
        return x, now
