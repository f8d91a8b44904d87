"""Backend for many queries: a Triton kernel decodes a group of heads, a flash kernel attends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.api import CacheSpec
from harness.cache.attention.base import (
    Scratch,
    Segment,
    bases,
    change_basis,
    head_groups,
    heads_in,
    into,
    out_of,
    spans,
)
from harness.cache.attention.by_kernel import ByKernel, form_of, load_rows, read_rows
from harness.cache.attention.dense import Merge, attend_dense, attend_plain, vendor


@dataclass(frozen=True)
class Staged(ByKernel):
    """Decodes every stored value once per pass and layer, into scratch that fits the GPU's cache.

    With many queries this beats `fused`, which decodes again for every tile of queries.

    scratch_mib: size of the scratch in MiB, which limits the heads of a group.
    least_heads: the fewest heads of a group, whatever the scratch; with fewer, multiprocessors of
        the GPU are idle.

    Raises  ValueError: a size that is not positive.
    """

    scratch_mib: float = 50
    least_heads: int = 3
    name: ClassVar[str] = "staged"

    def __post_init__(self) -> None:
        for name in ("scratch_mib", "least_heads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"attention.{name}={getattr(self, name)}: give a positive number")

    def describe(self, device: torch.device) -> str:
        """Return the name and the vendor's attention kernel."""
        return f"{self.name}/{vendor(device)}"

    def scratch_bytes(self, spec: CacheSpec, num_tokens: int, itemsize: int) -> int:
        """Return the bytes of a group of heads."""
        head_bytes = 2 * num_tokens * spec.head_dim * itemsize
        return head_bytes * heads_in(spec.kv_heads, head_bytes, self.scratch_mib, self.least_heads)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Attend to full frames and the current chunk at once, and merge pooled frames."""
        if not history:
            return attend_plain(q_BHTD, k_BHTD, v_BHTD)
        # Pooled tokens need a bias on their logits, which the fastest kernels do not take. They are
        # few: attend to them separately and merge by log-sum-exp.
        key_basis, value_basis = bases(history)
        q, k, v = into(q_BHTD, key_basis), into(k_BHTD, key_basis), into(v_BHTD, value_basis)
        # Frames have no other bias: token policies, which hide single tokens, were refused.
        full = [segment for segment in history if not segment.log_count]
        pooled = [segment for segment in history if segment.log_count]
        out = torch.empty_like(q)
        for heads, room in self.decoded((k, v), full, (key_basis, value_basis), scratch):
            if not pooled:
                out[:, heads] = attend_plain(q[:, heads], *room)
                continue
            merged = Merge(*attend_dense(q[:, heads], *room))
            for segment in pooled:
                rows = read_rows(segment, heads, q, (key_basis, value_basis))
                scratch.look(*rows)
                merged.add(*attend_dense(q[:, heads], *rows, segment.log_count))
            out[:, heads] = merged.out
        return out_of(out, value_basis)

    def decoded(
        self,
        chunk: tuple[Tensor, Tensor],
        history: Sequence[Segment],
        basis: tuple[Tensor | None, Tensor | None],
        scratch: Scratch,
    ) -> Iterator[tuple[slice, tuple[Tensor, Tensor]]]:
        """Yield groups of heads with their keys and values [B, h, N, D], the current chunk last.

        The next group overwrites the tensors.

        chunk: keys and values of the current chunk [B, H, T, D], in `basis`.
        """
        num_stored = sum(segment.num_tokens for segment in history)
        num_tokens = num_stored + chunk[0].shape[2]
        for heads in head_groups(chunk[0], num_tokens, self.scratch_mib, self.least_heads):
            # History and current chunk share one buffer, so that one attention call reads both.
            room = scratch.take(chunk[0], heads.stop - heads.start, num_tokens)
            _stage_all(history, heads, room, basis)
            scratch.look(*(part[:, :, :num_stored] for part in room))
            for part, current in zip(room, chunk, strict=True):
                part[:, :, num_stored:] = current[:, heads]
            yield heads, room


def _stage_all(
    history: Sequence[Segment],
    heads: slice,
    room: tuple[Tensor, Tensor],
    basis: tuple[Tensor | None, Tensor | None],
) -> None:
    """Decode all of history into the beginning of keys and values [B, h, tokens, D].

    Kernels decode full frames. Pooled frames are single tokens, which torch decodes: they are few.
    """
    from harness.cache.kernels.stage import stage  # needs Triton

    group = heads.start, heads.stop
    for segment, span in spans(history):
        pages = segment.pages
        k, v = (part[:, :, span] for part in room)
        if segment.log_count:
            load_rows(segment, heads, (k, v), basis)
            continue
        form, own = form_of(segment.key_quantizer), segment.key_rotation
        # The kernel rotates by position but cannot undo the quantizer's rotation, which comes
        # first. Such keys are decoded by the kernel and rotated in torch.
        if segment.turns is not None and (own is not None or segment.needs_torch):
            stage(form, pages.key, pages.table, group, k, None)
            change_basis(k, own, None)  # positions apply to plain channels
            frames = k.unflatten(2, (-1, pages.key.page[0]))
            k.copy_(segment.turns.rotate(frames, slice(0, frames.shape[2]), heads).flatten(2, 3))
            own = None
        else:
            stage(form, pages.key, pages.table, group, k, segment.kernel_turns)
        change_basis(k, own, basis[0])
        stage(form_of(segment.value_quantizer), pages.value, pages.table, group, v, None)
        change_basis(v, segment.value_basis, basis[1])
