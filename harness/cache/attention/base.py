"""What an attention backend is given and what it must give back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec, Method, Packed, Quantizer
from harness.cache.numerics import are_finite
from harness.cache.pages import Pages, encode_into
from harness.cache.positions import Table, Turns


@dataclass(frozen=True)
class Segment:
    """Stored frames of one form that a pass may attend to.

    turns: how keys turn on reading; None where they are stored as needed. log_count: log of the
    number of tokens that each stored token stands for; bias: the same where it differs from token
    to token [B, H, tokens] fp32. span: frames in a page.
    """

    pages: Pages
    key_quantizer: Quantizer
    value_quantizer: Quantizer
    turns: Table | None = None
    log_count: float = 0.0
    bias: Tensor | None = None
    span: int = 1

    @property
    def num_tokens(self) -> int:
        """Stored tokens, which is how many the attention sees."""
        return len(self.pages.slots) * self.pages.key.page[0]

    @property
    def kernel_turns(self) -> Turns | None:
        """The turns, for kernels, which turn adjacent channel pairs of whole frames only."""
        assert self.turns is None or isinstance(self.turns, Turns)
        return self.turns

    @property
    def needs_torch(self) -> bool:
        """Whether keys turn on reading in a way that no kernel knows."""
        return self.turns is not None and not isinstance(self.turns, Turns)

    @cached_property
    def key_rotation(self) -> Tensor | None:
        """The rotation in which keys lie."""
        return _rotation(self.key_quantizer, self.pages.key)

    @cached_property
    def key_basis(self) -> Tensor | None:
        """The rotation R [D, D] in which keys can be attended as they lie: q R meets k R.

        A rotation from before the position was applied does not commute with it, so keys that turn
        on reading have none.
        """
        return None if self.turns else self.key_rotation

    @cached_property
    def value_basis(self) -> Tensor | None:
        """The rotation in which values lie."""
        return _rotation(self.value_quantizer, self.pages.value)

    def load_keys(self, heads: slice, frames: slice, out: Tensor, basis: Tensor | None) -> None:
        """Write the keys of some heads and frames into out [B, h, F * T, D], in a basis."""
        own = self.key_rotation
        _stage(self.key_quantizer, self.pages.key, self.pages.runs, heads, frames, out)
        if self.turns is None:
            change_basis(out, own, basis)
            return
        change_basis(out, own, None)
        apart = out.unflatten(2, (-1, self.pages.key.page[0] // self.span))
        of_pages = slice(frames.start * self.span, frames.stop * self.span)
        out.copy_(self.turns.rotate(apart, of_pages, heads).flatten(2, 3))
        change_basis(out, None, basis)

    def load_values(self, heads: slice, frames: slice, out: Tensor, basis: Tensor | None) -> None:
        """Write the values of some heads and frames into out [B, h, F * T, D], in a basis."""
        own = self.value_basis
        _stage(self.value_quantizer, self.pages.value, self.pages.runs, heads, frames, out)
        change_basis(out, own, basis)


@dataclass
class Scratch:
    """Decoded keys and values of one tile, reused by all layers of a session.

    finite: whether what backends decoded is finite, an answer a tile; None while nobody asks.
    """

    buffer: Tensor = field(default_factory=lambda: torch.empty(0))
    finite: list[Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.buffer.nbytes

    def look(self, *decoded: Tensor) -> None:
        """Note whether decoded history is finite, if somebody asks."""
        if self.finite is not None:
            self.finite.append(are_finite(*decoded))

    def take(self, like: Tensor, num_heads: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Room for keys and values [B, num_heads, num_tokens, D] of the dtype of `like`."""
        shape = (2, like.shape[0], num_heads, num_tokens, like.shape[3])
        size = 2 * like.shape[0] * num_heads * num_tokens * like.shape[3]
        if self.buffer.numel() < size:
            self.buffer = torch.empty(0)  # free the old room before taking the new
            self.buffer = torch.empty(size, dtype=like.dtype, device=like.device)
        room = self.buffer[:size].view(shape)
        return room[0], room[1]


class Backend(ABC):
    """How the current chunk attends to packed history. Without state; scratch is the session's."""

    name: ClassVar[str]

    def describe(self, device: torch.device) -> str:
        """What is recorded with every row."""
        return self.name

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """The backend that will run, which is this one if it can.

        Raises  UserError: this machine, model or method cannot be served; names what can.
        """
        return self

    def scratch_bytes(self, spec: CacheSpec, num_tokens: int, itemsize: int) -> int:
        """Scratch of a pass over so many tokens, batch 1; itemsize is that of the model."""
        return 0

    def write(self, quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
        """Encode new frames [B, H, F, T, D] into their pages of `room`."""
        encode_into(quantizer, x_BHFTD, room, pages)

    @abstractmethod
    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Softmax attention of q over history and the exact current chunk; output [B, H, T, D].

        q and k are turned to their positions already. The scale is 1 / sqrt(D). q has as many heads
        as k: `attend_grouped` has brought queries that share a head of keys together.
        """


def attend_grouped(
    backend: Backend,
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    history: Sequence[Segment],
    scratch: Scratch,
) -> Tensor:
    """Attention of H query heads over G heads of keys and values; output [B, H, T, D].

    Query head h meets KV head h // (H / G). Nothing in attention to history depends on which query
    asks, so the queries of a group are more queries of their KV head: history is decoded once for
    all of them, and no backend or kernel need know of groups.
    """
    q = q_BHTD.unflatten(1, (k_BGTD.shape[1], -1)).flatten(2, 3)
    out = backend.attend(q, k_BGTD, v_BGTD, history, scratch)
    apart: Tensor = out.unflatten(2, (-1, q_BHTD.shape[2])).flatten(1, 2)
    return apart


def heads_in(num_heads: int, head_bytes: int, mib: float, least: int = 1) -> int:
    """Heads whose decoded keys and values, `head_bytes` each, take at most `mib`; or `least`."""
    return min(num_heads, max(least, int(mib * 2**20) // head_bytes))


def head_groups(
    like: Tensor, num_tokens: int, scratch_mib: float, least: int = 1
) -> Iterator[slice]:
    """Heads of `like` [B, H, T, D] whose keys and values fit into scratch together."""
    head_bytes = 2 * like.shape[0] * num_tokens * like.shape[3] * like.itemsize
    group = heads_in(like.shape[1], head_bytes, scratch_mib, least)
    for start in range(0, like.shape[1], group):
        yield slice(start, min(start + group, like.shape[1]))


def spans(history: Sequence[Segment]) -> Iterator[tuple[Segment, slice]]:
    """Segments, and where each lies among the tokens of all of them."""
    filled = 0
    for segment in history:
        yield segment, slice(filled, filled + segment.num_tokens)
        filled += segment.num_tokens


def bases(history: Sequence[Segment]) -> tuple[Tensor | None, Tensor | None]:
    """The bases of keys and values in which attention moves least: those of the largest segment."""
    largest = max(history, key=lambda segment: segment.num_tokens)
    return largest.key_basis, largest.value_basis


def into(x: Tensor, basis: Tensor | None) -> Tensor:
    """x R [..., D], or x where there is no basis."""
    return x if basis is None else x @ basis.to(x.dtype)


def out_of(x: Tensor, basis: Tensor | None) -> Tensor:
    """x R^T, the way back."""
    return x if basis is None else x @ basis.T.to(x.dtype)


def _rotation(quantizer: Quantizer, packed: Packed) -> Tensor | None:
    return quantizer.rotation(packed.page[1], packed.device)


def change_basis(x: Tensor, old: Tensor | None, new: Tensor | None) -> None:
    """Rewrite x [..., D] in place; nothing to do where the bases are the same."""
    if old is not new:
        x.copy_(into(out_of(x.float(), old), new))


def _stage(
    quantizer: Quantizer,
    packed: Packed,
    runs: Sequence[tuple[slice, slice]],
    heads: slice,
    frames: slice,
    out: Tensor,
) -> None:
    """Stage those of the runs that lie among `frames` into out [B, h, F * T, D]."""
    pages = out.unflatten(2, (-1, packed.page[0]))
    for slots, places in runs:
        first, last = max(places.start, frames.start), min(places.stop, frames.stop)
        if first < last:
            lag = slots.start - places.start
            chosen = packed.view(heads, slice(first + lag, last + lag))
            quantizer.stage(chosen, pages[:, :, first - frames.start : last - frames.start])
