"""Attention in BF16 by a compiled loop: as exact as torch's, for any sizes and threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
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


def drawn(num_queries: int, num_keys: int, width: int = 64, heads: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(num_queries + num_keys)
    shapes = (1, heads, num_queries, width), *[(1, heads, num_keys, width)] * 2
    q, k, v = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
    return q, k, v


def own(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    from harness.cache.compiled.softmax.attend import attend_bf16

    return attend_bf16(q, k, v, bias)


# One key, one less and more than a block or a tile of the loops, several tiles of both.
@pytest.mark.parametrize("num_keys", [1, 2, 31, 33, 511, 512, 513, 1500])
@pytest.mark.parametrize("num_queries", [1, 17, 1025])
@pytest.mark.parametrize("width", [24, 33, 128])
def test_it_is_as_exact_as_torch(num_queries: int, num_keys: int, width: int) -> None:
    q, k, v = drawn(num_queries, num_keys, width)
    bias = torch.randn(1, 2, num_keys, generator=torch.Generator().manual_seed(1)).bfloat16()
    for added in (None, bias):
        mask = None if added is None else added[:, :, None]
        (out, lse), (wanted, wanted_lse) = own(q, k, v, added), exactly(q, k, v, added)
        theirs = relative(F.scaled_dot_product_attention(q, k, v, mask), wanted)
        assert relative(out, wanted) < max(1.1 * theirs, 2**-8)
        # The sum is that of weights rounded to BF16.
        assert (lse - wanted_lse).abs().max() < 2**-8


def test_logits_far_apart_neither_overflow_nor_vanish() -> None:
    q, k, v = drawn(20, 1200)
    k[:, :, 0] = 40 * q[:, :, 3]  # logits of thousands
    k[:, :, 700] = 80 * q[:, :, 3]  # the largest is not in the first tile
    out, _ = own(q, k, v)
    assert relative(out[:, :, 3], v[:, :, 700]) < 2**-8
    assert out.isfinite().all()


@pytest.mark.parametrize("first", [0, 100])
def test_tokens_can_be_hidden(first: int) -> None:
    q, k, v = drawn(20, 1700)
    hidden = torch.zeros(1, 2, 1700)
    # From 0, all tokens of the first tile; from 100, all of the second.
    hidden[..., first : first + 1024] = -torch.inf
    k[:, :, first : first + 1024] *= 50  # their logits are the largest
    out, lse = own(q, k, v, hidden)
    wanted, wanted_lse = exactly(q, k, v, hidden)
    assert relative(out, wanted) < 2**-8
    assert (lse - wanted_lse).abs().max() < 2**-8


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["q", "k", "v"])
def test_what_is_not_finite_shows(where: str, number: float) -> None:
    given = dict(zip("qkv", drawn(20, 600), strict=True))
    given[where][0, 1, 7, 5] = number
    out, _ = own(**given)
    assert out[:, 0].isfinite().all()
    assert not (out[:, 1, 7] if where == "q" else out[:, 1]).isfinite().all()


@pytest.mark.parametrize("heads", [1, 5])
def test_threads_share_the_queries(heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given = drawn(200, 300, heads=heads)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    alone = own(*given)
    for number in (2, 3, 50):  # 50: more than there are blocks of queries in one head
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        for one, other in zip(alone, own(*given), strict=True):
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


def test_every_share_is_done_once_and_in_several_threads() -> None:
    from harness.cache.compiled.threads import in_threads, torch_team

    def loop(first: int, last: int) -> None:
        done.append((first, last, threading.get_ident()))

    assert torch_team() is not None  # torch is built with one of the libraries it looks for
    for number in (1, 2, 3):
        done: list[tuple[int, int, int]] = []
        in_threads(loop, (), 7, number)
        assert [i for first, last, _ in sorted(done) for i in range(first, last)] == list(range(7))
        assert len({thread for *_, thread in done}) == number


def test_an_error_in_a_thread_is_raised() -> None:
    from harness.cache.compiled.threads import in_threads

    def loop(first: int, last: int) -> None:
        if first:
            raise OverflowError("share 2")

    with pytest.raises(OverflowError, match="share 2"):
        in_threads(loop, (), 2, 2)


def test_a_fork_has_threads_of_its_own() -> None:
    from harness.cache.compiled.threads import in_threads

    given = drawn(70, 90)
    own(*given)
    in_threads(lambda first, last: None, (), 2, 2)  # now the parent has torch's threads
    child = os.fork()
    if not child:  # no exception may leave the child: it would go on as a second test run
        status = 1
        try:
            signal.alarm(60)
            done: list[int] = []
            in_threads(lambda first, last: done.append(first), (), 2, 2)
            status = int(sorted(done) != [0, 1])
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
