"""Attention over packed history: one group of heads at a time is decoded, attended, forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import Packed, Quantizer
from harness.models.rope import rotate

BACKEND = "portable"  # the name recorded with every observation


@dataclass(frozen=True)
class Segment:
    """Stored frames that one pass may attend to.

    turns: rotation of the keys on reading [F, T or 1, D/2], None where they are stored as needed.
    log_count: log of the number of tokens that each stored token stands for.
    """

    key: Packed
    value: Packed
    key_quantizer: Quantizer
    value_quantizer: Quantizer
    num_tokens: int
    turns: Tensor | None = None
    log_count: float = 0.0

    def load(self, heads: tuple[int, int], k_out: Tensor, v_out: Tensor) -> None:
        """Decode a group of heads into k_out and v_out [B, heads, num_tokens, D]."""
        k = self.key_quantizer.decode(self.key.heads(*heads), k_out.dtype)
        k_out.copy_((k if self.turns is None else rotate(k, self.turns)).flatten(2, 3))
        v_out.copy_(
            self.value_quantizer.decode(self.value.heads(*heads), v_out.dtype).flatten(2, 3)
        )


@dataclass
class Scratch:
    """Decoded keys and values of one group of heads, reused by all layers of a session.

    limit_bytes: what keys and values of a group may take together; at least one head is held.
    """

    limit_bytes: int = 50 * 2**20
    buffer: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.buffer.nbytes

    def num_heads(self, like: Tensor, num_tokens: int) -> int:
        """Heads of `like` [B, H, T, D] that fit with `num_tokens` keys each; H if all do."""
        a_head = 2 * like.shape[0] * num_tokens * like.shape[3] * like.itemsize
        return min(like.shape[1], max(1, self.limit_bytes // a_head))

    def take(self, like: Tensor, num_heads: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Room for keys and values [B, num_heads, num_tokens, D] of the dtype of `like`."""
        shape = (2, like.shape[0], num_heads, num_tokens, like.shape[3])
        size = 2 * like.shape[0] * num_heads * num_tokens * like.shape[3]
        if self.buffer.numel() < size:
            self.buffer = torch.empty(0)  # free the old room before taking the new
            self.buffer = torch.empty(size, dtype=like.dtype, device=like.device)
        room = self.buffer[:size].view(shape)
        return room[0], room[1]


def attend(
    q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, history: Sequence[Segment], scratch: Scratch
) -> Tensor:
    """Softmax attention of q over history and the exact current chunk; output [B, H, T, D].

    q and k are rotated already. The scale is 1 / sqrt(D). Heads are independent, so a group of
    them needs no merging.
    """
    if not history:
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD)
    num_stored = sum(segment.num_tokens for segment in history)
    num_tokens = num_stored + k_BHTD.shape[2]
    bias = _bias(history, num_tokens, q_BHTD)
    group = scratch.num_heads(k_BHTD, num_tokens)
    out = torch.empty_like(q_BHTD)
    for start in range(0, q_BHTD.shape[1], group):
        heads = (start, min(start + group, q_BHTD.shape[1]))
        k, v = scratch.take(k_BHTD, heads[1] - heads[0], num_tokens)
        filled = 0
        for segment in history:
            end = filled + segment.num_tokens
            segment.load(heads, k[:, :, filled:end], v[:, :, filled:end])
            filled = end
        k[:, :, num_stored:] = k_BHTD[:, slice(*heads)]
        v[:, :, num_stored:] = v_BHTD[:, slice(*heads)]
        q = q_BHTD[:, slice(*heads)]
        out[:, slice(*heads)] = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out


def _bias(history: Sequence[Segment], num_tokens: int, q: Tensor) -> Tensor | None:
    """Additive logits [1, 1, 1, num_tokens], None where no token stands for several."""
    if not any(segment.log_count for segment in history):
        return None
    bias = q.new_zeros(num_tokens)
    filled = 0
    for segment in history:
        bias[filled : filled + segment.num_tokens] = segment.log_count
        filled += segment.num_tokens
    return bias.view(1, 1, 1, -1)
