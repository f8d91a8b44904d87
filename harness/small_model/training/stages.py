"""What a training run is made of: its stages and settings, as in `conf/train/`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.system.errors import UserError


@dataclass(frozen=True)
class Stage:
    """One part of a training run.

    frames, batch: latent frames of a window, and windows a step. lr: peak learning rate.
    steps or minutes: how long; minutes count over resumes. from_start: share of steps whose
    windows begin with the video. copies: noisy copies of every window, which share one clean pass.
    rollout: denoising passes with which the network draws its own history, 0 for the true one.
    own: share of the chunks of a history that are the network's own where it draws any.

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

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.minutes is None):
            raise ValueError("a stage of train.stages needs either steps or minutes")
        if min(self.frames, self.batch, self.copies, self.length) <= 0 or self.lr <= 0:
            raise ValueError(f"{self}: frames, batch, copies, lr and length must be above 0")
        if not (0 <= self.from_start <= 1 and 0 <= self.own <= 1 and self.rollout >= 0):
            raise ValueError(f"{self}: from_start and own lie in 0..1, rollout is 0 or more")

    @property
    def length(self) -> float:
        """Steps or minutes, whichever counts."""
        return float(self.steps if self.steps is not None else self.minutes or 0)

    def done(self, steps: int, minutes: float) -> float:
        """Share of the stage that is over, after so many steps and minutes in it."""
        return min(1.0, (steps if self.steps is not None else minutes) / self.length)


@dataclass(frozen=True)
class Training:
    """One file of `conf/train/`.

    folder: checkpoints and log. video_frames: length of the videos that windows are cut from.
    history_noise: the clean frames get noise of a level drawn from 0 to this. focus: how many times
    as much as background the cells count that show a thing; things are small. ema: decay of the
    averaged weights. clip: largest norm of the gradient. warmup_steps: learning rate grows over
    these. decay_from: share of the run after which it falls, in a straight line to zero.
    workers: processes that render clips beside the training, 0 for none. compile: whether
    `torch.compile` fuses the blocks, which takes a C++ compiler and a minute at each start; the
    weights then differ from those of uncompiled training by rounding.
    samples: how many held-out clips `sample` makes. out: where `export` and `sample` write, None
    for the folder.

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
        if not self.stages or len({stage.steps is None for stage in self.stages}) > 1:
            raise ValueError("train.stages: give at least one, all by steps or all by minutes")

    def progress(self, stage: int, done: float) -> float:
        """Share of the whole run that is over, `done` of the given stage included."""
        lengths = [each.length for each in self.stages]
        return (sum(lengths[:stage]) + done * lengths[stage]) / sum(lengths)

    def lr(self, stage: int, done: float, step: int) -> float:
        """The learning rate of a step (counted over the whole run)."""
        progress = self.progress(stage, done)
        falling = min(1.0, (1 - progress) / max(1e-9, 1 - self.decay_from))
        return self.stages[stage].lr * min(1.0, (step + 1) / self.warmup_steps) * falling

    def demand_fit(self, chunk_frames: int) -> None:
        """Compare the stages with the model.

        Raises  UserError: windows that are no whole chunks, or longer than the video.
        """
        for stage in self.stages:
            if stage.frames % chunk_frames or not 0 < stage.frames <= self.video_frames:
                raise UserError(
                    f"train.stages has windows of {stage.frames} frames: give a multiple of "
                    f"{chunk_frames} up to {self.video_frames}"
                )
