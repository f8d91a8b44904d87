"""Attention with 8-bit queries and keys: its error against fp32 is bounded, and never hidden."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.api import Exact, Method, Quantizer
from harness.cache.attention.auto import Auto
from harness.cache.attention.base import Backend, Scratch, attend_grouped
from harness.cache.attention.int8 import Int8
from harness.cache.attention.reference import Reference
from harness.cache.compiled import softmax
from harness.system.errors import UserError
from methods.quantizers.affine import Affine
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from methods.retention.keep import KeepAll
from methods.retention.prune import SoftPrune
from tests.cache.test_attention import attended, filled
from tests.support.attention import exactly, relative
from tests.support.geometry import BF16, CPU, method_names, method_of, one_of_each_class, spec

pytestmark = pytest.mark.skipif(softmax.missing() is not None, reason=str(softmax.missing()))
WAYS: dict[str, Backend] = {
    "heads": Int8(),
    "one head": Int8(scratch_mib=1e-6),
    "tokens": Int8(axis="tokens", tile_tokens=40),
}
QUANTIZERS: dict[str, Quantizer] = {
    "exact": Exact(),
    "rtn4": RTN(bits=4),
    "quarot4": QuaRot(Affine(bits=4, group=32, axis="channels")),
}
BOUND = 0.02  # of the norm of the output, with keys and queries drawn from a normal distribution


def drawn(num_queries: int, num_keys: int, width: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_queries + num_keys)
    shapes = (1, 2, num_queries, width), *[(1, 2, num_keys, width)] * 2
    q, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    return q, k, v


def eight_bit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    from harness.cache.compiled.softmax.attend import attend_int8

    Int8().resolve(spec(), BF16, CPU)
    return attend_int8(q, k, v, bias)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", one_of_each_class(method_names()))
def test_every_method_is_served(name: str, way: str) -> None:
    session = filled(method_of(name))
    oracle = attended(session, Reference())
    assert relative(attended(session, WAYS[way]), oracle) < BOUND


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", QUANTIZERS)
def test_pooled_frames_and_rotated_keys(name: str, dtype: torch.dtype, way: str) -> None:
    session = filled(Method(QUANTIZERS[name], QUANTIZERS[name], SoftPrune()), dtype)
    oracle = attended(session, Reference(), dtype)
    assert relative(attended(session, WAYS[way], dtype), oracle) < BOUND


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("positions", ["absolute", "relative"])
@pytest.mark.parametrize("keys", ["roped", "pre_rope"])
def test_keys_turn_on_reading(keys: str, positions: str, way: str) -> None:
    preset = {"window": 9, "sink": 3, "positions": positions, "keys": keys}
    session = filled(Method(RTN(bits=8), RTN(bits=8), KeepAll()), **preset)
    assert relative(attended(session, WAYS[way]), attended(session, Reference())) < BOUND


@pytest.mark.parametrize("way", WAYS)
def test_the_first_chunk_is_8_bit_too(way: str) -> None:
    q, k, v = drawn(96, 96)
    found = WAYS[way].attend(q, k, v, [], Scratch())
    assert 1e-4 < relative(found, exactly(q, k, v)[0]) < BOUND


def test_queries_share_heads_of_keys() -> None:
    q, k, v = drawn(50, 70)
    several = q.repeat_interleave(3, 1) + torch.arange(6)[:, None, None] / 6
    found = attend_grouped(Int8(), several, k, v, [], Scratch())
    repeated = (x.repeat_interleave(3, 1) for x in (k, v))
    assert relative(found, exactly(several, *repeated)[0]) < BOUND


def test_an_offset_that_all_keys_share_costs_nothing() -> None:
    """Without the smoothing of keys it would: codes would spend their range on the offset."""
    q, k, v = drawn(64, 600)
    far = k + 100 * torch.randn(1, 2, 1, 64, generator=torch.Generator().manual_seed(2))
    out, lse = eight_bit(q, far, v)
    wanted, wanted_lse = exactly(q, far, v)
    # The mean of the keys keeps only fp32's digits, and so do the logits.
    assert relative(out, wanted) < BOUND
    assert (lse - wanted_lse).abs().max() < 0.1
    step = far.abs().amax(-1, keepdim=True) / 127
    unsmoothed = exactly(q, (far / step).round() * step, v)[0]
    assert relative(unsmoothed, wanted) > 10 * BOUND


def test_tiles_with_means_of_their_own_merge() -> None:
    """Each tile of tokens shifts its logits by another number, which its log-sum-exp gives back."""
    session = filled(method_of("bf16"))
    for layer in session._layers:
        for arena in layer.arenas.values():
            for _, pages in arena.pages:
                (part,) = pages.key.parts.values()
                part += torch.arange(part.shape[2]).view(1, 1, -1, 1, 1).to(part.dtype)
    oracle = attended(session, Reference())
    assert relative(attended(session, WAYS["tokens"]), oracle) < BOUND


@pytest.mark.parametrize("size", [1e-3, 1.0, 30.0])
def test_the_error_of_a_logit_is_that_of_its_codes(size: float) -> None:
    """With the steps of the codes q_step and k_step, by the triangle inequality."""
    q, k, _ = (size * x for x in drawn(40, 300))
    lse = eight_bit(q, k, k)[1]
    small = k - k.mean(2, keepdim=True)
    q_step, k_step = q.abs().amax(-1) / 127, small.abs().amax(-1) / 127
    width = q.shape[-1]
    bound = (
        q_step[..., None] / 2 * small.abs().sum(-1)[:, :, None]
        + k_step[:, :, None] / 2 * q.abs().sum(-1)[..., None]
        + width / 4 * q_step[..., None] * k_step[:, :, None]
    ) / math.sqrt(width)
    # Every logit is off by at most the bound, so the log-sum-exp is by at most the largest one. The
    # rounding of its weights to BF16 adds 2**-8.
    wanted = exactly(q, k, k)[1]
    assert ((lse - wanted).abs() <= bound.amax(-1) + 2**-8 + 1e-5 * wanted.abs()).all()


def test_the_matrix_units_are_left_as_torch_needs_them() -> None:
    q, k, v = (x.bfloat16() for x in drawn(300, 300))
    before = torch.nn.functional.scaled_dot_product_attention(q, k, v), q @ k.mT
    eight_bit(q, k, v)
    after = torch.nn.functional.scaled_dot_product_attention(q, k, v), q @ k.mT
    for one, other in zip(before, after, strict=True):
        assert torch.equal(one, other)


def test_it_is_never_chosen_for_the_user() -> None:
    for name in method_names():
        assert not isinstance(Auto().resolve(spec(), method_of(name), CPU), Int8)


def test_other_devices_are_refused() -> None:
    with pytest.raises(UserError, match="meta is neither CPU nor GPU; type attention=auto"):
        Int8().resolve(spec(), BF16, torch.device("meta"))


def test_other_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    softmax.units.cache_clear(), softmax.missing.cache_clear()
    try:
        with pytest.raises(UserError, match="no units for products of 8-bit matrices"):
            Int8().resolve(spec(), BF16, CPU)
    finally:
        softmax.units.cache_clear(), softmax.missing.cache_clear()
