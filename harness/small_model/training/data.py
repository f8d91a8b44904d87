"""What is trained on: windows of clips of the procedural world, encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from harness.models.preset import TextEncoder
from harness.small_model.codec import encode
from harness.small_model.training.objective import Batch
from harness.small_model.training.stages import Stage, Training
from harness.small_model.world import Clip, clip
from harness.small_model.world.clip import HELD_OUT

_CHANGED = 0.1  # of a latent, whose spread is about 1


@dataclass(frozen=True)
class Windows(Dataset[Batch]):
    """The batches of a stage, by step: a pure function of seed, stage and step.

    No clip comes twice but by chance, and none that is held out.
    """

    training: Training
    stage: Stage
    text: TextEncoder
    chunk_frames: int

    def __getitem__(self, step: int) -> Batch:
        """The batch of a step."""
        draws = np.random.default_rng([self.training.seed, step])
        from_start = bool(draws.random() < self.stage.from_start)
        latest = (self.training.video_frames - self.stage.frames) // self.chunk_frames
        latents, prompts, weights = [], [], []
        for seed in draws.integers(HELD_OUT, 2**31, self.stage.batch):
            start = 0
            if not from_start and latest > 0:
                start = self.chunk_frames * int(draws.integers(1, latest + 1))
            one = clip(int(seed))
            frames = range(start, start + self.stage.frames)
            latents.append(encode(one.keyframes(frames)))
            prompts.append(one.prompt)
            weights.append(self._weight(one, latents[-1], frames))
        rows = self.text.encode(prompts)
        return Batch(torch.stack(latents), rows, torch.stack(weights), from_start or latest == 0)

    def _weight(self, one: Clip, latents_FChw: Tensor, frames: range) -> Tensor:
        """What cells count [F, h, w]: `focus` where things change the picture, 1 elsewhere."""
        empty = replace(one, scene=replace(one.scene, things=()))
        changed = (latents_FChw - encode(empty.keyframes(frames))).abs().amax(1) > _CHANGED
        return 1 + (self.training.focus - 1) * changed.float()


def batches(windows: Windows, first_step: int, workers: int) -> Iterator[Batch]:
    """The batches of a stage from a step on, without end.

    workers: processes that prepare them; 0 prepares each when it is asked for.
    """
    steps = range(first_step, 2**31)
    yield from DataLoader(windows, batch_size=None, sampler=steps, num_workers=workers)
