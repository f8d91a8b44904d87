"""Defines the stages and settings of a training, as files of `conf/train/` give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.system.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One part of a training.

    frames, batch: latent frames of a window, and windows per step.
    lr: peak learning rate.
    steps: length of the stage.
    from_start: share of steps whose windows begin with the video.
    rollout: denoising passes in which the network generates its own history; 0 for true history.
    pictures: share of steps that train on pictures instead: batch * frames windows of one frame.

    Raises  ValueError: a number out of range.
    """

    frames: int
    batch: int
    lr: float
    steps: int
    from_start: float = 0.5
    rollout: int = 0
    pictures: float = 0.0

    def __post_init__(self) -> None:
        # At construction, so that a mistake in the last stage is found before the first one runs.
        if min(self.frames, self.batch, self.steps) <= 0 or self.lr <= 0:
            raise ValueError(f"{self}: frames, batch, lr and steps must be above 0")
        if not all(0 <= share <= 1 for share in (self.from_start, self.pictures)):
            raise ValueError(f"{self}: from_start and pictures lie in 0..1")
        if self.rollout < 0:
            raise ValueError(f"{self}: rollout is 0 or more")


@dataclass(frozen=True)
class Training:
    """The settings of a training, from one file of `conf/train/`.

    folder: folder of checkpoints and log.
    video_frames: latent frames of the videos that windows are cut from.
    focus: weight in the loss of cells that show a thing; background weighs 1. Things are small, so
        without it the loss would be that of the background.
    ema: decay of the averaged weights.
    clip: largest norm of the gradient.
    warmup_steps: steps over which the learning rate grows from zero.
    decay_from: share of the training after which the learning rate falls linearly to zero.
    save_minutes: minutes between checkpoints.
    log_steps: steps between rows of the log.
    workers: processes that render clips beside the training; 0 renders them between steps.
    compile: whether `torch.compile` fuses the blocks, which takes a C++ compiler and a minute at
        each start. The weights then differ from those of uncompiled training by rounding.
    samples: number of held-out clips of `sample`.
    out: folder of the files of `export` and `sample`; None for `folder`.

    Raises  ValueError: no stage.
    """

    stages: Sequence[Stage]
    folder: str
    seed: int = 0
    video_frames: int = 42
    focus: float = 1.0
    ema: float = 0.998
    clip: float = 1.0
    warmup_steps: int = 50
    decay_from: float = 0.3
    save_minutes: float = 2.0
    log_steps: int = 20
    workers: int = 0
    compile: bool = False
    samples: int = 8
    out: str | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("train.stages: give at least one")

    def progress(self, stage: int, done: float) -> float:
        """Return the share of the whole training that is over, 0..1.

        stage, done: the current stage, and the share of it that is over.
        """
        lengths = [each.steps for each in self.stages]
        return (sum(lengths[:stage]) + done * lengths[stage]) / sum(lengths)

    def lr(self, stage: int, done: float, step: int) -> float:
        """Return the learning rate of a step, which is counted over the whole training."""
        # The rate falls over the whole training. If lengths are changed during a training, it jumps
        # to what the new lengths give.
        progress = self.progress(stage, done)
        # decay_from=1 never decays: 1e-9 keeps the quotient above 1 until the very end.
        falling = min(1.0, (1 - progress) / max(1e-9, 1 - self.decay_from))
        return self.stages[stage].lr * min(1.0, (step + 1) / self.warmup_steps) * falling

    def first_frame(self, stage: Stage, chunk_frames: int, draws: np.random.Generator) -> int:
        """Draw the first frame of a step's windows: 0, or that of a later chunk."""
        # Windows inside a video begin with a chunk, since the network sees whole chunks.
        latest = (self.video_frames - stage.frames) // chunk_frames
        # Windows as long as the video begin with it, whatever is drawn.
        if draws.random() < stage.from_start or latest == 0:
            return 0
        return chunk_frames * int(draws.integers(1, latest + 1))

    def demand_fit(self, chunk_frames: int, pictures: bool) -> None:
        """Check that the model can use the windows of all stages, and the loss their pictures.

        pictures: whether the loss can be trained on pictures.

        Raises  UserError: windows that are not whole chunks, or are longer than the video; pictures
                for a loss without them.
        """
        for stage in self.stages:
            if stage.frames % chunk_frames or not 0 < stage.frames <= self.video_frames:
                raise UserError(
                    f"train.stages has windows of {stage.frames} frames: give a multiple of "
                    f"{chunk_frames} up to {self.video_frames}"
                )
            if stage.pictures and not pictures:
                raise UserError(
                    "train.stages has pictures: give 0, only a teacher learns from them"
                )
