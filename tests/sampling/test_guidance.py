"""Two branches of every pass: a cache each, latents and noise together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from harness.api import Method, Reuse
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.checks.files import rows as read_rows
from harness.checks.video import byte_problems
from harness.models.preset import VideoModel
from harness.planning.history import most
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Needs
from harness.planning.model_needs import network as needs_of
from harness.results.observation import Observation
from harness.results.observations import OBSERVATIONS
from harness.runs.library import load, sample_video
from harness.sampling.guidance import Branch, Guidance, SameText
from harness.sampling.loop import Loop
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Generation, Sampler
from harness.sampling.schedule import Schedule
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.reuse.fixed import Fixed
from tests.support.families import made, planned, tiny
from tests.support.geometry import BF16, CPU, network, spec, text
from tests.support.reuse import AsTheyAre

INT4 = Method(RTN(bits=4), RTN(bits=4), KeepAll())
ANCHORED = {"window": 15, "sink": 3, "positions": "anchored"}
GUIDED = ("+model.guidance._target_=harness.sampling.Guidance", "+model.guidance.scale=5")


class Passes(NullObserver):
    """What was timed, and what was skipped."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None, int | None, int]] = []
        self.num_reused = 0

    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Any:
        self.seen.append((name, chunk, step, branch))
        return super().phase(name)

    def reused(self) -> None:
        self.num_reused += 1


def video(
    guidance: Guidance | None = None,
    other: int = 0,
    method: Method = BF16,
    loop: Loop = Loop(),  # noqa: B008  frozen
    reuse: Reuse | None = None,
    watcher: NullObserver | None = None,
    **changes: Any,
) -> tuple[Tensor, list[Session]]:
    """Latents of 12 frames and the cache of each branch; other: the text of the second."""
    net, shape = network(), spec(**changes)
    num_held = loop.histories(12)[0]
    sessions = [
        Session(shape, method, Portable(), num_held, CPU) for _ in range(1 + bool(guidance))
    ]
    sampler = Sampler(net, Schedule(), 3, reuse, loop, guidance)
    noise, parts = SeededNoise(0, (12, 4, 8, 16)), []
    texts = SameText(text(net)), SameText(text(net, other))
    branches = tuple(map(Branch, sessions, texts))
    for part in sampler.run(
        Generation(branches, noise, 12, watcher or NullObserver(), AsTheyAre(parts))
    ):
        parts.append(part)
    return torch.cat(parts, 1), sessions


@pytest.mark.parametrize("scale", [0, 6.5, -2])
@pytest.mark.parametrize(
    ("loop", "changes"),
    [
        (Loop(), {}),
        (Loop(offset=2), {"window": 9, "sink": 3, "positions": "relative"}),
        (Loop(offset=1, joint=True), ANCHORED),
        (Loop(frames=6, overlap=3), {}),
    ],
    ids=["chunks", "offset", "joint", "restarts"],
)
def test_two_branches_of_the_same_text_are_one(
    loop: Loop, changes: dict[str, Any], scale: float
) -> None:
    """The video and its noise stay, the bytes double."""
    alone, (session,) = video(method=INT4, loop=loop, **changes)
    both, sessions = video(Guidance(scale), method=INT4, loop=loop, **changes)
    torch.testing.assert_close(both, alone, atol=1e-5, rtol=0)
    assert [each.stored_bytes for each in sessions] == 2 * [session.stored_bytes]


def test_the_flows_of_both_texts_combine() -> None:
    """Of the first pass, against each branch run by itself."""
    net, x = network(), SeededNoise(0, (12, 4, 8, 16)).initial(range(3))
    one = Schedule(steps=(1000,))
    found = []
    for guidance in (None, Guidance(3.0)):
        sampler = Sampler(net, one, 3, guidance=guidance)
        texts = (text(net), text(net, 1)) if guidance else (text(net),)
        branches = tuple(
            Branch(Session(spec(), BF16, Portable(), 3, CPU), SameText(each)) for each in texts
        )
        noise = SeededNoise(0, (12, 4, 8, 16))
        (clean,) = sampler.run(Generation(branches, noise, 3, NullObserver()))
        found.append(clean)
    with torch.inference_mode():
        session = Session(spec(), BF16, Portable(), 3, CPU)
        cond, uncond_flow = (
            Sampler(net, one, 3).flow(
                x, torch.full((1, 3), 1000.0), text(net, i), session, range(3)
            )
            for i in (0, 1)
        )
    torch.testing.assert_close(found[0], x - cond, atol=1e-5, rtol=0)
    expected = x - (uncond_flow + 3.0 * (cond - uncond_flow))
    torch.testing.assert_close(found[1], expected, atol=1e-5, rtol=0)


def test_branches_with_other_texts_hold_other_histories() -> None:
    guided, (cond, uncond) = video(Guidance(4.0), other=1)
    assert (guided - video()[0]).abs().max() > 1e-2
    assert (cond.stored(1)[1] - uncond.stored(1)[1]).abs().max() > 1e-2


def test_every_branch_is_a_pass_and_skips_by_itself() -> None:
    watcher = Passes()
    latents, _ = video(Guidance(4.0), reuse=Fixed(), watcher=watcher)
    one = Passes()
    alone, _ = video(reuse=Fixed(), watcher=one)
    torch.testing.assert_close(latents, alone, atol=1e-5, rtol=0)
    assert [each for each in watcher.seen if each[3] == 0] == one.seen
    assert [(*each[:3], 0) for each in watcher.seen if each[3] == 1] == one.seen
    assert watcher.num_reused == 2 * one.num_reused > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": "much"}, "model.guidance.scale=much: give a number"),
        ({"scale": float("nan")}, "model.guidance.scale=nan: give a number"),
        ({"scale": 1}, "model.guidance.scale=1 gives the flow of the prompt alone"),
        ({"scale": True}, "model.guidance.scale=True: give a number"),
        ({"scale": 3, "negative": None}, "model.guidance.negative=None: give a text"),
    ],
)
def test_guidance_that_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Guidance(**settings)


def test_a_guided_run_reports_its_branches_and_is_planned(tmp_path: Path) -> None:
    """Two chunks under way, of which one is held exactly beside history, in both branches."""
    words = ("+model.loop._target_=harness.sampling.Loop", "+model.loop.offset=2")
    runs = {
        name: tiny(tmp_path / name, "self_forcing", "rtn_int4", 12, *words, *extra)
        for name, extra in (("one", ()), ("two", GUIDED))
    }
    rows = {name: made(this) for name, this in runs.items()}
    assert len(rows["one"]["kv_stored_bytes_by_branch"]) == 1
    by_branch = [*rows["two"]["kv_stored_bytes_by_branch"]]
    assert by_branch == 2 * [rows["one"]["kv_stored_bytes"]]
    for column in ("kv_stored_bytes", "kv_nominal_bytes", "num_passes"):
        assert rows["two"][column] == 2 * rows["one"][column]
    for column in ("kv_frames_held", "kv_ratio_full_length"):
        assert rows["two"][column] == rows["one"][column]
    assert "guidance=5" in rows["two"]["preset"]

    trace = {name: pd.read_parquet(this.trace(this.items[0])) for name, this in runs.items()}
    parts = {name: set(trace[name]["component"].dropna()) for name in runs}
    assert {"codes", "scale", "active"} <= parts["one"]
    assert {"cond.codes", "uncond.codes", "cond.active", "uncond.active"} <= parts["two"]
    assert not {"codes", "active"} & parts["two"]
    assert {*trace["two"]["branch"].dropna()} == {0, 1}

    for this in runs.values():  # `check` finds the same sums
        (row,) = read_rows(this.folder / OBSERVATIONS, Observation)
        assert list(byte_problems(row, this.trace(this.items[0]))) == []

    budgets = {}
    for name, this in runs.items():
        assert planned(this).stored_bytes == rows[name]["kv_stored_bytes"]
        assert planned(this).ratio_full_length == pytest.approx(rows[name]["kv_ratio_full_length"])
        model: VideoModel = instantiate(this.model)
        budgets[name] = Budget(model, Needs(needs_of(model), 0, None, ()), BF16, Portable())
    contract = Contract(best=True, window=21)
    one, two = (
        budget.phases(contract, 12, most(budget.moments(contract, 12)))["denoise"]
        for budget in (budgets["one"], budgets["two"])
    )
    for part in ("exact", "active", "text K/V", "scratch"):
        assert two[part] == 2 * one[part]
    assert two["latents"] == one["latents"]


@pytest.mark.parametrize("offset", [1, 2, 3, 4, 9, None])
def test_chunks_under_way_are_planned_as_they_are_held(offset: int | None) -> None:
    loop, shape = Loop(offset=offset), spec()
    session = Session(shape, BF16, Portable(), 18, CPU)
    largest = 0

    class Watching(Sampler):
        def evaluate(self, *arguments: Any) -> tuple[Tensor, Tensor]:
            nonlocal largest
            found = super().evaluate(*arguments)
            largest = max(largest, session.ledger().get("active", 0))
            return found

    net = network()
    noise = SeededNoise(0, (18, 4, 8, 16))
    sampler = Watching(net, Schedule(), 3, loop=loop)
    list(sampler.sample(session, text(net), noise, 18, NullObserver()))
    frames = loop.active_frames(Schedule(), 18, 3)
    assert largest == frames * 2 * shape.bf16_frame_bytes  # fp32


def test_a_guided_video_from_python() -> None:
    """The branch with the prompt is the session that it gives back."""
    words = ("model=small", "model.weights=seeded", *GUIDED)
    videos = []
    for chosen in (words, words[:2]):
        model, method = load(*chosen, "method=rtn_int4")
        videos.append(sample_video(model, method, "a red ball rolls to the right", 6))
    guided, plain = videos
    assert guided.session.stored_bytes == plain.session.stored_bytes
    assert (guided.latents - plain.latents).abs().max() > 0
