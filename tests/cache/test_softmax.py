"""Attention by compiled loops, in BF16 and with 8-bit operands: exact for any sizes and threads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Method
from harness.cache.attention.base import Scratch
from harness.cache.attention.compiled import Compiled
from harness.cache.attention.portable import Portable
from harness.cache.compiled import softmax
from methods.quantizers.rtn import RTN
from methods.retention.prune import SoftPrune
from tests.cache.test_attention import attended, filled
from tests.support.attention import exactly, relative

pytestmark = pytest.mark.skipif(softmax.missing() is not None, reason=str(softmax.missing()))
needs_use = pytest.mark.skipif(
    not softmax.outruns_torch(), reason="attention=compiled leaves BF16 to torch on this processor"
)


# Bounds of each loop: the relative error of its output, and the error of its log-sum-exp.
BF16 = "attend_bf16", 2**-8, 2**-8
INT8 = "attend_int8", 0.02, 0.1
Loop = tuple[str, float, float]
both = pytest.mark.parametrize("loop", [BF16, INT8], ids=["bf16", "int8"])


def drawn(num_queries: int, num_keys: int, width: int = 64, heads: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(num_queries + num_keys)
    shapes = (1, heads, num_queries, width), *[(1, heads, num_keys, width)] * 2
    q, k, v = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    return q, k, v


def own(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, loop: Loop = BF16
) -> tuple[Tensor, Tensor]:
    from harness.cache.compiled.softmax import attend

    attend.load()
    out: tuple[Tensor, Tensor] = getattr(attend, loop[0])(q, k, v, bias)
    return out


def demand_close(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor], loop: Loop) -> None:
    _, most, most_lse = loop
    assert relative(found[0], wanted[0]) < most
    assert (found[1] - wanted[1]).abs().max() < most_lse


# One key, one less and more than a block or a tile of the loops, several tiles of both.
@both
@pytest.mark.parametrize("num_keys", [1, 2, 31, 33, 511, 512, 513, 1500])
@pytest.mark.parametrize("num_queries", [1, 17, 1025])
@pytest.mark.parametrize("width", [24, 33, 128])
def test_any_sizes(loop: Loop, num_queries: int, num_keys: int, width: int) -> None:
    q, k, v = drawn(num_queries, num_keys, width)
    bias = torch.randn(1, 2, num_keys, generator=torch.Generator().manual_seed(1)).bfloat16()
    for added in (None, bias):
        wanted = exactly(q, k, v, added)
        mask = None if added is None else added[:, :, None]
        theirs = relative(F.scaled_dot_product_attention(q, k, v, mask), wanted[0])
        name, most, most_lse = loop
        # The loop in BF16 may err as much as torch's attention, where that errs more.
        found = own(q, k, v, added, loop)
        demand_close(found, wanted, (name, max(1.1 * theirs, most), most_lse))


@both
def test_logits_far_apart_neither_overflow_nor_vanish(loop: Loop) -> None:
    q, k, v = drawn(20, 1200)
    k[:, :, 0] = 40 * q[:, :, 3]  # logits of thousands
    k[:, :, 700] = 80 * q[:, :, 3]  # the largest is not in the first tile
    out, _ = own(q, k, v, loop=loop)
    assert relative(out[:, :, 3], v[:, :, 700]) < loop[1]
    assert out.isfinite().all()


@both
@pytest.mark.parametrize("first", [0, 100])
def test_tokens_can_be_hidden(loop: Loop, first: int) -> None:
    q, k, v = drawn(20, 1700)
    hidden = torch.zeros(1, 2, 1700)
    # From 0, all tokens of the first tile; from 100, all of the second.
    hidden[..., first : first + 1024] = -torch.inf
    k[:, :, first : first + 1024] *= 50  # their logits are the largest
    demand_close(own(q, k, v, hidden, loop), exactly(q, k, v, hidden), loop)


@both
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_what_is_not_finite_shows(loop: Loop, where: str, number: float) -> None:
    """Codes of 8 bits could hide it, and the video would go on."""
    given = dict(zip("qkv", drawn(20, 600), strict=True))
    given[where][0, 1, 7, 5] = number
    out, _ = own(**given, loop=loop)
    assert out[:, 0].isfinite().all()
    assert not (out[:, 1, 7] if where == "q" else out[:, 1]).isfinite().all()


@both
@pytest.mark.parametrize("heads", [1, 5])
def test_threads_share_the_queries(loop: Loop, heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn(200, 300, heads=heads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = own(*given, loop=loop)
    # One more time in the same thread, and in more threads than one head has blocks of queries.
    for number in (1, 2, 3, 50):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        for one, other in zip(alone, own(*given, loop=loop), strict=True):
            assert torch.equal(one, other)


def test_other_dtypes_are_refused() -> None:
    q, k, v = drawn(4, 4)
    with pytest.raises(TypeError, match=r"torch.float32, torch.bfloat16 and torch.bfloat16"):
        own(q.float(), k, v)


@needs_use
@pytest.mark.parametrize("axis", ["heads", "tokens"])
def test_the_backend_attends_with_it(axis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = filled(Method(RTN(bits=4), RTN(bits=4), SoftPrune()), torch.bfloat16)
    by_torch = attended(session, Portable(axis=axis), torch.bfloat16)  # type: ignore[arg-type]

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("torch attends")

    monkeypatch.setattr(F, "scaled_dot_product_attention", refuse)
    monkeypatch.setattr("harness.cache.attention.portable.attend_dense", refuse)
    backend = Compiled(axis=axis)  # type: ignore[arg-type]
    assert relative(attended(session, backend, torch.bfloat16), by_torch) < 2**-7


@needs_use
def test_other_dtypes_are_left_to_torch() -> None:
    q, k, v = (x.float() for x in drawn(40, 40))
    one, other = (b.attend(q, k, v, [], Scratch()) for b in (Compiled(), Portable()))
    assert torch.equal(one, other)


# What a processor must offer, and instructions that its loop then has.
FEATURES = "+fma,+avx2,+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512bf16,+avx512vnni"
PROCESSORS = {
    "amx": ("sapphirerapids", f"{FEATURES},+amx-tile,+amx-int8,+amx-bf16", "tdpbssd tdpbf16ps"),
    "avx512": ("znver4", FEATURES, "vpdpbusd vdpbf16ps"),
}


@pytest.mark.slow
@pytest.mark.parametrize("units", PROCESSORS)
def test_the_loop_compiles_for_processors_that_are_not_here(units: str, tmp_path: Path) -> None:
    name, features, instructions = PROCESSORS[units]
    code = f"""
import numba, torch
from harness.cache.compiled import softmax
softmax.units, softmax.missing = lambda: {units!r}, lambda: None
from harness.cache.compiled.softmax import attend, loops
kinds = []
attend.in_threads = lambda loop, given, *_: kinds.extend(numba.typeof(each) for each in given)
x = torch.zeros(1, 1, 1, 1)
attend.attend_int8(x, x, x, None)
loops.attend.compile((*kinds, numba.int64, numba.int64))
(assembler,) = loops.attend.inspect_asm().values()
print(*[name for name in {instructions.split()} if name in assembler])
"""
    variables = os.environ | {
        "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "XDG_CACHE_HOME": str(tmp_path)
    }  # fmt: skip
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.split() == instructions.split(), done.stderr
