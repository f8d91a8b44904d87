"""Windows whose chunks are denoised together: what holds for every network and policy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import Method, PassInputs, Reuse
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.sampling.diffusion_forcing import DiffusionForcing
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import UniPCSchedule
from methods.retention.tokens.keydiff import KeyDiff
from methods.retention.tokens.scored import Scored
from methods.reuse.drift import Drift
from methods.reuse.features import TimeModulation
from methods.reuse.fixed import Fixed
from tests.support.geometry import BF16, CPU, network, spec, text

STEPS = 8


@dataclass
class Counted(NullObserver):
    num_reused: int = 0
    drifts: list[float] = field(default_factory=list)

    def reused(self) -> None:
        self.num_reused += 1

    def drifted(self, drift: float, accumulated: float) -> None:
        self.drifts.append(drift)


def video(
    reuse: Reuse | None = None, num_frames: int = 9, method: Method = BF16, **order: Any
) -> tuple[Tensor, Session, Counted]:
    session = Session(spec(), method, Portable(), num_frames, CPU)
    loop = DiffusionForcing(**{"offset": 2, **order})
    net, counted = network(), Counted()
    sampler = Sampler(net, UniPCSchedule(num_steps=STEPS), 3, reuse, loop)
    noise = SeededNoise(0, (num_frames, 4, 8, 16))
    parts = sampler.sample(session, text(net), noise, num_frames, counted)
    return torch.cat(list(parts), dim=1), session, counted


def test_a_window_is_judged_by_the_times_of_all_its_chunks() -> None:
    """Once a row: chunks under way at their own times, waiting ones at 999, finished ones at 0."""
    seen: list[list[float]] = []

    class Listening(TimeModulation):
        def __call__(self, inputs: PassInputs) -> Tensor:
            seen.append(inputs.t_BF[0, ::3].tolist())
            return super().__call__(inputs)

    video(Drift(threshold=1e-9, feature=Listening(), scope="window"))
    times = UniPCSchedule(num_steps=STEPS).times(True)
    expected = []
    for row in range(STEPS + 2 * 2):
        steps = [row - 2 * chunk for chunk in range(3)]
        expected.append([999 if s < 0 else 0 if s >= STEPS else times[s] for s in steps])
    assert seen == expected


@pytest.mark.parametrize("scope", ["chunk", "window"])
def test_a_pass_that_stores_history_always_runs(scope: Any) -> None:
    reuse = Fixed(steps=tuple(range(1, STEPS + 4)), scope=scope)
    _, session, counted = video(reuse, commit="last_step")
    assert session.stored(0)[0] == [*range(9)]
    assert counted.num_reused == 3 * (STEPS - 2)


def test_of_one_chunk_both_scopes_are_the_same() -> None:
    """FlowCache's reuse is then TeaCache."""
    made = [
        video(
            Drift(threshold=0.9, feature=TimeModulation(), scope=scope, warmup=2),
            num_frames=3,
            execution=execution,
        )
        for scope, execution in (("chunk", "chunk_causal"), ("window", "joint"))
    ]
    (alone, _, one), (whole, _, other) = made
    assert 0 < one.num_reused == other.num_reused
    assert one.drifts == pytest.approx(other.drifts)
    torch.testing.assert_close(alone, whole, atol=1e-5, rtol=0)


def test_a_policy_that_never_skips_changes_nothing() -> None:
    never = Drift(threshold=float("-inf"), feature=TimeModulation(), rescale=(1.0, 0.0))
    assert torch.equal(video(never)[0], video()[0])


def test_tokens_are_chosen_once_after_each_commit() -> None:
    """Before the next pass attends; later passes find the history as it should be."""
    calls = []

    class Listening(Scored):
        def revise(self, tokens: Any) -> Any:
            calls.append(tokens.layer)
            return super().revise(tokens)

    policy = Listening(budget="1 chunks", trigger="next_pass", scorer=KeyDiff())
    video(method=Method(BF16.key, BF16.value, policy))
    assert calls == [*range(spec().num_layers)] * 2  # nothing follows the third commit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"execution": "all"}, "model.loop.execution=all: choose joint, joint_causal, chunk"),
        ({"commit": "never"}, "model.loop.commit=never: choose clean, last_step"),
        ({"prefix": "twice"}, "model.loop.prefix=twice: choose every_row, once, once_late"),
        ({"offset": -1}, "model.loop.offset=-1: give 0 rows or more"),
        ({"offset": None}, "model.loop.offset=None"),
        ({"prefix_noise": 1000}, "model.loop.prefix_noise=1000: give a time from 0 to below"),
        ({"frames": 6, "overlap": 6}, "more frames than overlap"),
        ({"joint": True}, "choose execution"),
    ],
)
def test_orders_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusionForcing(**settings)
