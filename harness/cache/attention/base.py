"""Interface of attention backends, the segments of history that they read, and their scratch."""

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
from harness.cache.pages import Pages, Stage, encode_into, stage_by_torch
from harness.cache.positions import Table, Turns
from harness.system.machine import is_emulated


@dataclass(frozen=True)
class Segment:
    """Stored frames of one pair of quantizers that a pass may attend to.

    pages: the frames.
    turns: rotations of the keys on reading; None if they are stored at the right positions.
    log_count: log of the number of tokens that each stored token stands for.
    bias: replaces log_count if it differs between tokens [B, H, tokens] fp32.
    span: frames in a page.
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
        """Number of stored tokens; attention reads all of them."""
        return len(self.pages.slots) * self.pages.key.page[0]

    @property
    def kernel_turns(self) -> Turns | None:
        """The turns as kernels need them: rotations of adjacent channel pairs of whole frames."""
        assert self.turns is None or isinstance(self.turns, Turns)
        return self.turns

    @property
    def needs_torch(self) -> bool:
        """Whether the rotation of keys on reading needs torch because kernels do not support it."""
        # Kernels rotate adjacent channel pairs only. MAGI-1 pairs halves (`HalfTurns`).
        return self.turns is not None and not isinstance(self.turns, Turns)

    @cached_property
    def key_rotation(self) -> Tensor | None:
        """The quantizer's rotation of keys [D, D] fp32; None without one."""
        return _rotation(self.key_quantizer, self.pages.key)

    @cached_property
    def key_basis(self) -> Tensor | None:
        """The rotation R [D, D] fp32 in which attention can read keys: q R against k R, or None."""
        # Keys with `turns` must leave R first: R was applied before the position, and the two
        # rotations do not commute.
        return None if self.turns else self.key_rotation

    @cached_property
    def value_basis(self) -> Tensor | None:
        """The quantizer's rotation of values [D, D] fp32; None without one."""
        return _rotation(self.value_quantizer, self.pages.value)

    def load_keys(
        self,
        heads: slice,
        frames: slice,
        out: Tensor,
        basis: Tensor | None,
        stage: Stage = stage_by_torch,
    ) -> None:
        """Decode the keys of some heads and pages into out [B, h, F * T, D], in `basis`.

        heads, frames: which heads, and which entries of `pages.slots`.
        """
        # Three changes, in this order: out of the quantizer's rotation, to the position, into the
        # basis of attention. The first and the last cancel if no position comes between.
        own = self.key_rotation
        stage(self.key_quantizer, self.pages.key, self.pages, heads, frames, out)
        if self.turns is None:
            change_basis(out, own, basis)  # nothing to do if both are the same, the usual case
            return
        change_basis(out, own, None)  # positions apply to plain channels
        apart = out.unflatten(2, (-1, self.pages.key.page[0] // self.span))
        of_pages = slice(frames.start * self.span, frames.stop * self.span)
        out.copy_(self.turns.rotate(apart, of_pages, heads).flatten(2, 3))
        change_basis(out, None, basis)

    def load_values(
        self,
        heads: slice,
        frames: slice,
        out: Tensor,
        basis: Tensor | None,
        stage: Stage = stage_by_torch,
    ) -> None:
        """Decode the values of some heads and pages into out [B, h, F * T, D], in `basis`."""
        # Values have no position, so their rotation is the only change.
        own = self.value_basis
        stage(self.value_quantizer, self.pages.value, self.pages, heads, frames, out)
        change_basis(out, own, basis)


@dataclass
class Scratch:
    """Buffer for the decoded keys and values of one tile, shared by all layers of a session.

    finite: collects whether decoded tiles are finite, one result per tile; None outside commit
        passes, which need no check.
    """

    buffer: Tensor = field(default_factory=lambda: torch.empty(0))
    finite: list[Tensor] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self.buffer.nbytes

    def look(self, *decoded: Tensor) -> None:
        """Record whether decoded history is finite, in passes that check it."""
        if self.finite is not None:
            self.finite.append(are_finite(*decoded))

    def take(self, like: Tensor, num_heads: int, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Return buffers for keys and values [B, num_heads, num_tokens, D] in the dtype of `like`.

        They are valid until the next call.
        """
        # All keys, then all values, so that each half is contiguous.
        shape = (2, like.shape[0], num_heads, num_tokens, like.shape[3])
        size = 2 * like.shape[0] * num_heads * num_tokens * like.shape[3]
        if self.buffer.numel() < size:
            self.buffer = torch.empty(0)  # free the old buffer first, so that both never coexist
            self.buffer = torch.empty(size, dtype=like.dtype, device=like.device)
        # The buffer grows with the history and never shrinks; smaller tiles use its beginning.
        room = self.buffer[:size].view(shape)
        return room[0], room[1]


class Backend(ABC):
    """Attention of the current chunk over packed history. Stateless: the session owns the scratch.

    name: name of the backend, as in `attention=<name>`.
    """

    name: ClassVar[str]

    def describe(self, device: torch.device) -> str:
        """Return the description that every row records."""
        return self.name

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Backend:
        """Return the backend that will run: this one, if it can.

        Raises  UserError: it cannot serve this machine, model or method; names a backend that can.
        """
        return self

    def scratch_bytes(self, spec: CacheSpec, num_tokens: int, itemsize: int) -> int:
        """Return the bytes of scratch of a pass over `num_tokens` tokens, batch 1.

        itemsize: bytes of a value in the model's dtype.
        """
        return 0

    def write(self, quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
        """Encode new frames [B, H, F, T, D] into their pages of `room`."""
        # A backend overrides this and `stage` only to be faster: what is stored stays the same.
        encode_into(quantizer, x_BHFTD, room, pages)

    def stage(
        self,
        quantizer: Quantizer,
        packed: Packed,
        pages: Pages,
        heads: slice,
        frames: slice,
        out: Tensor,
    ) -> None:
        """Decode some heads of pages into out [B, h, F * T, D]; see `stage_by_torch`."""
        stage_by_torch(quantizer, packed, pages, heads, frames, out)

    @abstractmethod
    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Return the softmax attention of q over history and the exact current chunk [B, H, T, D].

        q and k are rotated to their positions. The scale is 1 / sqrt(D). q has as many heads as k,
        because `attend_grouped` has merged the queries that share a head of keys.
        """


def attend_grouped(
    backend: Backend,
    q_BHTD: Tensor,
    k_BGTD: Tensor,
    v_BGTD: Tensor,
    history: Sequence[Segment],
    scratch: Scratch,
) -> Tensor:
    """Return the attention of H query heads over G heads of keys and values [B, H, T, D].

    Query head h reads KV head h // (H / G).
    """
    # No mask depends on the query, so the queries of a group become more queries of their KV head.
    # History is then decoded once per group, and backends and kernels need no notion of groups.
    q = q_BHTD.unflatten(1, (k_BGTD.shape[1], -1)).flatten(2, 3)
    out = backend.attend(q, k_BGTD, v_BGTD, history, scratch)
    apart: Tensor = out.unflatten(2, (-1, q_BHTD.shape[2])).flatten(1, 2)
    return apart


def heads_in(num_heads: int, head_bytes: int, mib: float, least: int = 1) -> int:
    """Return how many heads of `head_bytes` fit into `mib` MiB, but not fewer than `least`."""
    # Heads are not divided, so a single one may exceed the scratch.
    return min(num_heads, max(least, int(mib * 2**20) // head_bytes))


def head_groups(
    like: Tensor, num_tokens: int, scratch_mib: float, least: int = 1
) -> Iterator[slice]:
    """Yield groups of heads of `like` [B, H, T, D] whose keys and values fit into scratch.

    num_tokens: tokens of a head that are decoded at a time. scratch_mib: MiB. least: fewest heads.
    """
    # Factor 2: keys and values.
    head_bytes = 2 * like.shape[0] * num_tokens * like.shape[3] * like.itemsize
    group = heads_in(like.shape[1], head_bytes, scratch_mib, least)
    for start in range(0, like.shape[1], group):
        yield slice(start, min(start + group, like.shape[1]))


def spans(history: Sequence[Segment]) -> Iterator[tuple[Segment, slice]]:
    """Yield each segment with its range in the tokens of all segments."""
    filled = 0
    for segment in history:
        yield segment, slice(filled, filled + segment.num_tokens)
        filled += segment.num_tokens


def bases(history: Sequence[Segment]) -> tuple[Tensor | None, Tensor | None]:
    """Return the bases of keys and values [D, D] for attention; None means plain channels."""
    # Only segments in another basis have to be converted: take that of the largest segment.
    largest = max(history, key=lambda segment: segment.num_tokens)
    return largest.key_basis, largest.value_basis


def into(x: Tensor, basis: Tensor | None) -> Tensor:
    """Return x R [..., D], or x without a basis."""
    return x if basis is None else _product(x, basis)


def out_of(x: Tensor, basis: Tensor | None) -> Tensor:
    """Return x R^T [..., D], or x without a basis; undoes `into`."""
    return x if basis is None else _product(x, basis.T)


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x M [..., D] in the dtype of x, in fp32 where that has no fast product."""
    wide = x.float() if is_emulated(x) else x
    return (wide @ matrix.to(wide.dtype)).to(x.dtype)


def _rotation(quantizer: Quantizer, packed: Packed) -> Tensor | None:
    return quantizer.rotation(packed.page[1], packed.device)


def change_basis(x: Tensor, old: Tensor | None, new: Tensor | None) -> None:
    """Convert x [..., D] from one basis to another, in place; equal bases cost nothing."""
    # Compare by identity: quantizers return the same matrix each time. Compute in fp32, so that x
    # is rounded to its own dtype only once.
    if old is not new:
        x.copy_(into(out_of(x.float(), old), new))
