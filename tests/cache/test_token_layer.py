"""Single tokens in a cache: picked as they are stored, turned and weighed as attention needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from harness.api import Exact, Method, Revision, TokenPolicy, Tokens
from harness.cache.attention.portable import Portable
from harness.cache.attention.reference import Reference
from methods.quantizers.rtn import RTN
from tests.support.geometry import BF16, generate, live_bytes, network, spec


class All(TokenPolicy):
    """Keeps everything, token by token."""

    def revise(self, tokens: Tokens) -> Revision:
        num_tokens = tokens.frame.shape[2]
        index = torch.arange(num_tokens).expand(tokens.frame.shape)
        return Revision(index)


class Backwards(All):
    """Keeps everything, newest first: the order means nothing to attention."""

    def revise(self, tokens: Tokens) -> Revision:
        return Revision(super().revise(tokens).index.flip(2))


@dataclass(frozen=True)
class Twice(TokenPolicy):
    """Merges every token with itself once: two counted as one of count 2, of the same key."""

    rewrites = True

    def revise(self, tokens: Tokens) -> Revision:
        index = All().revise(tokens).index
        return Revision(index, count=2 * tokens.count, key=tokens.key, value=tokens.value)


@dataclass(frozen=True)
class Newest(TokenPolicy):
    """Keeps a number of tokens, other ones in every head."""

    number: int

    def revise(self, tokens: Tokens) -> Revision:
        last = tokens.frame.shape[2]
        first = max(0, last - self.number)
        index = torch.arange(first, last).expand(*tokens.frame.shape[:2], -1).clone()
        index[:, 1] = (index[:, 1] - 1).clamp_min(0)
        return Revision(index.sort(2).values)


def method(policy: TokenPolicy, **changes: object) -> Method:
    return Method(Exact(), Exact(), policy, **changes)


@pytest.mark.parametrize("policy", [All(), Backwards()])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"window": 9},
        {"window": 9, "sink": 3},
        {"window": 9, "sink": 3, "positions": "relative"},
        {"window": 9, "sink": 3, "positions": "relative", "keys": "pre_rope"},
    ],
    ids=str,
)
def test_keeping_every_token_equals_keeping_every_frame(policy: TokenPolicy, changes: dict) -> None:
    expected, _ = generate(BF16, num_frames=15, **changes)
    for backend in (Portable(), Portable(axis="tokens", tile_tokens=40), Reference()):
        latents, _ = generate(method(policy), num_frames=15, backend=backend, **changes)
        torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)


def test_unroped_tokens_are_turned_to_their_places() -> None:
    expected, _ = generate(BF16)
    latents, _ = generate(method(Backwards(), keys="pre_rope"))
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)


def test_counts_are_a_bias() -> None:
    """Counting every stored token twice is not what one copy gives; two copies do."""
    once, _ = generate(method(All()))
    twice, session = generate(method(Twice(), keys="pre_rope"))
    assert (once - twice).abs().max() > 1e-3
    assert session.ledger()["counts"] > 0


def test_what_is_held_is_counted() -> None:
    _, session = generate(method(Newest(50)), net=network(torch.bfloat16), num_frames=15)
    shape = spec()
    one = shape.num_layers * shape.num_heads * (2 * 2 * shape.head_dim + 4)
    assert session.stored_bytes == live_bytes(session) == 50 * one
    assert session.num_frames_held == 50 / shape.tokens_per_frame


def test_tokens_of_a_quantizer_move_undecoded() -> None:
    quantizer = RTN(bits=4, group=32, axis="channels")
    picky = replace(method(Backwards()), key=quantizer, value=quantizer)
    whole = replace(BF16, key=quantizer, value=quantizer)
    latents, _ = generate(picky, num_frames=15)
    expected, _ = generate(whole, num_frames=15)
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=0)


def test_impossible_combinations_say_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"picks single tokens, but RTN shares .* axis=channels"):
        replace(method(All()), key=RTN()).check(spec())
    with pytest.raises(ValueError, match=r"Twice merges tokens, .* choose harness.api.Exact"):
        replace(method(Twice(), keys="pre_rope"), key=RTN(axis="channels")).check(spec())
    with pytest.raises(ValueError, match=r"Twice merges tokens .* choose pre_rope"):
        method(Twice()).check(spec())
