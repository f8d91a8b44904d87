"""Counts the bytes of stored history by running the quantizers, without a formula per method."""

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

Parts = dict[str, float]  # bytes by component
COUNT_BYTES = NOTE_BYTES = 4  # fp32, per token
INDEX_BYTES = 24  # frame, place and the policy's choice, int64 each, per token
LENGTH = 420  # latent frames of the video for which a policy's notes are counted
SMALL = (4, 8)  # grid of the synthetic tokens on which a token policy is tried
MANY = 2**14  # maximum number of synthetic tokens


class Storage:
    """The bytes that one method stores on one model, at batch 1."""

    def __init__(self, spec: CacheSpec, method: Method, dtype: torch.dtype) -> None:
        """Count the policy's notes; `frame` counts each tier when it is first asked for.

        dtype: of the model.
        """
        self.spec, self.method, self.dtype = spec, method, dtype
        self._policy = sized(method, spec, LENGTH)
        self._tiers = {**tiers_of(method), SINK: Tier(Exact(), Exact())}
        # Remembered, since both are measured by running a quantizer.
        self._frames: dict[tuple[str, int], Parts] = {}
        self._encoding: dict[tuple[str, tuple[int, ...]], int] = {}
        self.note = self._note()

    def frame(self, tier: str, tokens: int | None = None) -> Parts:
        """Return the bytes of a frame in a tier by component, keys and values of all layers.

        tokens: tokens of a frame stored in this tier, if frames are split. The bytes are still
        those of a whole frame's number of tokens.
        """
        spec = self.spec
        tokens = tokens or spec.tokens_per_frame
        if (tier, tokens) in self._frames:
            return self._frames[tier, tokens]
        if tier == POOL:
            values = spec.num_layers * 2 * spec.kv_heads * spec.head_dim
            return {"pooled": values * self.dtype.itemsize}
        # Whole pages are encoded, since metadata need not grow in proportion to the tokens.
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
        self._frames[tier, tokens] = found
        return found

    def history(
        self, frames: Mapping[str, float], parts: Mapping[str, int], num_frames: int
    ) -> dict[str, int]:
        """Return the bytes of history by component.

        frames: number of frames by tier. parts: tokens of a frame stored in each tier.
        num_frames: length of the video so far.
        """
        # Sums of fractions of frames, as counts are means over layers: round only at the end.
        held: defaultdict[str, float] = defaultdict(float)
        for tier, number in frames.items():
            for name, size in self.frame(tier, parts.get(tier)).items():
                held[name] += number * size
        if isinstance(self._policy, FramePolicy):
            held["notes"] += num_frames * self.note
        elif self._policy.trigger == "new_chunk":
            # Such a policy scores tokens by the queries of the chunk before, which are kept.
            spec, queries = self.spec, self._policy.num_queries(self.spec)
            values = spec.num_layers * spec.num_heads * spec.head_dim * queries
            held["queries"] += values * self.dtype.itemsize
        return {name: round(size) for name, size in held.items() if round(size)}

    def total(self, tier: str, tokens: int | None = None) -> float:
        """Return the bytes of a frame in a tier, summed over components."""
        return sum(self.frame(tier, tokens).values())

    def storing_bytes(self, held: Moment) -> int:
        """Return the peak of temporary bytes while a layer stores a chunk.

        The policy's own arithmetic is not counted.
        """
        spec, size = self.spec, self.dtype.itemsize
        if isinstance(self._policy, TokenPolicy):
            # The temporary tensors of one layer in `TokenLayer.commit`: all tokens decoded, rotated
            # and joined with the new ones; the packed ones joined and picked; indices.
            values = spec.kv_heads * spec.head_dim
            new = spec.chunk_frames * spec.tokens_per_frame
            old = math.ceil(held.tokens)
            both = old + new
            a_token = self.total(KEEP) / spec.num_layers / spec.tokens_per_frame
            exact = 3 * old * values * size + 3 * both * values * size  # keys, values, rotated keys
            packed = round((both + held.full * spec.tokens_per_frame) * a_token)
            return exact + packed + both * spec.kv_heads * INDEX_BYTES
        values = 2 * spec.kv_heads * spec.tokens_per_frame * spec.head_dim
        moved = math.ceil(held.moved) * values
        # Moved frames are decoded before any is stored (the pages are used again), and stay decoded
        # until the last tier is done. First they are in fp32, then in the model's dtype too.
        most = moved * (4 + size)
        for name, count in held.tiers.items():
            # Tiers are stored one after the other, so the largest counts.
            if name == POOL:
                # Frames joined in the model's dtype, and in fp32 for the mean.
                pooling = math.ceil(count.stored) * values * (size + 4)
                most = max(most, moved * size + pooling)
            elif count.stored:
                # `stored` counts split frames by their share, so this is the number of frames.
                share = held.parts[name] / spec.tokens_per_frame
                frames = math.ceil(count.stored / share)
                # A tier that gets nothing but the new chunk encodes it where it lies. Otherwise the
                # frames are first joined from several sources, which copies them.
                whole = name == KEEP and not held.moved and frames <= spec.chunk_frames
                joined = 0 if whole else math.ceil(count.stored) * values * size
                encoding = self._encoding_bytes(name, held.parts[name], frames)
                most = max(most, moved * size + joined + encoding)
        return most

    def _note(self) -> int:
        """Return the bytes of notes per frame over all layers; for a token policy, per token."""
        spec, policy = self.spec, self._policy
        if isinstance(policy, TokenPolicy):
            return NOTE_BYTES * _takes_notes(self.method, spec)
        if type(policy).observe is FramePolicy.observe:
            return 0
        # Zeros will do: the size of a note depends on shapes only.
        x = torch.zeros(1, spec.kv_heads, 1, spec.tokens_per_frame, spec.head_dim, dtype=self.dtype)
        note = policy.observe(x, x)
        passes = 1 + policy.observes_noisy
        return 0 if note is None else passes * spec.num_layers * note.nbytes

    def _encoding_bytes(self, tier: str, tokens: int, frames: int) -> int:
        """Return the peak of encoding keys or values of some frames in one layer, in bytes."""
        own, spec = self._tiers[tier], self.spec
        shape = (1, spec.kv_heads, -(-frames // own.span), own.span * tokens, spec.head_dim)
        if (tier, shape) not in self._encoding:
            # Keys and values are encoded one after the other.
            peaks = (_encoding(quantizer, shape, self.dtype) for quantizer in (own.key, own.value))
            self._encoding[tier, shape] = max(peaks)
        return self._encoding[tier, shape]


def _encoding(quantizer: Quantizer, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the peak bytes of encoding x [B, H, F, T, D], by running the quantizer."""
    # On the meta device, which takes neither memory nor time, whatever the size of a frame.
    x = on_meta(shape, dtype)
    try:
        with LiveBytes() as live:
            quantizer.encode(x)
    except RuntimeError:  # also NotImplementedError, which is one
        # Its code reads values. One head of real ones is enough: heads are encoded alike. An error
        # of the quantizer itself is raised again here.
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(1, 1, *shape[2:], generator=generator).to(dtype)
        with LiveBytes() as live:
            quantizer.encode(x)
        return shape[1] * int(live.peak)
    return int(live.peak)


def _takes_notes(method: Method, spec: CacheSpec) -> bool:
    """Whether a token policy writes notes, tried once on synthetic tokens of a small geometry.

    A policy that writes notes only in histories of more than MANY tokens is not detected.
    """
    per_frame = SMALL[0] * SMALL[1]
    small = replace(spec, grid=SMALL, num_heads=2, num_kv_heads=None, num_layers=1, window=None)
    size = VideoSize(
        per_frame,
        LENGTH,
        frame_bytes(method, spec),
        spec.bf16_frame_bytes,
        spec.chunk_frames,
        spec.under_way,
    )
    policy = method.retention.sized(size)
    assert isinstance(policy, TokenPolicy)
    new = spec.chunk_frames * per_frame
    # More tokens than the policy keeps, since it may write notes only when it has to choose.
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
