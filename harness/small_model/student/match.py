"""Trains a distilled student by distribution matching, which makes its videos sharp.

A third network, the critic, predicts the flow of the student's videos, as the teacher predicts that
of true videos. Both look at a noised video of the student. The difference of their predictions is
the direction in which the video becomes more probable to the teacher, and the student learns to
move it there. A regression learns the mean of all possible videos, which is a blur. Distribution
matching learns to generate one of them.

Source  DMD and DMD2 (arXiv 2311.18828, 2405.14867), on the student's own rollouts as in
        Self-Forcing (arXiv 2506.08009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from harness.models.wan import Wan
from harness.small_model.diffusion.keys import keep_keys
from harness.small_model.diffusion.objective import DiffusionForcing
from harness.small_model.student.few_steps import FewSteps, StudentTrainer
from harness.small_model.training.loop import compile_blocks
from harness.small_model.training.objective import Batch, frame_errors, noised, randn
from harness.small_model.training.optim import optimisers, set_lr
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.state import State
from harness.system.errors import UserError


@dataclass(frozen=True)
class Matching(FewSteps):
    """Loss of a student and of its critic.

    critic: network that learns the flow of the student's videos; it starts as the teacher.
    guidance: scale of the teacher's classifier-free guidance.
    guided_below: noise level at and above which guidance is off, 0..1.
    shift: shift of the noise levels at which critic and teacher are compared.
    """

    critic: Wan
    guidance: float
    guided_below: float
    shift: float

    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Return the sum of the losses of student and critic, and the student's error by level.

        Each network gets gradients from its own loss only. The error is the distance between the
        clean chunks that critic and teacher predict, over that of the student's to the teacher's.

        draws: generator on the batch's device, the source of all random numbers.
        """
        noisy, weight_BFhw = self.noisy(network, batch, stage, draws)
        flow = noisy.flow(network, self.spec)(noisy.x_BFChw, noisy.sigma_BF)
        x0 = noisy.x_BFChw - noisy.sigma_BF[:, :, None, None, None] * flow
        made = x0.detach()
        # Levels of a many-step model, any of which may reveal a difference. No chunk is clean.
        levels = DiffusionForcing(self.spec, self.shift, clean=0.0)
        batch_size, frames = made.shape[:2]
        level_BF = levels.levels(batch_size, frames, from_start=True, draws=draws)
        noise = randn(made, draws)
        x = noised(made, level_BF, noise)
        # One pass of the critic serves both losses.
        critic_flow = noisy.flow(self.critic, self.spec)(x, level_BF)
        critic_loss = (critic_flow - (noise - made)).square().mean()
        level = level_BF[:, :, None, None, None]
        with torch.no_grad():
            with_text, without = (
                x - level * noisy.flow(self.teacher, self.spec, no_text)(x, level_BF)
                for no_text in (False, True)
            )
            # Guidance raises contrast: at pure noise, a scale of 3 nearly triples it. A sampler of
            # many steps corrects this in its later steps. Here nothing corrects it, so guidance is
            # off above a noise level (limited interval guidance, arXiv 2404.07724).
            scale = torch.where(level < self.guided_below, self.guidance, 1.0)
            guided = without + scale * (with_text - without)
            # From the clean chunk that the teacher predicts to the one that the critic predicts.
            # Dividing by the distance weighs all noise levels alike (DMD, eq. 7 and 8).
            away = x - level * critic_flow - guided
            away = away / (made - guided).abs().mean((2, 3, 4), keepdim=True)
        # The gradient of this square with respect to x0 is `away`.
        squared_BFhw = (x0 - (made - away)).square().mean(2)
        student_loss = frame_errors(squared_BFhw, weight_BFhw).mean() / 2
        return student_loss + critic_loss, self.by_time(away.abs().mean((2, 3, 4)), noisy)


class MatchingTrainer(StudentTrainer):
    """Trains a student and its critic; resumes from the checkpoint in its folder."""

    objective: Matching

    def __init__(
        self,
        training: Training,
        network: Wan,
        objective: Matching,
        device: torch.device,
        start: Wan,
        critic_lr: float,
    ) -> None:
        """Prepare a `StudentTrainer`. critic_lr: in multiples of the student's learning rate."""
        keep_keys(objective.critic)
        self.critic_lr = critic_lr
        # Before `super` reads the checkpoint, which has their state.
        self.critic_optimisers = optimisers(objective.critic)
        super().__init__(training, network, objective, device, start)
        if training.compile:
            compile_blocks(objective.critic)

    def _step(self, index: int, batch: Batch) -> tuple[float, dict[float, float]]:
        critic = self.objective.critic
        critic.zero_grad()
        # The loss is the sum for both networks, so its backward pass also gives the gradients of
        # the critic.
        found = super()._step(index, batch)
        set_lr(self.critic_optimisers, self.critic_lr * self._lr(index))
        self._descend(critic, self.critic_optimisers)
        return found

    def _state(self) -> State:
        state = super()._state()
        optims = [optim.state_dict() for optim in (*self.optimisers, *self.critic_optimisers)]
        return replace(state, critic=self.objective.critic.state_dict(), optimisers=optims)

    def _resume(self, state: State) -> None:
        if state.critic is None:
            raise UserError(
                f"{self.folder} holds a training without a critic: set train.folder to another "
                "folder"
            )
        split = len(self.optimisers)
        super()._resume(replace(state, optimisers=state.optimisers[:split], critic=None))
        self.objective.critic.load_state_dict(state.critic)
        for optim, content in zip(self.critic_optimisers, state.optimisers[split:], strict=True):
            optim.load_state_dict(content)
