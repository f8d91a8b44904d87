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
    steps, minutes: length of the stage in one of the two. Minutes are those of training, summed
        over interruptions.
    from_start: share of steps whose windows begin with the video.
    copies: noisy copies of each window, which share one clean pass.
    rollout: denoising passes in which the network generates its own history; 0 for true history.
    own: with a rollout, share of the chunks of history that the network generates.
    pictures: share of steps that train on pictures instead: batch * frames windows of one frame.

    Raises  ValueError: both or neither of steps and minutes, or a number out of range.
    """

    frames: int
    batch: int
    lr: float
    steps: int | None = None
    minutes: float | None = None
    from_start: float = 0.5
    copies: int = 1
    rollout: int = 0
    own: float = 0.5
    pictures: float = 0.0

    def __post_init__(self) -> None:
        # With both it would be unclear which one ends the stage.
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a stage of train.stages needs either steps or minutes")
        # At construction, so that a mistake in the last stage is found before the first one runs.
        if min(self.frames, self.batch, self.copies, self.length) <= 0 or self.lr <= 0:
            raise ValueError(f"{self}: frames, batch, copies, lr and length must be above 0")
        if not all(0 <= share <= 1 for share in (self.from_start, self.own, self.pictures)):
            raise ValueError(f"{self}: from_start, own and pictures lie in 0..1")
        if self.rollout < 0:
            raise ValueError(f"{self}: rollout is 0 or more")

    @property
    def length(self) -> float:
        """Length in steps or in minutes, whichever is given."""
        return float(self.steps if self.steps is not None else self.minutes or 0)

    def done(self, steps: int, minutes: float) -> float:
        """Return the share of the stage that is over, 0..1, after its first steps and minutes."""
        # At most 1: the last step of a stage in minutes ends after its time.
        return min(1.0, (steps if self.steps is not None else minutes) / self.length)


@dataclass(frozen=True)
class Training:
    """The settings of a training, from one file of `conf/train/`.

    folder: folder of checkpoints and log.
    video_frames: latent frames of the videos that windows are cut from.
    history_noise: largest level of the noise that is added to clean history.
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

    Raises  ValueError: no stage, or some stages by steps and others by minutes.
    """

    stages: Sequence[Stage]
    folder: str
    seed: int = 0
    video_frames: int = 42
    history_noise: float = 0.15
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
        # Progress adds up the lengths of stages, so all must be in one unit.
        if not self.stages or len({stage.steps is None for stage in self.stages}) > 1:
            raise ValueError("train.stages: give at least one, all by steps or all by minutes")

    def progress(self, stage: int, done: float) -> float:
        """Return the share of the whole training that is over, 0..1.

        stage, done: the current stage, and the share of it that is over.
        """
        lengths = [each.length for each in self.stages]
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
