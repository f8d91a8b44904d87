"""Every quantizer and policy through every backend: the same attention to a stated tolerance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from harness.api import Exact, Method, Quantizer, Tier
from harness.cache import compiled, kernels
from harness.cache.attention import auto
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend, into, out_of
from harness.cache.attention.by_kernel import unread
from harness.cache.attention.compiled import Compiled
from harness.cache.attention.dense import Merge, attend_dense
from harness.cache.attention.fused import Fused
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from harness.cache.attention.staged import Staged
from harness.cache.session import Session
from harness.system import machine
from harness.system.errors import UserError
from harness.system.logs import log
from methods.quantizers.affine import Affine
from methods.quantizers.channelwise import Centered, ChannelScaled
from methods.quantizers.normed import Normed
from methods.quantizers.outliers import Outliers
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.prune import SoftPrune
from methods.retention.spans import Spans
from tests.support.geometry import (
    BF16,
    CONF,
    CPU,
    configured,
    method_names,
    method_of,
    one_of_each_class,
    spec,
)
from tests.support.kernels import tiered

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TORCH: dict[str, Backend] = {
    "heads": Portable(),
    "one head": Portable(scratch_mib=1e-6),
    "tokens": Portable(axis="tokens", tile_tokens=40),
}
NUMBA = {
    "compiled": Compiled(),
    "compiled, one head": Compiled(scratch_mib=1e-6),
    "compiled, tokens": Compiled(axis="tokens", tile_tokens=40),
}
if compiled.missing() is None:
    TORCH |= NUMBA
TRITON: dict[str, Backend] = {
    "staged": Staged(scratch_mib=1e-6, least_heads=1),
    "fused": Fused(),
}
QUANTIZERS: dict[str, Quantizer] = {
    "exact": Exact(),
    "rtn8": RTN(bits=8),
    "rtn4": RTN(bits=4),
    "rtn2": RTN(bits=2),
    "affine4": Affine(bits=4),
    "token4": Affine(bits=4, group=32, axis="channels"),
    "head8": RTN(bits=8, group=128, axis="channels", short_tail=True),
    "half2": Affine(bits=2, group=16, axis="channels"),
    "quarot4": QuaRot(Affine(bits=4, group=32, axis="channels")),
    "centered4": Centered(RTN(bits=4)),
    "scaled4": ChannelScaled(Affine(bits=4, group=32, axis="channels")),
    "prq": PRQ(RTN(bits=2), RTN(bits=4)),
}
# One of each form that kernels read; the others have other widths and groups.
FORMS = ("exact", "rtn4", "affine4", "quarot4", "centered4", "scaled4", "prq")
FP32 = 2e-5  # of outputs of order 1: sums in another order, a rotation folded or not


def filled(
    method: Method,
    dtype: torch.dtype = torch.float32,
    backend: Backend = Portable(),  # noqa: B008  frozen
    **changes: Any,
) -> Session:
    """A layer whose history went through four commits."""
    shape = spec(num_layers=1, **changes)
    method.check(shape)
    session = Session(shape, method, backend, 15, DEVICE)
    for start in range(0, 12, 3):
        q, k, v = chunk(start, dtype, 3 * shape.tokens_per_frame)
        session.attend(0, q, k, v, session.plan(range(start, start + 3), "history"))
    return session


def chunk(seed: int, dtype: torch.dtype = torch.float32, tokens: int = 96) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 2, tokens, 32)
    return tuple(torch.randn(shape, generator=generator).to(DEVICE, dtype) for _ in "qkv")


def attended(session: Session, backend: Backend, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the next chunk draws from the history through a backend."""
    session._backend = backend.resolve(session.spec, session.method, DEVICE)
    return session.attend(0, *chunk(99, dtype), session.plan(range(12, 15), "nothing")).cpu()


def demand_triton() -> None:
    lacking = kernels.missing(DEVICE)
    if lacking:
        pytest.skip(f"{lacking}, and TRITON_INTERPRET is not set")


@pytest.mark.parametrize("name", one_of_each_class(method_names()))
def test_torch_backends_agree_for_every_method(name: str) -> None:
    session = filled(method_of(name))
    oracle = attended(session, Reference())
    for backend in TORCH.values():
        torch.testing.assert_close(attended(session, backend), oracle, atol=FP32, rtol=0)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_torch_backends_agree_for_every_quantizer(name: str) -> None:
    session = filled(Method(QUANTIZERS[name], QUANTIZERS[name], SoftPrune()))
    oracle = attended(session, Reference())
    for backend in TORCH.values():
        torch.testing.assert_close(attended(session, backend), oracle, atol=FP32, rtol=0)


@pytest.mark.parametrize("backend", TRITON)
@pytest.mark.parametrize("name", tiered(QUANTIZERS, *FORMS))
def test_kernels_agree_for_every_quantizer(name: str, backend: str) -> None:
    demand_triton()
    session = filled(Method(QUANTIZERS[name], QUANTIZERS[name], SoftPrune()))
    oracle = attended(session, Reference())
    torch.testing.assert_close(attended(session, TRITON[backend]), oracle, atol=FP32, rtol=0)


@pytest.mark.parametrize("name", tiered(QUANTIZERS, "rtn4"))
def test_kernels_store_what_torch_stores(name: str) -> None:
    """Through sessions whose history went through four commits, some frames pooled."""
    demand_triton()
    method = Method(QUANTIZERS[name], QUANTIZERS[name], SoftPrune())
    ours, theirs = (filled(method, backend=each, grid=(4, 4)) for each in (Portable(), Staged()))
    mine, expected = (session._layers[0].arenas["keep"] for session in (ours, theirs))
    assert mine.frames == expected.frames
    used = [slot for _, slot in mine.places.values()]
    for one, other in zip(mine.packed, expected.packed, strict=True):
        for part, tensor in one.parts.items():
            assert torch.equal(tensor[:, :, used], other.parts[part][:, :, used])


@pytest.mark.parametrize("backend", ["heads", "tokens", "staged", "fused"])
@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("keys", ["roped", "pre_rope"])
def test_keys_turn_on_reading_alike(backend: str, positions: str, keys: str) -> None:
    """Under a window with a sink, where relative positions move and some frames do not."""
    if backend in TRITON:
        demand_triton()
    method = Method(RTN(bits=8), RTN(bits=8), KeepAll())
    preset = {"window": 9, "sink": 3, "positions": positions, "keys": keys}
    session = filled(method, **preset)
    oracle = attended(session, Reference())
    chosen = (TORCH | TRITON)[backend]
    torch.testing.assert_close(attended(session, chosen), oracle, atol=FP32, rtol=0)


def test_a_rotation_from_before_the_position_is_undone_first() -> None:
    """Keys stored un-roped and rotated by a Hadamard matrix cannot be folded into the query."""
    quarot = QUANTIZERS["quarot4"]
    session = filled(Method(quarot, quarot, KeepAll(), keys="pre_rope"))
    oracle = attended(session, Reference())
    backends = [Portable(), Portable(axis="tokens", tile_tokens=40)]
    if kernels.missing(DEVICE) is None:
        backends.append(Staged())
    for backend in backends:
        torch.testing.assert_close(attended(session, backend), oracle, atol=FP32, rtol=0)
    if kernels.missing(DEVICE) is None:
        with pytest.raises(UserError, match="type attention=staged"):
            Fused().resolve(session.spec, session.method, DEVICE)


@pytest.mark.parametrize("backend", TORCH)
def test_bf16_models_lose_no_more_than_bf16_rounding(backend: str) -> None:
    session = filled(method_of("quarot_int4"), torch.bfloat16)
    oracle = attended(session, Reference(), torch.bfloat16).float()
    ours = attended(session, TORCH[backend], torch.bfloat16).float()
    assert (ours - oracle).norm() / oracle.norm() < 2**-6


def test_parts_merge_to_the_whole() -> None:
    """Tokens that stand for several count by their logarithm."""
    q, k, v = chunk(5)
    whole, lse = attend_dense(
        q, torch.cat([k, *[k[:, :, :1]] * 3], 2), torch.cat([v, *[v[:, :, :1]] * 3], 2)
    )
    merged = Merge(*attend_dense(q, k, v))
    merged.add(*attend_dense(q, k[:, :, :1], v[:, :, :1], torch.tensor(3.0).log().item()))
    torch.testing.assert_close(merged.out, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(merged._lse, lse, atol=1e-5, rtol=0)


class Opaque(RTN):
    """A quantizer that only torch can read."""

    def kernel_layout(self) -> None:
        return None


def test_auto_takes_what_runs_here() -> None:
    here = Portable() if compiled.missing() else Compiled()
    assert Auto().resolve(spec(), BF16, CPU) == here
    opaque = Method(Opaque(), Opaque(), KeepAll())
    assert Auto().resolve(spec(), opaque, DEVICE) == (here if DEVICE == CPU else Portable())


def test_auto_says_once_that_it_goes_on_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(compiled, "missing", lambda: "numba is not installed")
    monkeypatch.setattr(log, "warning", said.append)
    auto._tell.cache_clear()
    assert [Auto().resolve(spec(), BF16, CPU) for _ in "12"] == [Portable()] * 2
    (sentence,) = said
    assert "numba is not installed, so torch decodes the history" in sentence
    with pytest.raises(UserError, match="numba is not installed; type attention=portable"):
        Compiled().resolve(spec(), BF16, CPU)
    with pytest.raises(UserError, match="meta is no CPU; type attention=portable"):
        Compiled().resolve(spec(), BF16, torch.device("meta"))


def test_a_backend_that_cannot_serve_says_what_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    for backend in (Staged(), Fused()):
        with pytest.raises(UserError, match="no CUDA device; type attention=portable"):
            backend.resolve(spec(), BF16, CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UserError, match="this model has 48: type attention=portable"):
        Staged().resolve(spec(head_dim=48), BF16, CPU)
    opaque = Method(Opaque(), Opaque(), KeepAll())
    with pytest.raises(UserError, match="no kernel reads what Opaque stores"):
        Fused().resolve(spec(), opaque, CPU)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ({"axis": "frames"}, "attention.axis=frames: choose heads or tokens"),
        ({"scratch_mib": 0}, "attention.scratch_mib=0: give a positive number"),
        ({"tile_tokens": -5}, "attention.tile_tokens=-5: give a positive number"),
    ],
)
def test_impossible_tiles_are_refused(word: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Portable(**word)


@pytest.mark.parametrize("path", sorted((CONF / "attention").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_builds_a_backend(path: Any) -> None:
    built = instantiate(configured(f"attention={path.stem}")["attention"])
    assert getattr(built, "name", "auto") == path.stem.partition("_")[0]  # and how it is set


def test_kernels_read_frames_whose_quantizers_say_their_form() -> None:
    exact, rtn = Tier(Exact(), Exact()), RTN()
    assert unread(Method(rtn, rtn, KeepAll())) == ""
    assert unread(Method(rtn, Normed(rtn), KeepAll())) == ""
    assert unread(Method(rtn, Outliers(rtn), KeepAll())) == "what Outliers stores"
    spans = Method(rtn, rtn, Spans(3), tiers={"recent": exact})
    assert unread(spans) == "what RTN stores"  # pages of three frames


@pytest.mark.parametrize("emulated", [True, False])
def test_a_change_of_basis_is_rounded_once_where_products_are_emulated(emulated, monkeypatch):
    found = frozenset({torch.bfloat16}) if emulated else frozenset()
    monkeypatch.setattr(machine, "EMULATED", found)
    x = torch.randn(1, 2, 40, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    basis = QuaRot(Affine(bits=4, group=32, axis="channels")).rotation(64, CPU)
    assert basis is not None
    for ours, matrix in [(into(x, basis), basis), (out_of(x, basis), basis.T)]:
        exact = x.double() @ matrix.double()
        assert ours.dtype == x.dtype
        assert (ours == exact.bfloat16()).double().mean() > 0.98
