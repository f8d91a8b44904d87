"""Distils a teacher of many steps into a student of few steps: the loss and the trainer.

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
from functools import partial

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.models.wan import Wan
from harness.sampling.schedule import GRID, Schedule
from harness.small_model.diffusion.keys import keep_keys
from harness.small_model.training.loop import Trainer, compile_blocks
from harness.small_model.training.objective import Batch, Objective, commit, randn
from harness.small_model.training.optim import Average
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.teacher import TeacherForcing


@dataclass(frozen=True)
class Student:
    """Settings of a distillation, besides its stages.

    teacher_folder: folder of the teacher's checkpoint, of which the averaged weights are used; None
        for the weights of `model=small_forcing`, which ship.
    substeps: Euler steps of the teacher from one level to the next.
    """

    teacher_folder: str | None = None
    substeps: int = 4


@dataclass(frozen=True)
class Distillation(Objective):
    """Loss of a few-step student of a teacher.

    schedule: the student's steps.
    teacher: network with frozen weights, on the batch's device.
    guidance: scale of the teacher's classifier-free guidance.

    Raises  ValueError: a schedule whose first chunk has other steps; from `loss`, a stage with a
            rollout of another number of passes than the sampler has.
    """

    schedule: Schedule
    teacher: Wan
    guidance: float
    substeps: int

    def __post_init__(self) -> None:
        if self.schedule.first_steps is not None:
            raise ValueError(
                f"model.schedule.first_steps={list(self.schedule.first_steps)}: a student learns "
                "one list of steps, choose null"
            )

    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Return the mean squared error of the flow to the target, and its mean by level.

        draws: generator on the batch's device, the source of all random numbers.
        """
        levels = torch.tensor(self.levels())
        if stage.rollout not in (0, len(levels) - 1):
            raise ValueError(
                f"train.stages has a rollout of {stage.rollout} passes: give 0, or "
                f"{len(levels) - 1} as the sampler has"
            )
        size = self.spec.chunk_frames
        # The first chunk of a window inside a video is history only: the chunks before it are
        # missing. Rollouts begin with the video.
        first = 0 if stage.rollout else batch.first
        skipped = size if first else 0
        frames = range(first + skipped, first + batch.x_BFChw.shape[1])
        # With a rollout, the student trains on the latents and the history that it meets when it
        # samples; without, on noised true chunks, which is where it starts.
        if stage.rollout:
            clean, passes = roll_out(
                network, self.spec, self.schedule, batch.text_BTE, batch.x_BFChw, draws
            )
            # The batch's weights mark things of the true clip, which are elsewhere in this video.
            weight_BFhw = torch.ones_like(batch.weight_BFhw)
        else:
            clean, weight_BFhw = batch.x_BFChw, batch.weight_BFhw
        shape = len(clean), len(frames) // size
        chosen_BF = torch.randint(len(levels) - 1, shape, generator=draws, device=clean.device)
        # A level per chunk: its frames are denoised together.
        chosen_BF = chosen_BF.repeat_interleave(size, dim=1)
        sigma = levels.to(clean)[chosen_BF][:, :, None, None, None]
        if stage.rollout:
            # The rollout met every level at every chunk; take the latents of the chosen one.
            index = chosen_BF[None, :, :, None, None, None].expand(1, *clean.shape)
            x = passes.gather(0, index)[0]
        else:
            x0 = clean[:, skipped:]
            x = (1 - sigma) * x0 + sigma * randn(x0, draws)
        # The student's history is clean, as the sampler's; chunks of `frames` then see all before.
        text_kv = network.text_kv(batch.text_BTE)
        forcing = TeacherForcing(self.spec, x.device, first)
        commit(network, clean[:, :-size], text_kv, forcing, first)
        plan = forcing.plan(frames, "nothing")
        flow = partial(network, text_kv=text_kv, session=forcing, plan=plan)
        # The teacher leads to the next lower level, and the student jumps on from there. The start
        # determines the end of a path, so the target is one future and not the mean of many; new
        # noise between the sampler's steps chooses among them.
        with torch.no_grad():
            later, sigma_BF = self.follow(batch.text_BTE, clean, x, chosen_BF, frames)
            rest = flow(later, GRID * sigma_BF).float()
            target = later - sigma_BF[:, :, None, None, None] * rest  # x0 = x - sigma * flow
        found = flow(x, GRID * sigma[:, :, 0, 0, 0]).float()
        # The flow that leads from x straight to the target; sigma is never 0 here.
        # As a flow and not as x0: the loss then weighs all levels as the teacher's loss does.
        squared_BFhw = (found - (x - target) / sigma).square().mean(2)
        weight_BFhw = weight_BFhw[:, skipped:]
        error_BF = (weight_BFhw / weight_BFhw.mean() * squared_BFhw).mean((2, 3))
        by_time = {
            GRID * level: error_BF[chosen_BF == i].mean().item()
            for i, level in enumerate(levels[:-1].tolist())
            if (chosen_BF == i).any()
        }
        return error_BF.mean(), by_time

    def levels(self) -> list[float]:
        """Return the noise levels of the sampler's passes, and 0."""
        times = torch.tensor(self.schedule.times(first_chunk=False))
        return [*self.schedule.sigma(times).tolist(), 0.0]

    def follow(
        self, text_BTE: Tensor, clean_BFChw: Tensor, x_BFChw: Tensor, chosen_BF: Tensor,
        frames: range,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Follow the teacher to the next lower level; return latents and levels [B, F] there.

        clean_BFChw: all chunks of the windows; earlier chunks are the history of a chunk.
        x_BFChw: the noisy latents of `frames`.
        chosen_BF: index of the level of each frame of x.
        """
        # The teacher's history is the same clean chunks as the student's, computed by its own
        # weights.
        device, first = x_BFChw.device, frames.stop - clean_BFChw.shape[1]
        flows = []  # with text and without, each with a history of its own
        for text in (text_BTE, torch.zeros_like(text_BTE)):
            text_kv = self.teacher.text_kv(text)
            forcing = TeacherForcing(self.spec, device, first)
            past = clean_BFChw[:, : -self.spec.chunk_frames]
            commit(self.teacher, past, text_kv, forcing, first)
            plan = forcing.plan(frames, "nothing")
            flows.append(partial(self.teacher, text_kv=text_kv, session=forcing, plan=plan))
        sigmas = torch.tensor(self.levels(), device=device)
        shift = self.schedule.shift
        # Steps are even in u, of which the levels are s = shift u / (1 + (shift - 1) u).
        u = sigmas / (shift - (shift - 1) * sigmas)
        begin, end = u[chosen_BF], u[chosen_BF + 1]
        now = sigmas[chosen_BF]
        for step in range(1, self.substeps + 1):
            with_text, without = (flow(x_BFChw, GRID * now).float() for flow in flows)
            between = begin + (end - begin) * step / self.substeps
            after = shift * between / (1 + (shift - 1) * between)
            way = (after - now)[:, :, None, None, None]
            x_BFChw = x_BFChw + way * (without + self.guidance * (with_text - without))
            now = after
        return x_BFChw, now


@torch.no_grad()
def roll_out(
    network: Wan,
    spec: CacheSpec,
    schedule: Schedule,
    text_BTE: Tensor,
    like_BFChw: Tensor,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Sample videos [B, F, C, h, w]; also return the noisy input of each pass.

    The inputs are [passes, B, F, C, h, w].

    like_BFChw: a tensor of the videos' shape.
    draws: generator on its device.
    """
    # The sampler's solver and a commit per chunk: a test checks that a rollout is what it makes.
    text_kv, forcing = network.text_kv(text_BTE), TeacherForcing(spec, like_BFChw.device)
    videos, passes = [], []
    for first in range(0, like_BFChw.shape[1], spec.chunk_frames):
        chunk = like_BFChw[:, first : first + spec.chunk_frames]
        plan = forcing.plan(range(first, first + spec.chunk_frames), "nothing")
        solver = schedule.solver(first_chunk=first == 0)
        x, inputs = randn(chunk, draws), []
        while not solver.finished:
            inputs.append(x)
            t_BF = torch.full(chunk.shape[:2], solver.time, device=x.device)
            flow = network(x, t_BF, text_kv, forcing, plan).float()
            x = solver.step(x, flow, partial(randn, chunk, draws))
        commit(network, x, text_kv, forcing, first)
        videos.append(x)
        passes.append(torch.stack(inputs))
    return torch.cat(videos, dim=1), torch.cat(passes, dim=2)


class StudentTrainer(Trainer):
    """Trains a student; resumes from the checkpoint in its folder if there is one."""

    def __init__(
        self,
        training: Training,
        network: Wan,
        objective: Distillation,
        device: torch.device,
    ) -> None:
        """Prepare a `Trainer`; a new training starts from the teacher's weights."""
        # The teacher's offsets and gains of keys stay as they were drawn.
        keep_keys(network)
        super().__init__(training, network, objective, device)
        if self.clock.step == 0:
            self.network.load_state_dict(objective.teacher.state_dict())
            # The trainer's average began with the weights before the copy.
            self.average = Average(self.network, training.ema)
        # The teacher takes most of the passes of a step.
        if training.compile:
            compile_blocks(objective.teacher)
