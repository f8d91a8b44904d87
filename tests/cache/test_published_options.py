"""Each defect of the study is a named option of a class that is right without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.api import Exact, FramePolicy, Method, Quantizer, Tier
from harness.api.bits import unpack
from harness.cache.integration import Packed
from harness.cache.published import Published
from methods.quantizers.affine import Affine
from methods.quantizers.grouped import Grouped
from methods.quantizers.quarot import QuaRot, butterfly, hadamard
from methods.quantizers.rtn import RTN
from methods.quantizers.sigma import Sigma
from methods.retention.age import Age
from methods.retention.keep import KeepAll
from methods.retention.spatial import Above, Foreground
from tests.support.geometry import CPU, spec

SHAPE = (1, 2, 1, 64, 32)


def frame(shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def again(quantizer: Quantizer, x: torch.Tensor) -> torch.Tensor:
    return quantizer.decode(quantizer.encode(x), x.dtype)


def test_a_level_at_zero_leaves_three_of_four() -> None:
    packed = RTN(bits=2, zero_level=True).encode(frame())
    assert unpack(packed.parts["codes"], 2).unique().tolist() == [1, 2, 3]
    x = torch.zeros(SHAPE)
    x[:, :, :, ::2] = 1
    assert torch.equal(again(RTN(bits=2, zero_level=True), x), x)  # zero and extreme are levels
    assert not torch.equal(again(RTN(bits=2), x), x)


@pytest.mark.parametrize("compute", ["float32", "input"])
def test_a_clamped_zero_point_moves_groups_that_do_not_reach_zero(compute: Any) -> None:
    x = frame() * 0.1 + 5
    assert (again(Affine(4), x) - x).abs().max() < 0.05
    moved = again(Affine(4, clamp_zero=True, compute=compute), x)
    assert moved.abs().max() < 1  # within the spread of a group, five away from it
    assert torch.equal(
        again(Affine(4, clamp_zero=True), torch.full(SHAPE, 3.0)), torch.zeros(SHAPE)
    )


@pytest.mark.parametrize("clamp", [False, True])
def test_groups_that_hold_zero_bear_the_clamp(clamp: bool) -> None:
    x = frame().abs()
    x[:, :, :, ::16] = 0
    error = (again(Affine(4, clamp_zero=clamp), x) - x).abs().max()
    assert error < x.max() / 15 * 0.51


def test_heads_together_share_one_scale_of_a_token() -> None:
    x = frame()
    x[:, 1] *= 10
    apart = Affine(4, 128, "channels", short_tail=True)
    together = Affine(4, 128, "channels", short_tail=True, heads="together")
    packed = together.encode(x)
    assert packed.parts["scale"].shape == (1, 2, 1, 64, 1)
    assert packed.parts["scale"].untyped_storage().nbytes() == 64 * 2  # held once
    assert torch.equal(packed.parts["scale"][:, 0], packed.parts["scale"][:, 1])
    errors = [(again(q, x) - x)[:, 0].norm() for q in (apart, together)]
    assert errors[1] > 4 * errors[0]


def test_zeros_that_pad_a_short_group_count_among_its_extremes() -> None:
    x = frame((1, 2, 1, 24, 32)) * 0.1 + 5
    last = Affine(4, 16, short_tail=True).encode(x).parts["scale"]
    zeros = Affine(4, 16, short_tail=True, pad="zeros").encode(x).parts["scale"]
    assert torch.equal(last[..., 0, :], zeros[..., 0, :])
    assert (zeros[..., 1, :] > 5 * last[..., 1, :]).all()


@pytest.mark.parametrize(
    "quantizer",
    [
        RTN(4, compute="input"),
        RTN(4, compute="input", zero_level=True),
        Affine(4, compute="input"),
        Affine(4, compute="input", clamp_zero=True),
    ],
)
def test_scales_found_in_bf16_have_its_eight_bits(quantizer: Grouped) -> None:
    x = frame().bfloat16()
    scale = quantizer.encode(x).parts["scale"]
    assert torch.equal(scale.bfloat16().half(), scale)
    fine = type(quantizer)(4).encode(x).parts["scale"]
    assert not torch.equal(fine.bfloat16().half(), fine)
    assert ((again(quantizer, x) - x).float().norm() / x.float().norm()) < 0.2


def test_a_butterfly_is_the_product_with_a_hadamard_matrix() -> None:
    x = frame()
    torch.testing.assert_close(butterfly(x), x @ hadamard(32, CPU), atol=1e-5, rtol=0)
    torch.testing.assert_close(butterfly(butterfly(x)), x, atol=1e-5, rtol=0)
    assert butterfly(x.bfloat16()).dtype == torch.bfloat16
    quantizer = QuaRot(RTN(8), rotate="butterfly")
    assert ((again(quantizer, x) - x).norm() / x.norm()) < 0.01


@pytest.mark.parametrize("clip", [False, True])
def test_what_lies_beyond_so_many_deviations_is_exact(clip: bool) -> None:
    x = frame()
    x[0, 1, 0, 7, 3], x[0, 0, 0, 9, 1] = 40.0, -50.0
    quantizer = Sigma(RTN(4), sigmas=6.0, clip=clip)
    packed = quantizer.encode(x)
    assert packed.parts["outlier_index"].dtype == torch.int32
    assert sorted(packed.parts["outlier"].tolist()) == [-50, 40]
    back = quantizer.decode(packed, torch.float32)
    assert back[0, 1, 0, 7, 3] == 40 and back[0, 0, 0, 9, 1] == -50
    near = (back - x)[0, 1, 0, :7, 3].abs().max()  # of the same group
    assert (near < 1) == clip


def test_one_piece_for_all_heads_is_refused_before_anything_runs() -> None:
    method = Method(Sigma(RTN()), Exact(), KeepAll())
    with pytest.raises(ValueError, match="what Sigma stores is one piece: choose integration="):
        Packed().check(spec(), method)


@pytest.mark.parametrize(
    "policy", [Age(over="capacity"), Foreground(frozen=False), Foreground(choice=Above(0.02))]
)
def test_uneven_splits_are_refused_before_anything_runs(policy: FramePolicy) -> None:
    tiers = {name: Tier(Exact(), Exact()) for name in policy.tiers}
    method = Method(Exact(), Exact(), policy, tiers=tiers)
    with pytest.raises(ValueError, match=r"pages of one size, but .*: choose integration="):
        Packed().check(spec(), method)
    Published(codes="int8").check(spec(), method)


def test_a_share_keeps_the_largest() -> None:
    x = frame()
    x.view(-1)[100:110] = torch.arange(50.0, 60)
    values = Sigma(RTN(4), 6.0, share=4 / x.numel()).encode(x).parts["outlier"]
    assert sorted(values.tolist()) == [56, 57, 58, 59]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RTN(compute="bf16"), "RTN.compute=bf16: choose float32 or input"),
        (lambda: Affine(pad="mean"), "Affine.pad=mean: choose last or zeros"),
        (lambda: Affine(heads="together"), "heads=together: choose axis=channels"),
        (lambda: QuaRot(RTN(), "fast"), "QuaRot.rotate=fast: choose product or butterfly"),
        (lambda: Sigma(RTN(), 0.0), "Sigma.sigmas=0.0: choose a positive number"),
        (lambda: Sigma(RTN(), share=0.0), "Sigma.share=0.0: choose a share of the values"),
        (lambda: Sigma(QuaRot(RTN())).check(spec()), "QuaRot rotates: choose Affine or PRQ"),
        (lambda: Sigma(RTN()).encode(torch.ones(1, 2, 3, 32, 32)), "integration=published_int8"),
    ],
)
def test_impossible_options_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
