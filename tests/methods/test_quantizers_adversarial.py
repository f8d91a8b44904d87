"""What every quantizer makes of inputs that fit it badly, against what its levels allow.

The input is the worst case of a format, not what a model writes: equal channels, single outliers,
offsets, alternating signs, the ends of the range of BF16. No quantizer is listed here; a new one is
a test case, and has either to stay within the bound of its bits or to state its price below.
"""

from __future__ import annotations

import math
from fnmatch import fnmatch

import pytest
import torch
from torch import Tensor

from harness.api import Quantizer
from methods.quantizers.affine import Affine
from methods.quantizers.fp8 import FP8
from methods.quantizers.lloyd_max import LloydMax
from methods.quantizers.normed import Normed
from methods.quantizers.quarot import QuaRot, hadamard, signed_hadamard
from methods.quantizers.rtn import RTN
from methods.quantizers.rtn_e4m3 import RTNE4M3
from tests.support.geometry import CPU, method_names, method_of, read_method

TOKENS, WIDTH = 96, 128


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def page(x: Tensor) -> Tensor:
    """[T, D], broadcast, as the keys of one head and frame [1, 1, 1, T, D] BF16."""
    return x.expand(TOKENS, WIDTH)[None, None, None].bfloat16()


def ordinary() -> Tensor:
    return draw(TOKENS, WIDTH)


def alternating(count: int) -> Tensor:
    return 1 - 2 * (torch.arange(count) % 2).float()


def with_outliers(x: Tensor, token: slice, channel: slice, value: float | Tensor) -> Tensor:
    x = x.clone()
    x[token, channel] = value
    return x


ALL, ONE, SOME = slice(None), slice(5, 6), slice(None, None, 16)
EMPTY = torch.zeros(TOKENS, WIDTH)
INPUTS = {
    "normal": ordinary(),
    "equal channels": draw(TOKENS, 1),
    "equal tokens": draw(1, WIDTH),
    "all equal": torch.full((1, 1), 3.7),
    "outlier channel": with_outliers(ordinary(), ALL, ONE, 100 * draw(TOKENS, 1)),
    "outlier token": with_outliers(ordinary(), ONE, ALL, 100 * draw(1, WIDTH)),
    "one channel": with_outliers(EMPTY, ALL, ONE, draw(TOKENS, 1)),
    "one token": with_outliers(EMPTY, ONE, ALL, draw(1, WIDTH)),
    "one value": with_outliers(EMPTY, ONE, ONE, 1.0),
    "scattered values": with_outliers(1e-3 * ordinary(), SOME, slice(None, None, 32), 100.0),
    "constant offset": ordinary() + 100,
    "negative offset": 0.1 * ordinary() - 100,
    "alternating channels": draw(TOKENS, 1) * alternating(WIDTH),
    "alternating tokens": draw(1, WIDTH) * alternating(TOKENS)[:, None],
    "alternating both": 2.3 * alternating(WIDTH) * alternating(TOKENS)[:, None],
    "half of the channels": draw(TOKENS, 1) * (torch.arange(WIDTH) < WIDTH / 2),
    "small": 1e-4 * ordinary(),
    "large": 1e4 * ordinary(),
}
EXTREMES = {  # beyond what metadata of fp16 can say: nothing may be worse than storing zeros
    "denormal": 1e-39 * ordinary(),
    "below fp16": 1e-30 * ordinary(),
    "steps below fp16": 1e-6 * ordinary(),
    "above fp16": 3e5 * ordinary(),
    "far above fp16": 1e30 * ordinary(),
    "the largest": torch.full((1, 1), 3.38e38),
    "the largest, alternating": 3.38e38 * alternating(WIDTH),
    "the largest, any sign": 3.38e38 * ordinary().sign(),
}
BOUND = {2: 0.52, 4: 0.15, 8: 0.045, 16: 0.0}  # relative L2 error, by the bits of a code

# What is worse than that, and why; docstrings and docs/methods.md say it.
OUTLIERS = ("outlier token", "one channel", "one token", "one value", "scattered values")
FLAT = ("equal channels", "all equal", "* offset", "alternating *", "half of the channels")
PRICES = {
    # Levels without a zero move the zeros beside an outlier by half a step,
    ("rtn_int2*", OUTLIERS): 1.01 * math.sqrt(15) / 3,
    ("rtn_int4*", OUTLIERS): 1.01 * math.sqrt(15) / 15,
    # which the plain Hadamard matrix makes of channels that are alike.
    ("quarot_sym_int2*", FLAT): 1.87,
    ("quarot_sym_int4*", FLAT): 0.375,
    # Three levels, one of them zero, are few where all values are of one size.
    ("qvg_int2*", ("*",)): 0.72,
    ("qvg_pro_int2*", ("*",)): 0.72,
    ("prq_matched_int4*", ("*",)): 0.17,  # two stages of four levels without a zero
    ("int4_token*", ("outlier channel",)): 0.21,  # one outlier widens the steps of a whole head
    ("mxfp4*", ("*",)): 0.25,  # cuts down what lies between 6 and 8 times its scale
    ("fp8_e5m2*", ("*",)): 0.125,  # two bits of mantissa
}


def quantizers() -> dict[str, Quantizer]:
    """Of every tier of every file, each once; those of RTN under the name of what they are."""
    found: dict[str, Quantizer] = {}
    for name in method_names():
        method = read_method(name)
        tiers = {"": method, **{f"{tier}.": each for tier, each in method.tiers.items()}}
        for tier, each in tiers.items():
            for side in ("key", "value"):
                quantizer = getattr(each, side)
                if quantizer in found.values():
                    continue
                plain = isinstance(quantizer, RTN) and quantizer.group == 16
                label = f"rtn_int{quantizer.bits}" if plain else name  # type: ignore[attr-defined]
                found[f"{label}.{tier}{side}"] = quantizer
    return found


EVERY = quantizers()
each = pytest.mark.parametrize("name", EVERY)


def relative_error(quantizer: Quantizer, x: Tensor) -> float:
    back = quantizer.decode(quantizer.encode(x), torch.float32)
    assert back.isfinite().all()
    return ((back.double() - x.double()).norm() / x.double().norm()).item()


def allowed(name: str, case: str, bits: int) -> float:
    prices = [
        price
        for (pattern, cases), price in PRICES.items()
        if fnmatch(name, pattern) and any(fnmatch(case, each) for each in cases)
    ]
    return max([BOUND[bits], *prices])


@each
def test_no_input_costs_more_than_the_levels_allow(name: str) -> None:
    quantizer = EVERY[name]
    bits = max(known for known in BOUND if known <= quantizer.encode(page(EMPTY)).bits)
    errors = {case: relative_error(quantizer, page(x)) for case, x in INPUTS.items()}
    assert not {case: e for case, e in errors.items() if e > allowed(name, case, bits)}


@each
def test_nothing_is_worse_than_storing_zeros(name: str) -> None:
    errors = {case: relative_error(EVERY[name], page(x)) for case, x in EXTREMES.items()}
    assert not {case: e for case, e in errors.items() if e > 1.0001}


@each
def test_zeros_stay_zeros(name: str) -> None:
    quantizer = EVERY[name]
    assert not quantizer.decode(quantizer.encode(page(EMPTY)), torch.float32).any()


@pytest.mark.parametrize("group", [16, 32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_stated_price_of_levels_without_a_zero_is_the_price(bits: int, group: int) -> None:
    """RTN's docstring says how much; a zero, or a level there, does away with it."""
    x = page(with_outliers(EMPTY, ONE, ONE, 1.0))
    group_error = relative_error(RTN(bits, group, "channels"), x)
    assert group_error == pytest.approx(math.sqrt(group - 1) / (2**bits - 1), rel=1e-3)
    for other in (Affine(bits, group, "channels"), RTN(bits, group, "channels", zero_level=True)):
        assert relative_error(other, x) < 1e-3


@pytest.mark.parametrize("bits", [2, 4])
def test_residuals_of_qvg_have_a_zero_where_the_paper_has_one(bits: int) -> None:
    x = page(with_outliers(EMPTY, ALL, ONE, 1.0))
    for name in ("qvg_int2", "qvg_int4", "qvg_pro_int2"):
        residual = method_of(name).key
        while hasattr(residual, "residual"):
            residual = residual.residual
        assert isinstance(residual, RTNE4M3) and residual.zero_level
    plain, zeroed = (RTNE4M3(bits, 64, "channels", zero_level=z) for z in (False, True))
    assert relative_error(plain, x) > 2.5 / (5 if bits == 4 else 1)
    assert relative_error(zeroed, x) < 1e-6


@pytest.mark.parametrize("width", [32, 64, 128, 256])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_seeded_rotation_is_orthonormal_and_exact(width: int, seed: int) -> None:
    matrix = signed_hadamard(width, CPU, seed)
    assert torch.equal(matrix @ matrix.T, torch.eye(width))
    assert torch.equal((matrix * width).round() / width, matrix)
    assert not torch.equal(matrix, signed_hadamard(width, CPU, seed + 1))
    assert matrix is signed_hadamard(width, CPU, seed)


def test_a_seed_draws_the_same_rotation_everywhere() -> None:
    """Another draw from the same seed would make results of two machines unlike."""
    assert (signed_hadamard(8, CPU, 0) * 8).int().tolist()[0] == [0, 0, -4, 4, -4, -4, 0, 0]


@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize(("bits", "distortion"), [(2, 0.1175), (4, 0.009497)])
def test_turboquant_reaches_its_distortion_on_flat_and_on_single_channels(
    width: int, bits: int, distortion: float
) -> None:
    """Mean over seeds, as the paper's bound is over rotations; without signs it is far above."""
    flat, alternate = torch.ones(width), alternating(width)
    tokens = torch.stack([flat, alternate, torch.eye(width)[3], flat * (torch.arange(width) < 8)])
    x = tokens[None, None, None]
    inner = Normed(LloydMax(bits))
    errors = [relative_error(QuaRot(inner, seed=seed), x) ** 2 for seed in range(20)]
    assert sum(errors) / len(errors) == pytest.approx(distortion, rel=0.15)
    assert relative_error(QuaRot(inner), x) ** 2 > 3 * distortion


def test_attention_folds_a_rotation_that_is_not_its_own_inverse() -> None:
    quantizer = QuaRot(Affine(8, 32, "channels"), seed=3)
    x = draw(1, 2, 3, 32, 32)
    matrix = quantizer.rotation(32, CPU)
    assert not torch.allclose(matrix, matrix.T) and not torch.allclose(matrix, hadamard(32, CPU))
    packed, staged = quantizer.encode(x), torch.empty(x.shape)
    quantizer.stage(packed, staged)
    torch.testing.assert_close(staged @ matrix.T, x, atol=0.04, rtol=0)
    assert torch.equal(quantizer.decode(packed, torch.float32), staged @ matrix.T)


@pytest.mark.parametrize("exponent", range(-7, 5))
def test_sizes_of_tokens_do_not_matter_within_fp16(exponent: int) -> None:
    x = page(10.0**exponent * ordinary())
    for quantizer in (QuaRot(Normed(LloydMax(4)), seed=0), FP8("e4m3", True)):
        assert relative_error(quantizer, x) < 0.12
    assert relative_error(Affine(8), x) < 0.25


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuaRot(RTN(), seed=-1), "QuaRot.seed=-1: choose a whole number from 0, or null"),
        (lambda: QuaRot(RTN(), seed=True), "QuaRot.seed=True"),
        (lambda: QuaRot(RTN(), seed=0.5), "QuaRot.seed=0.5"),
        (lambda: QuaRot(RTN(), "butterfly", 0), "choose rotate=product, or seed=null"),
    ],
)
def test_impossible_seeds_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
