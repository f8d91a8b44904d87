"""Measures the rounding error of a method at several bit widths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate

from harness.api import KEEP, Method
from harness.api.method import tiers_of
from harness.checks.tiny_network import spec

WIDTHS = (2, 4, 8)


def errors_by_bits(config: Mapping[str, Any], page: tuple[int, int]) -> dict[int, dict[str, float]]:
    """Return the relative round-trip error of each quantizer with a field `bits`, by bit width.

    config: configuration of the method. page: number of pages, and frames in each.
    Returns errors by width (ascending) and by `<tier>.<key or value>`. Widths that the method
    refuses are left out.
    """
    # Found in the configuration, because a built quantizer may keep its bits elsewhere or nowhere.
    names = (KEEP, *(config.get("tiers") or {}))
    where = {
        f"{name}.{side}"
        for name in names
        for side in ("key", "value")
        if _has_bits((config if name == KEEP else config["tiers"][name])[side])
    }
    errors: dict[int, dict[str, float]] = {}
    for bits in WIDTHS if where else ():
        # A quantizer need not serve every width; a single width proves nothing about the others.
        try:
            method: Method = instantiate(with_bits(config, bits))
            method.check(spec())
        except (InstantiationException, ValueError):
            continue
        # The same values for every width, so that only the width changes the error.
        generator = torch.Generator().manual_seed(0)
        errors[bits] = {}
        for name, tier in tiers_of(method).items():
            num_tokens = tier.span * page[1] * spec().tokens_per_frame
            shape = (1, spec().kv_heads, page[0], num_tokens, spec().head_dim)
            x = torch.randn(shape, generator=generator)
            for side, quantizer in (("key", tier.key), ("value", tier.value)):
                if f"{name}.{side}" in where:
                    back = quantizer.decode(quantizer.encode(x), torch.float32)
                    errors[bits][f"{name}.{side}"] = ((back - x).norm() / x.norm()).item()
    return errors


def with_bits(config: Any, bits: int) -> Any:
    """Return the configuration with every integer field `bits` set to one width."""
    # At any depth, because quantizers wrap others (QuaRot's `inner`).
    if isinstance(config, Mapping):
        return {
            name: bits if name == "bits" and isinstance(x, int) else with_bits(x, bits)
            for name, x in config.items()
        }
    return [with_bits(x, bits) for x in config] if isinstance(config, list) else config


def _has_bits(config: Any) -> bool:
    """Whether a quantizer's configuration has an integer field `bits`, at any depth."""
    if isinstance(config, Mapping):
        return isinstance(config.get("bits"), int) or any(map(_has_bits, config.values()))
    return isinstance(config, list) and any(map(_has_bits, config))
