"""Names the stored parts of nested quantizers, also in their layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from harness.api import Centroids, KernelLayout, Packed


def named(packed: Packed, stage: str) -> dict[str, Tensor]:
    """Return the parts with `stage` and an underscore before each name."""
    return {f"{stage}_{name}": part for name, part in packed.parts.items()}


def inner_of(packed: Packed, stage: str) -> Packed:
    """Return the parts of one stage, without the prefix of `named`."""
    start = f"{stage}_"
    parts = {n.removeprefix(start): x for n, x in packed.parts.items() if n.startswith(start)}
    return replace(packed, parts=parts)


def named_in(form: KernelLayout, stage: str) -> KernelLayout:
    """Return a layout with the part names that `named` gives."""

    def own(name: str | None) -> str | None:
        return name and f"{stage}_{name}"

    planes = [
        replace(
            plane,
            codes=f"{stage}_{plane.codes}",
            scale=own(plane.scale),
            zero=own(plane.zero),
            unit=own(plane.unit),
            table=own(plane.table) if isinstance(plane.table, str) else plane.table,
        )
        for plane in form.planes
    ]
    return KernelLayout(
        tuple(planes),
        own(form.token_scale),
        own(form.channel_scale),
        own(form.channel_mean),
        tuple(
            Centroids(f"{stage}_{each.rows}", f"{stage}_{each.nearest}") for each in form.centroids
        ),
    )


def joined(inner: Packed, own: Mapping[str, Tensor]) -> Packed:
    """Add the outer quantizer's parts `own` to those of the inner one.

    Raises  ValueError: both have a part of the same name, because a quantizer contains another of
    its kind.
    """
    twice = sorted(set(inner.parts) & set(own))
    if twice:
        raise ValueError(f"{twice[0]} is stored twice: a quantizer is inside one of its own kind")
    return replace(inner, parts={**inner.parts, **own})
