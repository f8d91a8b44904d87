"""Computes the bytes a cache should hold, from the declarations of quantizers and policy."""

from __future__ import annotations

from dataclasses import replace

import torch

from harness.api import POOL
from harness.api.method import tiers_of
from harness.cache.frame_layer import FrameLayer
from harness.cache.pages import Arena
from harness.cache.session import Session
from harness.cache.stored_bytes import frame_bytes, tier_bytes
from harness.cache.token_layer import TokenLayer

DTYPE = torch.bfloat16  # of the tiny network's videos (`harness.checks.tiny_network.video`)


def declared_bytes(session: Session) -> float:
    """Return the declared bytes of all layers at batch 1: bytes per frame times frames, by tier."""
    # Layer by layer, because a policy may decide differently for each.
    return sum(
        _token_bytes(session, layer)
        if isinstance(layer, TokenLayer)
        else _frame_bytes(session, layer)
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


def _frame_bytes(session: Session, layer: FrameLayer) -> float:
    """Return the declared bytes of a frame layer: its notes, and the frames of each tier."""
    # Notes have no declaration: what `observe` returned is what they take.
    spec, total = replace(session.spec, num_layers=1), layer.ledger["notes"]
    for name, arena in layer.arenas.items():
        # A pooled frame is one exact token.
        if name == POOL:
            total += _frames(arena) * spec.bf16_frame_bytes // spec.tokens_per_frame
        elif arena.slabs:
            tier = tiers_of(session.method)[name]
            # The tokens of a page, since a split frame has only some of its tokens here.
            page = replace(spec, grid=(1, arena.slabs[0].key.page[0] // tier.span))
            total += _frames(arena) * sum(tier_bytes(tier, page, DTYPE).values())
    return total


def _frames(arena: Arena) -> int:
    """Return the frames that the policy declared for a tier, else those allocated."""
    if not arena.slabs:
        return 0
    # A policy without a bound gets memory chunk by chunk, so what is allocated is what it declares.
    if arena.capacity is None:
        return sum(slab.key.shape[2] for slab in arena.slabs) * arena.span
    return arena.capacity


def _token_bytes(session: Session, layer: TokenLayer) -> float:
    """Return the declared bytes of a token layer: tokens, counts or notes, and kept queries."""
    assert layer.held is not None
    spec = replace(session.spec, num_layers=1)
    beside = (layer.held.count is not None) + (layer.held.note is not None)
    token_bytes = frame_bytes(session.method, spec, DTYPE) / spec.tokens_per_frame
    # Counts and notes are fp32, one for each token of each head.
    token_bytes += 4 * beside * spec.kv_heads
    queries = 0
    if layer.newest is not None:
        queries = layer.policy.num_queries(spec) * spec.num_heads * spec.head_dim * DTYPE.itemsize
    return _most(session, layer) * token_bytes + queries


def _most(session: Session, layer: TokenLayer) -> int:
    """Return the most tokens that the policy declares for a layer."""
    # The policy knows nothing of the model's window: `reach` is the history within it.
    return layer.policy.max_tokens(layer.context.reach * session.spec.tokens_per_frame)
