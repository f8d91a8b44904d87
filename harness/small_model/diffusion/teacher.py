"""The teacher's settings, its training loop with fixed keys, and the networks that ship."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import torch
from hydra.utils import instantiate

from harness.config.compose import configured
from harness.models.checkpoints.load import load_weights
from harness.models.preset import VideoModel, wan_of
from harness.models.wan import Wan
from harness.small_model.diffusion.keys import KeyShape, keep_keys
from harness.small_model.diffusion.objective import DiffusionForcing
from harness.small_model.training.loop import Trainer
from harness.small_model.training.optim import initialise
from harness.small_model.training.stages import Training
from harness.system.errors import UserError


@dataclass(frozen=True)
class Teacher:
    """Settings of a teacher's training, besides its stages.

    shift, clean: see `DiffusionForcing`.
    drop: share of windows without a prompt.
    layout: share of the other windows whose rows include the positions of things.
    keys: offsets and outliers of keys.
    steps, sample_shift, guidance: number of steps, shift of noise levels and guidance of `sample`.
    sample_layout: whether the rows of `sample` include the positions of things.
    from_shipped: whether a new training goes on from the weights of `model=small_forcing`.
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
    from_shipped: bool = False


class TeacherTrainer(Trainer):
    """Trains a teacher; resumes from the checkpoint in its folder if there is one."""

    def __init__(
        self,
        training: Training,
        network: Wan,
        objective: DiffusionForcing,
        device: torch.device,
        keys: KeyShape,
        start: Wan | None = None,
    ) -> None:
        """Prepare a `Trainer`.

        A new training begins with the weights of `start`, or with random ones for which the offsets
        and gains of keys are drawn.
        """
        # Frozen weights get no gradient, and the optimisers pass over them.
        keep_keys(network)
        if start is None:
            start = deepcopy(network)
            initialise(start, training.seed)
            keys.apply(start, training.seed)
        super().__init__(training, network, objective, device, start)


def shipped(preset: str, model: VideoModel) -> Wan:
    """Return the network of a preset with the weights that ship, frozen, in fp32.

    preset: `small` or `small_forcing`.

    Raises  UserError: its sizes are not those of `model`.
    """
    ours: VideoModel = instantiate(configured(f"model={preset}", "method=bf16")["model"])
    if ours.dims != model.dims:
        raise UserError(
            f"model={preset}, which ships, has model.dims of {ours.dims}: choose these, or begin "
            "elsewhere (a student with student.teacher_folder=<folder of a teacher's training>, a "
            "teacher with teacher.from_shipped=false, new keys with student.folder=<folder of a "
            "student's training>)"
        )
    network, cpu = wan_of(ours), torch.device("cpu")
    path = ours.path(Path())  # it ships with the package, so no folder of data matters
    load_weights(network, path, ema=False, dtype=torch.float32, device=cpu)
    return network.eval().requires_grad_(False)
