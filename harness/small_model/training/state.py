"""Reads and writes the checkpoints of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness.models.checkpoints.files import TORN
from harness.models.preset import VideoModel, wan_of
from harness.models.wan import Wan, WanDims
from harness.system.errors import UserError
from harness.system.files import whole_file

CHECKPOINT = "checkpoint.pt"


@dataclass
class Clock:
    """Progress of a training: steps in total, and steps and minutes of each stage."""

    step: int = 0
    stage_steps: list[int] = field(default_factory=list)
    stage_minutes: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class State:
    """A checkpoint of a training.

    dims: sizes of the network.
    model, ema: weights of the network, and their averages.
    optimisers: state of each optimiser.
    rows: the log so far.
    critic: weights of the critic of a training that has one (`student/match.py`).
    """

    dims: dict[str, int]
    model: dict[str, Any]
    ema: dict[str, Any]
    optimisers: list[dict[str, Any]]
    clock: Clock
    rows: list[dict[str, Any]]
    critic: dict[str, Any] | None = None

    def save(self, folder: Path) -> None:
        """Write the checkpoint into a folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        # Only tensors, numbers and containers are stored, never classes: `torch.load` then reads
        # the file with `weights_only`, which runs no code of it. No random state: every step seeds
        # its own generators.
        content = {name: value for name, value in vars(self).items() if name != "clock"}
        # Whole or not at all: a kill while saving must not cost the hours before it.
        with whole_file(folder / CHECKPOINT) as unfinished:
            torch.save(content | {"clock": asdict(self.clock)}, unfinished)


def load_state(folder: Path, device: torch.device) -> State | None:
    """Return the checkpoint of a folder, with tensors on a device; None if there is none.

    Raises  UserError: it cannot be read.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        # Onto the given device: a training that began on a GPU can continue on a CPU.
        content = torch.load(path, map_location=device, weights_only=True)
        return State(**content | {"clock": Clock(**content["clock"])})
    except (*TORN, LookupError) as error:
        raise UserError(
            f"cannot read {path}: remove it to begin again or set train.folder to another folder"
        ) from error


def saved_state(folder: str) -> State:
    """Return the checkpoint of a training's folder.

    Raises  UserError: there is none, or it cannot be read.
    """
    state = load_state(Path(folder), torch.device("cpu"))
    if state is None:
        raise UserError(
            f"found no checkpoint in {folder}: train first or set train.folder to where it is"
        )
    return state


def averaged(folder: str, model: VideoModel) -> Wan:
    """Return the model's network with the averaged weights of a folder's checkpoint, frozen.

    Raises  UserError: as `saved_state`, or the checkpoint's network has other sizes.
    """
    state = saved_state(folder)
    network = wan_of(model)
    if WanDims(**state.dims) != model.dims:
        raise UserError(
            f"{folder} holds a network of {state.dims}: set train.folder to another folder or "
            "model.dims to these"
        )
    network.load_state_dict(state.ema)
    return network.eval().requires_grad_(False)
