"""Training data: windows of clips, rendered during training and encoded by the fixed codec."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from harness.small_model.codec import BLOCK, encode
from harness.small_model.scenes.clip import HELD_OUT, clip
from harness.small_model.scenes.motion import SIDE
from harness.small_model.scenes.rows import rows
from harness.small_model.scenes.scene import MOST
from harness.small_model.training.objective import Batch
from harness.small_model.training.stages import Stage, Training

GRID = SIDE // BLOCK


@dataclass(frozen=True)
class Windows(Dataset[Batch]):
    """The batches of a stage by step, as a pure function of seed, stage and step.

    Clips are random and never held-out ones; a clip repeats only by chance. The stage's share of
    steps has pictures: windows of one frame, of which each shows as many things as a scene can
    have.

    drop: share of windows without text rows (all zero), for guidance.
    layout: share of the other windows whose rows include the positions of things.
    """

    training: Training
    stage: Stage
    chunk_frames: int
    drop: float
    layout: float

    def __getitem__(self, step: int) -> Batch:
        # The step seeds its own generator: workers and resumed trainings draw the same batches.
        draws = np.random.default_rng([self.training.seed, step])
        first = self.training.first_frame(self.stage, self.chunk_frames, draws)
        frames, batch, things = self.stage.frames, self.stage.batch, None
        if self.stage.pictures and draws.random() < self.stage.pictures:
            # A step of pictures takes as long as another and shows five times as many things: three
            # in every picture, and no frames that look alike. Each picture is the first frame of a
            # clip, so the network has to draw it without history.
            frames, batch, things, first = 1, batch * frames, MOST, 0
        latents, texts, weights = [], [], []
        for seed in draws.integers(HELD_OUT, 2**31, batch):
            one = clip(int(seed), things)
            drawing = one.drawing(range(first, first + frames))
            latents.append(encode(drawing.pixels(one.hues)))
            weights.append(cell_weights(drawing.boxes(), self.training.focus))
            # Both numbers are drawn for every window, so later draws do not depend on the outcome.
            text = rows(one.scene, layout=bool(draws.random() < self.layout))
            texts.append(text * float(draws.random() >= self.drop))
        return Batch(torch.stack(latents), torch.stack(texts), torch.stack(weights), first)


def cell_weights(boxes: NDArray[np.float64], focus: float) -> Tensor:
    """Return the weight of each latent cell in the loss: `focus` inside boxes, 1 elsewhere.

    Shapes  boxes [things, F, 4] in pixels, NaN if a thing is not visible -> [F, h, w] fp32.
    """
    cells = (np.arange(GRID) + 0.5) * BLOCK
    half = BLOCK / 2  # widen the box by half a cell: a cell is inside if the box touches it
    # NaN of an absent thing compares as false, so it is in no cell.
    left, top, right, bottom = np.moveaxis(boxes[..., None], 2, 0)
    across = (cells > left - half) & (cells < right + half)
    down = (cells > top - half) & (cells < bottom + half)
    inside = (down[..., :, None] & across[..., None, :]).any(0)
    return torch.as_tensor(np.where(inside, focus, 1.0), dtype=torch.float32)
