"""FP8 and FP4 against their definitions, spelled out here by enumeration."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from harness.api.bits import unpack
from methods.quantizers.fp4 import E2M1, FP4, MXFP4, NVFP4
from methods.quantizers.fp8 import FP8
from methods.quantizers.grouped import FP16_MIN
from methods.quantizers.rtn import RTN
from methods.quantizers.rtn_e4m3 import RTNE4M3
from tests.support.errors import error
from tests.support.geometry import spec


def minifloat(code: int, exponent_bits: int, mantissa_bits: int, bias: int) -> float:
    """The number of a code, by the definition of a binary floating-point format."""
    mantissa = code % 2**mantissa_bits
    exponent = code >> mantissa_bits & (2**exponent_bits - 1)
    sign = -1.0 if code >> (exponent_bits + mantissa_bits) else 1.0
    if exponent == 0:
        return sign * mantissa * 2.0 ** (1 - bias - mantissa_bits)
    return sign * (1 + mantissa * 2.0**-mantissa_bits) * 2.0 ** (exponent - bias)


FORMATS = {
    "e2m1": [minifloat(c, 2, 1, 1) for c in range(16)],
    "e4m3": [minifloat(c, 4, 3, 7) for c in range(256) if c % 128 != 127],
    "e5m2": [minifloat(c, 5, 2, 15) for c in range(256) if c % 128 < 124],
}


def rounded(x: float, name: str) -> float:
    """The nearest number of a format; of two, that with an even code; the largest beyond it."""
    numbers = enumerate(n for n in FORMATS[name] if math.copysign(1, n) == math.copysign(1, x))
    return min(numbers, key=lambda pair: (abs(pair[1] - x), pair[0] % 2))[1]


def frames(seed: int, spread: float, shape: tuple[int, ...] = (1, 2, 2, 8, 32)) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random)
    return x * (spread * torch.randn(*shape[:-1], 1, generator=random)).exp()


def test_the_table_is_the_format() -> None:
    assert list(E2M1) == FORMATS["e2m1"]
    assert max(FORMATS["e4m3"]) == 448 and max(FORMATS["e5m2"]) == 57344


MIDDLES = [(a + b) / 2 for a, b in zip(FORMATS["e2m1"][:7], FORMATS["e2m1"][1:8], strict=True)]
EDGES = [s * f * m for m in [*MIDDLES, *FORMATS["e2m1"][:8]] for s in (1, -1) for f in (1, 0.9999)]


def reference(x: Tensor, scale: Tensor, block: int) -> Tensor:
    """x [.., D] over the scale of its block [.., D / block], rounded one by one, scaled back."""
    scales = scale.repeat_interleave(block, -1)
    quotient = (x / scales).flatten().tolist()
    return torch.tensor([rounded(q, "e2m1") for q in quotient]).view(x.shape) * scales


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 4))
def test_mxfp4_is_what_the_standard_says(seed: int, spread: float) -> None:
    x = frames(seed, spread)
    largest = x.abs().amax(-1, keepdim=True)
    exponent = torch.tensor([math.floor(math.log2(v)) - 2 for v in largest.flatten().tolist()])
    scale = (2.0**exponent).view(largest.shape)
    packed = MXFP4().encode(x)
    assert torch.equal(packed.parts["scale"].flatten().int() - 127, exponent.int())
    assert torch.equal(MXFP4().decode(packed, torch.float32), reference(x, scale, 32))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 4))
def test_nvfp4_has_two_levels_of_scales(seed: int, spread: float) -> None:
    x = frames(seed, spread)
    blocks = x.unflatten(-1, (-1, 16)).abs().amax(-1)
    unit = blocks.amax((-1, -2), keepdim=True) / (6 * 448)
    small = [rounded(v, "e4m3") for v in (blocks / 6 / unit).flatten().tolist()]
    scale = torch.tensor(small).view(blocks.shape) * unit
    packed = NVFP4().encode(x)
    back = NVFP4().decode(packed, torch.float32)
    assert torch.equal(packed.parts["scale"].view(torch.float8_e4m3fn).float() * unit, scale)
    assert torch.equal(back, reference(x, scale.clamp_min(1e-38), 16).where(
        scale.repeat_interleave(16, -1) > 0, 0.0))  # fmt: skip


@pytest.mark.parametrize("quantizer", [MXFP4(), NVFP4()])
def test_ties_go_to_even_and_beyond_the_largest_it_saturates(quantizer: FP4) -> None:
    """Scale 1, so that the numbers of the format and their middles are met exactly."""
    x = torch.zeros(1, 1, 1, len(EDGES), 32)
    x[..., 1] = torch.tensor(EDGES)
    x[..., 0] = x[..., 16] = 6
    if isinstance(quantizer, MXFP4):
        x[..., 2] = 7.9  # floor(log2) is still 2
    packed = quantizer.encode(x)
    codes = unpack(packed.parts["codes"], 4)[0, 0, 0]
    if isinstance(quantizer, MXFP4):
        assert (codes[:, 2] == 7).all()
        expected = [rounded(e, "e2m1") for e in EDGES]
        assert [E2M1[c] for c in codes[:, 1].tolist()] == expected
    assert (codes[:, 0] == 7).all()
    assert quantizer.decode(packed, torch.float32)[..., 0].allclose(torch.tensor(6.0), rtol=1e-6)


def test_e8m0_covers_what_bf16_does() -> None:
    for power in (-100, -20, 0, 20, 100):
        x = torch.full((1, 1, 1, 2, 32), 1.5 * 2.0**power)
        assert torch.equal(MXFP4().decode(MXFP4().encode(x), torch.float32), x)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.floats(0, 3), st.sampled_from(["e4m3", "e5m2"]), st.booleans())
@example(171, 3.0, "e5m2", True)  # a token so small that its scale would round to 0
def test_fp8_is_its_format(seed: int, spread: float, name: str, scaled: bool) -> None:
    x = frames(seed, spread, (1, 1, 2, 4, 32))
    largest = max(FORMATS[name])
    scale = torch.ones(x.shape[:4])
    if scaled:
        scale = (x.abs().amax(-1) / largest).clamp_min(FP16_MIN).half().float()
    quotient = (x / scale[..., None]).clamp(-largest, largest)
    expected = torch.tensor([rounded(q, name) for q in quotient.flatten().tolist()]).view(x.shape)
    quantizer = FP8(name, scaled)  # type: ignore[arg-type]
    back = quantizer.decode(quantizer.encode(x), torch.float32)
    assert torch.equal(back, expected * scale[..., None])


def test_fp8_without_scale_saturates() -> None:
    x = torch.tensor([1e6, -1e6, 448, 500]).repeat(8).view(1, 1, 1, 1, 32)
    for name, top in (("e4m3", 448), ("e5m2", 57344)):
        quantizer = FP8(name, scaled=False)  # type: ignore[arg-type]
        assert quantizer.decode(quantizer.encode(x), torch.float32).abs().max() == top


def test_scales_keep_small_values() -> None:
    x = frames(0, 0) * 1e-3
    assert error(FP8("e4m3", True), x) < 0.03 < error(FP8("e4m3", False), x)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_scales_in_a_byte_cost_little(size: float) -> None:
    """Their unit makes them independent of the size of what is stored."""
    x = size * frames(0, 0.5)
    for bits in (2, 4):
        plain, small = (kind(bits, 32, "channels") for kind in (RTN, RTNE4M3))
        assert error(small, x) < 1.15 * error(plain, x)
        assert small.encode(x).nbytes < plain.encode(x).nbytes
    assert error(RTNE4M3(4, 16, "tokens"), x) < 1.15 * error(RTN(4, 16, "tokens"), x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FP8("e3m4"), "FP8.format=e3m4: choose e4m3 or e5m2"),  # type: ignore[arg-type]
        (lambda: MXFP4().check(spec(head_dim=48)), "not made of blocks of 32"),
        (lambda: NVFP4().check(spec(head_dim=40)), "not made of blocks of 16"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
