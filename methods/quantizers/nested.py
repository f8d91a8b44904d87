"""Parts of quantizers inside quantizers: what each is called among the parts of the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from harness.api import Packed


def named(packed: Packed, stage: str) -> dict[str, Tensor]:
    """The parts under names that tell them from those of another stage."""
    return {f"{stage}_{name}": part for name, part in packed.parts.items()}


def inner_of(packed: Packed, stage: str) -> Packed:
    """The parts of one stage under their own names."""
    start = f"{stage}_"
    parts = {n.removeprefix(start): x for n, x in packed.parts.items() if n.startswith(start)}
    return replace(packed, parts=parts)


def joined(inner: Packed, own: Mapping[str, Tensor]) -> Packed:
    """The parts of the inner quantizer, and those of the one around it.

    Raises  ValueError: a part of both, which happens if a quantizer is inside one of its kind.
    """
    twice = sorted(set(inner.parts) & set(own))
    if twice:
        raise ValueError(f"{twice[0]} is stored twice: a quantizer is inside one of its own kind")
    return replace(inner, parts={**inner.parts, **own})
