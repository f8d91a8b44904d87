"""The planner: what it counts is what a run holds, and the published peaks follow from storage."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from harness.api import (
    DROP,
    KEEP,
    POOL,
    CacheSpec,
    Exact,
    FramePolicy,
    History,
    Method,
    Packed,
    Placement,
    Reuse,
    Revision,
    Split,
    Tier,
    TokenPolicy,
    Tokens,
    VideoSize,
)
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.staged import Staged
from harness.cache.session import Session
from harness.commands import plan
from harness.models.decoders import wan_vae
from harness.models.decoders.wan_vae import WanVae
from harness.models.preset import VideoModel
from harness.planning import model_needs, request, study_table
from harness.planning.forecast import Setting, forecast
from harness.planning.history import FAR, Growth, Simulated, most, video
from harness.planning.live_bytes import LiveBytes, on_meta
from harness.planning.memory import Budget, Contract
from harness.planning.model_needs import Decoding, Needs, decoding, needs, network
from harness.planning.predicted import Forecast, largest
from harness.planning.rates import Ceilings, card
from harness.planning.roofline import work
from harness.planning.storage import Storage
from harness.planning.table import cells
from harness.system import notes
from harness.system.errors import UserError
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.tokens.deepforcing import DeepForcing
from methods.retention.tokens.memrope import MemRoPE
from methods.reuse.features import PatchEmbedding
from tests.conftest import SHARED
from tests.support.commands import command, one_sentence, within
from tests.support.geometry import (
    configured,
    generate,
    method_names,
    method_of,
    one_of_each_class,
    spec,
)
from tests.support.plans import planned

GIB = 2**30
BEST = Contract(best=True, window=None)
RATES = {"gemm_flops_per_s": 1e12, "attention_flops_per_s": 1e12, "copy_bytes_per_s": 1e12}


def model_of(name: str, *overrides: str) -> VideoModel:
    model: VideoModel = instantiate(configured(f"model={name}", *overrides)["model"])
    return model


def true_size(method: str, window: int | None) -> Forecast:
    """A method on the true model, without its decoder (which takes seconds to import)."""
    model = model_of("self_forcing", f"model.window={'null' if window is None else window}")
    setting = Setting(
        model_name="self_forcing",
        suite_name="moviegen",
        model=model,
        needs=Needs(network(model), 0, None, ("no decoder",)),
        num_frames=42,
        backend=Staged(),
        ceilings=None,
        memory_gib=None,
    )
    return forecast(method, method_of(method, "model=self_forcing"), setting)


# What is stored


def foreseen(method: Method, shape: CacheSpec, num_frames: int) -> dict[str, int]:
    """Bytes of history behind the last chunk, with the room taken for it."""
    end = video(shape, method, num_frames)[-1]
    room = {name: count.room for name, count in end.tiers.items()}
    return Storage(shape, method, torch.float32).history(room, end.parts, num_frames)


def found_in(session: Session) -> dict[str, int]:
    return {part: size for part, size in session.ledger().items() if part != "scratch"}


@pytest.mark.parametrize("window", [None, pytest.param(9, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", one_of_each_class(method_names()))
def test_bytes_are_those_that_a_session_stores(name: str, window: int | None) -> None:
    method, shape = method_of(name), spec(window=window)
    _, session = generate(method, num_frames=18, window=window)
    late = isinstance(method.retention, TokenPolicy) and method.retention.trigger == "new_chunk"
    if window and (late or isinstance(method.retention, DeepForcing | MemRoPE)):
        # What they move stays within reach for longer, and what they chose long ago leaves the
        # window sooner; the plan is the most they may hold.
        assert sum(foreseen(method, shape, 18).values()) >= sum(found_in(session).values())
        return
    assert foreseen(method, shape, 18) == found_in(session)


class Ages(FramePolicy):
    """The newest four frames exact, pages of two frames behind them, the oldest pooled."""

    tiers = ("exact", "pairs")
    observes_noisy = True
    queries = 4

    def observe(self, k_BHFTD: torch.Tensor, v_BHFTD: torch.Tensor) -> torch.Tensor:
        return k_BHFTD.mean((0, 4)).transpose(0, 1)

    def decide(self, history: History) -> dict[int, Placement]:
        assert set(history.notes) == set(history.noisy_notes) == set(range(max(history.frames) + 1))
        assert sum(history.mass[f] for f in history.frames) == pytest.approx(1, abs=1e-3)
        exact = [f for f in history.frames if history.tiers.get(f) not in ("pairs",)]
        leaving = exact[: max(0, len(exact) - 4) // 2 * 2]
        pairs = [f for f in history.frames if f not in exact]
        placements: dict[int, Placement] = {f: "exact" for f in exact}
        return placements | dict.fromkeys(leaving, "pairs") | dict.fromkeys(pairs[:-6], POOL)


@dataclass(frozen=True)
class Halves(FramePolicy):
    """The first tokens of a frame in one tier, the others in another; old ones leave."""

    tokens: int = 0
    splits = True

    @property
    def tiers(self) -> tuple[str, ...]:
        return ("fine", "coarse")

    def sized(self, room: VideoSize) -> Halves:
        return Halves(room.tokens_per_frame // 4)

    def max_frames(self, tier: str, num_frames: int) -> int | None:
        return {"fine": None, "coarse": 12}.get(tier, 0)

    def decide(self, history: History) -> dict[int, Placement]:
        split = Split(torch.arange(self.tokens), "fine", "coarse")
        new = [f for f in history.frames if f not in history.tiers]
        return dict.fromkeys(new, split) | dict.fromkeys(history.frames[:-9], DROP)


class Deeper(FramePolicy):
    """Keeps more frames in each layer than in the one before."""

    def decide(self, history: History) -> dict[int, Placement]:
        return dict.fromkeys(history.frames[: -4 - 3 * history.layer], DROP)


@dataclass(frozen=True)
class Newest(TokenPolicy):
    """A number of tokens; notes their age where asked."""

    number: int = 200
    writes: bool = False

    def max_tokens(self, num_tokens: int) -> int:
        return min(num_tokens, self.number)

    def revise(self, tokens: Tokens) -> Revision:
        last = tokens.frame.shape[2]
        index = torch.arange(max(0, last - self.number), last).expand(*tokens.frame.shape[:2], -1)
        return Revision(index, note=index.float() if self.writes else None)


@dataclass(frozen=True)
class Merging(Newest):
    rewrites = True


COARSE = Tier(RTN(bits=4), RTN(bits=4))
OF_ALL_KINDS = {
    "tiers": Method(
        RTN(),
        RTN(),
        Ages(),
        tiers={"exact": Tier(Exact(), Exact()), "pairs": replace(COARSE, span=2)},
    ),
    "split": Method(
        Exact(),
        Exact(),
        Halves(),
        tiers={"fine": Tier(Exact(), Exact()), "coarse": Tier(RTN(group=8), RTN(group=8))},
    ),
    "layers": Method(RTN(), RTN(), Deeper()),
    "tokens": Method(Exact(), Exact(), Newest()),
    "noted": Method(Exact(), Exact(), Newest(writes=True)),
    "merged": Method(Exact(), Exact(), Merging(writes=True), keys="pre_rope"),
}


@pytest.mark.parametrize("num_frames", [12, 18, 20])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("kind", OF_ALL_KINDS)
def test_policies_of_every_kind_hold_what_is_foreseen(
    kind: str, window: int | None, num_frames: int
) -> None:
    """Also where the last chunk is partial, and where the model's window evicts."""
    method, shape = OF_ALL_KINDS[kind], spec(window=window)
    _, session = generate(method, num_frames=num_frames, window=window)
    assert foreseen(method, shape, num_frames) == found_in(session)
    end = video(shape, method, num_frames)[-1]
    assert end.full + end.pooled == pytest.approx(session.num_frames_held)


def test_a_layer_that_is_asked_for_is_simulated_by_itself() -> None:
    moments = video(spec(num_layers=3), OF_ALL_KINDS["layers"], 30)
    assert moments[-1].full == (4 + 7 + 10) / 3
    assert moments[-1].tokens == 10 * spec().tokens_per_frame


@dataclass(frozen=True)
class Share(FramePolicy):
    """Holds a quarter of the whole video, whatever its length is by then."""

    number: int = 0

    def sized(self, room: VideoSize) -> Share:
        return Share(room.num_frames // 4)

    def decide(self, history: History) -> dict[int, Placement]:
        return dict.fromkeys(history.frames[: -self.number], DROP)


class OfCapacity(FramePolicy):
    def decide(self, history: History) -> dict[int, Placement]:
        return dict.fromkeys(history.frames[: -history.capacity // 4], DROP)


@pytest.mark.parametrize("policy", [Share(), OfCapacity()])
def test_policies_that_know_the_length_grow_with_it(policy: FramePolicy) -> None:
    growth = Growth(spec(), Method(Exact(), Exact(), policy))
    for num_frames in (12, 120, 1200, 12000):
        assert growth.held(num_frames).full == pytest.approx(num_frames // 4, abs=1)


class Copying(Exact):
    def encode(self, x_BHFTD: torch.Tensor) -> Packed:
        return super().encode(x_BHFTD.clone())


class Looking(Copying):
    def encode(self, x_BHFTD: torch.Tensor) -> Packed:
        assert x_BHFTD.abs().max().item() > 0
        return super().encode(x_BHFTD)


def test_a_quantizer_that_looks_at_values_is_asked_with_real_ones() -> None:
    methods = [Method(each, Exact(), KeepAll()) for each in (Looking(), Copying())]
    looking, blind = (Storage(spec(), method, torch.bfloat16) for method in methods)
    assert looking.frame(KEEP) == blind.frame(KEEP)
    held = most(video(spec(), methods[0], 6))
    assert looking.storing_bytes(held) == pytest.approx(blind.storing_bytes(held), rel=0.1)
    assert blind.storing_bytes(held) == 3 * 2 * 32 * 32 * 2  # a copy of the chunk's keys


def test_a_broken_quantizer_is_not_hidden() -> None:
    class Broken(Exact):
        def encode(self, x_BHFTD: torch.Tensor) -> Packed:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Storage(spec(), Method(Broken(), Exact(), KeepAll()), torch.bfloat16)


def test_allocated_is_the_most_that_is_held_and_never_a_frame_that_leaves_at_once() -> None:
    moments = video(spec(), method_of("window_bf16"), 42)
    assert [moment.full for moment in moments] == [3, 6, 9] + 11 * [12]
    largest = most(moments).tiers[KEEP]
    assert largest.held == largest.room == largest.seen == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16", "window_bf16", "prune_int4", "softprune_int4"])
def test_beyond_the_simulation_history_grows_as_before(name: str) -> None:
    method, shape = method_of(name), spec()
    num_frames = 3 * (FAR + 40)
    simulated, extended = most(video(shape, method, num_frames)), Growth(shape, method)
    far = extended.held(num_frames)
    assert far.tiers.keys() == simulated.tiers.keys()
    for tier, count in simulated.tiers.items():
        assert abs(far.tiers[tier].held - count.held) <= 2
        assert abs(far.tiers[tier].room - count.room) <= 2


def test_scratch_is_as_many_heads_as_fit_and_at_least_one() -> None:
    shape = model_of("self_forcing").spec
    a_head = 2 * 32760 * 128 * 2
    assert Staged().scratch_bytes(shape, 32760, 2) == 3 * a_head
    assert Staged().scratch_bytes(shape, 327600, 2) == 3 * 10 * a_head
    assert Portable().scratch_bytes(shape, 327600, 2) == 10 * a_head
    assert Fused().scratch_bytes(shape, 32760, 2) == 0
    assert Portable().scratch_bytes(shape, 100, 2) == 12 * 2 * 100 * 128 * 2


# What lives while code runs


def test_live_bytes_see_new_storages_once_and_until_they_are_freed() -> None:
    weight = on_meta((1000,), torch.float32)
    with LiveBytes() as live:
        view = weight[10:].view(2, -1)
        assert live.now == 0
        y = view + 1  # 990 floats in 512-byte steps
        assert live.now == 4096
        z = y.T[:, :1]  # keeps the whole of y
        del y
        assert live.now == 4096
        del z
        assert (live.now, live.peak) == (0, 4096)
        live.restart()
        assert live.peak == 0


def test_activations_do_not_depend_on_depth_and_a_commit_adds_encoding() -> None:
    model = model_of("small")
    deep = replace(model, dims=replace(model.dims, num_layers=9))
    net = network(model)
    assert net.pass_bytes == network(deep).pass_bytes
    assert 0 < net.storing_from <= net.pass_bytes == net.commit_bytes(0)
    method = replace(method_of("rtn_int4"), reuse=None)
    storing = Storage(model.spec, method, torch.bfloat16)
    peak = storing.storing_bytes(most(video(model.spec, method, 12)))
    assert peak > model.spec.bf16_frame_bytes / model.spec.num_layers
    assert net.commit_bytes(net.pass_bytes + peak) > net.pass_bytes


def test_the_network_is_counted_as_published() -> None:
    net = network(model_of("self_forcing"))
    assert net.weight_bytes == 2 * 1_418_996_800
    assert net.text_kv_bytes == 30 * 2 * 512 * 1536 * 2
    assert net.flops == pytest.approx(30 * 0.405e12, rel=0.01)


@pytest.mark.slow
def test_the_decoder_streams_in_a_share_of_what_a_whole_video_takes() -> None:
    model = model_of("self_forcing")
    found = decoding(model)
    decoder: Any = model.decoder
    hollow = decoder.hollow()
    assert found.weight_bytes == pytest.approx(2 * 73.3e6, rel=0.001)
    assert found.kept == pytest.approx(1.8 * GIB, rel=0.03)
    with torch.inference_mode(), LiveBytes() as live:
        hollow.decode_whole(on_meta((6, 16, 60, 104), torch.bfloat16))
    assert found.whole_bytes(6) == pytest.approx(live.peak, rel=0.01)
    assert found.whole_bytes(42) == pytest.approx(4.30 * GIB, rel=0.05)  # measured by the study
    assert found.streamed_bytes < found.whole_bytes(42)
    assert found.whole_bytes(2400) > 60 * GIB


def test_an_unknown_decoder_is_unknown_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise UserError("the Wan VAE needs packages that are not here")

    monkeypatch.setattr(wan_vae, "_autoencoder", missing)
    (row,) = planned("method=bf16", "model=self_forcing", "memory_gib=24")
    assert row.best["decode"]["activations"] is None
    assert row.best_peak_bytes is row.published_peak_bytes is row.longest_frames is None
    assert row.stored_bytes > 0
    assert any("packages" in reason for reason in row.reasons)


# What follows


def test_fewer_bits_take_less() -> None:
    rows = planned("method=rtn_int2,rtn_int4,rtn_int8,bf16", "suite.frames=120")
    for name in ("stored_bytes", "best_peak_bytes", "published_peak_bytes"):
        sizes = [getattr(row, name) for row in rows]
        assert sizes == sorted(set(sizes))
    assert rows[-1].ratio_full_length == 1


def test_a_window_of_half_the_video_halves_history() -> None:
    full, half = true_size("bf16", None), true_size("bf16", 21)
    assert (full.contract, half.contract) == ("full", "window21")
    assert full.stored_bytes == 2 * half.stored_bytes == 12_076_646_400
    assert half.ratio_full_length == 2
    assert half.published == full.published  # the whole video's, whatever the window


def test_history_is_no_part_of_decoding_at_best_practice() -> None:
    (row,) = planned("method=softprune_int4")
    assert set(row.best["decode"]) == {"network", "decoder", "latents", "activations"}
    assert {"codes", "pooled", "text K/V", "previous video"} <= set(row.published["decode"])
    assert set(row.best["text"]) == {"network", "text encoder"}
    assert row.best_peak_bytes == largest(*(row.best[x] for x in ("denoise", "commit", "decode")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bf16", "softprune_int4", "window_bf16"])
def test_the_longest_video_is_the_last_that_fits(name: str) -> None:
    model, method = model_of("small"), method_of(name)
    budget = Budget(model, needs(model), method, Staged())
    growth = Growth(budget.spec(BEST), method)

    def takes(num_frames: int) -> int:
        taken = largest(*budget.phases(BEST, num_frames, growth.held(num_frames)).values())
        assert taken is not None
        return taken

    for limit in (takes(3), takes(300) + 1, takes(3000) + 5000):
        longest = budget.longest(BEST, limit)
        assert longest is not None
        assert takes(longest) <= limit < takes(longest + 3)
    assert budget.longest(BEST, 1000) == 0


def test_time_is_work_over_ceilings() -> None:
    """FLOPs of 14 chunks of five passes: 0.85 P of matrix products, 1.554 P of attention."""
    model = model_of("self_forcing")
    method = method_of("rtn_int4", "model=self_forcing")
    storage = Storage(model.spec, method, torch.bfloat16)
    histories = [video(model.spec, method, 42)]
    done = work(model, network(model), storage, histories, 42, Staged())
    assert done.gemm_flops == pytest.approx(0.850e15, rel=0.01)
    assert done.attention_flops == pytest.approx(1.554e15, rel=0.001)
    assert done.seconds(card("h200")) == pytest.approx(3.58 + 0.12, rel=0.02)
    fused = work(model, network(model), storage, histories, 42, Fused())
    assert fused.staging_bytes < 0.25 * done.staging_bytes
    assert done.seconds(Ceilings("a", "b", 1e12, 2e12, 1e12)) < done.seconds(
        Ceilings("a", "b", 1e12, 1e12, 1e12)
    )


@dataclass(frozen=True)
class Skipping(Reuse):
    """The second pass, or whatever drifts little."""

    by_drift: bool = False

    def skips(self, step: int, num_steps: int, drifts: list[float]) -> bool:
        return sum(drifts) < 1e6 if self.by_drift else step == 1


def test_passes_that_are_surely_skipped_are_not_counted() -> None:
    model, method = model_of("small"), method_of("bf16")
    moments = video(model.spec, method, 12)
    found = {}
    for name, reuse in (
        ("none", None),
        ("fixed", Skipping()),
        ("drift", Skipping(True, feature=PatchEmbedding())),
    ):
        each = replace(method, reuse=reuse)
        storage = Storage(model.spec, each, torch.bfloat16)
        found[name] = work(model, network(model), storage, [moments], 12, Staged()).gemm_flops
        budget = Budget(model, needs(model), each, Staged())
        denoise = budget.phases(BEST, 12, most(moments))["denoise"]
        # Tokens of this pass, the residual, and the tokens that drift is measured from.
        num_kept = {"none": 0, "fixed": 2, "drift": 3}[name]
        assert denoise.get("residual", 0) == num_kept * 3 * 64 * 320 * 2
    assert found["fixed"] == found["none"] * 4 / 5
    assert found["drift"] == found["none"]


def test_a_partial_last_chunk_is_less_work() -> None:
    model, method = model_of("small"), method_of("bf16")
    storage, net = Storage(model.spec, method, torch.bfloat16), network(model)
    done = {
        n: work(model, net, storage, [video(model.spec, method, n)], n, Staged())
        for n in (9, 10, 12)
    }
    assert done[10].gemm_flops - done[9].gemm_flops == pytest.approx(
        (done[12].gemm_flops - done[9].gemm_flops) / 3
    )


def test_what_no_kernel_reads_is_planned_portable() -> None:
    model = model_of("small")
    setting = Setting("small", "moviegen", model, needs(model), 42, Staged(), None, None)
    for kind, attention in (("tiers", "portable"), ("tokens", "portable"), ("split", "staged")):
        row = forecast(kind, OF_ALL_KINDS[kind], setting)
        assert row.attention == attention
        assert row.stored_bytes <= row.allocated_bytes
        assert any("attention portable" in x for x in row.reasons) == (attention == "portable")
        assert row.best["commit"]["activations"] >= row.best["denoise"]["activations"]
    assert cells(row)[5] == "9"
    tokens = forecast("tokens", OF_ALL_KINDS["tokens"], setting)
    assert tokens.frames_full == 200 / 64 and cells(tokens)[5] == "3.1"


# The published study


def test_the_published_peaks_follow_from_what_was_stored() -> None:
    summaries = SHARED / "published" / "summaries.csv"
    if not summaries.is_file():
        pytest.skip(f"published summaries not found: {summaries}")
    published = study_table.read(summaries)
    rows = study_table.rows()
    assert {(row.suite, row.method) for row in rows} == set(published)
    errors = {
        (row.suite, row.method): abs(row.peak_bytes / GIB - published[row.suite, row.method])
        for row in rows
    }
    for suite, wanted in (("moviegen", 30), ("storyeval", 29)):
        of_suite = [error for key, error in errors.items() if key[0] == suite]
        assert sum(error <= 0.1 for error in of_suite) >= wanted
        assert errors[suite, "BF16"] < 0.001
        assert errors[suite, "FLOWCACHE_SOFT_PRUNE_INT4"] < 0.001
    assert sum(error <= 0.001 for error in errors.values()) >= 50
    with summaries.open(newline="") as lines:
        ratios = {
            (x["benchmark"], x["method"]): x["compression_ratio"] for x in csv.DictReader(lines)
        }
    for row in rows:
        if ratios[row.suite, row.method]:
            of_data = "SPATIAL" in row.method or "QAQ" in row.method or "TPTQ" in row.method
            wanted_ratio = float(ratios[row.suite, row.method])
            assert row.ratio == pytest.approx(wanted_ratio, rel=0.01 if of_data else 1e-6)


# The command


def test_the_command_prints_a_row_for_each_method() -> None:
    """Those of all methods are asked for by the README's command, in its tests."""
    names = ["softprune_int4", "bf16", "snapkv_int4"]
    words = [f"method={','.join(names)}", "card=h200", "suite.frames=12", "--format", "json"]
    done = within("plan", *words)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["method"] for row in rows] == names
    assert all(row["dit_s"] > 0 and row["best_peak_bytes"] > 0 for row in rows)


def test_tables_say_what_they_leave_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(["method=rtn_int4,bf16", "method.retention.extra=1"]) == 2
    assert plan.main(["method=rtn_int4,bf16"]) == 0
    shown = capsys.readouterr().out
    assert "type card=a5000" in shown
    assert "type card=... or memory_gib=24" in shown
    assert "no VAE" not in shown
    assert plan.main(["method=softprune_int4", "card=a5000", "memory_gib=0.01"]) == 0
    shown = capsys.readouterr().out
    assert "no VAE" in shown
    assert "previous video" in shown
    assert "…" not in shown


def test_a_calibration_counts_before_the_card(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    path.write_text(json.dumps({**RATES, "device": "a machine", "date": "2026-01-02"}))
    for words in ([], ["card=h100"]):
        options, _ = request.split([f"calibration={path}", *words])
        found = request.ceilings(options)
        assert found is not None
        assert (found.name, found.gemm_flops_per_s) == ("a machine", 1e12)
        assert found.memory_gib == (80 if words else None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=rtn_int5"], "did you mean rtn_int"),
        (["method=bf16,rtn_int5"], "did you mean rtn_int"),
        (["method=bf16,"], "give names with commas"),
        (["model=smal"], "did you mean small"),
        (["~model.dims"], "has no dims"),
        (["card=b100"], "choose a5000, h100, h200"),
        (["calibration=/nowhere.json"], "No such file"),
        (["memory_gib=-3"], "give a positive number of GiB"),
        (["memory_gib=much"], "give a positive number of GiB"),
        (["attention=reference"], "choose auto, staged, portable, fused"),
        (["integration=theirs"], "unknown integration theirs"),
        (["nonsense"], "key=value"),
        (["suite.frames=20"], "choose 18 or 21"),
        (["method=rtn_int4", "method.key.bits=3"], "choose 2, 4 or 8"),
        (["method=rtn_int4", "method.key.group=7"], "does not divide the 64 tokens"),
        (["method.key._target_=nope.Nope"], "there is no class nope.Nope"),
        (["method=published/rtn_int4"], "runs under integration=published, which is counted apart"),
        (["model.window=2"], "choose at least 3"),
        (["integration=published", "method=RTN_INT"], "did you mean RTN_INT"),
        (["integration=published", "model=small"], "takes method=, suite= and against="),
        (["integration=published", "against=/nowhere.csv"], "No such file"),
        (["--config-dir", "/nowhere"], "is no folder"),
    ],
)
def test_bad_input_is_one_sentence(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan.main(words) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert not said.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "lacks gemm_flops_per_s"),
        (json.dumps({**RATES, "device": "x"}), "lacks date"),
        (json.dumps({**RATES, "copy_bytes_per_s": 0, "device": "x", "date": "y"}), "positive"),
    ],
)
def test_a_bad_calibration_is_named(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        request.ceilings(request.split([f"calibration={path}"])[0])


def test_methods_of_ones_own_are_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(
        "# mine\ndefaults: [rtn_int4, _self_]\nkey: {bits: 8}\n"
    )
    assert plan.main(["method=mine", "--config-dir", str(tmp_path)]) == 0
    assert "mine " in capsys.readouterr().out


def test_an_unknown_option_is_one_sentence() -> None:
    done = command("plan", "--formt")
    assert done.returncode == 2
    assert one_sentence(done).startswith("error: python -m harness plan: ")


def test_hollow_decoders_hold_no_values() -> None:
    hollow = WanVae("nowhere").hollow()
    assert hollow.nbytes > 0
    latents = on_meta((2, 16, 8, 8), torch.bfloat16)
    with torch.inference_mode():
        assert [x.shape[0] for x in hollow.stream(latents)] == [1, 4]


def test_a_decoder_is_counted_once_per_code_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[VideoModel] = []

    def count(model: VideoModel) -> Decoding:
        counted.append(model)
        return Decoding(1, 2, len(counted), 4, (5, 6))

    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    monkeypatch.setattr(model_needs, "decoding", count)
    model = model_of("self_forcing")
    first = model_needs.remembered_decoding(model)
    assert model_needs.remembered_decoding(model) == first and len(counted) == 1
    assert model_needs.remembered_decoding(replace(model, dtype="float32")) != first
    (_, note) = sorted((tmp_path / "decoding").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    note.write_text("{")
    model_needs.remembered_decoding(replace(model, dtype="float32"))
    assert len(counted) == 3
    monkeypatch.setattr(notes, "code_version", lambda: "another")
    assert model_needs.remembered_decoding(model) != first


def test_a_network_is_counted_once_per_code_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notes, "FOLDER", tmp_path)
    model = model_of("small")
    counted = model_needs.network(model)
    assert model_needs.remembered_network(model) == counted
    monkeypatch.setattr(model_needs, "network", lambda _: replace(counted, flops=1))
    assert model_needs.remembered_network(model) == counted
    longer = replace(model, chunk_frames=2 * model.chunk_frames)
    for other in (replace(model, dtype="float32"), longer):
        assert model_needs.remembered_network(other).flops == 1
    monkeypatch.setattr(notes, "code_version", lambda: "another")
    assert model_needs.remembered_network(model).flops == 1


def test_methods_whose_policies_decide_alike_share_a_simulation() -> None:
    simulated = Simulated()
    exact, packed = Method(Exact(), Exact(), KeepAll()), Method(RTN(), RTN(), KeepAll())
    assert simulated.video(spec(), exact, 12) is simulated.video(spec(), packed, 12)
    assert simulated.growth(spec(), exact) is simulated.growth(spec(), packed)
    other = simulated.video(spec(window=9), exact, 12)
    assert other == video(spec(window=9), exact, 12) != simulated.video(spec(), exact, 12)
    ends = replace(exact, retention=Newest())
    assert simulated.growth(spec(), ends) is not simulated.growth(spec(), exact)
