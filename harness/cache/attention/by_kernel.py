"""What the backends by Triton kernels share: whom they serve, and how frames are encoded."""

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
    """What of a method's history no kernel reads, in words; empty where they read all of it.

    A quantizer must say its form, and a page must be a frame.
    """
    if isinstance(method.retention, TokenPolicy):
        return f"single tokens, which {type(method.retention).__name__} keeps"
    for tier in tiers_of(method).values():
        for quantizer in (tier.key, tier.value):
            if quantizer.kernel_layout() is None or tier.span > 1:
                return f"what {type(quantizer).__name__} stores"
    return ""


class ByKernel(Backend):
    """Reads and writes packed history by kernels, for quantizers that say their form."""

    def resolve(self, spec: CacheSpec, method: Method, device: torch.device) -> Self:
        """Kernels for the machine, the head width and both quantizers."""
        lacking = kernels.missing(device)
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
        """By one kernel where it knows the quantizer's fit, else as the quantizer does."""
        from harness.cache.kernels.encode import can_encode, encode  # needs Triton

        form = quantizer.kernel_layout()
        if form is None or not can_encode(form):
            encode_into(quantizer, x_BHFTD, room, pages)
            return
        rotation = quantizer.rotation(x_BHFTD.shape[-1], x_BHFTD.device)
        x = x_BHFTD if rotation is None else x_BHFTD.float() @ rotation
        encode(form, x, room, pages.table)


def form_of(quantizer: Quantizer) -> KernelLayout:
    """The form of a quantizer that `ByKernel.resolve` has let through."""
    form = quantizer.kernel_layout()
    assert form is not None
    return form


def read_rows(
    segment: Segment, heads: slice, like: Tensor, basis: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor, Tensor]:
    """A segment that kernels do not read, decoded: keys and values [B, h, tokens, D]."""
    num_heads, frames = heads.stop - heads.start, slice(0, len(segment.pages.slots))
    shape = (like.shape[0], num_heads, segment.num_tokens, like.shape[3])
    k, v = like.new_empty(shape), like.new_empty(shape)
    segment.load_keys(heads, frames, k, basis[0])
    segment.load_values(heads, frames, v, basis[1])
    return k, v
