"""Builds what benches compare: methods from their files, and one layer's history stored by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hydra.utils import instantiate
from torch import Tensor

from harness.api import Exact, Method
from harness.cache.attention.base import Segment
from harness.cache.pages import Arena
from harness.config.compose import configured

PRQ = "prq_int4"
# One of each kind of arithmetic: codes of three widths, groups of tokens, a rotation, two planes.
FORMATS = ("rtn_int8", "rtn_int4", "rtn_int2", "kivi_int4", "quarot_int4", PRQ)
SOFT_PRUNE = "softprune_int4"
FEW = ("bf16", "rtn_int4", "kivi_int4", "qvg_int2", "snapkv_bf16", "reuse_fixed_bf16", SOFT_PRUNE)


@dataclass(frozen=True)
class Shape:
    """Shape of one layer's history; frame_tokens: tokens per frame; head_dim: channels per head."""

    num_heads: int
    head_dim: int
    frame_tokens: int
    num_frames: int

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole history."""
        return self.num_frames * self.frame_tokens

    @property
    def bf16_bytes(self) -> int:
        """Bytes of keys and values in BF16."""
        return 4 * self.num_heads * self.num_tokens * self.head_dim


@dataclass(frozen=True)
class Chunk:
    """Queries, keys and values of the current chunk, each [B, H, T, D]."""

    q: Tensor
    k: Tensor
    v: Tensor

    def to(self, dtype: torch.dtype) -> Chunk:
        """Return the chunk in another dtype."""
        return Chunk(self.q.to(dtype), self.k.to(dtype), self.v.to(dtype))


def method_of(name: str, model: str = "self_forcing") -> Method:
    """Build a method from its file, for a model."""
    # The model decides too: frames of 1560 tokens need groups that may be short at the end.
    config = configured(f"method={name}", f"model={model}")["method"]
    method: Method = instantiate(config)
    return method


def draw_history(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw random keys and values of history, [1, H, F, T, D] BF16.

    Keys have two traits that make real ones hard to store: an offset per channel, and one channel
    in 32 that is eight times as large.
    """
    # On the device itself, so that nothing is copied to it.
    random = torch.Generator(device).manual_seed(0)
    size = (1, shape.num_heads, shape.num_frames, shape.frame_tokens, shape.head_dim)
    dtype = torch.bfloat16
    k, v = (torch.randn(size, generator=random, device=device, dtype=dtype) for _ in "kv")
    offset = torch.randn(1, size[1], 1, 1, size[4], generator=random, device=device, dtype=dtype)
    k += offset
    k[..., ::32] *= 8
    return k, v


def draw_chunk(shape: Shape, num_tokens: int, device: torch.device) -> Chunk:
    """Draw the current chunk [1, H, T, D] BF16, head-major."""
    random = torch.Generator(device).manual_seed(1)
    size = (3, 1, shape.num_heads, num_tokens, shape.head_dim)
    return Chunk(*torch.randn(size, generator=random, device=device, dtype=torch.bfloat16))


def stored(
    method: Method, k_BHFTD: Tensor, v_BHFTD: Tensor, kept: Sequence[int] | None = None
) -> list[Segment]:
    """Store history as a session does: frames in `kept` in full, the others as means.

    Shapes  k, v [B, H, F, T, D].
    kept=None keeps all frames.
    """
    every = range(k_BHFTD.shape[2])
    kept = list(every) if kept is None else kept
    pooled = sorted(set(every) - set(kept))
    full = Arena(method.key, method.value, max(1, len(kept)))
    means = Arena(Exact(), Exact(), max(1, len(pooled)))
    # One by one, so that encoding does not set a bench's peak.
    for frame in kept:
        full.store([frame], k_BHFTD[:, :, [frame]], v_BHFTD[:, :, [frame]])
    if pooled:
        mean = (x[:, :, pooled].float().mean(3, True).to(x.dtype) for x in (k_BHFTD, v_BHFTD))
        means.store(pooled, *mean)
    # A mean stands for all tokens of its frame: the bias log(n) gives it the weight of n tokens.
    log_count = math.log(k_BHFTD.shape[3])
    return segments(full) + segments(means, log_count)


def segments(arena: Arena, log_count: float = 0.0) -> list[Segment]:
    """Return the frames of an arena as segments of a pass."""
    return [
        Segment(pages, arena.key_quantizer, arena.value_quantizer, log_count=log_count)
        for _, pages in arena.pages
    ]


def num_rows(history: Sequence[Segment]) -> int:
    """Count the tokens that attention sees."""
    return sum(segment.num_tokens for segment in history)


def spread_out(num_frames: int, num_kept: int) -> list[int]:
    """Choose `num_kept` of `num_frames` frames, evenly spaced."""
    return [i * num_frames // num_kept for i in range(num_kept)]
