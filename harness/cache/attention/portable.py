"""Backend in plain torch for any device and method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.attention.base import (
    Backend,
    Scratch,
    Segment,
    bases,
    head_groups,
    heads_in,
    into,
    out_of,
    spans,
)
from harness.cache.attention.dense import Merge, attend_dense

Chunk = tuple[Tensor, Tensor, Tensor]  # queries, keys, values of a group of heads [B, h, T, D]


@dataclass(frozen=True)
class Portable(Backend):
    """Decodes one tile of history at a time into scratch and attends to it.

    axis: `heads`: a tile is all tokens of as many heads as fit into `scratch_mib`, at least one.
        `tokens`: a tile is as many frames as fit into `tile_tokens`, at least one; it is faster
        for few queries, since less is decoded at a time.
    scratch_mib: size of a tile in MiB.
    tile_tokens: tokens of a tile with axis `tokens`.

    Raises  ValueError: another axis, a size that is not positive.
    """

    axis: Literal["heads", "tokens"] = "heads"
    scratch_mib: float = 40
    tile_tokens: int = 4096
    name: ClassVar[str] = "portable"

    def __post_init__(self) -> None:
        """Refuse an unknown axis and sizes that are not positive."""
        if self.axis not in ("heads", "tokens"):
            raise ValueError(f"attention.axis={self.axis}: choose heads or tokens")
        # `not >` instead of `<=` refuses NaN too.
        for name in ("scratch_mib", "tile_tokens"):
            if not getattr(self, name) > 0:
                raise ValueError(f"attention.{name}={getattr(self, name)}: give a positive number")

    def describe(self, device: torch.device) -> str:
        """Return the name and the axis of the tiles."""
        return f"{self.name}/{self.axis}"

    def scratch_bytes(self, spec: CacheSpec, num_tokens: int, itemsize: int) -> int:
        """Return the bytes of a tile."""
        seen = num_tokens if self.axis == "heads" else min(num_tokens, self.tile_tokens)
        head_bytes = 2 * seen * spec.head_dim * itemsize
        return head_bytes * heads_in(spec.kv_heads, head_bytes, self.scratch_mib)

    # `compiled` and `int8` replace the next two; how history is decoded stays the same.
    def attend_once(
        self, q_BHTD: Tensor, k_BHTD: Tensor, v_BHTD: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Return attention to all tokens [B, H, T, D]; mask: logits to add, see `mask_of`."""
        return F.scaled_dot_product_attention(q_BHTD, k_BHTD, v_BHTD, attn_mask=mask)

    def attend_part(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        log_count: float = 0.0,
        bias_BHN: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return attention to a part of the tokens, and its log-sum-exp; see `attend_dense`."""
        return attend_dense(q_BHTD, k_BHTD, v_BHTD, log_count, bias_BHN)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend in the basis of the largest segment; see `Backend`."""
        if not history:
            return self.attend_once(q_BHTD, k_BHTD, v_BHTD, None)
        # Rotate q, the current chunk and the output rather than the history, which is larger.
        key_basis, value_basis = bases(history)
        num_tokens = k_BHTD.shape[2] + sum(segment.num_tokens for segment in history)
        # Heads are independent, so tiles of heads need no merge; tiles of tokens share a softmax.
        attend = self._whole if self.axis == "heads" else self._in_tiles
        out = torch.empty_like(q_BHTD)
        for heads in head_groups(
            q_BHTD, num_tokens if self.axis == "heads" else self.tile_tokens, self.scratch_mib
        ):
            q, k = (into(x[:, heads], key_basis) for x in (q_BHTD, k_BHTD))
            v = into(v_BHTD[:, heads], value_basis)
            out[:, heads] = out_of(attend(heads, (q, k, v), history, scratch), value_basis)
        return out

    def _whole(
        self, heads: slice, chunk: Chunk, history: Sequence[Segment], scratch: Scratch
    ) -> Tensor:
        """Return attention over all tokens of a group of heads."""
        q, k, v = chunk
        num_stored = sum(segment.num_tokens for segment in history)
        # History and current chunk share one buffer, so that one attention call reads both.
        room = scratch.take(k, k.shape[1], num_stored + k.shape[2])
        key_basis, value_basis = bases(history)
        for segment, span in spans(history):
            frames = slice(0, len(segment.pages.slots))
            segment.load_keys(heads, frames, room[0][:, :, span], key_basis, self.stage)
            segment.load_values(heads, frames, room[1][:, :, span], value_basis, self.stage)
        scratch.look(*(part[:, :, :num_stored] for part in room))
        for part, current in zip(room, (k, v), strict=True):
            part[:, :, num_stored:] = current
        mask = mask_of(history, num_stored + k.shape[2], q, heads, q.dtype)
        return self.attend_once(q, *room, mask)

    def _in_tiles(
        self, heads: slice, chunk: Chunk, history: Sequence[Segment], scratch: Scratch
    ) -> Tensor:
        """Return attention of a group of heads over the current chunk and then tile by tile."""
        q, k, v = chunk
        key_basis, value_basis = bases(history)
        # The current chunk comes first: it always has tokens, so the sum never starts empty.
        merged = Merge(*self.attend_part(q, k, v))
        # A tile ends with a page, since pages are decoded whole.
        for segment in history:
            size, num_pages = segment.pages.key.page[0], len(segment.pages.slots)
            step = max(1, self.tile_tokens // size)
            for start in range(0, num_pages, step):
                pages = slice(start, min(start + step, num_pages))
                tokens = slice(pages.start * size, pages.stop * size)
                room = scratch.take(k, k.shape[1], tokens.stop - tokens.start)
                segment.load_keys(heads, pages, room[0], key_basis, self.stage)
                segment.load_values(heads, pages, room[1], value_basis, self.stage)
                scratch.look(*room)
                bias = None if segment.bias is None else segment.bias[:, heads, tokens]
                merged.add(*self.attend_part(q, *room, segment.log_count, bias))
        return merged.out  # fp32, rounded once by the caller


def mask_of(
    history: Sequence[Segment], num_tokens: int, like: Tensor, heads: slice, dtype: torch.dtype
) -> Tensor | None:
    """Return additive logits [B or 1, h or 1, 1, num_tokens]; None if no segment has any."""
    if not any(segment.log_count or segment.bias is not None for segment in history):
        return None
    # One row serves all samples and heads unless a segment brings a bias for each of them. No mask
    # depends on the query, so one row serves all queries too.
    alike = all(segment.bias is None for segment in history)
    shape = (*((1, 1) if alike else like.shape[:2]), 1, num_tokens)
    mask = like.new_zeros(shape, dtype=dtype)
    for segment, span in spans(history):
        if segment.bias is not None:
            mask[..., span] = segment.bias[:, heads, None]
        elif segment.log_count:
            mask[..., span] = segment.log_count
    return mask
