"""The teacher's settings and its training loop with fixed key offsets and gains."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from harness.models.wan import Wan
from harness.small_model.diffusion.keys import KeyShape, keep_keys
from harness.small_model.diffusion.objective import DiffusionForcing
from harness.small_model.training.loop import Trainer
from harness.small_model.training.optim import Average
from harness.small_model.training.stages import Training


@dataclass(frozen=True)
class Teacher:
    """Settings of a teacher's training, besides its stages.

    shift, clean: see `DiffusionForcing`.
    drop: share of windows without a prompt.
    layout: share of the other windows whose rows include the positions of things.
    keys: offsets and outliers of keys.
    steps, sample_shift, guidance: number of steps, shift of noise levels and guidance of `sample`.
    sample_layout: whether the rows of `sample` include the positions of things.
    """

    shift: float = 2.0
    clean: float = 0.2
    drop: float = 0.1
    layout: float = 0.4
    keys: KeyShape = field(default_factory=KeyShape)
    steps: int = 50
    sample_shift: float = 3.0
    guidance: float = 3.0
    sample_layout: bool = False


class TeacherTrainer(Trainer):
    """Trains a teacher; resumes from the checkpoint in its folder if there is one."""

    def __init__(
        self,
        training: Training,
        network: Wan,
        objective: DiffusionForcing,
        device: torch.device,
        keys: KeyShape,
    ) -> None:
        """Prepare a `Trainer` and, for a new training, draw the offsets and gains of keys."""
        # Frozen weights get no gradient, and the optimisers pass over them.
        keep_keys(network)
        super().__init__(training, network, objective, device)
        # A resumed training has them in its checkpoint.
        if self.clock.step == 0:
            keys.apply(self.network, training.seed)
            # The trainer's average began with the keys before the change.
            self.average = Average(self.network, training.ema)
