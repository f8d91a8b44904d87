"""Computes which tokens of a layer's capacity belong to which tier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.api import DROP, POOL, Placement, Split


@dataclass(frozen=True, eq=False)
class Layout:
    """Places of tokens in a capacity of frames of `frame_tokens` tokens each.

    spans: places of each tier's tokens, ascending; a slice if they are contiguous, else [N] int64.
        Tiers without tokens are left out.
    pooled, dropped: frames.
    """

    spans: Mapping[str, slice | Tensor]
    pooled: tuple[int, ...]
    dropped: tuple[int, ...]
    frame_tokens: int


def places(
    placements: Mapping[int, Placement], frame_tokens: int, device: torch.device
) -> dict[str, Tensor]:
    """Return the places of each tier's tokens in the capacity [N] int64, ascending."""
    # Tokens, not frames, because a split sends some tokens of a frame to another tier.
    found: dict[str, list[Tensor]] = {}
    inside = torch.arange(frame_tokens, device=device)
    for frame in sorted(placements):
        placement = placements[frame]
        if isinstance(placement, Split):
            first = placement.tokens.to(device)
            rest = torch.ones_like(inside, dtype=torch.bool).index_fill_(0, first, False)
            found.setdefault(placement.first, []).append(first + frame * frame_tokens)
            found.setdefault(placement.rest, []).append(inside[rest] + frame * frame_tokens)
        elif placement not in (DROP, POOL):
            found.setdefault(placement, []).append(inside + frame * frame_tokens)
    # A split may send no token to a tier.
    whole = {name: torch.cat(pieces) for name, pieces in found.items()}
    return {name: tokens for name, tokens in whole.items() if tokens.numel()}


def layout(
    placements: Mapping[int, Placement], tiers: Mapping[str, Tensor], frame_tokens: int
) -> Layout:
    """Return the layout of the frames in `placements`; `tiers` is the result of `places`."""
    spans: dict[str, slice | Tensor] = {}
    for name, tokens in tiers.items():
        # Slices of a tensor are views, where indices would copy it.
        first, last = int(tokens[0]), int(tokens[-1])
        contiguous = last - first + 1 == tokens.numel()
        spans[name] = slice(first, last + 1) if contiguous else tokens
    return Layout(
        spans=spans,
        pooled=tuple(f for f in sorted(placements) if placements[f] == POOL),
        dropped=tuple(f for f in sorted(placements) if placements[f] == DROP),
        frame_tokens=frame_tokens,
    )
