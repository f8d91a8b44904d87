"""Defines the batches of a training, and the base class of the losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.models.wan import Wan
from harness.sampling.network import TextKV
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
class Objective(ABC):
    """The loss of a training.

    spec: the model's cache geometry, which says what a chunk may see.
    pictures: whether the loss can be trained on windows of one frame.
    """

    spec: CacheSpec
    pictures: ClassVar[bool] = False

    @abstractmethod
    def loss(
        self, network: Wan, batch: Batch, stage: Stage, draws: torch.Generator
    ) -> tuple[Tensor, dict[float, float]]:
        """Return the loss, and its mean by time for the log.

        draws: generator on the batch's device, the source of all random numbers.
        """


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


def randn(like: Tensor, draws: torch.Generator) -> Tensor:
    """Return Gaussian noise of the shape of a tensor, on its device."""
    return torch.randn(like.shape, generator=draws, device=like.device)


def frame_errors(error_BFhw: Tensor, weight_BFhw: Tensor) -> Tensor:
    """Return the weighted mean error of each frame [B, F]."""
    # A mean weight of 1 keeps the scale of the loss, and so the learning rate, independent of how
    # many things a batch shows.
    weight = weight_BFhw / weight_BFhw.mean()
    return (weight * error_BFhw).mean((2, 3))


def noised(x0_BFChw: Tensor, sigma_BF: Tensor, noise_BFChw: Tensor) -> Tensor:
    """Return latents at the noise levels of their frames: (1 - s) x0 + s n."""
    sigma = sigma_BF[:, :, None, None, None]  # broadcast over channels and cells
    return (1 - sigma) * x0_BFChw + sigma * noise_BFChw
