"""The base class of the losses that train a few-step network, its rollouts and its trainer.

Such a network trains on what it sees while sampling: noisy chunks at the noise levels of the
sampler, after clean history.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.models.wan import Wan
from harness.sampling.schedule import GRID, Schedule
from harness.small_model.diffusion.keys import keep_keys
from harness.small_model.training.loop import Trainer, compile_blocks
from harness.small_model.training.objective import (
    Batch,
    Objective,
    commit,
    frame_errors,
    noised,
    randn,
)
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.teacher import TeacherForcing

Flow = Callable[[Tensor, Tensor], Tensor]  # of latents and noise levels [B, F]


@dataclass(frozen=True)
class Noisy:
    """Noisy chunks and the clean history before them: the input of a denoising pass.

    text_BTE: rows of the prompts.
    clean_BFChw: all chunks of the windows; the chunks before a chunk are its history.
    x_BFChw: noisy latents of `frames`, the last ones of the windows.
    chosen_BF, sigma_BF: index and noise level of each frame of x, equal inside a chunk.
    """

    text_BTE: Tensor
    clean_BFChw: Tensor
    x_BFChw: Tensor
    chosen_BF: Tensor
    sigma_BF: Tensor
    frames: range

    def flow(self, network: Wan, spec: CacheSpec, without_text: bool = False) -> Flow:
        """Return a function that computes the flow, fp32, from latents and noise levels [B, F].

        The keys and values of the history are computed once, here, by the network itself.
        """
        first = self.frames.stop - self.clean_BFChw.shape[1]
        text = torch.zeros_like(self.text_BTE) if without_text else self.text_BTE
        text_kv, forcing = network.text_kv(text), TeacherForcing(spec, text.device, first)
        commit(network, self.clean_BFChw[:, : -spec.chunk_frames], text_kv, forcing, first)
        plan = forcing.plan(self.frames, "nothing")

        def flow(x_BFChw: Tensor, sigma_BF: Tensor) -> Tensor:
            out: Tensor = network(x_BFChw, GRID * sigma_BF, text_kv, forcing, plan)
            return out.float()

        return flow


@dataclass(frozen=True)
class FewSteps(Objective):
    """Base class of losses that train a few-step network at the noise levels of its sampler.

    schedule: the sampler's steps.
    teacher: the network that it learns from, with frozen weights, on the batch's device.

    Raises  ValueError: a schedule whose first chunk has other steps; from `loss`, a stage with a
            rollout of another number of passes than the sampler has.
    """

    schedule: Schedule
    teacher: Wan

    def __post_init__(self) -> None:
        if self.schedule.first_steps is not None:
            raise ValueError(
                f"model.schedule.first_steps={list(self.schedule.first_steps)}: a student learns "
                "one list of steps, choose null"
            )

    def noisy(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Noisy, Tensor]:
        """Return noisy chunks to train on and the weight of each of their cells [B, F, h, w].

        With a rollout, these are the latents and the history that the network meets when it
        samples; without, noised true chunks after true history, which is where training starts.
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
        sigma_BF = levels.to(clean)[chosen_BF]
        if stage.rollout:
            # The rollout met every level at every chunk; take the latents of the chosen one.
            index = chosen_BF[None, :, :, None, None, None].expand(1, *clean.shape)
            x = passes.gather(0, index)[0]
        else:
            x0 = clean[:, skipped:]
            x = noised(x0, sigma_BF, randn(x0, draws))
        noisy = Noisy(batch.text_BTE, clean, x, chosen_BF, sigma_BF, frames)
        return noisy, weight_BFhw[:, skipped:]

    def levels(self) -> list[float]:
        """Return the noise levels of the sampler's passes, and 0."""
        times = torch.tensor(self.schedule.times(first_chunk=False))
        return [*self.schedule.sigma(times).tolist(), 0.0]

    def by_time(self, error_BF: Tensor, noisy: Noisy) -> dict[float, float]:
        """Average the errors of frames over each time of the sampler, for the log."""
        return {
            GRID * level: error_BF[noisy.chosen_BF == i].mean().item()
            for i, level in enumerate(self.levels()[:-1])
            if (noisy.chosen_BF == i).any()
        }


@dataclass(frozen=True)
class Regression(FewSteps):
    """Base class of losses that compare the flow that a network predicts with a target flow."""

    @abstractmethod
    def target_flow(self, noisy: Noisy, flow: Flow) -> Tensor:
        """Return the flow that the network should predict for the noisy latents.

        flow: the network as it is now, after its own history.
        """

    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Return the mean squared error of the flow against its target, and its mean by level.

        draws: generator on the batch's device, the source of all random numbers.
        """
        noisy, weight_BFhw = self.noisy(network, batch, stage, draws)
        flow = noisy.flow(network, self.spec)
        with torch.no_grad():
            target = self.target_flow(noisy, flow)
        # As a flow and not as x0: the loss then weighs all levels as the teacher's loss does.
        squared_BFhw = (flow(noisy.x_BFChw, noisy.sigma_BF) - target).square().mean(2)
        error_BF = frame_errors(squared_BFhw, weight_BFhw)
        return error_BF.mean(), self.by_time(error_BF, noisy)


@torch.no_grad()
def roll_out(
    network: Wan,
    spec: CacheSpec,
    schedule: Schedule,
    text_BTE: Tensor,
    like_BFChw: Tensor,
    draws: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Sample videos chunk by chunk; return them and the noisy input of every denoising pass.

    Shapes  videos [B, F, C, h, w], inputs [passes, B, F, C, h, w].

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
        objective: FewSteps,
        device: torch.device,
        start: Wan,
    ) -> None:
        """Prepare a `Trainer`; a new training begins with the weights of `start`."""
        # Offsets and gains of keys stay as they were drawn.
        keep_keys(network)
        super().__init__(training, network, objective, device, start)
        # The teacher takes most of the passes of a step.
        if training.compile:
            compile_blocks(objective.teacher)
