"""MAGI-1 and FlowCache on it: whole videos against recordings of the original code (fp32)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, Method, Reuse, Revision, Tokens, VideoSize
from harness.cache.attention.portable import Portable
from harness.cache.session import Session
from harness.models import magi
from harness.models.magi import Magi
from harness.sampling.guidance import Guided, SidePass, ThreePass, branches_of
from harness.sampling.network import TextKV
from harness.sampling.passes import NullObserver, Pass
from harness.sampling.pipeline import Pipeline
from harness.sampling.sampler import ChunkState, Generation, Sampler
from harness.sampling.schedule import MagiSchedule
from methods.retention.keep import KeepAll
from methods.retention.tokens.flowcache import FlowCache
from methods.retention.tokens.scored import Scored
from methods.retention.tokens.weightings import (
    Exponential,
    FirstOut,
    Gaussian,
    Polynomial,
    UpperConvex,
)
from methods.reuse.drift import Drift
from methods.reuse.features import PatchEmbedding
from tests.support.geometry import CPU
from tests.support.oracles import recorded_frequencies, recorded_magi

TOLERANCE = 2e-5  # times the deviation of the tensor, if that is above 1
GUIDED_TOLERANCE = 5e-5  # of flows that guidance multiplies by up to 7.5
CLEAN = (
    "a_full_history",
    "b_windowed",
    "b_window_one",
    "c_side_pass",
    "c_twelve_steps",
    "d_cfg",
    "h_24b_like",
    "h_prefix_video",
    "h_prefix_image",
    "h_prefix_cfg",
)
CUT = ("f_kv", "f_kv_budget6", "f_kv_frame", "g_reuse_kv")
REUSE = ("e_no_reuse", "e_reuse", "e_reuse_side", "e_reuse_windowed", "e_reuse_prefix")
Scenario = Mapping[str, Any]


@pytest.fixture(autouse=True)
def _as_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the frequencies of the CPU that made the recordings; others differ in the last bit."""
    monkeypatch.setattr(magi, "frequencies", lambda device: recorded_frequencies())


def gap(found: Tensor, expected: Tensor) -> float:
    return (found - expected).abs().max().item() / max(1.0, expected.std().item())


@dataclass
class RecordedTexts:
    """The text of each chunk as a recording has it."""

    scenario: Scenario
    network: Magi
    kept: bool

    def of(self, chunk: int, is_clean: bool) -> TextKV:
        inputs = self.scenario["inputs"]
        mask = inputs["y_mask"][:, chunk]
        # A whole chunk of a prefix has no prompt.
        is_null = int(is_clean or not self.kept or not mask[0].any())
        rows = inputs["y_rows"][is_null, chunk, : int(mask[is_null].sum())]
        return self.network.text_kv(rows[None], self.kept)

    @property
    def nbytes(self) -> int:
        return 0


@dataclass
class RecordedNoise:
    """The initial noise of a recording; nothing else is drawn."""

    noise_BCFhw: Tensor

    def initial(self, frames: range) -> Tensor:
        return self.noise_BCFhw[:, :, frames.start : frames.stop].transpose(1, 2)

    def fresh(self, num_frames: int) -> Tensor:
        raise AssertionError("MAGI-1 draws noise at the start only")


@dataclass
class Done:
    """What one denoising pass did."""

    each: Pass
    reused: bool = False
    drift: float | None = None
    accumulated: float | None = None
    flow: Tensor | None = None
    after: Tensor | None = None


class Watching(Sampler):
    """A sampler that keeps the guided flow of every pass, and the latents after it."""

    @property
    def done(self) -> list[Done]:
        found: list[Done] = self.__dict__.setdefault("_done", [])
        return found

    def _denoise(self, history: Any, each: Pass) -> None:
        self.done.append(Done(each))
        super()._denoise(history, each)
        self.done[-1].after = history.chunks[each.frames.start].latents.clone()

    def _step(self, video: Any, each: Pass, chunks: list[ChunkState], flows: Any) -> None:
        flow = flows[0]
        if self.guidance is not None:
            assert chunks[0].solver is not None
            flow = self.guidance.combine(flows, chunks[0].solver.time)
        self.done[-1].flow = flow.clone()
        super()._step(video, each, chunks, flows)


@dataclass
class Watcher(NullObserver):
    """An observer that notes decisions, and the finished chunks of the cache at each row."""

    sampler: Watching

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        yield

    def reused(self) -> None:
        self.sampler.done[-1].reused = True

    def drifted(self, drift: float, accumulated: float) -> None:
        done = self.sampler.done[-1]
        done.drift, done.accumulated = drift, accumulated


@dataclass
class Made:
    """A video made as a scenario was."""

    latents: Tensor
    done: list[Done]
    session: Session
    emitted: list[Tensor] = field(default_factory=list)


def is_flowcache(scenario: Scenario) -> bool:
    return scenario["code"] == "flowcache"


def loop_of(scenario: Scenario) -> Pipeline:
    runtime = scenario["config"]["runtime"]
    return Pipeline(
        chunks=runtime["window_size"],
        reach=runtime["noise2clean_kvrange"] or None,
        clean_reach=None
        if runtime["clean_chunk_kvrange"] == -1
        else runtime["clean_chunk_kvrange"],
        commit="last_evaluated" if is_flowcache(scenario) else "clean",
    )


def guidance_of(scenario: Scenario) -> Guided | None:
    config = scenario["config"]
    runtime = config["runtime"]
    if runtime["cfg_number"] == 3:
        scales = runtime["prev_chunk_scales"], runtime["text_scales"]
        return ThreePass(runtime["cfg_t_range"], *scales)
    if is_flowcache(scenario) and config["flow"]["discard_nearly_clean_chunk"]:
        return None
    return SidePass(above=config["engine"].get("distill_nearly_clean_chunk_threshold", 0.3))


def reuse_of(scenario: Scenario) -> Reuse | None:
    flow = scenario["config"].get("flow")
    if flow is None or flow["rel_l1_thresh"] < 0:
        return None
    return Drift(
        threshold=flow["rel_l1_thresh"],
        feature=PatchEmbedding(),
        payload="displacement",
        warmup=flow["warmup_steps"],
        protect_last=False,
        protect_end=True,
        allow_stale_commit=True,
    )


WEIGHTINGS = {
    "no_weight": lambda power: None,
    "polynomial": Polynomial,
    "exponential": lambda power: Exponential(),
    "upper_convex_polynomial": UpperConvex,
    "gaussian": lambda power: Gaussian(),
    "hard_code": lambda power: FirstOut(),
}
QUERIES: dict[str, Any] = {"token": 50, "frame": "frame", "chunk": "chunk"}


def retention_of(scenario: Scenario) -> KeepAll | Scored:
    config = scenario["config"]
    if not config.get("flow", {}).get("compress_kv_cache"):
        return KeepAll()
    kv = config["kv"]
    finished = config["flow"]["total_cache_chunk_nums"] - config["runtime"]["window_size"]
    return Scored(
        budget=f"{finished} chunks",
        granularity=kv["compress_strategy"],
        trigger="new_chunk",
        order="score",
        scorer=FlowCache(
            queries=QUERIES[kv["query_granularity"]],
            weight=kv["mix_lambda"],
            weighting=WEIGHTINGS[kv["score_weighting_method"]](kv["power"]),
        ),
    )


@torch.inference_mode()
def made(scenario: Scenario, policy: Reuse | None = None, **changes: Any) -> Made:
    """Make the video of a scenario; policy: in place of its reuse; changes: of its loop."""
    config = scenario["config"]
    network, width = recorded_magi(scenario), config["chunk_width"]
    dims = network.dims
    grid = config["lat_h"] // 2, config["lat_w"] // 2
    shape = CacheSpec(
        num_layers=dims.num_layers,
        num_heads=dims.num_heads,
        head_dim=dims.head_dim,
        grid=grid,
        chunk_frames=width,
        num_kv_heads=dims.num_kv_heads,
        under_way=config["runtime"]["window_size"],
    )
    reuse = policy or reuse_of(scenario)
    method = Method(Exact(), Exact(), retention_of(scenario), reuse=reuse)
    num_frames = config["chunks"] * width
    schedule = MagiSchedule(config["runtime"]["num_steps"], config["engine"]["distill"])
    loop = Pipeline(**{**loop_of(scenario).__dict__, **changes})
    guidance = guidance_of(scenario)
    sampler = Watching(network, schedule, width, reuse, loop, guidance)
    texts = {
        name: RecordedTexts(scenario, network, name == "prompt") for name in ("prompt", "negative")
    }
    positions = network.positions(grid)
    branches = branches_of(
        sampler.roles, texts, lambda: Session(shape, method, Portable(), num_frames, CPU, positions)
    )
    prefix = scenario["inputs"].get("prefix")
    noise = RecordedNoise(scenario["inputs"]["noise"])
    video = Generation(
        branches,
        noise,
        num_frames,
        Watcher(sampler),
        prefix=None if prefix is None else prefix.transpose(1, 2),
    )
    emitted = list(sampler.run(video))
    owner = next(
        branch.session
        for role, branch in zip(sampler.roles, branches, strict=True)
        if role.cache == "own"
    )
    assert isinstance(owner, Session)
    return Made(torch.cat(emitted, dim=1), sampler.done, owner, emitted)


def step_of(scenario: Scenario, done: Done, width: int) -> tuple[Mapping[str, Any], int, int]:
    """The recorded step of a pass, its chunk, and its place among those of the step."""
    step = scenario["steps"][done.each.row]
    chunk = done.each.frames.start // width
    return step, chunk, chunk - step["chunk_start"]


@pytest.mark.parametrize("name", [*CLEAN, *REUSE, *CUT])
def test_videos_are_those_of_the_original(golden: Any, name: str) -> None:
    """Flows and latents of every pass, and the finished latents."""
    scenario = golden(f"magi/{name}.pt")
    width = scenario["config"]["chunk_width"]
    found = made(scenario)
    planned = [
        (step["step"], step["chunk_start"] + i, own)
        for step in scenario["steps"]
        for i, own in enumerate(step["own_step"])
    ]
    took = [(d.each.row, d.each.frames.start // width, d.each.step) for d in found.done]
    assert took == planned
    for done in found.done:
        step, chunk, at = step_of(scenario, done, width)
        where = (name, step["step"], chunk)
        expected = step["x_after"][:, :, at * width : (at + 1) * width].transpose(1, 2)
        assert done.after is not None
        assert gap(done.after, expected) <= TOLERANCE, where
        if isinstance(step["velocity"], dict):
            flow = step["velocity"].get(chunk)
            assert (flow is None) == done.reused, where
        else:
            begin = (at + bool(step["fwd_extra"])) * width
            flow = step["velocity"][:, :, begin : begin + width]
        if flow is not None:
            assert done.flow is not None
            tolerance = GUIDED_TOLERANCE if "cfg" in name else TOLERANCE
            assert gap(done.flow, flow.transpose(1, 2)) <= tolerance, where
    given = scenario["inputs"].get("prefix")
    num_given = 0 if given is None else given.shape[2] // width * width
    assert gap(found.latents.transpose(1, 2), scenario["latents"][:, :, num_given:]) <= TOLERANCE


@pytest.mark.parametrize("name", [*REUSE[1:], "g_reuse_kv"])
def test_decisions_are_those_of_the_original(golden: Any, name: str) -> None:
    """Drifts and accumulators of every candidate, and what ran of every chunk and step."""
    scenario = golden(f"magi/{name}.pt")
    width, reuse = scenario["config"]["chunk_width"], reuse_of(scenario)
    assert reuse is not None
    ran = torch.full_like(scenario["computed_bitmap"], -1)
    for done in made(scenario).done:
        step, chunk, _ = step_of(scenario, done, width)
        assert done.each.step is not None
        ran[chunk, done.each.step] = int(not done.reused)
        recorded = step["decisions"].get(chunk)
        tested = recorded is not None and recorded["own_step"] >= reuse.warmup
        assert (done.drift is not None) == tested
        if recorded is not None and tested:
            assert done.drift == pytest.approx(recorded["drift"], rel=1e-5)
            after = done.accumulated if done.reused else 0.0
            assert after == pytest.approx(recorded["accumulator_after"], rel=1e-5)
    assert torch.equal(ran, scenario["computed_bitmap"])
    assert (ran == 0).sum() > 10


POOLED = Drift(
    threshold=1.0, scope="window", payload="displacement", warmup=5, allow_stale_commit=True
)


@pytest.mark.parametrize("name", ["e_reuse", "e_reuse_side"])
@pytest.mark.parametrize("threshold", [0.02, 0.05])
def test_teacache_decides_once_a_row_over_all_chunks_under_way(
    golden: Any, name: str, threshold: float
) -> None:
    """The port of TeaCache, worked out again from the latents of a video it made.

    No recording has it. At the beginning of a stage the chunks of both rows are compared.
    """
    scenario = golden(f"magi/{name}.pt")
    width, network = scenario["config"]["chunk_width"], recorded_magi(scenario)
    done = made(scenario, replace(POOLED, threshold=threshold)).done
    noise = scenario["inputs"]["noise"].transpose(1, 2)
    latents = {start: noise[:, start : start + width] for start in range(0, noise.shape[1], width)}
    before: dict[int, Tensor] = {}
    accumulated, last = 0.0, done[-1].each.row
    skipped: list[bool] = []
    for row, passes in itertools.groupby(done, key=lambda each: each.each.row):
        of_row = list(passes)
        starts = [each.each.frames.start for each in of_row]
        now = {start: network.embed(latents[start]) for start in starts}
        shared = [start for start in starts if start in before]
        skips = False
        if row is not None and 5 <= row != last:
            old, new = (torch.cat([of[start] for start in shared], 1) for of in (before, now))
            drift = ((new - old).abs().mean() / old.abs().mean()).item()
            accumulated += drift
            skips = accumulated < threshold
            assert of_row[0].drift == pytest.approx(drift, rel=1e-5)
            assert of_row[0].accumulated == pytest.approx(accumulated, rel=1e-5)
        if not skips:
            accumulated = 0.0
        # A chunk without a step before it runs alone.
        assert [each.reused for each in of_row] == [skips and x in shared for x in starts]
        for each, start in zip(of_row, starts, strict=True):
            assert each.after is not None
            latents[start] = each.after
        before = now
        skipped.append(skips)
    assert any(skipped) and not all(skipped[5:-1])
    entering = [each for each in done if each.each.step == 0 and each.each.row]
    assert entering and not any(each.reused for each in entering)


def test_a_skipped_row_repeats_the_displacement_of_each_of_its_chunks(golden: Any) -> None:
    scenario = golden("magi/e_reuse.pt")
    done = made(scenario, POOLED).done
    moved: dict[int, Tensor] = {}
    after: dict[int, Tensor] = {}
    for each in done:
        start = each.each.frames.start
        assert each.after is not None
        if start in after and each.reused:
            assert torch.allclose(each.after, after[start] + moved[start], atol=1e-6)
        elif start in after:
            moved[start] = each.after - after[start]
        if start not in after:
            noise = scenario["inputs"]["noise"].transpose(1, 2)
            moved[start] = each.after - noise[:, start : start + each.each.frames.stop - start]
        after[start] = each.after
    assert sum(each.reused for each in done) > len(done) / 2


def test_a_window_of_one_chunk_is_a_chunk(golden: Any) -> None:
    """With one chunk under way both scopes skip the same steps."""
    scenario = golden("magi/e_reuse.pt")
    by_window = replace(POOLED, threshold=0.1, warmup=0)
    by_chunk = replace(by_window, scope="chunk", protect_last=False, protect_end=True)
    one, other = (made(scenario, policy, chunks=1).done for policy in (by_window, by_chunk))
    assert [each.reused for each in one] == [each.reused for each in other]
    assert any(each.reused for each in one)


@pytest.mark.parametrize("name", [*CLEAN, *REUSE])
def test_stored_chunks_are_those_of_the_original(golden: Any, name: str) -> None:
    """Keys, rotated, and values of every finished chunk, at the end of the video."""
    scenario = golden(f"magi/{name}.pt")
    config, session = scenario["config"], made(scenario).session
    num_rows = scenario["steps"][-1]["chunk_start"] * config["tokens_per_chunk"]
    assert num_rows > 0
    for layer in config["kv_layers"]:
        frames, key, value = session.stored(layer)
        assert frames == list(range(len(frames)))
        expected = scenario["steps"][-1]["kv"][layer][:num_rows]
        for found, part in zip((key, value), expected.chunk(2, dim=-1), strict=True):
            rows = found[0].flatten(1, 2).transpose(0, 1)[:num_rows]
            assert gap(rows, part) <= TOLERANCE


@pytest.mark.parametrize("name", CUT)
def test_compression_is_that_of_the_original(
    golden: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The queries, the rows before and the rows that stay, in every head."""
    scenario = golden(f"magi/{name}.pt")
    events: list[tuple[Tokens, Revision]] = []
    revise = Scored.revise

    def noting(policy: Scored, tokens: Tokens) -> Revision:
        events.append((tokens, revise(policy, tokens)))
        return events[-1][1]

    monkeypatch.setattr(Scored, "revise", noting)
    found = made(scenario)
    recorded = [step["compression"] for step in scenario["steps"] if step.get("compression")]
    layers = scenario["config"]["kv_layers"]
    num_layers = scenario["config"]["model"]["num_layers"]
    assert len(events) >= num_layers * len(recorded) > 0
    cuts = [(t, r) for t, r in events if r.index.shape[2] < t.frame.shape[2]]
    assert len(cuts) == num_layers * len(recorded)
    for number, compression in enumerate(recorded):
        for layer, expected in zip(layers, compression, strict=True):
            tokens, revision = cuts[number * num_layers + layer]
            assert gap(tokens.rotated[0].transpose(0, 1), expected["keys"]) <= TOLERANCE
            read = tokens.query[0].transpose(0, 1)
            assert gap(read, expected["queries"][-len(read) :]) <= TOLERANCE
            for head, kept in enumerate(expected["kept_index"]):
                assert set(revision.index[0, head].tolist()) == set(kept.tolist())
    assert found.session.ledger()["queries"] > 0


def test_the_choices_of_the_original_on_random_keys(golden: Any) -> None:
    """All combinations of unit, queries, weighting and weight; sets of rows per head."""
    unit = golden("magi/units.pt")["kv_select"]
    per_frame, width = unit["h"] * unit["w"], unit["frames_per_chunk"]
    keys, values = (unit[name].transpose(0, 1)[None] for name in ("keys", "values"))
    row = torch.arange(keys.shape[2]).expand(keys.shape[:3])
    shape = CacheSpec(
        num_layers=1,
        num_heads=unit["queries"].shape[1],
        head_dim=keys.shape[3],
        grid=(unit["h"], unit["w"]),
        chunk_frames=width,
        num_kv_heads=keys.shape[1],
    )
    assert len(unit["cases"]) == 28
    for case in unit["cases"]:
        scorer = FlowCache(
            queries=QUERIES[case["queries"]],
            weight=case["mix_lambda"],
            weighting=WEIGHTINGS[case["weighting"]](case["power"]),
        )
        policy = Scored(
            budget=f"{unit['budget'] // per_frame} frames",
            granularity=case["strategy"],
            trigger="new_chunk",
            order="score",
            scorer=scorer,
        ).sized(VideoSize(per_frame, unit["chunks"] * width, 1, 1, width))
        tokens = Tokens(
            key=keys,
            value=values,
            rotated=keys,
            query=unit["queries"].transpose(0, 1)[None],
            frame=row // per_frame,
            place=row % per_frame,
            count=torch.ones(row.shape),
            note=torch.zeros(row.shape),
            num_new=0,
            spec=shape,
        )
        if case["strategy"] == "token":
            # The original also shifts scores that have no weights, which changes no order.
            found, expected = scorer.score(tokens)[0], case["score"]
            found, expected = found - found[:, -1:], expected - expected[:, -1:]
            torch.testing.assert_close(found, expected, atol=5e-6, rtol=1e-5)
        index = policy.revise(tokens).index[0]
        for head, kept in enumerate(case["kept_index"]):
            assert set(index[head].tolist()) == set(kept.tolist()), case
