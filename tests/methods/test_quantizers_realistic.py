"""Errors on data like a video model's: what a correct grid is worth."""

from __future__ import annotations

import torch

from harness.benchmarks.realistic import realistic_keys, realistic_values
from tests.support.errors import bits, error
from tests.support.geometry import method_of, spec

SMALL = spec(num_heads=3, head_dim=128, grid=(12, 16))
KEYS = realistic_keys(SMALL, 2)
VALUES = realistic_values(SMALL, 2)


def ternary(x: torch.Tensor) -> torch.Tensor:
    """Two bits as published: a level at zero and max|x| as scale leave three of four levels."""
    groups = x.unflatten(-2, (-1, 16))
    scale = groups.abs().amax(-2, keepdim=True)
    return ((groups / scale).round() * scale).flatten(-3, -2)


def key_error(name: str) -> float:
    return error(method_of(name).key, KEYS)


def test_four_levels_are_worth_it() -> None:
    published = ((ternary(VALUES) - VALUES).norm() / VALUES.norm()).item()
    assert published > 0.5
    asymmetric = method_of("rtn_asym_int2")
    assert error(asymmetric.key, KEYS) < 0.30
    assert error(asymmetric.value, VALUES) < 0.30


def test_kivi_keys_in_four_bits_are_close() -> None:
    assert key_error("kivi_int4") < 0.06
    assert key_error("kivi_unroped_int2") < 0.30


def test_outliers_and_fitted_levels_pay_for_themselves() -> None:
    assert key_error("qaq_int2") < key_error("kivi_int2")
    assert key_error("qaq_int4") < key_error("kivi_int4")
    nuq, rtn = (method_of(name).key for name in ("kvquant_nuq2", "rtn_int2"))
    assert error(nuq, KEYS) < error(rtn, KEYS) and bits(nuq, KEYS) < bits(rtn, KEYS)


def test_centroids_pay_on_unroped_keys() -> None:
    pre_rope = realistic_keys(SMALL, 2, roped=False)
    qvg, pro = (error(method_of(name).key, pre_rope) for name in ("qvg_int2", "qvg_pro_int2"))
    assert pro < qvg < error(method_of("qvg_int2").key.residual, pre_rope)
