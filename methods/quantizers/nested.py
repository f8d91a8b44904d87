"""What quantizers around others share: names of stored parts, also in layouts, and a check."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from harness.api import CacheSpec, Centroids, KernelLayout, Packed, Quantizer


def refuse_rotation(owner: Quantizer, inner: Quantizer, spec: CacheSpec, instead: str) -> None:
    """Raise ValueError if a quantizer inside `owner` rotates; instead: what to choose."""
    # Stored values stay rotated, and what the owner adds or writes over them is not.
    if inner.rotation(spec.head_dim, torch.device("cpu")) is not None:
        raise ValueError(
            f"{type(owner).__name__}: {type(inner).__name__} rotates: choose {instead}"
        )


def named(packed: Packed, stage: str) -> dict[str, Tensor]:
    """Return the parts with `stage` and an underscore before each name."""
    # Two stages of one class have parts of the same names.
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

    # A table of numbers belongs to the format; a name is that of a stored part.
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
    # One of the two would be lost without a word.
    twice = sorted(set(inner.parts) & set(own))
    if twice:
        raise ValueError(f"{twice[0]} is stored twice: a quantizer is inside one of its own kind")
    return replace(inner, parts={**inner.parts, **own})
