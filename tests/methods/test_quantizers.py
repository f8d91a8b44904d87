from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import Exact, Quantizer
from harness.api.bits import unpack
from methods.quantizers.affine import Affine
from methods.quantizers.channelwise import Centered, ChannelScaled
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot, hadamard
from methods.quantizers.rtn import RTN
from tests.support.geometry import spec

SHAPE = (1, 2, 3, 32, 32)


def frames(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(quantizer, x: torch.Tensor) -> float:
    """Relative L2 error of a round trip."""
    return ((quantizer.decode(quantizer.encode(x), x.dtype) - x).norm() / x.norm()).item()


@pytest.mark.parametrize("axis", ["tokens", "channels"])
@pytest.mark.parametrize("kind", [RTN, Affine])
def test_error_falls_as_bits_rise(kind: type, axis: str) -> None:
    errors = [error(kind(bits=bits, axis=axis), frames()) for bits in (2, 4, 8)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2]
    assert errors[1] < 0.1 and errors[2] < 0.006


def test_two_bits_use_four_levels() -> None:
    """A ternary quantizer (level at zero, scale max|x|) would use three."""
    packed = RTN(bits=2).encode(frames())
    counts = unpack(packed.parts["codes"], 2).unique(return_counts=True)[1]
    assert len(counts) == 4
    assert counts.min() > 0.05 * counts.sum()


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([2, 4, 8]),
    st.sampled_from(["tokens", "channels"]),
    st.floats(-300, 300),
    st.floats(0.01, 10),
)
def test_zero_point_holds_for_groups_far_from_zero(
    bits: int, axis: str, offset: float, spread: float
) -> None:
    """Every value lands within half a step of its group's grid, wherever the group lies.

    fp16 metadata add a rounding of the offset; the published clamp would lose the offset itself.
    """
    x = frames() * spread + offset
    y = Affine(bits=bits, axis=axis)
    back = y.decode(y.encode(x), torch.float32)
    groups = x.unflatten(-2, (-1, 16)) if axis == "tokens" else x.unflatten(-1, (-1, 16))
    dim = -2 if axis == "tokens" else -1
    step = (groups.amax(dim) - groups.amin(dim)).max() / (2**bits - 1)
    assert (back - x).abs().max() <= 0.5 * step + 2e-3 * (abs(offset) + 5 * spread)


@pytest.mark.parametrize("value", [0.0, 3.25, -40.0])
@pytest.mark.parametrize("kind", [RTN, Affine])
def test_constant_groups_survive(kind: type, value: float) -> None:
    x = torch.full(SHAPE, value)
    assert torch.allclose(kind(bits=2).decode(kind(bits=2).encode(x), torch.float32), x, rtol=1e-3)


def test_frames_are_independent() -> None:
    """Encoding frames together or apart gives the same codes: nothing leaks across frames."""
    x = frames()
    for quantizer in (RTN(), Affine(axis="channels"), QuaRot(Affine(axis="channels")), Exact()):
        together = quantizer.encode(x)
        apart = [quantizer.encode(part).parts for part in (x[:, :, :1], x[:, :, 1:2], x[:, :, 2:])]
        for name, tensor in together.parts.items():
            assert torch.equal(tensor, torch.cat([parts[name] for parts in apart], dim=2))


def test_a_group_of_heads_decodes_alone() -> None:
    x = frames()
    for quantizer in (RTN(), Affine(axis="channels"), QuaRot(Affine(axis="channels"))):
        packed = quantizer.encode(x)
        whole = quantizer.decode(packed, torch.float32)
        assert torch.equal(
            quantizer.decode(packed.view(slice(1, 2), slice(None)), torch.float32), whole[:, 1:2]
        )


def test_a_residual_is_closer_than_one_stage_of_the_same_bits() -> None:
    x = frames()
    residual = error(PRQ(RTN(bits=4), RTN(bits=4)), x)
    assert residual < error(RTN(bits=4), x) / 8
    assert error(PRQ(RTN(bits=2), RTN(bits=4)), x) < error(RTN(bits=4), x)


def test_what_a_frame_shares_costs_no_levels() -> None:
    """Channels far from zero, and channels of another size, are the cases each is for."""
    x = frames()
    shifted = x + 20 * torch.arange(32)
    plain = RTN(bits=4, group=32, axis="channels")
    assert error(Centered(plain), shifted) < error(plain, shifted) / 8
    uneven = x * 2.0 ** torch.arange(-4, 12, 0.5)
    assert error_by_channel(ChannelScaled(plain), uneven) < error_by_channel(plain, uneven) / 3


def error_by_channel(quantizer: Quantizer, x: torch.Tensor) -> float:
    """Mean over channels of the relative error: small channels count as much as large ones."""
    back = quantizer.decode(quantizer.encode(x), x.dtype)
    lost, whole = ((y.square().sum((0, 1, 2, 3))).sqrt() for y in (back - x, x))
    return (lost / whole).mean().item()


def test_a_short_tail_is_its_own_group() -> None:
    x = frames(shape=(1, 1, 1, 24, 32))
    x[..., 16:, :] *= 100
    y = RTN(bits=8, short_tail=True)
    packed = y.encode(x)
    assert packed.parts["scale"].shape[-2] == 2
    assert error(y, x) < 0.006
    assert torch.allclose(y.decode(packed, torch.float32)[..., :16, :], x[..., :16, :], atol=0.02)


def test_quarot_rotates_each_of_many_tokens() -> None:
    """On a CPU it takes some of the tokens at a time."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 2, 257, 16, generator=random)
    quarot = QuaRot(Affine(bits=8, group=16, axis="channels"))
    values, others = quarot.split_off(x)
    assert not others
    torch.testing.assert_close(values, x @ hadamard(16, x.device))
    huge = torch.full((1, 1, 1, 2, 16), 3e38)
    assert quarot.split_off(huge)[0].isfinite().all() and bool((huge > 2e38).all())


def test_hadamard_is_orthonormal_and_spreads_outliers() -> None:
    matrix = hadamard(32, torch.device("cpu"))
    assert torch.allclose(matrix @ matrix.T, torch.eye(32), atol=1e-6)
    x = frames()
    x[..., 5] *= 30
    plain = Affine(bits=4, group=32, axis="channels")
    ordinary = [c for c in range(32) if c != 5]
    lost = [
        (q.decode(q.encode(x), x.dtype) - x)[..., ordinary].norm().item()
        for q in (plain, QuaRot(plain))
    ]
    assert lost[1] < lost[0]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RTN(bits=3), "RTN.bits=3: choose 2, 4 or 8"),
        (lambda: RTN(group=0), "RTN.group=0"),
        (lambda: RTN(axis="frames"), "choose tokens or channels"),
        (
            lambda: RTN(group=7).check(spec()),
            "does not divide the 32 tokens of a frame: choose 2, 4",
        ),
        (lambda: Affine(group=5, axis="channels").check(spec()), "32 channels of a head"),
        (lambda: Affine(group=64).check(spec()), "does not divide"),
        (lambda: Affine(group=24, axis="channels", short_tail=True).check(spec()), "does not"),
        (
            lambda: PRQ(QuaRot(RTN()), RTN()).check(spec()),
            "QuaRot rotates: choose RTN or Affine",
        ),
        (
            lambda: Centered(ChannelScaled(RTN())).check(spec()),
            "ChannelScaled cannot be inside: choose RTN",
        ),
        (lambda: QuaRot(RTN()).check(spec(head_dim=48)), "48 is no power of two"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build()


def test_short_tail_serves_the_true_frame() -> None:
    true = spec(grid=(30, 52), head_dim=128, num_heads=12)
    RTN(group=16, short_tail=True).check(true)
    with pytest.raises(ValueError, match="1560 tokens"):
        RTN(group=16).check(true)
