"""Computes the bytes a cache should hold, from the declarations of quantizers and policy."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.api import POOL, CacheSpec, Tier
from harness.api.method import tiers_of
from harness.cache.frame_layer import FrameLayer
from harness.cache.pages import Arena
from harness.cache.session import Session
from harness.cache.stored_bytes import frame_bytes, tier_bytes
from harness.cache.token_layer import TokenLayer

DTYPE = torch.bfloat16


def declared_bytes(session: Session) -> float:
    """Return the declared bytes of all layers at batch 1: bytes per frame times frames, by tier."""
    return sum(
        _of_tokens(session, layer) if isinstance(layer, TokenLayer) else _of_frames(session, layer)
        for layer in session._layers
        if isinstance(layer, FrameLayer | TokenLayer)
    )


def outgrown(session: Session) -> str:
    """Return a message if a tier holds more than the policy declared, else an empty string."""
    for layer in session._layers:
        if isinstance(layer, FrameLayer):
            for name, arena in layer.arenas.items():
                # The first slab has the declared size, so a second one means more frames.
                if arena.capacity is not None and len(arena.slabs) > 1:
                    held = sum(slab.key.shape[2] for slab in arena.slabs) * arena.span
                    return (
                        f"{type(layer.policy).__name__}.max_frames says {arena.capacity} frames "
                        f"for {name}, which came to hold {held}"
                    )
        elif isinstance(layer, TokenLayer) and layer.held is not None:
            held, most = layer.held.origin.shape[2], _most(session, layer)
            if held > most:
                return (
                    f"{type(layer.policy).__name__}.max_tokens says {most} tokens, {held} are held"
                )
    return ""


def one_layer(spec: CacheSpec) -> CacheSpec:
    """Return the geometry with a single layer."""
    return replace(spec, num_layers=1)


def _of_frames(session: Session, layer: FrameLayer) -> float:
    spec, total = one_layer(session.spec), layer.ledger["notes"]
    for name, arena in layer.arenas.items():
        if name == POOL:
            total += _frames(arena) * spec.bf16_frame_bytes // spec.tokens_per_frame
        elif arena.slabs:
            tier = tiers_of(session.method)[name]
            total += _frames(arena) * sum(
                tier_bytes(tier, _paged(spec, arena, tier), DTYPE).values()
            )
    return total


def _frames(arena: Arena) -> int:
    """Return the frames that the policy declared for a tier, else those allocated."""
    if not arena.slabs:
        return 0
    if arena.capacity is None:
        return sum(slab.key.shape[2] for slab in arena.slabs) * arena.span
    return arena.capacity


def _paged(spec: CacheSpec, arena: Arena, tier: Tier) -> CacheSpec:
    """Return the geometry with frames of one page's tokens; split frames have fewer."""
    return replace(spec, grid=(1, arena.slabs[0].key.page[0] // tier.span))


def _of_tokens(session: Session, layer: TokenLayer) -> float:
    """Return the declared bytes of a token layer: tokens, counts or notes, and kept queries."""
    assert layer.held is not None
    spec = one_layer(session.spec)
    beside = (layer.held.count is not None) + (layer.held.note is not None)
    token_bytes = frame_bytes(session.method, spec, DTYPE) / spec.tokens_per_frame
    token_bytes += 4 * beside * spec.kv_heads
    queries = 0
    if layer.newest is not None:
        queries = layer.policy.num_queries(spec) * spec.num_heads * spec.head_dim * DTYPE.itemsize
    return _most(session, layer) * token_bytes + queries


def _most(session: Session, layer: TokenLayer) -> int:
    return layer.policy.max_tokens(layer.context.reach * session.spec.tokens_per_frame)
