"""Training data: windows of clips of the world, rendered during training and encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from harness.models.preset import TextEncoder
from harness.small_model.codec import encode
from harness.small_model.training.objective import Batch
from harness.small_model.training.stages import Stage, Training
from harness.small_model.world import clip
from harness.small_model.world.clip import HELD_OUT

_CHANGED = 0.1  # of a latent, whose deviation is about 1


@dataclass(frozen=True)
class Windows(Dataset[Batch]):
    """The batches of a stage by step, as a pure function of seed, stage and step.

    Clips are random and never held-out ones; a clip repeats only by chance.
    """

    training: Training
    stage: Stage
    text: TextEncoder
    chunk_frames: int

    def __getitem__(self, step: int) -> Batch:
        # The step seeds its own generator: workers and resumed trainings draw the same batches.
        draws = np.random.default_rng([self.training.seed, step])
        first = self.training.first_frame(self.stage, self.chunk_frames, draws)
        latents, prompts, weights = [], [], []
        # Two thousand million clips: none is stored, and hardly one comes twice.
        for seed in draws.integers(HELD_OUT, 2**31, self.stage.batch):
            one = clip(int(seed))
            frames = range(first, first + self.stage.frames)
            latents.append(encode(one.keyframes(frames)))
            prompts.append(one.prompt)
            # Things are where the picture differs from that of the scene without them.
            # Rendered a second time; light and camera change both pictures alike.
            empty = replace(one, scene=replace(one.scene, things=()))
            changed = (latents[-1] - encode(empty.keyframes(frames))).abs().amax(1) > _CHANGED
            weights.append(1 + (self.training.focus - 1) * changed.float())
        rows = self.text.encode(prompts)
        return Batch(torch.stack(latents), rows, torch.stack(weights), first)
