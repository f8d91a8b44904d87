"""Stage a group of heads by one Triton kernel, then the vendor's flash kernel: many queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness import kernels
from harness.api import CacheSpec, Form, Method, Packed, Quantizer
from harness.arena import Pages, encode_into
from harness.attention.base import (
    Backend,
    Scratch,
    Segment,
    bases,
    change_basis,
    heads_in,
    into,
    out_of,
)
from harness.attention.dense import Merge, attend_dense, attend_plain, vendor
from harness.attention.portable import head_groups
from harness.errors import UserError
from harness.models.rope import rotate


@dataclass(frozen=True)
class Staged(Backend):
    """Every stored value is decoded once a pass and layer, into scratch that fits a cache.

    Many queries read every key, so decoding inside the attention loop would repeat it; here it is
    one pass over the packed bytes. scratch_mib bounds the group of heads, but not below
    least_heads: with fewer, a GPU's multiprocessors stand idle.

    Raises  ValueError: a size that is not positive.
    """

    scratch_mib: float = 50
    least_heads: int = 3
    name: ClassVar[str] = "staged"

    def __post_init__(self) -> None:
        """Refuse scratch that holds nothing."""
        for name in ("scratch_mib", "least_heads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"attention.{name}={getattr(self, name)}: give a positive number")

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Staged:
        """Kernels for the machine, the head width and both quantizers."""
        demand_kernels(self.name, spec, method, device)
        return self

    def describe(self, device: torch.device) -> str:
        """With the kernel that attends."""
        return f"{self.name}/{vendor(device)}"

    def scratch_bytes(self, spec: CacheSpec, num_tokens: int, itemsize: int) -> int:
        """Of a group of heads."""
        heads = heads_in(spec, num_tokens, itemsize, self.scratch_mib, self.least_heads)
        return heads * 2 * num_tokens * spec.head_dim * itemsize

    def write(self, quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
        """By one kernel where it knows the quantizer's fit, else as the quantizer does."""
        write_by_kernel(quantizer, x_BHFTD, room, pages)

    def attend(
        self,
        q_BHTD: Tensor,
        k_BHTD: Tensor,
        v_BHTD: Tensor,
        history: Sequence[Segment],
        scratch: Scratch,
    ) -> Tensor:
        """Frames in full together, without a bias; pooled frames apart, merged by log-sum-exp."""
        if not history:
            return attend_plain(q_BHTD, k_BHTD, v_BHTD)
        key_basis, value_basis = bases(history)
        q, k, v = into(q_BHTD, key_basis), into(k_BHTD, key_basis), into(v_BHTD, value_basis)
        full = [segment for segment in history if not segment.log_count]
        pooled = [segment for segment in history if segment.log_count]
        num_stored = sum(segment.num_tokens for segment in full)
        out = torch.empty_like(q)
        for heads in head_groups(q, num_stored + k.shape[2], self.scratch_mib, self.least_heads):
            room = scratch.take(k, heads.stop - heads.start, num_stored + k.shape[2])
            _stage_all(full, heads, room, (key_basis, value_basis))
            for part, current in zip(room, (k, v), strict=True):
                part[:, :, num_stored:] = current[:, heads]
            if not pooled:
                out[:, heads] = attend_plain(q[:, heads], *room)
                continue
            merged = Merge(*attend_dense(q[:, heads], *room))
            for segment in pooled:
                rows = read_rows(segment, heads, q, (key_basis, value_basis))
                merged.add(*attend_dense(q[:, heads], *rows, segment.log_count))
            out[:, heads] = merged.out
        return out_of(out, value_basis)


def demand_kernels(name: str, spec: CacheSpec, method: Method, device: torch.device) -> None:
    """Raise UserError if no kernel serves the machine, the model or the method."""
    lacking = kernels.missing(device)
    if lacking:
        raise UserError(f"attention={name}: {lacking}; type attention=portable, which runs here")
    try:
        kernels.check_head_dim(spec.head_dim)
    except ValueError as error:
        raise UserError(str(error)) from error
    for quantizer in (method.key, method.value):
        if quantizer.form() is None:
            raise UserError(
                f"attention={name}: no kernel reads what {type(quantizer).__name__} stores; type "
                "attention=portable"
            )


def write_by_kernel(quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
    """Encode frames straight into their pages."""
    from harness.kernels.encode import can_encode, encode  # needs Triton

    form = quantizer.form()
    if form is None or not can_encode(form):
        encode_into(quantizer, x_BHFTD, room, pages)
        return
    rotation = quantizer.rotation(x_BHFTD.shape[-1], x_BHFTD.device)
    x = x_BHFTD if rotation is None else x_BHFTD.float() @ rotation
    encode(form, x, room, pages.table)


def form_of(quantizer: Quantizer) -> Form:
    """The form of a quantizer that `demand_kernels` has let through."""
    form = quantizer.form()
    assert form is not None
    return form


def read_rows(
    segment: Segment, heads: slice, like: Tensor, basis: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """The few tokens of pooled frames, keys and values [B, h, tokens, D]."""
    num_heads, frames = heads.stop - heads.start, slice(0, len(segment.pages.slots))
    shape = (like.shape[0], num_heads, segment.num_tokens, like.shape[3])
    k, v = like.new_empty(shape), like.new_empty(shape)
    segment.load_keys(heads, frames, k, basis[0])
    segment.load_values(heads, frames, v, basis[1])
    return k, v


def _stage_all(
    history: Sequence[Segment],
    heads: slice,
    room: tuple[Tensor, Tensor],
    basis: tuple[Tensor | None, Tensor | None],
) -> None:
    """As `portable.load`, by kernels."""
    from harness.kernels.stage import stage  # needs Triton

    filled, span = 0, (heads.start, heads.stop)
    for segment in history:
        end, pages = filled + segment.num_tokens, segment.pages
        k, v = (part[:, :, filled:end] for part in room)
        form, own = form_of(segment.key_quantizer), segment.key_rotation
        if segment.turns is not None and own is not None:  # back to plain channels, then turn
            stage(form, pages.key, pages.table, span, k, None)
            change_basis(k, own, None)
            k.copy_(
                rotate(k.unflatten(2, (-1, pages.key.page[0])), segment.turns.view()).flatten(2, 3)
            )
            own = None
        else:
            stage(form, pages.key, pages.table, span, k, segment.turns)
        change_basis(k, own, basis[0])
        stage(form_of(segment.value_quantizer), pages.value, pages.table, span, v, None)
        change_basis(v, segment.value_basis, basis[1])
        filled = end
