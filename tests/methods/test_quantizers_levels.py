"""Levels that are not evenly spaced: fitted ones, those of the normal distribution, centroids."""

from __future__ import annotations

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api import Quantizer
from harness.api.bits import pack
from methods.quantizers.affine import Affine
from methods.quantizers.clustered import Clustered
from methods.quantizers.kmeans import cluster
from methods.quantizers.levels import look_up, nearest
from methods.quantizers.lloyd_max import LloydMax, normal_levels
from methods.quantizers.normed import Normed
from methods.quantizers.nuq import NUQ, fitted_levels
from methods.quantizers.quarot import QuaRot
from methods.quantizers.rtn import RTN
from methods.quantizers.rtn_e4m3 import RTNE4M3
from tests.support.errors import bits, error
from tests.support.geometry import spec


def frames(seed: int = 0, shape: tuple[int, ...] = (1, 2, 3, 64, 32)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("shared", [True, False])
def test_levels_are_looked_up_by_code(width: int, shared: bool) -> None:
    random = torch.Generator().manual_seed(width)
    codes = torch.randint(0, 2**width, (2, 3, 4, 5, 16), generator=random).to(torch.uint8)
    levels = torch.randn(2, 3, 4, 2**width, generator=random)
    levels = levels[0, 0, 0] if shared else levels
    out = torch.empty(codes.shape)
    look_up(pack(codes, width), width, levels, out)
    table = levels.expand(2, 3, 4, -1)
    assert torch.equal(out.flatten(3), table.gather(3, codes.long().flatten(3)))


def test_the_nearest_level_is_the_nearest() -> None:
    x, levels = frames(), frames(1, (1, 2, 3, 16)).sort().values
    distance = (x[..., None] - levels[:, :, :, None, None]).abs()
    found = distance.gather(-1, nearest(x, levels).long()[..., None])[..., 0]
    torch.testing.assert_close(found, distance.amin(-1))


@pytest.mark.parametrize(("count", "distortion"), [(2, 0.3634), (4, 0.1175), (16, 0.009497)])
def test_levels_of_the_normal_have_the_known_distortion(count: int, distortion: float) -> None:
    """Max (1960), table I; and they are a fixed point, symmetric and ascending."""
    levels = torch.tensor(normal_levels(count), dtype=torch.float64)
    x = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    weight = (-(x**2) / 2).exp() / math.sqrt(2 * math.pi) * (x[1] - x[0])
    code = torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)
    assert ((levels[code] - x).square() * weight).sum().item() == pytest.approx(
        distortion, rel=1e-3
    )
    assert torch.allclose(levels, -levels.flip(0)) and (levels.diff() > 0).all()


def test_turboquant_reaches_the_distortion_on_any_direction() -> None:
    """A norm and a rotation make unlike channels look normal."""
    x = frames(shape=(1, 1, 1, 64, 128)) * torch.linspace(-3, 1, 128).exp()
    for width, distortion in ((2, 0.1175), (4, 0.009497)):
        quantizer = QuaRot(Normed(LloydMax(width)))
        spread = frames(2, x.shape)
        assert error(quantizer, spread) ** 2 == pytest.approx(distortion, rel=0.1)
        assert error(quantizer, x) ** 2 == pytest.approx(distortion, rel=0.1)
        assert error(quantizer, x) < error(Normed(LloydMax(width)), x)


@pytest.mark.parametrize("axis", ["tokens", "channels"])
@pytest.mark.parametrize("width", [2, 4])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), tail=st.floats(1.5, 3))
def test_fitted_levels_beat_even_ones_on_heavy_tails(
    axis: str, width: int, seed: int, tail: float
) -> None:
    """Groups as large as the range that NUQ shares: only the levels differ."""
    x = frames(seed)
    x = x.sign() * x.abs() ** tail
    group = 64 if axis == "tokens" else 32
    even = Affine(width, group, axis)  # type: ignore[arg-type]
    assert error(NUQ(width, axis), x) <= error(even, x)  # type: ignore[arg-type]


def test_fitted_levels_are_a_fixed_point_of_lloyd() -> None:
    x = (frames(shape=(1, 1, 1, 256, 32)) / 3).clamp(-1, 1)
    levels = fitted_levels(x, torch.ones(1, 1, 1, 1, 32), 4)
    code = nearest(x, levels).long()
    means = torch.stack([x[code == i].mean() for i in range(4)])
    assert torch.allclose(levels.flatten(), means, atol=5e-3)


def test_sixteen_fitted_levels_are_close_to_the_best_ones() -> None:
    ratios = []
    for seed in range(8):
        x = frames(seed, (1, 1, 1, 32, 32))
        x = x * x.abs() / x.abs().amax() ** 2
        levels = fitted_levels(x, torch.ones(1, 1, 1, 1, 32), 16)
        rounded = levels.flatten()[nearest(x, levels).long()]
        ratios.append((rounded - x).square().sum().item() / least_error(x.flatten(), 16))
    # Every run of Lloyd's iterations ends in a local optimum. From quantiles the mean is 1.5.
    assert min(ratios) >= 1 and sum(ratios) / len(ratios) < 1.2


def least_error(x_N: torch.Tensor, count: int) -> float:
    """The smallest sum of squared errors that `count` levels can have, by dynamic programming."""
    x = x_N.double().sort().values
    number = torch.arange(len(x) + 1, dtype=torch.float64)
    total, squares = (torch.nn.functional.pad(part.cumsum(0), (1, 0)) for part in (x, x.square()))

    def between(sums: torch.Tensor) -> torch.Tensor:
        """Sums of the sorted values from each start to each stop, from cumulative sums."""
        return sums - sums[:, None]

    error = between(squares) - between(total).square() / between(number).clamp_min(1)
    error[between(number) < 0] = torch.inf
    least = error[0]  # of one level for the first n values
    for _ in range(count - 1):
        least = (least[:, None] + error).amin(0)
    return least[-1].item()


def test_nuq_error_falls_with_bits() -> None:
    for axis in ("tokens", "channels"):
        two, four = (error(NUQ(width, axis), frames()) for width in (2, 4))  # type: ignore[arg-type]
        assert two > 3 * four


def clustered_frames(noise: float = 0.2, seed: int = 0) -> torch.Tensor:
    """256 tokens around 8 places that lie far apart."""
    random = torch.Generator().manual_seed(seed)
    centers = 3 * torch.randn(8, 32, generator=random)
    which = torch.randint(0, 8, (1, 2, 3, 256), generator=random)
    return centers[which] + noise * torch.randn(1, 2, 3, 256, 32, generator=random)


def test_tokens_near_a_centroid_cost_little() -> None:
    x = clustered_frames()
    for width in (2, 4):
        plain = RTNE4M3(width, 32, "channels")
        once = Clustered(plain, tokens_each=16)
        assert error(once, x) < error(plain, x) / 2
        assert bits(once, x) < bits(plain, x) + 16 / 16 + 8 / 32 + 0.01


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**16), noise=st.floats(0.05, 1))
def test_a_second_stage_is_closer(seed: int, noise: float) -> None:
    x = clustered_frames(noise, seed)
    once = Clustered(RTNE4M3(2, 32, "channels"), tokens_each=16)
    assert error(Clustered(once, tokens_each=16), x) < error(once, x)


def test_each_token_has_the_nearest_centroid() -> None:
    x = frames(shape=(1, 1, 3, 64, 32))[0, 0]
    centroids, which = cluster(x, 8, 2)
    assert torch.equal(which.long(), torch.cdist(x, centroids.float()).argmin(-1))


def test_a_centroid_is_the_mean_of_its_tokens() -> None:
    """Settled after many iterations; none is lost where tokens coincide."""
    x = clustered_frames()[0, 0]
    centroids, which = cluster(x, 8, 100)
    for number in which[0].unique().tolist():
        mean = x[0][which[0] == number].mean(0)
        assert torch.allclose(centroids[0, number].float(), mean, rtol=1e-3, atol=1e-3)
    assert cluster(torch.ones(2, 16, 4), 8, 2)[0].isfinite().all()


def test_true_pages_are_clustered_in_time() -> None:
    x = frames(shape=(12, 4680, 128))
    start = time.perf_counter()
    cluster(x, 256, 2)
    assert time.perf_counter() - start < 20  # a guard: half a second on one idle core


def test_small_pages_have_fewer_centroids() -> None:
    quantizer = Clustered(RTN(axis="channels"), centroids=256, tokens_each=8)
    assert quantizer.encode(frames()).parts["centroids"].shape[3] == 8
    wide = frames(shape=(1, 1, 1, 2304, 32))
    assert quantizer.encode(wide).parts["centroids"].shape[3] == 256


def twice(residual: Quantizer) -> Clustered:
    return Clustered(Clustered(residual))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LloydMax(bits=8), "LloydMax.bits=8: choose 2 or 4"),
        (lambda: LloydMax(bits=2).check(spec(head_dim=30)), "do not fill whole bytes"),
        (lambda: NUQ(bits=3), "NUQ.bits=3: choose 2 or 4"),
        (lambda: NUQ(axis="frames"), "choose tokens or channels"),  # type: ignore[arg-type]
        (lambda: NUQ(bits=4).check(spec(head_dim=31)), "do not fill whole bytes"),
        (lambda: Clustered(RTN(), centroids=300), "Clustered.centroids=300: choose 1 to 256"),
        (lambda: Clustered(RTN(), iterations=0), "iterations=0: choose 1 or more"),
        (lambda: Clustered(RTN(), tokens_each=64).check(spec()), "choose 1 to 32"),
        (lambda: Clustered(QuaRot(RTN())).check(spec()), "QuaRot rotates"),
        (lambda: twice(RTN(group=7)).check(spec()), "does not divide"),
    ],
)
def test_impossible_settings_say_what_is_allowed(build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
