"""Paired statistics against hand-worked cases and scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis.section import Method, Section
from analysis.statistics import (
    EXACT_UP_TO,
    by_prompt,
    differences,
    estimates,
    exact_p,
    holm,
    sign_flips,
)

Values = dict[str, dict[int, float]]


def section(quantity: str, values: Values, **more: object) -> Section:
    """A section of videos with one quantity, by method and prompt."""
    rows = {(name, prompt, 0): x for name, of in values.items() for prompt, x in of.items()}
    index = pd.MultiIndex.from_tuples(rows, names=["method", "prompt_index", "sample"])
    videos = pd.DataFrame({quantity: list(rows.values())}, index=index)
    given: dict[str, object] = {"reference": "bf16", **more}
    return Section(
        title="t",
        suite="s",
        is_published=False,
        methods={name: Method(name, "", "RTN", len(of)) for name, of in values.items()},
        values=videos.groupby(level="method", sort=False).mean(),
        videos=videos,
        **given,  # type: ignore[arg-type]
    )


def row(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_p_of_three_differences_is_counted_by_hand() -> None:
    # Sums of (+-1, +-2, +-3): 6, 4, 2, 0, 0, -2, -4, -6; those observed at 6, 4 and 2.
    assert exact_p(np.array([1.0, 2.0, 3.0])) == 2 / 8
    assert exact_p(np.array([-1.0, 2.0, 3.0])) == 4 / 8
    assert exact_p(np.array([1.0, -2.0, 3.0])) == 6 / 8
    assert exact_p(np.array([1.0, 2.0, -3.0])) == 1.0


def test_no_difference_at_all_is_no_evidence() -> None:
    assert exact_p(np.zeros(5)) == 1.0


@given(st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), min_size=1, max_size=9))
@settings(max_examples=60, deadline=None)
def test_p_is_the_share_of_all_sign_patterns(values: list[float]) -> None:
    d = np.array(values)
    patterns = np.array(list(itertools.product([1, -1], repeat=len(d))))
    share = float((np.abs(patterns @ d) >= abs(d.sum()) - 1e-9 * np.abs(d).sum()).mean())
    assert exact_p(d) == pytest.approx(share)


def test_p_is_that_of_scipy() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, 12)
    theirs = stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    )
    assert exact_p(d) == pytest.approx(theirs.pvalue)


def test_random_patterns_agree_with_all_of_them() -> None:
    rng = np.random.default_rng(2)
    short = rng.normal(0.35, 1, (EXACT_UP_TO, 3))
    exact = sign_flips(pd.DataFrame(short))
    # A prompt without a difference changes no sum, and more of them make the test a random one.
    longer = np.vstack([short, np.zeros((EXACT_UP_TO, 3))])
    assert sign_flips(pd.DataFrame(longer)) == pytest.approx(exact, abs=0.01)
    assert min(sign_flips(pd.DataFrame(np.ones((40, 1))))) == pytest.approx(1 / 20_001)


def test_holm_by_hand() -> None:
    # 4 x 0.01, 3 x 0.02, 2 x 0.04, 1 x 0.03: no p may fall below the one before.
    adjusted = holm({"a": 0.04, "b": 0.01, "c": 0.03, "d": 0.02})
    assert adjusted == pytest.approx({"a": 0.06, "b": 0.04, "c": 0.06, "d": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_an_interval_is_that_of_scipys_bootstrap() -> None:
    values = np.random.default_rng(3).normal(10, 2, 20)
    found = estimates(section("runtime_s", {"bf16": row(*values)}), "runtime_s")["bf16"]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert found.bounds == pytest.approx((theirs.low, theirs.high), abs=0.05)
    assert found.n == 20


def test_few_prompts_have_no_interval() -> None:
    found = estimates(section("runtime_s", {"bf16": row(1, 2, 3)}), "runtime_s")["bf16"]
    assert (found.mean, found.bounds, found.n) == (2.0, None, 3)


def test_differences_are_of_shared_prompts() -> None:
    values = {"bf16": {0: 1.0, 1: 2.0, 2: 3.0}, "x": {1: 5.0, 2: 7.0, 9: 100.0}}
    (found,) = differences(section("runtime_s", values), "runtime_s").values()
    assert (found.mean, found.n) == (3.5, 2)
    assert found.p == 0.5  # two of four sign patterns


def test_samples_of_a_prompt_count_once() -> None:
    index = pd.MultiIndex.from_tuples(
        [("x", 0, 0), ("x", 0, 1), ("x", 1, 0)], names=["method", "prompt_index", "sample"]
    )
    one = section("runtime_s", {"x": row(0)})
    videos = pd.DataFrame({"runtime_s": [1.0, 3.0, 4.0]}, index=index)
    many = Section(one.title, one.suite, False, one.methods, one.values, videos, None)
    assert by_prompt(many, "runtime_s")["x"].to_list() == [2.0, 4.0]
    assert estimates(many, "runtime_s")["x"].mean == 3.0


def test_ten_prompts_on_one_side_pass_holm_over_eighteen_and_eight_do_not() -> None:
    def supported(num: int) -> bool:
        base = np.arange(num, dtype=float)
        methods = {f"m{i}": row(*(base + 1 + i)) for i in range(18)}
        found = differences(section("runtime_s", {"bf16": row(*base), **methods}), "runtime_s")
        assert len(found) == 18
        return all(each.is_supported for each in found.values())

    assert supported(10)
    assert not supported(8)


def test_fidelity_is_held_against_the_noise_floor() -> None:
    values = {"floor": row(0.99, 0.98), "again": row(1, 1), "x": row(0.9, 0.8)}
    made = section("ssim", values, floors=["floor"], reruns=["again"])
    found = differences(made, "ssim")
    assert list(found) == ["x"]
    assert found["x"].mean == pytest.approx(-0.135)
    assert differences(section("ssim", values), "ssim") == {}


def test_no_base_no_differences() -> None:
    assert differences(section("runtime_s", {"x": row(1, 2)}, reference=None), "runtime_s") == {}
    assert estimates(section("runtime_s", {"x": row(1, 2)}), "lpips") == {}


def test_an_infinite_value_has_a_mean_and_no_interval() -> None:
    found = estimates(section("psnr_db", {"x": row(1, 2, 3, 4, np.inf)}), "psnr_db")["x"]
    assert (found.mean, found.bounds) == (np.inf, None)
