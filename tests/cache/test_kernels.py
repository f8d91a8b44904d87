"""The kernels against `decode` and softmax attention: interpreted, or on a GPU if there is one.

The interpreter takes about a second a case, so shapes are tiny; T is no multiple of a group of 16
nor of a tile.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from harness.api import CodePlane, Exact, KernelLayout, Packed, Quantizer
from harness.cache.kernels import check_head_dim, missing
from harness.cache.positions import Turns, rotate
from methods.quantizers.affine import Affine
from methods.quantizers.clustered import Clustered
from methods.quantizers.fp4 import MXFP4, NVFP4
from methods.quantizers.fp8 import FP8
from methods.quantizers.grouped import Grouped
from methods.quantizers.lloyd_max import LloydMax
from methods.quantizers.normed import Normed
from methods.quantizers.nuq import NUQ
from methods.quantizers.quarot import QuaRot, hadamard
from methods.quantizers.rtn import RTN
from methods.quantizers.rtn_e4m3 import RTNE4M3
from tests.conftest import ROOT
from tests.support.kernels import DEVICE, tiered

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
BATCH, HEADS, SLOTS, DIM = 2, 4, 5, 32
ORDER = [3, 0, 4]  # slots in reading order, with holes


class Case(NamedTuple):
    """A way to store, with its form, and how the test reads it back [B, H, F, T, D] fp32."""

    encode: Callable[[Tensor], Packed]
    form: KernelLayout
    decode: Callable[[Packed], Tensor]


def plane(q: Grouped, index: str = "") -> CodePlane:
    symmetric = isinstance(q, RTN)
    return CodePlane(
        bits=q.bits,
        group=q.group,
        axis=q.axis,
        offset=-(2**q.bits - 1) / 2 if symmetric else 0.0,
        codes="codes" + index,
        scale="scale" + index,
        zero=None if symmetric else "zero" + index,
    )


def single(quantizer: Quantizer, form: KernelLayout | None = None) -> Case:
    form = form or quantizer.kernel_layout()
    assert form is not None
    return Case(quantizer.encode, form, lambda packed: quantizer.decode(packed, torch.float32))


def grouped(kind: type[Grouped], bits: int, axis: Any, group: int) -> Case:
    quantizer = kind(bits=bits, axis=axis, group=group, short_tail=True)
    return single(quantizer, KernelLayout((plane(quantizer),)))


def two_planes(base: Grouped, residual: Grouped) -> Case:
    """What is left after the first plane goes into a second."""

    def split(packed: Packed, index: str) -> Packed:
        names = [name for name in packed.parts if name.endswith("1") == (index == "1")]
        return replace(packed, parts={n.removesuffix("1"): packed.parts[n] for n in names})

    def encode(x: Tensor) -> Packed:
        first = base.encode(x)
        second = residual.encode(x - base.decode(first, torch.float32))
        rest = {k + "1": v for k, v in second.parts.items()}
        return replace(first, parts={**first.parts, **rest})

    def decode(packed: Packed) -> Tensor:
        first, second = split(packed, ""), split(packed, "1")
        return base.decode(first, torch.float32) + residual.decode(second, torch.float32)

    return Case(encode, KernelLayout((plane(base), plane(residual, "1"))), decode)


def channelled(quantizer: Grouped) -> Case:
    """Channels scaled and shifted a frame, before the quantizer."""
    names = ("channel_scale", "channel_mean")

    def encode(x: Tensor) -> Packed:
        mean = x.mean(3)
        scale = (x - mean[:, :, :, None]).abs().amax(3)
        packed = quantizer.encode((x - mean[:, :, :, None]) / scale[:, :, :, None])
        taken = {"channel_scale": scale, "channel_mean": mean}
        return replace(packed, parts={**packed.parts, **taken})

    def decode(packed: Packed) -> Tensor:
        inner = replace(packed, parts={k: v for k, v in packed.parts.items() if k not in names})
        scale, mean = (packed.parts[name][:, :, :, None] for name in names)
        return quantizer.decode(inner, torch.float32) * scale + mean

    return Case(encode, KernelLayout((plane(quantizer),), None, *names), decode)


def hadamard_case() -> Case:
    """Stored rotated: kernels give what is stored, the rotation is the caller's."""
    inner = Affine(bits=4, axis="channels", group=DIM)
    return Case(
        QuaRot(inner).encode,
        KernelLayout((plane(inner),)),
        lambda packed: inner.decode(packed, torch.float32),
    )


CASES = {
    "exact": single(Exact(), KernelLayout()),
    **{
        f"{kind.__name__.lower()}{bits}_{axis}{group}": grouped(kind, bits, axis, group)
        for kind in (RTN, Affine)
        for bits in (8, 4, 2)
        for axis, group in (("tokens", 16), ("channels", 16))
    },
    "affine4_token": grouped(Affine, 4, "channels", DIM),
    "rtn4_rtn4": two_planes(RTN(4, short_tail=True), RTN(4, short_tail=True)),
    "affine2_rtn4": two_planes(Affine(2, DIM, "channels"), RTN(4, short_tail=True)),
    "channelled": channelled(RTN(4, 16, "channels")),
    "hadamard": hadamard_case(),
    "fp8": single(FP8()),
    "fp8_cast": single(FP8("e5m2", False)),
    "mxfp4": single(MXFP4()),
    "nvfp4": single(NVFP4()),
    "nuq4": single(NUQ(4)),
    "nuq2_token": single(NUQ(2, "channels")),
    "clustered2": single(
        Clustered(Clustered(RTNE4M3(2, 16, "channels"), tokens_each=8), tokens_each=8)
    ),
    "turboquant4": single(Normed(LloydMax(4))),
}
SOME = ["exact", "rtn4_tokens16", "affine2_channels16", "channelled", "nuq4", "nvfp4"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def stored(case: Case, num_tokens: int = 24, dim: int = DIM, seed: int = 0) -> Packed:
    """Values with an offset a channel, as keys have; in a slab with a slot more."""
    x = normal(BATCH, HEADS, SLOTS + 1, num_tokens, dim, seed=seed)
    packed = case.encode(x + 2 * normal(dim, seed=seed + 100))
    return packed.view(slice(None), slice(1, None))


def slots_of(order: list[int]) -> Tensor:
    return torch.tensor(order, dtype=torch.int32, device=DEVICE)


def decoded(case: Case, packed: Packed, order: list[int] = ORDER) -> Tensor:
    return case.decode(chosen(packed, order))


def chosen(packed: Packed, order: list[int]) -> Packed:
    return replace(packed, parts={name: part[:, :, order] for name, part in packed.parts.items()})


def unit(*shape: int) -> Tensor:
    angles = 3 * normal(*shape)
    return torch.polar(torch.ones_like(angles), angles)


def turns_of(kind: str, num_tokens: int, dim: int = DIM) -> tuple[Turns | None, Tensor | None]:
    """Turns as the kernels take them, and whole [F, T, D / 2]."""
    if kind == "still":
        return None, None
    time, space = unit(len(ORDER), 6), unit(num_tokens, dim // 2 - 6)
    whole_time = time[:, None].expand(-1, num_tokens, -1)
    if kind == "shifts":
        whole = torch.cat([whole_time, torch.ones_like(space).expand(len(ORDER), -1, -1)], 2)
        return Turns(time, None), whole
    return Turns(time, space), torch.cat([whole_time, space.expand(len(ORDER), -1, -1)], 2)


def check_stage(
    case: Case,
    kind: str = "still",
    dtype: torch.dtype = torch.float32,
    shape: tuple[int, int] = (24, DIM),
) -> None:
    """Stage heads 1 and 2 of 4 into a strided view and hold it against decoding and turning."""
    from harness.cache.kernels.stage import stage

    num_tokens, dim = shape
    packed = stored(case, num_tokens, dim)
    turns, whole = turns_of(kind, num_tokens, dim)
    expected = decoded(case, packed.view(slice(1, 3), slice(None)))
    expected = (expected if whole is None else rotate(expected, whole)).flatten(2, 3)
    room = torch.full((BATCH, 2, 3 * num_tokens + 7, dim), 9.0, dtype=dtype, device=DEVICE)
    out = room[:, :, 3:-4]
    stage(case.form, packed, slots_of(ORDER), (1, 3), out, turns)
    bound = 1e-6 * expected.abs().max()
    if dtype == torch.bfloat16:  # one unit in the last place: the interpreter truncates
        bound = bound + 2.0**-7 * expected.abs()
    assert ((out.float() - expected).abs() <= bound).all()
    assert (room[:, :, :3] == 9).all() and (room[:, :, -4:] == 9).all()


def check_attention(
    key: Case,
    value: Case,
    kind: str = "still",
    shape: tuple[int, int, int] = (24, 40, DIM),
    order: list[int] = ORDER,
) -> tuple[Tensor, Tensor]:
    """Fused attention of M queries over T tokens a frame against softmax over what was decoded."""
    from harness.cache.kernels.fused import attend_packed

    num_queries, num_tokens, dim = shape
    packed = stored(key, num_tokens, dim), stored(value, num_tokens, dim, seed=1)
    turns, whole = turns_of(kind, num_tokens, dim)
    q = normal(BATCH, HEADS, num_queries, dim, seed=2)
    k, v = decoded(key, packed[0], order), decoded(value, packed[1], order)
    k = (k if whole is None else rotate(k, whole)).flatten(2, 3)
    logits = q @ k.mT / dim**0.5
    out, lse = attend_packed(q, key.form, packed[0], value.form, packed[1], slots_of(order), turns)
    torch.testing.assert_close(out, logits.softmax(-1) @ v.flatten(2, 3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lse, logits.logsumexp(-1), rtol=1e-5, atol=1e-5)
    return out, lse


@needs_triton
@pytest.mark.parametrize("name", tiered(CASES, *SOME))
def test_stage_is_decode(name: str) -> None:
    check_stage(CASES[name])


@needs_triton
@pytest.mark.parametrize("kind", ["shifts", "positions"])
@pytest.mark.parametrize("name", tiered([*SOME, "rtn4_rtn4"], "rtn4_rtn4"))
def test_stage_turns_keys(name: str, kind: str) -> None:
    check_stage(CASES[name], kind)


@needs_triton
@pytest.mark.parametrize("kind", ["still", "positions"])
@pytest.mark.parametrize("name", tiered(SOME, "affine2_channels16"))
def test_stage_rounds_once_to_bf16(name: str, kind: str) -> None:
    check_stage(CASES[name], kind, torch.bfloat16)


@needs_triton
@pytest.mark.parametrize("shape", tiered([(24, 16), (24, 64), (70, 128)]), ids=str)
def test_stage_serves_other_head_widths(shape: tuple[int, int]) -> None:
    """The last takes two tiles a frame."""
    for name in ("rtn2_tokens16", "affine4_channels16"):
        check_stage(CASES[name], "positions", shape=shape)


@needs_triton
def test_stage_copies_bf16_bit_by_bit() -> None:
    from harness.cache.kernels.stage import stage

    packed = Exact().encode(normal(BATCH, HEADS, SLOTS, 24, DIM).bfloat16())
    out = torch.zeros(BATCH, HEADS, 72, DIM, dtype=torch.bfloat16, device=DEVICE)
    stage(KernelLayout(), packed, slots_of(ORDER), (0, HEADS), out)
    assert torch.equal(out, packed.parts["exact"][:, :, ORDER].flatten(2, 3))


@needs_triton
@pytest.mark.parametrize("name", tiered(CASES, *SOME))
def test_fused_attention_is_attention_over_decoded(name: str) -> None:
    check_attention(CASES[name], CASES[name])


@needs_triton
@pytest.mark.parametrize("kind", ["shifts", "positions"])
@pytest.mark.parametrize("name", tiered(SOME, "channelled"))
def test_fused_attention_turns_keys(name: str, kind: str) -> None:
    """Keys and values stored in different forms."""
    check_attention(CASES[name], CASES["affine4_token"], kind)


@needs_triton
def test_fused_attention_at_full_head_width() -> None:
    """D = 128, and more queries than a tile holds."""
    check_attention(
        CASES["rtn4_tokens16"], CASES["affine4_channels16"], "positions", shape=(40, 24, 128)
    )


@needs_triton
def test_turns_folded_into_queries_change_nothing() -> None:
    """Turns that leave space alone turn q; with a table of ones for space they turn the keys."""
    from harness.cache.kernels.fused import attend_packed

    case = CASES["channelled"]
    k, v, q = stored(case), stored(case, seed=1), normal(BATCH, HEADS, 8, DIM, seed=2)
    time = unit(len(ORDER), 6)
    still = torch.ones(24, DIM // 2 - 6, dtype=torch.complex64, device=DEVICE)
    folded, plain = (
        attend_packed(q, case.form, k, case.form, v, slots_of(ORDER), turns)
        for turns in (Turns(time, None), Turns(time, still))
    )
    for one, other in zip(folded, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


@needs_triton
def test_order_of_slots_changes_nothing() -> None:
    case = CASES["rtn4_tokens16"]
    results = [check_attention(case, case, order=order) for order in (ORDER, [4, 3, 0])]
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@needs_triton
def test_rotated_storage_is_the_callers_business() -> None:
    """q times the Hadamard matrix in, output times it back: attention over plain values."""
    from harness.cache.kernels.fused import attend_packed

    case, quarot = CASES["hadamard"], QuaRot(Affine(4, DIM, "channels"))
    k, v, q = stored(case), stored(case, seed=1), normal(BATCH, HEADS, 8, DIM, seed=2)
    matrix = hadamard(DIM, DEVICE)
    out, _ = attend_packed(q @ matrix, case.form, k, case.form, v, slots_of(ORDER))
    plain = [quarot.decode(chosen(x, ORDER), torch.float32).flatten(2, 3) for x in (k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(q, *plain)
    torch.testing.assert_close(out @ matrix, expected, rtol=1e-5, atol=1e-5)


@needs_triton
def test_parts_of_the_history_merge() -> None:
    """Few queries share the frames among programs: 2, 2 and 1 of 5."""
    from harness.cache.kernels.fused import merge, prepare
    from harness.cache.kernels.launch import Room

    case, order = CASES["affine4_token"], [3, 0, 4, 1, 2]
    stores = (case.form, stored(case)), (case.form, stored(case, seed=1))
    q = normal(BATCH, HEADS, 8, DIM, seed=2)
    results = []
    for room in (Room(90, 1), Room(90, 3 * BATCH * HEADS)):
        launch = prepare(q, *stores, slots_of(order), None, room)
        launch.run()
        results.append(merge(launch.arguments["out"], launch.arguments["lse"]))
    assert launch.grid == (1, BATCH * HEADS, 3)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@needs_triton
def test_bf16_queries_and_history() -> None:
    """Queries as a view of [B, M, H, D]. BF16 products on a GPU, exact ones in the interpreter."""
    from harness.cache.kernels.fused import attend_packed

    q = normal(BATCH, 8, HEADS, DIM, seed=2).bfloat16().transpose(1, 2)
    k, v = (Exact().encode(normal(BATCH, HEADS, SLOTS, 24, DIM, seed=s).bfloat16()) for s in (0, 1))
    out, lse = attend_packed(q, KernelLayout(), k, KernelLayout(), v, slots_of(ORDER))
    plain = [x.parts["exact"][:, :, ORDER].flatten(2, 3).float() for x in (k, v)]
    logits = q.float() @ plain[0].mT / DIM**0.5
    tolerance = 1e-2 if DEVICE.type == "cuda" else 1e-5
    for one, other in ((out, logits.softmax(-1) @ plain[1]), (lse, logits.logsumexp(-1))):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_head_width_without_a_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match=r"16, 32, 64, 128, .* 48: type attention=portable"):
        check_head_dim(48)
    check_head_dim(128)


def test_what_is_missing_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert missing(cpu) is None
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert missing(cpu) == "there is no CUDA device"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing(cpu) == "triton is not installed"


def test_importing_the_package_does_not_import_triton() -> None:
    check = "import sys, harness.cache.kernels; sys.exit('triton' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True)


STAGED = [
    "exact",
    "int8_tokens",
    "int4_tokens",
    "int2_tokens",
    "int4_token",
    "int4_int4",
    "fp8",
    "nuq4",
    "nvfp4",
]
FUSED = [
    "exact",
    "int4_tokens",
    "int4_int4",
]  # `python -m harness.cache.kernels.ahead` compiles all
COMPILED = [f"stage/{form}" for form in STAGED] + [f"fused/{form}" for form in FUSED]
COMPILED += ["stage_turns/int4_tokens", "fused_turns/int4_tokens"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Statistics of the kernels as compiled for sm_86, sm_90 and sm_100, which needs no GPU.

    In a process of its own, since the interpreter replaces the compiler in this one.
    """
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-m", "harness.cache.kernels.ahead", "--only", *COMPILED]
    run = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


@pytest.mark.slow
@needs_triton
def test_kernels_compile_for_gpus(compiled: list[dict[str, Any]]) -> None:
    """The staging kernel keeps everything in registers; fused attention uses the tensor cores."""
    assert len(compiled) == 3 * len(COMPILED)
    mma = {86: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
    for row in compiled:
        assert row["registers"] <= 255, row
        if row["kernel"].startswith("stage"):
            assert row["stack"] == 0 and row["registers"] <= 128, row
        else:
            assert row["mma"] == [mma[row["sm"]]] and not row["int8"], row
            assert row["shared"] <= (99 if row["sm"] == 86 else 227) * 2**10, row
