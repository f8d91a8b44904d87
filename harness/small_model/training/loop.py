"""The training loop: runs the stages, and writes checkpoints and a log."""

from __future__ import annotations

import csv
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from harness.models.wan import Wan, WanDims
from harness.small_model.training.objective import Batch, Objective
from harness.small_model.training.optim import Average, initialise, optimisers, set_lr
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.state import Clock, State, load_state
from harness.system.errors import UserError
from harness.system.files import whole_file
from harness.system.logs import remark

LOG = "log.csv"
Source = Callable[[Stage, int], Iterator[Batch]]


class Trainer:
    """Runs a training; resumes from the checkpoint in its folder if there is one."""

    def __init__(
        self,
        training: Training,
        network: Wan,
        objective: Objective,
        device: torch.device,
        start: Wan | None = None,
    ) -> None:
        """Build the optimisers, and fill `network` with initial or saved weights.

        start: network whose weights a new training begins with; None for random weights.

        Raises  UserError: the checkpoint is of another network or other stages, or unreadable.
        """
        # Before anything is built: a stage that does not fit would fail hours later.
        training.demand_fit(objective.spec.chunk_frames, objective.pictures)
        # A checkpoint overwrites these weights.
        if start is None:
            initialise(network, training.seed)
        else:
            network.load_state_dict(start.state_dict())
        self.training = training
        self.network = network.to(device)
        self.objective = objective
        self.device = device
        self.folder = Path(training.folder)
        self.optimisers = optimisers(network)
        # Begins as a copy of the initial weights, which a small decay soon replaces.
        self.average = Average(network, training.ema)
        num_stages = len(training.stages)
        self.clock = Clock(0, [0] * num_stages, [0.0] * num_stages)
        self.rows: list[dict[str, Any]] = []
        self._stopping = False
        # Losses since the last row of the log. They are not saved, so the first row after a
        # resumption is a mean over fewer steps.
        self._recent: list[tuple[float, dict[float, float]]] = []
        state = load_state(self.folder, device)
        if state is not None:
            self._resume(state)
        if training.compile:
            compile_blocks(network)

    def run(self, source: Source) -> bool:
        """Train to the end of the last stage or until a signal; return whether it is the end.

        In both cases the checkpoint is written.

        source: gives the batches of a stage from a step on.
        """
        # A signal only sets a flag, so that no step is torn. The old handlers come back at the end.
        handlers = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        saved = time.monotonic()
        try:
            for index, stage in enumerate(self.training.stages):
                stream: Iterator[Batch] | None = None
                while self._done(index) < 1 and not self._stopping:
                    # Stages that are over start no workers.
                    stream = stream or source(stage, self.clock.step)
                    # The minutes of a stage include the wait for data and leave out checkpoints.
                    start = time.monotonic()
                    self._recent.append(self._step(index, next(stream)))
                    self.clock.step += 1
                    self.clock.stage_steps[index] += 1
                    self.clock.stage_minutes[index] += (time.monotonic() - start) / 60
                    if self.clock.step % self.training.log_steps == 0:
                        self._log(index)
                    # By time and not by steps, since a step of a late stage takes longer.
                    if time.monotonic() - saved > 60 * self.training.save_minutes:
                        self.save()
                        saved = time.monotonic()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        self.save()
        return not self._stopping

    def save(self) -> None:
        """Write checkpoint and log."""
        self._state().save(self.folder)
        # As CSV too, to be read while the training runs. Rows of other stages may have other
        # columns; cells that they lack stay empty.
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with whole_file(self.folder / LOG) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(self.rows)

    def _step(self, index: int, batch: Batch) -> tuple[float, dict[float, float]]:
        """Do one step of the optimisers; return the loss, and its mean by time."""
        step, device = self.clock.step, self.device.type
        # A generator per step: a resumed training draws the numbers of an uninterrupted one.
        draws = torch.Generator(self.device).manual_seed(self.training.seed * 1_000_003 + step)
        set_lr(self.optimisers, self._lr(index))
        stage = self.training.stages[index]
        with fast_products(device):
            loss, by_time = self.objective.loss(self.network, batch.to(self.device), stage, draws)
        self.network.zero_grad()
        torch.autograd.backward(loss)
        self._descend(self.network, self.optimisers)
        self.average.update(self.network, step)
        return loss.item(), by_time

    def _descend(self, network: Wan, optims: Sequence[Optimizer]) -> None:
        """Clip the gradients of a network and do one step of its optimisers.

        Raises  UserError: the gradients are not finite.
        """
        # One outlier of a batch must not undo many steps.
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), self.training.clip)
        # A single step of NaN would spoil all weights, and the next checkpoint would replace the
        # last good one.
        if not norm.isfinite():
            raise UserError(
                f"the gradient of step {self.clock.step} is not finite: the checkpoint in "
                f"{self.folder} is of an earlier step; lower train.stages' lr, or set "
                "train.compile=false"
            )
        for optim in optims:
            optim.step()

    def _done(self, index: int) -> float:
        """Return the share of a stage that is over, 0..1."""
        # A user may set fewer steps than the stage has already run, so limit the share to 1.
        return min(1.0, self.clock.stage_steps[index] / self.training.stages[index].steps)

    def _lr(self, index: int) -> float:
        return self.training.lr(index, self._done(index), self.clock.step)

    def _log(self, index: int) -> None:
        """Add a row to the log, and print it as a line with the time left."""
        losses = [loss for loss, _ in self._recent]
        minutes = sum(self.clock.stage_minutes)
        row: dict[str, Any] = {
            "step": self.clock.step,
            "stage": index,
            "minutes": round(minutes, 3),
            "lr": self._lr(index),
            "loss": sum(losses) / len(losses),
        }
        # The loss depends on the noise level: a mean over all levels hides at which of them it
        # falls.
        for t in sorted({t for _, by_time in self._recent for t in by_time}, reverse=True):
            values = [by_time[t] for _, by_time in self._recent if t in by_time]
            row[f"loss_{t:.0f}"] = sum(values) / len(values)
        self._recent.clear()
        self.rows.append(row)
        done = self.training.progress(index, self._done(index))
        left = minutes / done - minutes if done else float("nan")
        parts = " ".join(f"{k[5:]}:{v:.4f}" for k, v in row.items() if k.startswith("loss_"))
        remark(
            f"step {self.clock.step} stage {index} {minutes:.1f} min loss {row['loss']:.4f} "
            f"({parts}) lr {row['lr']:.2e} {left:.1f} min left"
        )

    def _state(self) -> State:
        return State(
            dims=asdict(self.network.dims),
            model=self.network.state_dict(),
            ema=self.average.weights,
            optimisers=[optim.state_dict() for optim in self.optimisers],
            clock=self.clock,
            # The log is saved with the weights, so a resumed training continues it at its step.
            rows=self.rows,
        )

    def _resume(self, state: State) -> None:
        """Take over a checkpoint; raise `UserError` if it is of another network or other stages."""
        # Compare as `WanDims`: sizes that were added after the checkpoint then have their defaults.
        if WanDims(**state.dims) != self.network.dims:
            raise UserError(
                f"{self.folder} holds a training of a network of {state.dims}: set train.folder "
                "to another folder or model.dims to these"
            )
        # Lengths and rates of stages may be changed during a training, their number not: the clock
        # counts by stage.
        if len(state.clock.stage_steps) != len(self.training.stages):
            raise UserError(
                f"{self.folder} holds a training of {len(state.clock.stage_steps)} stages: give "
                "as many in train.stages or set train.folder to another folder"
            )
        if state.critic is not None:
            raise UserError(
                f"{self.folder} holds a training with a critic: set train.folder to another "
                "folder, or go on with `match`"
            )
        self.network.load_state_dict(state.model)
        for optim, content in zip(self.optimisers, state.optimisers, strict=True):
            optim.load_state_dict(content)
        self.average.weights = state.ema
        self.clock, self.rows = state.clock, state.rows

    def _stop(self, number: int, frame: FrameType | None) -> None:
        # Nothing else: the loop ends after its step, with a checkpoint.
        self._stopping = True


@contextmanager
def fast_products(device: str) -> Iterator[None]:
    """Run networks in BF16 where that is fast, and with the fastest cross-attention."""
    # Cross-attention has one key per row of the prompt. With four keys, plain matrix products take
    # a fifth of the time of the fused kernel.
    plain = sdpa_kernel(SDPBackend.MATH) if device == "cpu" else nullcontext()
    # On GPUs and on CPUs with instructions for it; elsewhere BF16 is emulated.
    half = device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    with plain, torch.autocast(device, torch.bfloat16, enabled=half):
        yield


def compile_blocks(network: Wan) -> None:
    """Compile every block; the first pass of each shape then takes seconds to minutes."""
    # PyTorch counts each block and each shape as a recompilation of one function. By default it
    # stops compiling after 8 of them and runs the other blocks uncompiled.
    torch._dynamo.config.recompile_limit = 8 * len(network.blocks)
    # With vectors of 512 bits, torch 2.14 returns NaN for windows of one frame and for texts of 80
    # rows; vectors of 256 bits cost about 5 %.
    for block in network.blocks:
        block.compile(dynamic=False, options={"cpp.simdlen": 256})


def batches(windows: Dataset[Batch], first_step: int, workers: int) -> Iterator[Batch]:
    """Yield the batches of a stage from `first_step` on, without end.

    workers: processes that prepare batches; 0 prepares each batch on demand.
    """
    # A sampler of step numbers: workers get them in turn, and a batch depends on its number alone.
    steps = range(first_step, 2**31)
    yield from DataLoader(
        windows, batch_size=None, sampler=steps, num_workers=workers, worker_init_fn=leave_to_parent
    )


def leave_to_parent(worker: int) -> None:
    """Ignore the signals that stop a training, in a process that prepares its batches."""
    # A terminal and most schedulers send them to all processes of a job. The training then finishes
    # its step, for which it may need a batch, and writes the checkpoint. Workers end when it ends.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
