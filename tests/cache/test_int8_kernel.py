"""The kernels of 8-bit attention against what their codes say, fp64, and the loop of a CPU.

They run in Triton's interpreter, which takes seconds a case, or on a GPU if there is one.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from harness.api import Exact, Method, Quantizer
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Scratch, attend_grouped
from harness.cache.attention.int8 import Int8, Int8OnGpu
from harness.cache.attention.reference import Reference
from harness.cache.compiled import softmax
from harness.system.errors import UserError
from methods.quantizers.affine import Affine
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.prune import SoftPrune
from tests.cache.test_attention import attended, filled
from tests.conftest import ROOT
from tests.support.attention import exactly, relative
from tests.support.geometry import BF16, method_of, spec
from tests.support.kernels import DEVICE, tiered

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
ON_GPU = DEVICE.type == "cuda"
# Of the norm of the output, with queries, keys and values drawn from a normal distribution. The
# kernel alone: a number between two codes may become either; on a GPU weights are BF16.
BOUND, ALONE = 0.02, 4e-3 if ON_GPU else 1e-4
CUDA = torch.device("cuda")
QUANTIZERS: dict[str, Quantizer] = {
    "exact": Exact(),
    "rtn4": RTN(bits=4),
    "quarot4": QuaRot(Affine(bits=4, group=32, axis="channels")),
    "prq": PRQ(RTN(bits=2), RTN(bits=4)),
}


def drawn(num_queries: int, num_keys: int, width: int = 32, batch: int = 1) -> tuple[Tensor, ...]:
    """Keys have an offset that all of them share, as those of a model do."""
    generator = torch.Generator().manual_seed(num_queries + num_keys)
    shapes = (batch, 2, num_queries, width), *[(batch, 2, num_keys, width)] * 2, (2, 1, width)
    q, k, v, offset = (torch.randn(shape, generator=generator) for shape in shapes)
    return q.to(DEVICE), (k + offset).to(DEVICE), v.bfloat16().float().to(DEVICE)


def rounded(x: Tensor, top: Tensor) -> Tensor:
    step = (top / 127).clamp_min(1e-30)
    return (x / step).round() * step


def by_codes(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Attention in fp64 with queries and keys as the kernel's codes have them."""
    from harness.cache.kernels.int8 import prepare
    from harness.cache.kernels.launch import room_of

    block = prepare(q, k, v, None, room_of(q.device))[0].constants["P"].block
    mean = k.mean(2, keepdim=True)
    few = (k - mean).double()
    coded = [rounded(x, x.abs().amax((2, 3), keepdim=True)) for x in few.split(block, 2)]
    query = rounded(q.double(), q.double().abs().amax(-1, keepdim=True))
    out, lse = exactly(query, torch.cat(coded, 2), v, bias)
    return out, lse + (q * mean).sum(-1).double() / math.sqrt(q.shape[-1])


def eight_bit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    from harness.cache.kernels.int8 import attend_int8

    return attend_int8(q, k, v, bias)


# A tile has 32 keys and 32 queries in the interpreter: less than one, whole ones, and a rest.
@pytest.mark.parametrize(
    "shape", [(40, 72, 32), *tiered([(1, 1, 32), (33, 64, 64), (7, 31, 128), (70, 100, 32)])]
)
@pytest.mark.parametrize("biased", [False, True])
def test_the_kernel_is_attention_by_its_codes(shape: tuple[int, int, int], biased: bool) -> None:
    q, k, v = drawn(*shape, batch=2)
    bias = torch.randn(2, 1, shape[1], device=DEVICE) if biased else None
    (out, lse), (wanted, wanted_lse) = eight_bit(q, k, v, bias), by_codes(q, k, v, bias)
    assert relative(out, wanted) < ALONE
    assert (lse - wanted_lse).abs().max() < 1e-4
    exact, exact_lse = exactly(q, k, v, bias)
    assert relative(out, exact) < BOUND
    assert (lse - exact_lse).abs().max() < 0.1


@pytest.mark.skipif(softmax.missing() is not None, reason=str(softmax.missing()))
def test_it_agrees_with_the_loop_of_a_cpu() -> None:
    """Which has a scale for each key, and rounds weights to BF16."""
    from harness.cache.compiled.softmax.attend import attend_int8

    q, k, v = drawn(40, 72)
    # Keys whose mean is zero and whose largest magnitudes are equal have the same codes in both.
    k = k[:, :, :36] / k[:, :, :36].abs().amax(-1, keepdim=True)
    k = torch.cat([k, -k], 2)
    bias = torch.randn(1, 2, 72, generator=torch.Generator().manual_seed(1))
    out, lse = attend_int8(q.cpu(), k.cpu(), v.cpu(), bias)
    found, found_lse = (x.cpu() for x in eight_bit(q, k, v, bias.to(DEVICE)))
    assert relative(found, out) < 2**-8
    assert (found_lse - lse).abs().max() < 2**-8


def test_an_offset_that_all_keys_share_costs_nothing() -> None:
    """Without the smoothing of keys it would: codes would spend their range on the offset."""
    q, k, v = drawn(40, 72)
    far = k + 100 * torch.randn(1, 2, 1, 32, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    (out, lse), (wanted, wanted_lse) = eight_bit(q, far, v), exactly(q, far, v)
    assert relative(out, wanted) < BOUND
    assert (lse - wanted_lse).abs().max() < 0.1
    unsmoothed = exactly(q, rounded(far, far.abs().amax(-1, keepdim=True)), v)[0]
    assert relative(unsmoothed, wanted) > 5 * BOUND


def test_tokens_can_be_hidden() -> None:
    q, k, v = drawn(40, 72)
    hidden = torch.zeros(1, 2, 72, device=DEVICE)
    hidden[..., :64] = -torch.inf  # no other tokens in the first tiles
    k[:, :, :64] *= 50  # and their logits are the largest
    (out, lse), (wanted, wanted_lse) = eight_bit(q, k, v, hidden), by_codes(q, k, v, hidden)
    assert relative(out, wanted) < ALONE
    assert (lse - wanted_lse).abs().max() < 1e-4


@pytest.mark.parametrize("where", tiered("qkv", "k"))
@pytest.mark.parametrize("number", tiered([torch.nan, torch.inf], torch.nan))
def test_what_is_not_finite_shows(where: str, number: float) -> None:
    given = dict(zip("qkv", drawn(40, 72), strict=True))
    given[where][0, 1, 7, 5] = number
    out, _ = eight_bit(**given)
    assert out[:, 0].isfinite().all()
    assert not (out[:, 1, 7] if where == "q" else out[:, 1]).isfinite().all()


def test_bf16_views_and_queries_that_share_heads() -> None:
    """Tensors as views of [B, T, H, D], three query heads a head of keys, no history."""
    q, k, v = drawn(16, 40)
    several = q.repeat_interleave(3, 1) + torch.arange(6, device=DEVICE)[:, None, None] / 6
    several, k, v = (
        x.bfloat16().transpose(1, 2).contiguous().transpose(1, 2) for x in (several, k, v)
    )
    found = attend_grouped(Int8OnGpu(), several, k, v, [], Scratch())
    repeated = (x.float().repeat_interleave(3, 1) for x in (k, v))
    assert found.dtype == torch.bfloat16
    assert relative(found, exactly(several.float(), *repeated)[0]) < BOUND


@pytest.mark.parametrize("dtype", tiered([torch.float32, torch.bfloat16], torch.bfloat16))
@pytest.mark.parametrize("name", tiered(QUANTIZERS, "quarot4"))
def test_history_with_pooled_frames(name: str, dtype: torch.dtype) -> None:
    session = filled(Method(QUANTIZERS[name], QUANTIZERS[name], SoftPrune()), dtype)
    oracle = attended(session, Reference(), dtype)
    one_head = Int8OnGpu(scratch_mib=1e-6, least_heads=1)
    assert relative(attended(session, one_head, dtype), oracle) < BOUND


@pytest.mark.parametrize("positions", tiered(["absolute", "relative"], "relative"))
@pytest.mark.parametrize("keys", tiered(["roped", "pre_rope"], "pre_rope"))
def test_keys_turn_on_reading(keys: str, positions: str) -> None:
    preset = {"window": 9, "sink": 3, "positions": positions, "keys": keys}
    session = filled(Method(RTN(bits=8), RTN(bits=8), KeepAll()), **preset)
    assert relative(attended(session, Int8OnGpu()), attended(session, Reference())) < BOUND


def test_calls_repeat_bit_for_bit() -> None:
    given = drawn(40, 72)
    assert torch.equal(eight_bit(*given)[0], eight_bit(*given)[0])


def test_a_gpu_gets_the_kernel_and_says_so() -> None:
    chosen = Int8().resolve(spec(), BF16, CUDA)
    assert chosen == Int8OnGpu()
    assert chosen.describe(CUDA) == "int8/triton"


def test_it_is_never_chosen_for_the_user() -> None:
    assert not isinstance(Auto().resolve(spec(), BF16, CUDA), Int8OnGpu)


def test_what_it_cannot_serve_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for method, geometry, said in (
        (method_of("snapkv_bf16"), spec(), "no kernel reads single tokens.* type attention=port"),
        (BF16, spec(head_dim=48), "this model has 48: type attention=portable"),
        (BF16, spec(head_dim=16), "32, 64, 128, this model has 16: type attention=staged"),
    ):
        with pytest.raises(UserError, match=said):
            Int8().resolve(geometry, method, CUDA)
    with pytest.raises(UserError, match=r"axis, scratch_mib and tile_tokens .* leave them out"):
        Int8(axis="tokens").resolve(spec(), BF16, CUDA)
    if not ON_GPU:
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        with pytest.raises(UserError, match="int8: there is no CUDA device; type attention=port"):
            Int8().resolve(spec(), BF16, CUDA)


@pytest.mark.slow
def test_compiles_ahead_for_gpus() -> None:
    """Products of 8-bit integers on tensor cores, and nothing spilled into local memory."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "harness.cache.kernels.ahead", "--only", "int8"]
    run = subprocess.run(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 3 * 3
    for row in rows:
        assert row["registers"] <= 255 and row["stack"] == 0, row
        assert row["int8"] == (row["kernel"] != "encode"), row
        if row["int8"]:
            assert row["shared"] <= (99 if row["sm"] == 86 else 227) * 2**10, row
