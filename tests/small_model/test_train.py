"""Training: what a chunk may see, the same steps after a resume, and what is learned."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.checks.tiny_network import DIMS
from harness.models.wan import Wan
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from harness.small_model.diffusion.objective import DiffusionForcing
from harness.small_model.training import optim
from harness.small_model.training.loop import Trainer, batches
from harness.small_model.training.objective import Batch, commit
from harness.small_model.training.optim import Muon, WideMuon
from harness.small_model.training.stages import Stage, Training
from harness.small_model.training.teacher import TeacherForcing
from harness.system import machine
from harness.system.errors import UserError
from tests.support.geometry import BF16, CPU, GRID, network, spec, text

SCHEDULE = Schedule(shift=1.0)
STEPS = Stage(frames=6, batch=4, lr=3e-3, steps=2)


def latents(frames: int, batch: int = 1, seed: int = 0) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(batch, frames, 4, 2 * GRID[0], 2 * GRID[1], generator=draws)


def test_chunks_of_one_pass_see_what_the_sampler_shows_them() -> None:
    net, shape, clean, noisy = network(), spec(), latents(12), latents(12, seed=1)
    text_kv = text(net, 0)
    times = torch.tensor([1000.0, 750.0, 500.0, 250.0]).repeat_interleave(3)[None]
    forcing = TeacherForcing(shape, CPU)
    commit(net, clean[:, :9], text_kv, forcing, first=0)
    flow = net(noisy, times, text_kv, forcing, forcing.plan(range(12), "nothing"))

    sampler = Sampler(net, SCHEDULE, 3)
    session = Session(shape, BF16, Portable(), 12, CPU)
    for first in range(0, 12, 3):
        frames, part = range(first, first + 3), slice(first, first + 3)
        alone = sampler.flow(noisy[:, part], times[:, part], text_kv, session, frames)
        torch.testing.assert_close(flow[:, part], alone, atol=1e-4, rtol=0)
        sampler.flow(clean[:, part], torch.zeros(1, 3), text_kv, session, frames, "history")


def source(stage: Stage, first: int) -> Iterator[Batch]:
    """The same two videos in every step: what they hold can be learned by heart."""
    for _ in count(first):
        rows = torch.randn(stage.batch, 6, DIMS.text_dim, generator=seeded())
        x = 0.5 * latents(stage.frames, stage.batch)
        yield Batch(x, rows, torch.ones(x[:, :, 0].shape), first=0)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def trainer(folder: Path, *stages: Stage, **changes: float) -> Trainer:
    settings = {"warmup_steps": 2, "log_steps": 2, **changes}
    training = Training(stages=stages, folder=str(folder), **settings)  # type: ignore[arg-type]
    return Trainer(training, Wan(DIMS), DiffusionForcing(spec()), CPU)


def weights(trained: Trainer) -> dict[str, Tensor]:
    return {
        **trained.network.state_dict(),
        **{f"ema {n}": w for n, w in trained.average.weights.items()},
    }


def test_a_resumed_training_takes_the_same_steps(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", STEPS, replace(STEPS, frames=3))
    assert whole.run(source)
    first = trainer(tmp_path / "parts", STEPS, replace(STEPS, frames=3))

    def interrupted(stage: Stage, step: int) -> Iterator[Batch]:
        for at, batch in zip(count(step), source(stage, step), strict=False):
            if at == 2:
                first._stop(0, None)
            yield batch

    assert not first.run(interrupted)
    assert first.clock.step == 3
    second = trainer(tmp_path / "parts", STEPS, replace(STEPS, frames=3))
    assert second.clock.step == 3
    assert second.run(source)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(second)[name], weight, atol=0, rtol=0, msg=name)
    assert [row["step"] for row in second.rows] == [row["step"] for row in whole.rows] == [2, 4]


def test_workers_go_on_after_the_signals_that_stop_a_training() -> None:
    """A training that was told to stop still finishes its step, which needs a batch."""
    stream = batches(_Process(), 0, workers=1)
    pid = next(stream)
    assert pid != os.getpid()
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(pid, number)
    assert [next(stream) for _ in range(4)] == [pid] * 4  # more than are prepared ahead


class _Process(Dataset[Any]):
    """Gives the number of the process that prepares a batch."""

    def __getitem__(self, step: int) -> int:
        return os.getpid()


@pytest.mark.slow
def test_what_is_shown_again_and_again_is_learned(tmp_path: Path) -> None:
    trained = trainer(tmp_path, replace(STEPS, steps=30, lr=1e-2))
    trained.run(source)
    assert trained.rows[-1]["loss"] < 0.7 * trained.rows[0]["loss"]


def test_another_network_or_other_stages_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, STEPS).save()
    with pytest.raises(UserError, match="holds a training of 1 stages"):
        trainer(tmp_path, STEPS, STEPS)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot read"):
        trainer(tmp_path, STEPS)


def test_learning_rate_rises_then_falls_to_zero_over_all_stages() -> None:
    training = Training(stages=[STEPS, STEPS], folder="", warmup_steps=2, decay_from=0.5)
    assert training.lr(0, 0.0, 0) == pytest.approx(STEPS.lr / 2)
    assert training.lr(0, 1.0, 10) == pytest.approx(STEPS.lr)
    assert training.lr(1, 0.5, 10) == pytest.approx(STEPS.lr / 2)
    assert training.lr(1, 1.0, 10) == 0


def orthogonalized(gradient: Tensor) -> Tensor:
    """What Muon makes of a gradient, in fp64: five Newton-Schulz iterations."""
    a, b, c = 3.4445, -4.775, 2.0315
    x = gradient.double() / gradient.double().norm()
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def test_wide_muon_computes_its_steps_in_fp32():
    gradient = torch.randn(12, 40, generator=torch.Generator().manual_seed(0))
    errors = {}
    for kind in (WideMuon, Muon):
        weight = torch.nn.Parameter(torch.zeros(12, 40))
        weight.grad = gradient.clone()
        kind([weight], lr=1.0, weight_decay=0.0).step()
        errors[kind] = (weight.detach() + orthogonalized(gradient)).norm() / weight.detach().norm()
    # PyTorch's Muon is as exact as BF16. If this fails, PyTorch changed it: delete `WideMuon`.
    assert errors[WideMuon] < 1e-5
    assert errors[Muon] > 1e-3


def test_muon_is_wide_where_the_processor_emulates_bf16(monkeypatch):
    for emulated, kind in [(frozenset({torch.bfloat16}), WideMuon), (frozenset(), Muon)]:
        monkeypatch.setattr(machine, "EMULATED", emulated)
        assert type(optim.optimisers(Wan(DIMS))[0]) is kind
