"""Names the stored parts of nested quantizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from harness.api import Packed


def named(packed: Packed, stage: str) -> dict[str, Tensor]:
    """Return the parts with `stage` and an underscore before each name."""
    return {f"{stage}_{name}": part for name, part in packed.parts.items()}


def inner_of(packed: Packed, stage: str) -> Packed:
    """Return the parts of one stage, without the prefix of `named`."""
    start = f"{stage}_"
    parts = {n.removeprefix(start): x for n, x in packed.parts.items() if n.startswith(start)}
    return replace(packed, parts=parts)


def joined(inner: Packed, own: Mapping[str, Tensor]) -> Packed:
    """Add the outer quantizer's parts `own` to those of the inner one.

    Raises  ValueError: both have a part of the same name, because a quantizer contains another of
    its kind.
    """
    twice = sorted(set(inner.parts) & set(own))
    if twice:
        raise ValueError(f"{twice[0]} is stored twice: a quantizer is inside one of its own kind")
    return replace(inner, parts={**inner.parts, **own})
