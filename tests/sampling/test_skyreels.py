"""SkyReels-V2 and FlowCache on it, against recordings of the original code (fp32, 1e-4)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.api import CacheSpec, Exact, Method, PassInputs, Reuse, Revision, Tokens
from harness.cache.attention.portable import Portable
from harness.cache.integration import Integration, Packed
from harness.cache.published import FullBuffers
from harness.cache.session import Session
from harness.sampling.diffusion_forcing import DiffusionForcing
from harness.sampling.guidance import Branch, Guidance, SameText
from harness.sampling.passes import NullObserver, Pass
from harness.sampling.reuse import Place, ReuseState
from harness.sampling.sampler import Generation, Sampler
from harness.sampling.schedule import UniPCSchedule
from methods.retention.keep import KeepAll
from methods.retention.tokens.flowcache import FlowCache
from methods.retention.tokens.scored import Scored
from methods.retention.window import Window
from methods.reuse.drift import Drift
from methods.reuse.features import TimeEmbedding, TimeModulation
from tests.support.geometry import CPU, live_bytes
from tests.support.oracles import recorded_skyreels

TOLERANCE = 1e-4  # of values up to 9; the largest difference found is 1e-5
JOINT = [
    "a_sync",
    "a_sync_two_windows",
    "b_async_bidirectional",
    "b_async_causal",
    "c_two_windows_bidirectional",
    "c_two_windows_causal",
    "c_two_windows_causal_clean_prefix",
    "c_three_windows_short_last",
    "g_teacache_sync_ret",
    "g_teacache_sync_noret",
    "g_teacache_async_two_windows",
]
FLOW = [
    "d_flow_no_reuse",
    "d_flow_no_reuse_two_windows",
    "d_flow_disabled_two_windows",
    "d_flow_tau0",
    "e_flow_slow",
    "e_flow_fast",
    "e_flow_noret",
]
EVALUATED, REUSED, PREFIX = 1, 2, 3
PACKED = Packed()
# The polynomials of TeaCache for Wan2.1-1.3B, with and without retention steps.
RETENTION = (-52186.2437, 9230.41404, -528.275948, 13.6987616, -0.0499875664)
NO_RETENTION = (2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774)


def polynomial(retention: bool) -> tuple[float, ...]:
    return RETENTION if retention else NO_RETENTION


def policy(config: dict[str, Any]) -> Reuse | None:
    """The reuse policy of a scenario."""
    if tea := config.get("teacache"):
        return Drift(
            threshold=tea["thresh"],
            feature=TimeModulation() if tea["ret"] else TimeEmbedding(),
            rescale=polynomial(tea["ret"]),
            scope="window",
            counter="shared",
            warmup=5 if tea["ret"] else 1,
        )
    flow = config.get("flowcache")
    if not flow or not flow["enabled"]:
        return None
    return Drift(
        threshold=flow["thresh"],
        feature=TimeModulation(),
        rescale=polynomial(flow["use_ret_steps"]),
        warmup=flow["warmup"],
    )


def loop(config: dict[str, Any]) -> DiffusionForcing:
    """The order of passes of a scenario."""
    flow = config.get("flowcache")
    execution = "joint_causal" if config.get("attention_block") else "joint"
    prefix = "every_row"
    if flow:
        execution = "chunk_causal"
        cut = config["compress_budget_blocks"] or config["kvrange_blocks"]
        if flow["enabled"] and config["ar_step"]:
            prefix = "once_late" if cut else "once"
    several = config["total_frames"] > config["base_frames"]
    return DiffusionForcing(
        offset=config["ar_step"],
        frames=config["base_frames"] if several else None,
        overlap=config["overlap_frames"] if several else 0,
        execution=execution,
        commit="last_step" if flow else "clean",
        prefix=prefix,
        prefix_noise=config["addnoise_condition"] or 0,
    )


@dataclass
class Recorded:
    """The noise stream of a recording."""

    scenario: dict[str, Any]
    once: bool
    drawn: int = 0

    def initial(self, frames: range) -> Tensor:
        config = self.scenario["config"]
        overlap = config.get("overlap_frames") or 0
        step = config["base_frames"] - overlap
        windows = self.scenario["inputs"]["noise"]
        window = 0
        while window + 1 < len(windows) and frames.start >= (window + 1) * step + overlap:
            window += 1
        own = slice(frames.start - window * step, frames.stop - window * step)
        return windows[window][None, :, own].transpose(1, 2)

    def fresh(self, num_frames: int) -> Tensor:
        draws = self.scenario["inputs"]["renoise"]
        at = self.drawn
        if self.once:  # the other rows of a window draw without use
            later = [len(window["step_matrix"]) for window in self.scenario["windows"][1:]]
            at = sum(later[: self.drawn])
        self.drawn += 1
        return draws[at][None].transpose(1, 2)


class Counting(Portable):
    """Attention that notes how many tokens each call reads."""

    def attend(self, q, k, v, history, scratch):
        seen = k.shape[2]
        for segment in history:
            hidden = 0 if segment.bias is None else int((segment.bias[0, 0] < -1e3).sum())
            seen += segment.num_tokens - hidden
        self.__dict__.setdefault("lengths", []).append(seen)
        return super().attend(q, k, v, history, scratch)


@dataclass
class Seen:
    """What one branch did in one pass."""

    each: Pass
    branch: int
    reused: bool = False
    drift: float | None = None
    candidate: float | None = None
    kv_len: int | None = None


class Watching(Sampler):
    """A sampler that keeps every pass, and the flows that its solvers got."""

    def _denoise(self, history, each):
        self.log["each"] = each
        super()._denoise(history, each)

    def _step(self, video, each, chunks, flows):
        self.log["flows"].append((each, [flow.clone() for flow in flows]))
        super()._step(video, each, chunks, flows)

    @property
    def log(self) -> dict[str, Any]:
        return self.__dict__.setdefault("_log", {"flows": [], "each": None})


@dataclass
class Watcher(NullObserver):
    """An observer that notes decisions in order."""

    sampler: Watching
    backend: Counting
    seen: list[Seen] = field(default_factory=list)

    @contextmanager
    def phase(
        self, name: str, chunk: int | None = None, step: int | None = None, branch: int = 0
    ) -> Iterator[None]:
        self.backend.__dict__["lengths"] = []
        if name == "denoise":
            self.seen.append(Seen(self.sampler.log["each"], branch))
        yield
        if name == "denoise" and self.backend.__dict__["lengths"]:
            self.seen[-1].kv_len = self.backend.__dict__["lengths"][0]

    def reused(self) -> None:
        self.seen[-1].reused = True

    def drifted(self, drift: float, accumulated: float) -> None:
        self.seen[-1].drift, self.seen[-1].candidate = drift, accumulated


@dataclass
class Made:
    """A video made as a scenario was, and what was seen."""

    latents: Tensor
    sampler: Watching
    watcher: Watcher
    sessions: list[Session]


def made(
    golden: Any,
    scenario: dict[str, Any],
    method: Method | None = None,
    integration: Integration = PACKED,
    **changes: Any,
) -> Made:
    """Make the video of a scenario. changes: of its loop."""
    config = scenario["config"]
    net = recorded_skyreels(golden, config["fps"])
    order = loop(config)
    if changes:
        order = DiffusionForcing(**{**order.__dict__, **changes})
    chunk_frames = config["causal_block_size"]
    dims = net.dims
    shape = CacheSpec(
        num_layers=dims.num_layers,
        num_heads=dims.num_heads,
        head_dim=dims.head_dim,
        grid=(config["lat_h"] // 2, config["lat_w"] // 2),
        chunk_frames=chunk_frames,
    )
    reuse = policy(config)
    method = method or Method(Exact(), Exact(), KeepAll(), reuse=reuse)
    backend = Counting()
    total = config["total_frames"]
    held = order.histories(total)[0]
    integration.check(shape, method)
    sessions = [integration.session(shape, method, backend, held, CPU) for _ in range(2)]
    texts = scenario["inputs"]
    branches = tuple(
        Branch(session, SameText(net.text_kv(text)))
        for session, text in zip(sessions, (texts["text_cond"], texts["text_uncond"]), strict=True)
    )
    sampler = Watching(
        net,
        UniPCSchedule(num_steps=config["steps"], shift=config["shift"]),
        chunk_frames,
        reuse,
        order,
        Guidance(config["cfg"]),
    )
    watcher = Watcher(sampler, backend)
    noise = Recorded(scenario, order.execution == "chunk_causal" and order.prefix != "every_row")
    video = Generation(branches, noise, total, watcher)
    latents = torch.cat(list(sampler.run(video)), dim=1)
    return Made(latents, sampler, watcher, sessions)


def expected_latents(scenario: dict[str, Any]) -> Tensor:
    """The recorded video [1, F, C, h, w]: every window without its prefix."""
    parts = [window["latents"][:, window["pre_ready"] :] for window in scenario["windows"]]
    return torch.cat(parts, dim=1)[None].transpose(1, 2)


def check_flows(scenario: dict[str, Any], found: Made) -> None:
    """Compare the predictions of every updated frame."""
    compared = 0
    for each, flows in found.sampler.log["flows"]:
        window = scenario["windows"][each.history]
        updated = window["update_mask"][each.row][each.frames.start : each.frames.stop]
        for name, flow in zip(("cond", "uncond"), flows, strict=True):
            recorded = window[name][each.row][:, each.frames.start : each.frames.stop]
            torch.testing.assert_close(
                flow[0].transpose(0, 1)[:, updated],
                recorded[:, updated],
                atol=TOLERANCE,
                rtol=0,
                msg=lambda text, each=each, name=name: f"{name} {each}: {text}",
            )
            compared += int(updated.sum())
    assert compared == 2 * sum(int(window["update_mask"].sum()) for window in scenario["windows"])


@pytest.mark.parametrize("name", JOINT)
def test_joint_executions_are_those_of_the_original(golden: Any, name: str) -> None:
    scenario = golden(f"skyreels/{name}.pt")
    found = made(golden, scenario)
    check_flows(scenario, found)
    torch.testing.assert_close(found.latents, expected_latents(scenario), atol=TOLERANCE, rtol=0)
    assert all(session.stored_bytes == 0 for session in found.sessions)
    if scenario["config"].get("teacache"):
        calls = [call for window in scenario["windows"] for call in window["teacache"]]
        assert len(calls) == len(found.watcher.seen)
        for call, seen in zip(calls, found.watcher.seen, strict=True):
            assert call["evaluated"] is not seen.reused
            assert (seen.drift is None) == (call["drift"] is None)
            if seen.drift is not None:
                assert seen.drift == pytest.approx(call["drift"], abs=1e-6)
                assert seen.candidate == pytest.approx(call["candidate"], abs=TOLERANCE)


@pytest.mark.parametrize("name", FLOW)
def test_full_buffers_hold_what_the_original_held(golden: Any, name: str) -> None:
    scenario = golden(f"skyreels/{name}.pt")
    found = made(golden, scenario, integration=FullBuffers())
    torch.testing.assert_close(found.latents, expected_latents(scenario), atol=TOLERANCE, rtol=0)
    check_decisions(scenario, found)
    # A prefix that is computed in every row is never stored.
    every_row = found.sampler.loop.prefix == "every_row"
    given = scenario["windows"][-1]["pre_ready"] if every_row else 0
    for layer, recorded in enumerate(scenario["windows"][-1]["kv_end"]):
        for branch, session in zip(("cond", "uncond"), found.sessions, strict=True):
            first = given * session.spec.tokens_per_frame
            held = session._layers[layer].buffers
            for name, buffer in {"k": held.key, "v": held.value}.items():
                expected = recorded[f"{name}_{branch}"].transpose(1, 2)[:, :, first:]
                torch.testing.assert_close(buffer[:, :, first:], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", FLOW)
def test_flowcache_is_that_of_the_original(golden: Any, name: str) -> None:
    scenario = golden(f"skyreels/{name}.pt")
    found = made(golden, scenario)
    check_flows(scenario, found)
    torch.testing.assert_close(found.latents, expected_latents(scenario), atol=TOLERANCE, rtol=0)
    check_decisions(scenario, found)
    check_kv_end(scenario, found)


def check_decisions(scenario: dict[str, Any], found: Made) -> None:
    """Compare decisions, the numbers behind them, and the tokens that each pass sees."""
    size = scenario["config"]["causal_block_size"]
    assert len(found.watcher.seen) == sum(
        int(((window["decision"] == EVALUATED) | (window["decision"] == REUSED)).sum())
        for window in scenario["windows"]
    )
    for seen in found.watcher.seen:
        window = scenario["windows"][seen.each.history]
        at = (seen.each.row, seen.branch, seen.each.frames.start // size)
        assert window["decision"][at] == (REUSED if seen.reused else EVALUATED), at
        drift, candidate = window["drift"][at].item(), window["candidate"][at].item()
        if seen.drift is None:
            assert drift != drift, at  # NaN
        else:
            assert seen.drift == pytest.approx(drift, abs=1e-6), at
            assert seen.candidate == pytest.approx(candidate, abs=TOLERANCE), at
        if not seen.reused:
            assert seen.kv_len == window["kv_len"][at], at


def check_kv_end(scenario: dict[str, Any], found: Made) -> None:
    """Compare the keys and values that the caches hold at the end of the last window."""
    per_frame = found.sessions[0].spec.tokens_per_frame
    for layer, recorded in enumerate(scenario["windows"][-1]["kv_end"]):
        for branch, session in zip(("cond", "uncond"), found.sessions, strict=True):
            frames, *stored = session.stored(layer)
            # A prefix that is computed in every row is never stored.
            every_row = found.sampler.loop.prefix == "every_row"
            given = scenario["windows"][-1]["pre_ready"] if every_row else 0
            assert frames == [*range(given, recorded["k_cond"].shape[1] // per_frame)]
            for name, x_BHFTD in zip("kv", stored, strict=True):
                expected = recorded[f"{name}_{branch}"].unflatten(1, (-1, per_frame))[:, given:]
                torch.testing.assert_close(
                    x_BHFTD.permute(0, 2, 3, 1, 4), expected, atol=TOLERANCE, rtol=0
                )


def test_clean_commits_give_the_video_of_the_masked_joint_pass(golden: Any) -> None:
    """Exactly where the prefix is clean: the cache then holds what the joint pass computes."""
    for name in ("b_async_causal", "c_two_windows_causal_clean_prefix"):
        scenario = golden(f"skyreels/{name}.pt")
        found = made(golden, scenario, execution="chunk_causal", commit="clean", prefix="once")
        expected = expected_latents(scenario)
        torch.testing.assert_close(found.latents, expected, atol=TOLERANCE, rtol=0)
        passes = found.sampler.loop.passes(found.sampler.schedule, expected.shape[1], 2)
        commits = [each for each in passes if each.step is None]
        chunks = -(-expected.shape[1] // 2)
        # Every chunk once, and the prefix of each later window again.
        assert len(commits) == chunks + len(scenario["windows"]) - 1


class AsRecorded(Drift):
    """A drift policy whose feature is the recorded drift itself."""

    def drift(self, now: Tensor, before: Tensor) -> float:
        return now.item()


def test_decisions_are_those_of_the_original(golden: Any) -> None:
    vectors = golden("skyreels/decisions.pt")["vectors"]
    for vector in vectors:
        drifts: list[float] = [float("nan"), *vector["drift"].tolist()]

        class Feature(TimeModulation):
            def __call__(self, inputs: PassInputs) -> Tensor:
                return inputs  # type: ignore[return-value]

        reuse = ReuseState(
            AsRecorded(
                threshold=vector["thresh"],
                feature=Feature(),
                rescale=polynomial(vector["use_ret_steps"]),
                warmup=5 if vector["use_ret_steps"] else 1,
            )
        )
        total = 0.0
        for step in range(vector["steps"]):
            place = Place(0, 0, step, vector["steps"])
            number = torch.tensor(drifts[step], dtype=torch.float64)
            decision = reuse.decide(place, number.clone)
            reuse._payloads[0, 0] = number
            assert decision.skips == (vector["decision"][step] == REUSED), (vector["curve"], step)
            total = decision.accumulated or 0.0 if decision.skips else 0.0
            assert total == pytest.approx(vector["acc_after"][step].item(), abs=TOLERANCE)
    assert len(vectors) >= 1


@pytest.mark.parametrize("integration", [PACKED, FullBuffers()], ids=lambda each: each.name)
@pytest.mark.parametrize("name", ["f_compress1", "f_compress2_no_reuse"])
def test_compression_is_that_of_the_original(
    golden: Any, name: str, integration: Integration
) -> None:
    """Kept tokens, and all that follows from them; each layer and branch chooses by itself."""
    scenario = golden(f"skyreels/{name}.pt")
    events: list[tuple[int, Tensor]] = []

    class Listening(Scored):
        def revise(self, tokens: Tokens) -> Revision:
            revision = super().revise(tokens)
            if tokens.frame.shape[2] > self.limit:
                events.append((tokens.layer, revision.index[0]))
            return revision

    budget = scenario["config"]["compress_budget_blocks"]
    retention = Listening(
        budget=f"{budget} chunks",
        trigger="next_pass",
        order="score",
        scorer=FlowCache(queries="chunk", pool=7, weight=0.07),
    )
    found = made(golden, scenario, Method(Exact(), Exact(), retention), integration)
    check_flows(scenario, found)
    torch.testing.assert_close(found.latents, expected_latents(scenario), atol=TOLERANCE, rtol=0)
    check_decisions(scenario, found)
    expected = sorted(
        (event["layer"], sorted(kept.tolist()))
        for event in scenario["compression"]
        for kept in event["kept"]
    )
    assert sorted((layer, sorted(k.tolist())) for layer, kept in events for k in kept) == expected
    for session in found.sessions:  # evicted tokens are freed, except by the full buffers
        assert live_bytes(session) == session.stored_bytes
        sizes = session.ledger()
        # The chunk that finished last joins what the last cut left; FP32 has twice BF16's bytes.
        kept = 2 * (budget + 1) * session.spec.chunk_frames * session.spec.bf16_frame_bytes
        frames = found.sampler.loop.histories(scenario["config"]["total_frames"])[0]
        if isinstance(integration, FullBuffers):
            whole = 2 * session.spec.bf16_frame_bytes * frames
            assert sizes["buffers"] == whole > kept
        else:
            assert sizes["exact"] == kept


def test_first_in_first_out_is_that_of_the_original(golden: Any) -> None:
    scenario = golden("skyreels/f_fifo1.pt")
    retention = Window(f"{scenario['config']['kvrange_blocks']} chunks")
    found = made(golden, scenario, Method(Exact(), Exact(), retention))
    check_flows(scenario, found)
    torch.testing.assert_close(found.latents, expected_latents(scenario), atol=TOLERANCE, rtol=0)
    check_decisions(scenario, found)
