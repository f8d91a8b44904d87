"""The published integration: the same videos where it must give them, and what it really costs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

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
    Quantizer,
    Tier,
    TokenPolicy,
)
from harness.cache.attention.auto import Auto
from harness.cache.attention.portable import Portable
from harness.cache.positions import Rope, rotate
from harness.cache.published import Published, PublishedSession
from harness.cache.published.layout import layout, places
from harness.cache.session import Session
from harness.results import all_runs
from harness.runs.generate import Generator
from harness.sampling.noise import SeededNoise
from harness.sampling.passes import NullObserver
from harness.sampling.sampler import Sampler
from harness.sampling.schedule import Schedule
from methods.quantizers.affine import Affine
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from methods.retention.age import Age
from methods.retention.keep import KeepAll
from tests.support.generation import SMALL, make_all
from tests.support.geometry import (
    BF16,
    CPU,
    GRID,
    generate,
    live_bytes,
    method_names,
    method_of,
    network,
    one_of_each_class,
    spec,
    text,
)
from tests.support.runs import run

FRAME = 2 * 32 * 32  # values of a frame of keys in one layer: heads, tokens, channels
LAYERS, SIDES = 2, 2


def cache(
    method: Method, num_frames: int, shape: CacheSpec | None = None, **program: Any
) -> PublishedSession:
    shape, integration = shape or spec(), Published(**program)
    integration.check(shape, method)
    backend = integration.resolve(Auto(), shape, method, CPU)
    return integration.session(shape, method, backend, num_frames, CPU)


def published(
    method: Method, num_frames: int = 12, net: Any = None, codes: Any = "int16", **changes: Any
) -> tuple[Tensor, PublishedSession]:
    """As `tests.support.geometry.generate`, through the other integration."""
    net = net or network()
    session = cache(method, num_frames, spec(**changes), codes=codes)
    noise = SeededNoise(0, (num_frames, 4, 2 * GRID[0], 2 * GRID[1]))
    chunks = Sampler(net, Schedule(), 3).sample(
        session, text(net), noise, num_frames, NullObserver()
    )
    return torch.cat(list(chunks), dim=1), session


@pytest.mark.parametrize(
    ("dtype", "window"), [(torch.bfloat16, None), (torch.bfloat16, 6), (torch.float32, 6)]
)
def test_bf16_is_bit_identical_and_a_ring_holds_only_the_window(
    dtype: torch.dtype, window: int | None
) -> None:
    """Noisy keys that are stored and frames that are never read change nothing but bytes."""
    net = network(dtype)
    packed, ring = generate(BF16, net=net, window=window)
    latents, whole = published(BF16, net=net, window=window)
    assert torch.equal(latents, packed)
    frame_bytes = LAYERS * SIDES * FRAME * dtype.itemsize
    assert whole.stored_bytes == live_bytes(whole) == 12 * frame_bytes
    assert ring.stored_bytes == live_bytes(ring) == (window or 12) * frame_bytes


@pytest.mark.parametrize(("codes", "size"), [("int16", 2), ("int8", 1)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_code_takes_whole_bytes_over_the_full_capacity_from_the_first_pass(
    bits: int, codes: str, size: int
) -> None:
    quantizer = RTN(bits=bits, group=16)
    session = cache(Method(quantizer, quantizer, KeepAll()), 12, codes=codes)
    net = network()
    with torch.inference_mode():
        x = torch.randn(1, 3, 4, 8, 16)
        Sampler(net, Schedule(), 3).flow(
            x, torch.full((1, 3), 1000.0), text(net), session, range(3), False
        )
    values = LAYERS * SIDES * 12 * FRAME
    assert session.ledger() == {"codes": size * values, "scale": 2 * values // 16}
    assert session.stored_bytes == session.peak_bytes == live_bytes(session)
    assert session.nominal_bytes == values * bits // 8


@pytest.mark.parametrize("codes", ["int16", "int8"])
@pytest.mark.parametrize(
    "quantizer", [RTN(2), RTN(4), RTN(8), Affine(8), PRQ(RTN(4), RTN(2)), Exact()]
)
def test_what_is_stored_is_what_the_quantizer_says(quantizer: Quantizer, codes: Any) -> None:
    """One encoding through wide codes, read back bit for bit."""
    session = cache(Method(quantizer, quantizer, KeepAll()), 6, codes=codes)
    side, x = session._layers[0].key, torch.randn(1, 2, 6 * 32, 32)
    where = layout(placements := dict.fromkeys(range(6), KEEP), places(placements, 32, CPU), 32)
    side.write(x, where)
    expected = quantizer.decode(quantizer.encode(x[:, :, None]), torch.float32)[:, :, 0]
    assert torch.equal(side.read(x, 6 * 32, where), expected)


def test_groups_run_on_over_frames() -> None:
    """Frames of 24 tokens in groups of 16: the second group holds 8 of each frame."""
    quantizer = RTN(4, 16, short_tail=True)
    session = cache(Method(quantizer, quantizer, KeepAll()), 6, spec(grid=(4, 6)))
    layer, x = session._layers[0], torch.randn(1, 2, 3 * 24, 32)
    layer.step(x, x, range(3), commit=True)
    (page,) = layer.key.pages.values()
    assert page.packed.parts["scale"].shape == (1, 2, 1, 6 * 24 // 16, 32)
    scale = page.packed.parts["scale"][0, :, 0, 1]
    torch.testing.assert_close(scale, (x[0, :, 16:32].abs().amax(1) / 7.5).half())
    assert not layer.key.pages[KEEP].packed.parts["scale"][0, :, 0, 5:].any()  # no frame is there


@pytest.mark.parametrize("extent", ["capacity", "filled"])
def test_what_is_encoded_is_the_capacity_or_what_fills_it(extent: Any) -> None:
    counting = Counting()
    method = Method(counting, counting, KeepAll())
    session = cache(method, 9, extent=extent)
    x = torch.randn(1, 2, 3 * 32, 32)
    for chunk in range(3):
        session._layers[0].step(x, x, range(3 * chunk, 3 * chunk + 3), commit=False)
    frames = [shape[3] // 32 for shape in counting.calls[::SIDES]]
    assert frames == ([9, 9, 9] if extent == "capacity" else [3, 6, 9])


def test_a_program_that_waits_for_the_commit_only_decodes_meanwhile() -> None:
    counting = Counting()
    session = cache(Method(counting, counting, KeepAll()), 9, cadence="commit", extent="filled")
    layer, x = session._layers[0], torch.randn(1, 2, 3 * 32, 32)
    for commit in (False, False, True):
        keys, _ = layer.step(x, x, range(3), commit)
        assert torch.equal(keys[:, :, : 3 * 32], x)
    assert len(counting.calls) == SIDES
    once = counting.inner.decode(counting.inner.encode(x[:, :, None]), torch.float32)[:, :, 0]
    for commit in (False, True):
        keys, _ = layer.step(-x, x, range(3, 6), commit)
        assert torch.equal(keys[:, :, : 3 * 32], once)
    assert len(counting.calls) == 2 * SIDES


def test_an_exact_buffer_beside_is_held_from_the_first_pass() -> None:
    quantizer = RTN(4)
    session = cache(Method(quantizer, quantizer, KeepAll()), 12, codes="int8", beside=True)
    x = torch.randn(1, 2, 3 * 32, 32).bfloat16()
    for layer in session._layers:
        layer.step(x, x, range(3), commit=False)
    values = LAYERS * SIDES * 12 * FRAME
    assert session.ledger() == {"beside": 2 * values, "codes": values, "scale": 2 * values // 16}
    assert session.stored_bytes == live_bytes(session)


@pytest.mark.parametrize(("lists", "sizes"), [("none", ""), ("index", "i"), ("mask", "im")])
def test_lists_of_places_are_held_where_there_are_tiers(lists: Any, sizes: str) -> None:
    tier = Tier(RTN(4), RTN(4))
    method = Method(RTN(2), RTN(2), Age(), tiers={"recent": tier})
    session = cache(method, 12, places=lists)
    x = torch.randn(1, 2, 3 * 32, 32)
    for layer in session._layers:
        layer.step(x, x, range(3), commit=False)
    held = session.ledger()
    assert held.get("index", 0) == ("i" in sizes) * LAYERS * 8 * 12 * 32
    assert held.get("mask", 0) == ("m" in sizes) * LAYERS * 12 * 32
    count = session._layers[0].count
    assert (count.index, count.mask) == (held.get("index", 0) // 2, held.get("mask", 0) // 2)
    assert session.stored_bytes == live_bytes(session)


@dataclass(frozen=True)
class Counting(Quantizer):
    """RTN that counts, but for a head that is encoded to learn its size."""

    inner: Quantizer = field(default_factory=RTN)
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def encode(self, x_BHFTD: Tensor) -> Packed:
        if x_BHFTD.shape[1] > 1:
            self.calls.append(tuple(x_BHFTD.shape))
        return self.inner.encode(x_BHFTD)

    def stage(self, packed: Packed, out_BHFTD: Tensor) -> None:
        self.inner.stage(packed, out_BHFTD)


def test_everything_is_encoded_at_every_pass() -> None:
    counting = Counting()
    method = Method(counting, counting, KeepAll())
    chunks, passes = 3, 3 * 5
    generate(method, num_frames=9)
    whole = [shape for shape in counting.calls if shape[2] == 3]
    assert len(whole) == LAYERS * chunks * SIDES
    counting.calls.clear()
    published(method, num_frames=9)
    assert len(counting.calls) == LAYERS * passes * SIDES
    assert {shape[2:4] for shape in counting.calls} == {(1, 9 * 32)}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("rtn_int4", torch.bfloat16),
        ("rtn_int4", torch.float32),
        ("rtn_int2", torch.bfloat16),
        ("kivi_nowindow_int4", torch.bfloat16),
    ],
)
def test_levels_that_hold_a_groups_extremes_survive_being_encoded_again(
    name: str, dtype: torch.dtype
) -> None:
    """The extremes of a group give its scale and are levels of it, so nothing moves: the video of
    15 encodings is that of one, bit for bit."""
    net = network(dtype)
    once, _ = generate(method_of(name), net=net, num_frames=9)
    again, _ = published(method_of(name), net=net, num_frames=9)
    assert torch.equal(again, once)


@pytest.mark.parametrize(
    ("method", "dtype"),
    [(QuaRot(Affine(4, 32, "channels")), torch.bfloat16), (PRQ(RTN(4), RTN(4)), torch.float32)],
)
def test_other_quantizers_lose_more_each_time(method: Quantizer, dtype: torch.dtype) -> None:
    """A rotation back is rounded to 16 bit; two stages split a sum anew: 70 passes are felt."""
    original = torch.randn(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    errors, x = [], original
    for _ in range(70):
        x = method.decode(method.encode(x), dtype)
        errors.append((x - original).float().norm().item())
    assert errors[-1] > 1.05 * errors[0]


@dataclass(frozen=True)
class LetGo(FramePolicy):
    """Every frame but the newest three meets one placement."""

    placement: str

    def decide(self, history: History) -> dict[int, Placement]:
        return dict.fromkeys(history.frames[:-3], self.placement)


def third_chunk(session: Any) -> Tensor:
    """What chunk 2 sees after two chunks whose first let chunk 0 go [B, H, T, D]."""
    generator = torch.Generator().manual_seed(1)
    for start in (0, 3, 6):
        q, k, v = (torch.randn(1, 2, 96, 32, generator=generator) for _ in "qkv")
        plan = session.plan(range(start, start + 3), "history")
        out = session.attend(0, q, k, v, plan)
    return out


def both_ways(placement: str) -> tuple[Tensor, Tensor, PublishedSession]:
    """Packed and published output, and the published session that gave it."""
    shape, method = spec(num_layers=1), Method(Exact(), Exact(), LetGo(placement))
    session = cache(method, 12, shape, extent="filled")
    return (
        third_chunk(Session(shape, method, Portable(), 12, CPU)),
        third_chunk(session),
        session,
    )


def test_a_pooled_frame_is_as_many_copies_of_its_mean() -> None:
    """Copies of the mean and one row with bias log n are one attention."""
    packed, out, session = both_ways(POOL)
    torch.testing.assert_close(out, packed, atol=1e-5, rtol=0)
    # After chunk 2, six frames are means of one key and one value; the other six are not there yet.
    assert session.ledger() == {"exact": 2 * 3 * FRAME * 4, "pooled": 2 * 6 * 2 * 32 * 4}
    assert session.num_frames_held == 9


def test_a_dropped_frame_goes_on_diverting_attention() -> None:
    """Its zero keys have logit 0: the others lose weight, where packed frames would be gone."""
    packed, out, session = both_ways(DROP)
    assert (out - packed).abs().max() > 1e-2
    generator = torch.Generator().manual_seed(1)
    (_, k0, v0), (_, k1, v1), (q, k2, v2) = (
        [torch.randn(1, 2, 96, 32, generator=generator) for _ in "qkv"] for _ in range(3)
    )
    turns = Rope(32, GRID, CPU).frames(range(9)).view().flatten(0, 1)
    keys = rotate(torch.cat([k0, k1, k2], 2), turns)
    keys[:, :, :96] = 0
    values = torch.cat([torch.zeros_like(v0), v1, v2], 2)
    dense = F.scaled_dot_product_attention(rotate(q, turns[-96:]), keys, values)
    torch.testing.assert_close(out, dense, atol=1e-5, rtol=0)
    assert session.ledger() == {"exact": 2 * 3 * FRAME * 4}
    assert session.num_frames_held == 3


@pytest.mark.parametrize("name", one_of_each_class(method_names()))
def test_every_method_runs_and_is_counted_to_the_byte(name: str) -> None:
    """Nine frames: pruning has set in long before. Un-roped keys, which it refuses, lie roped."""
    method = replace(method_of(name), keys="roped")
    policy = method.retention
    if isinstance(policy, TokenPolicy) or policy.queries:
        with pytest.raises(ValueError, match=r"cannot serve .*: choose integration=packed"):
            cache(method, 9)
        return
    latents, session = published(method, net=network(torch.bfloat16), num_frames=9)
    assert latents.isfinite().all()
    assert session.stored_bytes == live_bytes(session)
    assert session.nominal_bytes <= session.stored_bytes <= session.peak_bytes


@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        ({"window": 9, "sink": 3}, "model", "cannot serve sink=3, only 0: choose"),
        ({"positions": "relative"}, "model", "positions=relative, only absolute"),
        ({"keys": "pre_rope"}, "model", "keys=pre_rope, only roped"),
        ({}, "pre_rope", "keys=pre_rope, only roped: choose integration=packed"),
    ],
)
def test_what_it_cannot_serve_is_refused(changes: Any, keys: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cache(replace(BF16, keys=keys), 12, spec(**changes))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention=portable"], "cannot use attention=portable, it attends densely: leave"),
        (["model.window=9", "model.sink=3"], "cannot serve sink=3"),
        (["integration.codes=int4"], "integration.codes=int4: choose int16 or int8"),
        (["integration.extent=filled", "integration.history=capacity"], "choose history=filled"),
    ],
)
def test_a_run_is_refused_before_any_video(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=message):
        Generator(run(tmp_path, *SMALL, "integration=published", *words))


@dataclass
class Witness:
    """What of one video is still alive when the next begins."""

    refs: list[weakref.ref[Any]] = field(default_factory=list)
    alive: list[int] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)


@pytest.fixture
def witness(monkeypatch: pytest.MonkeyPatch) -> Witness:
    """Watches the sessions and latents of every video that a generator makes."""
    seen = Witness()
    make, session, sample = Generator.make, Generator.session, Sampler.sample

    def watch_make(self: Generator, *args: Any) -> Any:
        gc.collect()
        seen.alive.append(sum(ref() is not None for ref in seen.refs))
        seen.previous.append(len(self._previous))
        return make(self, *args)

    def watch_session(self: Generator, num_frames: int) -> Any:
        made = session(self, num_frames)
        seen.refs.append(weakref.ref(made))
        return made

    def watch_sample(self: Sampler, *args: Any) -> Iterator[Tensor]:
        for latents in sample(self, *args):
            seen.refs.append(weakref.ref(latents))
            yield latents

    monkeypatch.setattr(Generator, "make", watch_make)
    monkeypatch.setattr(Generator, "session", watch_session)
    monkeypatch.setattr(Sampler, "sample", watch_sample)
    return seen


@pytest.mark.parametrize("integration", ["published", "packed"])
def test_what_outlives_a_video(integration: str, tmp_path: Path, witness: Witness) -> None:
    """Published keeps the decoded video and its latents on purpose; packed keeps nothing."""
    this = run(tmp_path, *SMALL, f"integration={integration}")
    this = replace(this, suite=replace(this.suite, prompts=this.suite.prompts[:2]))
    this.make_folders()
    make_all(this)
    assert witness.alive == [0, 0]  # of the caches and of the chunks themselves
    kept = 2 if integration == "published" else 0
    assert witness.previous == [0, kept]
    rows = all_runs.load_run(this.folder)
    trace = pd.concat(pd.read_parquet(this.trace(item)) for item in this.items)
    held = trace[trace["component"] == "previous_video"].groupby("prompt_index")["bytes"].max()
    video_bytes = 3 * 21 * 64 * 64 * 4 + 6 * 16 * 8 * 8 * 2  # decoded in fp32, and its latents
    assert held.get(1, 0) == (video_bytes if kept else 0)
    assert (rows["attention_backend"] == "published dense").all() == bool(kept)
