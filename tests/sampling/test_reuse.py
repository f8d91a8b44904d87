"""Passes that are not run, and what stands in for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.api import Reuse
from harness.cache.attention.portable import Portable
from harness.cache.integration import Packed
from harness.cache.session import Session
from harness.models import WanPreview
from harness.sampling.loop import Loop
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.reuse import Place, ReuseState
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.reuse.drift import Drift
from methods.reuse.features import PatchEmbedding
from methods.reuse.fixed import Fixed
from methods.reuse.uniform import Uniform
from tests.support.geometry import BF16, CPU, network, spec, text

SCOPES: tuple[Any, ...] = ("chunk", "window")


@dataclass
class Watcher(NullObserver):
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


class Given:
    """Inputs of a pass with given tokens."""

    def __init__(self, tokens: torch.Tensor) -> None:
        self.tokens = tokens

    def finish(self, behind: torch.Tensor) -> torch.Tensor:
        return behind


@pytest.mark.parametrize("payload", ["residual", "velocity"])
def test_the_last_evaluated_pass_replaces_a_skipped_one(payload: Any) -> None:
    """Tokens behind the blocks = new tokens + what the blocks added before; or the same flow."""
    state, x = ReuseState(Fixed(steps=(1, 2), payload=payload)), torch.randn(1, 4, 8)
    decided = []
    for step, tokens in enumerate((x, x + 1, x - 1, x)):
        place, inputs = Place(0, 0, step, 4), Given(tokens)
        decided.append(state.decide(place, partial(Given, tokens)).skips)
        if decided[-1]:
            expected = tokens + 2 * x if payload == "residual" else 3 * x
            torch.testing.assert_close(state.flow(place, inputs), expected)
        else:
            state.evaluated(place, inputs, tokens * 3, tokens * 3)
    assert decided == [False, True, True, False]


def test_a_displacement_moves_the_latents_as_the_step_before_did() -> None:
    """The network is not asked, and the solver goes on from where the latents are."""
    moved, watcher, calls = video(Fixed(steps=(1, 2), payload="displacement"), 3)
    assert calls == [3]
    assert watcher.num_reused == 2
    noise = SeededNoise(0, (3, 4, 8, 16)).video
    net, solver = network(), Schedule().solver(first_chunk=True)
    drawn = SeededNoise(0, (3, 4, 8, 16))
    session = Session(spec(), BF16, Portable(), 3, CPU)
    sampler = Sampler(net, Schedule(), 3)
    with torch.inference_mode():
        first = sampler.flow(noise, torch.full((1, 3), 1000.0), text(net), session, range(3))
        x = solver.step(noise, first, lambda: drawn.fresh(3))
        x = x + 2 * (x - noise)
        for _ in range(2):
            solver.skip()
        time = torch.full((1, 3), solver.time)
        last = sampler.flow(x, time, text(net), session, range(3))
        x = solver.step(x, last, lambda: drawn.fresh(3))
    torch.testing.assert_close(moved, x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reference", ["previous", "last_evaluated"])
def test_drifts_are_relative_and_of_the_pass_before_or_the_last_evaluated(reference: Any) -> None:
    seen = []

    class Listens(Reuse):
        def skips(self, step, num_steps, drifts):
            seen.append((step, num_steps, [round(drift, 6) for drift in drifts]))
            return step == 1

    state = ReuseState(Listens(feature=PatchEmbedding(), reference=reference))
    for step, scale in enumerate((1.0, 1.5, 3.0)):
        place, inputs = Place(0, 0, step, 3), Given(torch.full((1, 2, 2), scale))
        if not state.decide(place, partial(Given, inputs.tokens)).skips:
            state.evaluated(place, inputs, inputs.tokens, inputs.tokens)
    last = 1.0 if reference == "previous" else 2.0
    assert seen == [(1, 3, [0.5]), (2, 3, [0.5, last])]


def test_where_chunks_come_one_after_another_a_window_is_a_chunk() -> None:
    by_chunk, by_window = (video(Drift(threshold=1.5, scope=scope)) for scope in SCOPES)
    assert torch.equal(by_chunk[0], by_window[0])
    assert by_chunk[1].drifts == by_window[1].drifts
    assert by_chunk[1].num_reused == by_window[1].num_reused > 0
    with pytest.raises(ValueError, match=r"Drift\.scope=window decides once for all chunks"):
        method = replace(BF16, reuse=Drift(threshold=1.5, scope="window"))
        Loop(offset=1).check(Packed(), method, WanPreview("x"))


@pytest.mark.parametrize("distance", ["relative_l1", "relative_l2", "cosine"])
def test_distances(distance: Any) -> None:
    before, now = torch.tensor([3.0, 4.0]), torch.tensor([6.0, 8.0])
    expected = {"relative_l1": 1.0, "relative_l2": 1.0, "cosine": 0.0}[distance]
    policy = Drift(threshold=1, distance=distance)
    assert policy.drift(now, before) == pytest.approx(expected, abs=1e-6)
    assert policy.drift(torch.tensor([4.0, -3.0]), before) == pytest.approx(
        {"relative_l1": 8 / 7, "relative_l2": 2**0.5, "cosine": 1.0}[distance]
    )


def test_a_polynomial_may_be_negative_and_then_skips_at_threshold_0() -> None:
    policy = Drift(threshold=0, rescale=(2.0, -1.0))
    assert policy.skips(2, 9, [0.25, 0.25])  # -0.5 - 0.5
    assert not policy.skips(2, 9, [0.75])
    assert not replace(policy, threshold=-math.inf).skips(2, 9, [0.25])


@given(
    num_steps=st.integers(2, 60),
    ratio=st.floats(0, 0.95),
    warmup=st.integers(0, 5),
    protect_last=st.booleans(),
)
def test_uniform_skips_its_share_spread_evenly(
    num_steps: int, ratio: float, warmup: int, protect_last: bool
) -> None:
    policy = Uniform(ratio=ratio, warmup=warmup, protect_last=protect_last)
    free = [n for n in range(1, num_steps) if not policy.guards(n, num_steps)]
    wanted = round(ratio * num_steps)
    if wanted > len(free):
        with pytest.raises(ValueError, match=r"Uniform\.ratio=.* may be skipped: choose at most"):
            policy.check(num_steps)
        return
    policy.check(num_steps)
    skipped = [n for n in free if policy.skips(n, num_steps, [])]
    assert len(skipped) == wanted
    gaps = [b - a for a, b in itertools.pairwise(skipped)]
    assert not gaps or max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Drift(threshold=0), "Drift.threshold=0: give a positive number"),
        (lambda: Drift(threshold="much"), "Drift.threshold=much: give a number"),
        (lambda: Drift(threshold=math.nan, rescale=(1, 0)), "Drift.threshold=nan: give a number"),
        (lambda: Drift(threshold=1, feature=None), "Drift.feature=null: give a Feature"),
        (lambda: Drift(threshold=1, feature="time"), "Drift.feature=time: give a Feature"),
        (lambda: Drift(threshold=1, distance="l3"), "choose relative_l1, relative_l2, cosine"),
        (lambda: Drift(threshold=1, rescale=()), "give the coefficients of a polynomial"),
        (lambda: Drift(threshold=1, scope="all"), "Drift.scope=all: choose chunk, window"),
        (lambda: Drift(threshold=1, counter="shared"), "choose scope=window and payload=residual"),
        (lambda: Uniform(ratio=1), "Uniform.ratio=1: give a share"),
        (lambda: Fixed().check(1), "the model has one per chunk"),
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
    """None for the first pass of a chunk, on which nothing is decided, and for guarded passes."""
    assert len(video(Drift(threshold=threshold, warmup=2))[1].drifts) == 3
    _, watcher, _ = video(Drift(threshold=threshold, warmup=0, protect_last=False))
    assert len(watcher.drifts) == 3 * 3
    for start in range(0, 9, 3):
        drifts, sums = zip(*watcher.drifts[start : start + 3], strict=True)
        assert sums[0] == drifts[0]
        for before, own, total in zip(sums, drifts[1:], sums[1:], strict=False):
            assert total in (pytest.approx(own), pytest.approx(before + own))
