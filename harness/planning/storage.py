"""Bytes of stored history, asked of the quantizers themselves: no formula a method."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

import torch

from harness.api import (
    KEEP,
    POOL,
    CacheSpec,
    Exact,
    FramePolicy,
    Method,
    Quantizer,
    Tier,
    TokenPolicy,
    Tokens,
    VideoSize,
)
from harness.api.method import tiers_of
from harness.cache.session import sized
from harness.cache.stored_bytes import ORIGIN_BYTES, SINK, frame_bytes, tier_bytes
from harness.planning.history import Moment
from harness.planning.live_bytes import LiveBytes, on_meta

Parts = dict[str, float]  # bytes by what they are
COUNT_BYTES = NOTE_BYTES = 4  # fp32, a token
INDEX_BYTES = 24  # frame, place and the policy's choice of a token, int64
LENGTH = 420  # latent frames of a video for which a policy is asked what it notes
SMALL = (4, 8)  # grid of the made-up tokens that a token policy is shown once
MANY = 2**14  # the most of them


class Storage:
    """What one method stores of a video on a model, batch 1."""

    def __init__(self, spec: CacheSpec, method: Method, dtype: torch.dtype) -> None:
        """Ask quantizers and policy; dtype is the model's."""
        self.spec, self.method, self.dtype = spec, method, dtype
        self._policy = sized(method, spec, LENGTH)
        self._tiers = {**tiers_of(method), SINK: Tier(Exact(), Exact())}
        self._frames: dict[tuple[str, int], Parts] = {}
        self._encoding: dict[tuple[str, tuple[int, ...]], int] = {}
        self.note = self._note()

    def frame(self, tier: str, tokens: int | None = None) -> Parts:
        """Bytes of a frame over all layers, keys and values, as it is stored in a tier.

        tokens: of a frame that lie there; the bytes are those of as many parts as make a frame.
        """
        per_frame = self.spec.tokens_per_frame
        tokens = tokens or per_frame
        if (tier, tokens) not in self._frames:
            self._frames[tier, tokens] = self._of_tier(tier, tokens)
        return self._frames[tier, tokens]

    def history(
        self, frames: Mapping[str, float], parts: Mapping[str, int], num_frames: int
    ) -> dict[str, int]:
        """Bytes of history by what they are.

        frames: by tier. parts: tokens of a frame that lie there. num_frames: of the video so far.
        """
        held: defaultdict[str, float] = defaultdict(float)
        for tier, number in frames.items():
            for name, size in self.frame(tier, parts.get(tier)).items():
                held[name] += number * size
        if isinstance(self._policy, FramePolicy):
            held["notes"] += num_frames * self.note
        return {name: round(size) for name, size in held.items() if round(size)}

    def total(self, tier: str, tokens: int | None = None) -> float:
        """Bytes of a frame in a tier together."""
        return sum(self.frame(tier, tokens).values())

    def storing_bytes(self, held: Moment) -> int:
        """The most that lives for a moment while a layer stores a chunk, above what it stores.

        Counted: frames that move, decoded; those of one tier, brought together; the encoding of
        keys or values. For single tokens: all of them, decoded, turned and joined with the new
        ones, and their indices. Not seen: what the policy's own arithmetic takes.
        """
        if isinstance(self._policy, TokenPolicy):
            return self._picking_bytes(held)
        spec, size = self.spec, self.dtype.itemsize
        values = 2 * spec.kv_heads * spec.tokens_per_frame * spec.head_dim
        moved = math.ceil(held.moved) * values
        most = moved * (4 + size)  # decoded in fp32, then as the model computes
        for name, count in held.tiers.items():
            if name == POOL:
                pooling = math.ceil(count.stored) * values * (size + 4)
                most = max(most, moved * size + pooling)
            elif count.stored:
                share = held.parts[name] / spec.tokens_per_frame
                frames = math.ceil(count.stored / share)
                whole = name == KEEP and not held.moved and frames <= spec.chunk_frames
                brought = 0 if whole else math.ceil(count.stored) * values * size
                encoding = self._encoding_bytes(name, held.parts[name], frames)
                most = max(most, moved * size + brought + encoding)
        return most

    def _of_tier(self, tier: str, tokens: int) -> Parts:
        """A page is weighed as large as it is, since metadata need not grow with it."""
        spec = self.spec
        if tier == POOL:
            values = spec.num_layers * 2 * spec.kv_heads * spec.head_dim
            return {"pooled": values * self.dtype.itemsize}
        own = self._tiers[tier]
        page = replace(spec, grid=(1, own.span * tokens))
        sizes = tier_bytes(Tier(own.key, own.value), page, self.dtype)
        times = spec.tokens_per_frame / tokens / own.span
        found = {name: size * times for name, size in sizes.items()}
        if isinstance(self._policy, TokenPolicy):
            rows = spec.num_layers * spec.kv_heads * spec.tokens_per_frame
            found["origin"] = rows * ORIGIN_BYTES
            found["counts"] = rows * COUNT_BYTES * self._policy.rewrites
            found["notes"] = rows * self.note
        return found

    def _note(self) -> int:
        """Bytes of the notes on a frame over all layers; of a token policy, on a token."""
        spec, policy = self.spec, self._policy
        if isinstance(policy, TokenPolicy):
            return NOTE_BYTES * _takes_notes(self.method, spec)
        if type(policy).observe is FramePolicy.observe:
            return 0
        x = torch.zeros(1, spec.kv_heads, spec.tokens_per_frame, spec.head_dim, dtype=self.dtype)
        note = policy.observe(x, x)
        passes = 1 + policy.observes_noisy
        return 0 if note is None else passes * spec.num_layers * note.nbytes

    def _encoding_bytes(self, tier: str, tokens: int, frames: int) -> int:
        """Peak of encoding keys or values of some frames of one layer."""
        own, spec = self._tiers[tier], self.spec
        shape = (1, spec.kv_heads, -(-frames // own.span), own.span * tokens, spec.head_dim)
        if (tier, shape) not in self._encoding:
            peaks = (_encoding(quantizer, shape, self.dtype) for quantizer in (own.key, own.value))
            self._encoding[tier, shape] = max(peaks)
        return self._encoding[tier, shape]

    def _picking_bytes(self, held: Moment) -> int:
        """What `harness.cache.token_layer.TokenLayer.commit` makes of one layer's tokens."""
        spec, size = self.spec, self.dtype.itemsize
        values = spec.kv_heads * spec.head_dim
        new = spec.chunk_frames * spec.tokens_per_frame
        old = math.ceil(held.tokens)
        both = old + new
        a_token = self.total(KEEP) / spec.num_layers / spec.tokens_per_frame
        exact = 3 * old * values * size + 3 * both * values * size  # keys, values, turned keys
        packed = round((both + held.full * spec.tokens_per_frame) * a_token)
        return exact + packed + both * spec.kv_heads * INDEX_BYTES


def _encoding(quantizer: Quantizer, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Peak bytes of encoding x [B, H, F, T, D], by its own code on the meta device.

    Code that looks at values cannot run there: one head of real ones is measured for all of them.
    """
    x = on_meta(shape, dtype)
    try:
        with LiveBytes() as live:
            quantizer.encode(x)
    except (NotImplementedError, RuntimeError):  # an error of its own comes again below
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 1, *shape[2:], generator=generator).to(dtype)
        with LiveBytes() as live:
            quantizer.encode(x)
        return shape[1] * int(live.peak)
    return int(live.peak)


def _takes_notes(method: Method, spec: CacheSpec) -> bool:
    """Whether a token policy writes notes: it is shown made-up tokens once, on a small geometry.

    There are more of them than it keeps, up to MANY; a policy that would write only later is not
    seen to.
    """
    per_frame = SMALL[0] * SMALL[1]
    small = replace(spec, grid=SMALL, num_heads=2, num_kv_heads=None, num_layers=1, window=None)
    room = VideoSize(per_frame, LENGTH, frame_bytes(method, spec), spec.bf16_frame_bytes)
    policy = method.retention.sized(room)
    assert isinstance(policy, TokenPolicy)
    new = spec.chunk_frames * per_frame
    num_tokens = min(policy.max_tokens(MANY), MANY) // per_frame * per_frame + 2 * new
    shape = (1, small.kv_heads, num_tokens)
    generator = torch.Generator().manual_seed(0)
    key, value = torch.randn(2, *shape, spec.head_dim, generator=generator)
    at = torch.arange(num_tokens).expand(shape)
    tokens = Tokens(
        key=key,
        value=value,
        rotated=key,
        query=key[:, :, -new:],
        frame=at // per_frame,
        place=at % per_frame,
        count=torch.ones(shape),
        note=torch.zeros(shape),
        num_new=new,
        spec=small,
    )
    return policy.revise(tokens).note is not None
