"""The teacher's settings and its training: weights whose keys are given, then the loop."""

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
    """What makes the training of a teacher, beside its stages.

    shift, clean: of `DiffusionForcing`. drop: share of windows without a prompt. layout: share
    of the others whose rows tell where things are. keys: offsets and
    outliers. steps, sample_shift, guidance, sample_layout: how `sample` draws videos, and whether
    it is told where things are.
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
    """One training of a teacher, from its folder's checkpoint on if there is one."""

    def __init__(
        self,
        training: Training,
        network: Wan,
        objective: DiffusionForcing,
        device: torch.device,
        keys: KeyShape,
    ) -> None:
        """As `Trainer`, but the keys' offsets and gains are drawn once and kept."""
        keep_keys(network)
        super().__init__(training, network, objective, device)
        if self.clock.step == 0:
            keys.apply(self.network, training.seed)
            self.average = Average(self.network, training.ema)
