from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.quantizers.affine import Affine
from methods.quantizers.normed import Normed
from methods.quantizers.outliers import Outliers
from methods.quantizers.prq import PRQ
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from tests.support.errors import error
from tests.support.geometry import spec

SHAPE = (2, 2, 3, 32, 32)


def frames(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


INNER = [RTN(bits=2), Affine(bits=4, axis="channels"), PRQ(RTN(bits=2), RTN(bits=2))]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(INNER),
    st.integers(0, 2**16),
    st.floats(20, 1000),
    st.floats(-200, 200),
    st.integers(1, 10),
)
def test_what_lies_far_out_comes_back_exactly(
    inner, seed: int, size: float, offset: float, count: int
) -> None:
    """Wherever it is, whatever the channel's own place and size; bf16 fits into what is stored."""
    quantizer = Outliers(inner, share=count / 1024)
    random = torch.Generator().manual_seed(seed)
    x = frames(seed) * torch.linspace(0.1, 2, 32) + offset * torch.linspace(-1, 1, 32)
    at = torch.rand(*SHAPE[:3], 1024, generator=random).topk(count).indices
    deviation = x.std(3, keepdim=True).expand(SHAPE).flatten(3).gather(3, at)
    sign = torch.randint(0, 2, at.shape, generator=random) * 2 - 1
    flat = x.flatten(3)
    x = flat.scatter(3, at, flat.gather(3, at) + sign * size * deviation).view(SHAPE).bfloat16()
    back = quantizer.decode(quantizer.encode(x), torch.float32)
    exact = x.float().flatten(3).gather(3, at)
    packed = quantizer.encode(x)
    if torch.equal(packed.parts["outlier_index"].long(), at.sort().values):
        assert torch.equal(back.flatten(3).gather(3, at), exact)
    # Several in one channel hide one another, which moves a rank, never a value that is stored.
    stored = packed.parts["outlier_index"].long()
    assert torch.equal(back.flatten(3).gather(3, stored), x.float().flatten(3).gather(3, stored))


def test_a_lone_outlier_is_found_in_a_small_channel() -> None:
    """It is smaller than most values of the large channels: only its channel knows it is far."""
    x = frames() * 2.0 ** torch.linspace(-6, 6, 32)
    x[..., 7, 3] = 20 * x[..., 3].std(3)
    index = Outliers(RTN(), share=1 / 1024).encode(x).parts["outlier_index"]
    assert (index == 7 * 32 + 3).all()


def test_outliers_set_nobodys_step() -> None:
    x = frames()
    x.flatten(3)[..., ::97] *= 40
    plain = RTN(bits=2)
    ordinary = torch.ones(1024, dtype=torch.bool)
    ordinary[::97] = False
    lost = []
    for quantizer in (plain, Outliers(plain, share=0.011)):
        back = quantizer.decode(quantizer.encode(x), torch.float32)
        lost.append((back - x).flatten(3)[..., ordinary].norm().item())
    assert lost[1] < lost[0] / 3
    assert error(Outliers(plain, share=0.011), x) < error(plain, x) / 5


def test_constant_channels_have_none() -> None:
    """Their distance from their own mean is rounding: what differs is elsewhere."""
    x = frames()
    x[..., :16] = torch.linspace(-9, 9, 16)
    index = Outliers(RTN(), share=0.05).encode(x).parts["outlier_index"]
    assert (index % 32 >= 16).all()


def test_the_count_is_fixed_and_the_index_small() -> None:
    packed = Outliers(RTN(), share=0.01).encode(frames())
    assert packed.parts["outlier_value"].shape == (2, 2, 3, 10)
    assert packed.parts["outlier_index"].dtype == torch.int16
    assert (packed.parts["outlier_index"].diff(dim=-1) > 0).all()
    large = Outliers(RTN(), share=0.01).encode(frames(shape=(1, 1, 1, 1280, 32)))
    assert large.parts["outlier_index"].dtype == torch.int32


@settings(max_examples=25, deadline=None)
@given(st.integers(-6, 10), st.integers(0, 2**16))
def test_a_direction_does_not_depend_on_length(power: int, seed: int) -> None:
    """Codes stay as they are and norms scale: exactly, for powers of two."""
    quantizer = Normed(Affine(bits=4, group=32, axis="channels"))
    x = frames(seed)
    one, other = quantizer.encode(x), quantizer.encode(x * 2.0**power)
    assert torch.equal(one.parts["codes"], other.parts["codes"])
    assert torch.equal(one.parts["norm"] * 2.0**power, other.parts["norm"])


def test_norms_serve_tokens_of_unlike_lengths() -> None:
    x = frames() * torch.linspace(-3, 3, 32)[:, None].exp()
    plain = Affine(bits=4)
    assert error_by_token(Normed(plain), x) < error_by_token(plain, x) / 1.5
    assert torch.equal(Normed(plain).decode(Normed(plain).encode(0 * x), torch.float32), 0 * x)


def error_by_token(quantizer, x: torch.Tensor) -> float:
    back = quantizer.decode(quantizer.encode(x), torch.float32)
    return ((back - x).norm(dim=-1) / x.norm(dim=-1)).mean().item()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Outliers(RTN(), share=0), "Outliers.share=0: choose a share"),
        (lambda: Outliers(RTN(), share=1.5), "between 0 and 1"),
        (lambda: Outliers(RTN(), share=1e-5).check(spec()), "less than one of the 1024 values"),
        (lambda: Outliers(QuaRot(RTN())).check(spec()), "QuaRot rotates: choose RTN"),
        (lambda: Outliers(RTN(group=7)).check(spec()), "does not divide the 32 tokens"),
        (lambda: Normed(RTN(group=7)).check(spec()), "does not divide the 32 tokens"),
        (lambda: Normed(Normed(RTN())).encode(frames()), "norm is stored twice"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
