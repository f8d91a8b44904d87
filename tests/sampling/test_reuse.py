"""Passes that are not run, and what stands in for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
import torch

from harness.api import Reuse
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import Silent
from harness.sampling.reuse import Residual
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.reuse.drift import Drift
from methods.reuse.fixed import Fixed
from tests.support.geometry import BF16, CPU, network, spec, text


@dataclass
class Watcher(Silent):
    phases: list[str] = field(default_factory=list)
    num_reused: int = 0
    drifts: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        self.phases.append(name)
        yield

    def reused(self) -> None:
        self.num_reused += 1

    def drifted(self, drift: float, accumulated: float) -> None:
        self.drifts.append((drift, accumulated))


def video(reuse: Reuse | None, num_frames: int = 9) -> tuple[torch.Tensor, Watcher, list[int]]:
    """Latents, who watched, and how often attention ran in each chunk."""
    net, watcher, calls = network(), Watcher(), [0]
    session = Session(spec(), BF16, Portable(), num_frames, CPU)
    attend = session.attend

    def counted(layer, *arguments):
        calls[-1] += layer == 0
        return attend(layer, *arguments)

    session.attend = counted
    sampler = Sampler(net, Schedule(), 3, reuse)
    noise = SeededNoise(0, (num_frames, 4, 8, 16))
    chunks = []
    for chunk in sampler.sample(session, text(net), noise, num_frames, watcher):
        chunks.append(chunk)
        calls.append(0)
    return torch.cat(chunks, 1), watcher, calls[:-1]


def test_a_policy_that_never_skips_changes_nothing() -> None:
    expected, _, calls = video(None)
    latents, watcher, same = video(Drift(threshold=1e-9))
    assert torch.equal(latents, expected)
    assert calls == same == [5, 5, 5]
    assert watcher.num_reused == 0


def test_skipped_passes_run_no_attention_and_are_counted() -> None:
    latents, watcher, calls = video(Fixed(steps=(1,)))
    assert calls == [4, 4, 4]  # three of four denoising passes, and the commit
    assert watcher.num_reused == 3
    assert watcher.phases.count("denoise") == 12
    assert latents.isfinite().all()
    assert not torch.equal(latents, video(None)[0])


def test_the_first_pass_the_last_and_the_commit_are_run() -> None:
    _, watcher, calls = video(Drift(threshold=1e9, warmup=0))
    assert calls == [3, 3, 3]
    assert watcher.num_reused == 6


def test_the_residual_of_the_last_evaluated_pass_stands_in() -> None:
    """Tokens behind the blocks = new tokens + what the blocks added before."""
    told = []
    residual = Residual(Fixed(steps=(1, 2)), 4, lambda: told.append(1))
    x = torch.randn(1, 4, 8)
    assert torch.equal(residual.through(x, lambda tokens: tokens * 3), x * 3)
    torch.testing.assert_close(residual.through(x + 1, pytest.fail), x + 1 + 2 * x)
    torch.testing.assert_close(residual.through(x - 1, pytest.fail), x - 1 + 2 * x)
    assert torch.equal(residual.through(x, lambda tokens: tokens * 5), x * 5)
    assert len(told) == 2


def test_drifts_are_relative_and_summed_since_the_last_evaluated_pass() -> None:
    seen = []

    class Listens(Reuse):
        def skips(self, step, num_steps, drifts):
            seen.append((step, num_steps, list(drifts)))
            return step == 1

    residual = Residual(Listens(), 3, lambda: None)
    for scale in (1.0, 1.5, 3.0):
        residual.through(torch.full((1, 2, 2), scale), lambda tokens: tokens)
    assert seen == [(1, 3, [0.5]), (2, 3, [0.5, 1.0])]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Drift(threshold=0), "Drift.threshold=0: give a positive number"),
        (lambda: Drift(threshold=1, warmup=-1), "Drift.warmup=-1"),
        (lambda: Fixed(steps=(0,)), "give passes from 1 on"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("num_frames", [7, 8, 2])
def test_the_last_chunk_may_be_partial(num_frames: int) -> None:
    """What is whole before it does not change."""
    latents, watcher, calls = video(None, num_frames)
    whole, _, _ = video(None, 9)
    assert latents.shape[1] == num_frames
    assert len(calls) == -(-num_frames // 3)
    assert watcher.phases.count("commit") == len(calls)
    assert latents.isfinite().all()
    assert whole.shape[1] == 9


@pytest.mark.parametrize("threshold", [1e-9, 0.5, 1e9])
def test_observers_hear_the_numbers_behind_every_decision(threshold: float) -> None:
    """None for the first pass of a chunk, on which nothing is decided."""
    _, watcher, _ = video(Drift(threshold=threshold, warmup=0))
    assert len(watcher.drifts) == 3 * 3
    for start in range(0, 9, 3):
        drifts, sums = zip(*watcher.drifts[start : start + 3], strict=True)
        assert sums[0] == drifts[0]
        for before, own, total in zip(sums, drifts[1:], sums[1:], strict=False):
            assert total in (pytest.approx(own), pytest.approx(before + own))
