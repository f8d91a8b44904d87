"""Base class of the backends that use Triton kernels: requirements, and encoding of frames."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from harness.api import CacheSpec, KernelLayout, Method, Packed, Quantizer, TokenPolicy
from harness.api.method import tiers_of
from harness.cache import kernels
from harness.cache.attention.base import Backend, Segment
from harness.cache.pages import Pages, encode_into
from harness.system.errors import UserError


def unread(method: Method) -> str:
    """Describe the part of a method's history that kernels cannot read; empty if they read all.

    Kernels need a quantizer with a `kernel_layout` without exceptions, and pages of one frame.
    """
    if isinstance(method.retention, TokenPolicy):
        return f"single tokens, which {type(method.retention).__name__} keeps"
    for tier in tiers_of(method).values():
        for quantizer in (tier.key, tier.value):
            form = quantizer.kernel_layout()
            if form is None or form.exceptions or tier.span > 1:
                return f"what {type(quantizer).__name__} stores"
    return ""


class ByKernel(Backend):
    """Reads and writes packed history by kernels, for quantizers with a `kernel_layout`."""

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Self:
        """Return this backend if kernels serve the machine, the head width and the method.

        Raises  UserError: they do not.
        """
        lacking = kernels.missing(device)
        # All checks come before the first video, so that no run stops halfway.
        if lacking:
            raise UserError(
                f"attention={self.name}: {lacking}; type attention=portable, which runs here"
            )
        try:
            kernels.check_head_dim(spec.head_dim)
        except ValueError as error:
            raise UserError(str(error)) from error
        lacking = unread(method)
        if lacking:
            raise UserError(
                f"attention={self.name}: no kernel reads {lacking}; type attention=portable"
            )
        return self

    def write(self, quantizer: Quantizer, x_BHFTD: Tensor, room: Packed, pages: Pages) -> None:
        """Encode by one kernel if it can compute the quantizer's metadata, else in torch."""
        from harness.cache.kernels.encode import can_encode, encode  # needs Triton

        # Encoding happens once per token, so torch may do it for quantizers that no kernel serves;
        # decoding happens in every pass, and `resolve` has refused those.
        form = quantizer.kernel_layout()
        if form is None or not can_encode(form):
            encode_into(quantizer, x_BHFTD, room, pages)
            return
        # The kernel does not rotate, so the quantizer does.
        encode(form, quantizer.split_off(x_BHFTD)[0], room, pages.table)


def form_of(quantizer: Quantizer) -> KernelLayout:
    """Return the layout of a quantizer that `ByKernel.resolve` has accepted."""
    form = quantizer.kernel_layout()
    assert form is not None
    return form


def read_rows(
    segment: Segment, heads: slice, like: Tensor, basis: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Decode a segment in torch, for kernels that cannot read it: keys and values [B, h, N, D]."""
    # Outside the scratch, which in `staged` holds the other segments at that moment.
    shape = (like.shape[0], heads.stop - heads.start, segment.num_tokens, like.shape[3])
    rows = like.new_empty(shape), like.new_empty(shape)
    load_rows(segment, heads, rows, basis)
    return rows


def load_rows(
    segment: Segment,
    heads: slice,
    rows: tuple[Tensor, Tensor],
    basis: tuple[Tensor | None, Tensor | None],
) -> None:
    """Decode a segment in torch into keys and values [B, h, N, D]."""
    frames = slice(0, len(segment.pages.slots))
    segment.load_keys(heads, frames, rows[0], basis[0])
    segment.load_values(heads, frames, rows[1], basis[1])
