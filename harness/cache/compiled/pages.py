"""Decodes and encodes pages by compiled loops, in as many threads as torch uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import CodePlane, KernelLayout, Packed
from harness.cache.compiled import loops
from harness.cache.compiled.once import load_once
from harness.cache.compiled.threads import in_threads

# Values of a thread at least. torch's idle threads spin for milliseconds on the cores that other
# threads of ours need: with fewer values two threads take longer than one.
SHARE = 2**22
HELD = 16  # tokens that encoding holds at a time, more if a group has more
DTYPES = (torch.bfloat16, torch.float32)
NOTHING = [0, 0, 0, 0]  # a part that does not exist
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Access:
    """How the loops reach pages [B, H, S, ...]: addresses and steps of the parts, kinds of codes.

    parts: [planes, 6, 4] codes, scale, zero, table, fp32 numbers by byte of the scale, and unit.
    specs: [planes, 4] bits, numbers in a row of metadata, tokens that share a row, bytes of a
        table's entry or 0.
    offsets: [planes] fp32, of the codes.
    outer: [3, 4] scale and mean of the channels of a frame, scale of its tokens.
    centroids: [stages, 2, 4] centroids, and the index of each token's own.
    block: tokens that encoding holds at a time: whole groups of every plane, or a frame.
    """

    parts: Integers
    specs: Integers
    offsets: NDArray[np.float32]
    outer: Integers
    centroids: Integers
    block: int

    @classmethod
    def of(cls, form: KernelLayout, packed: Packed) -> Access:
        """Return the access to packed pages; the same object each time, as addresses do not change.

        Raises  AssertionError: a part that is not contiguous within a frame.
        """
        if form not in packed.prepared:
            page, width = packed.page, packed.page[1]
            parts, specs, offsets, together = [], [], [], 1
            for x in form.planes:
                named = x.codes, x.scale, x.zero, x.table, x.scale_table, x.unit
                parts.append([_part(packed, name) for name in named])
                group = x.group_in(page)
                # Numbers in a row of metadata, and tokens that share the row.
                count, every = (width, group) if x.axis == "tokens" else (width // group, 1)
                # A table is a part with fp16 numbers, or the layout's own fp32 numbers.
                entry = 0 if x.table is None else 2 if isinstance(x.table, str) else 4
                specs.append([x.bits, count, every, entry])
                # Adding -0.0 changes no number, adding 0.0 changes -0.0.
                offsets.append(-0.0 if x.table else x.offset)
                together = math.lcm(together, every)
            outer = form.channel_scale, form.channel_mean, form.token_scale
            centroids = [[_part(packed, x.rows), _part(packed, x.nearest)] for x in form.centroids]
            packed.prepared[form] = cls(
                np.array(parts),
                np.array(specs),
                np.array(offsets, np.float32),
                np.array([_part(packed, name) for name in outer]),
                np.array(centroids, np.int64).reshape(-1, 2, 4),
                min(together * max(1, HELD // together), page[0]),
            )
        access: Access = packed.prepared[form]
        return access


def can_decode(form: KernelLayout, packed: Packed, out: Tensor) -> bool:
    """Return whether `decode` serves pages of this layout, and this tensor."""
    if not form.planes or out.dtype not in DTYPES or out.stride(-1) != 1:
        return False
    if form in packed.prepared:  # was found to have FP16 metadata
        return True
    halves = [form.token_scale, form.channel_scale, form.channel_mean]
    for plane in form.planes:
        halves += [plane.zero, None if plane.scale_table else plane.scale]
    return all(packed.parts[name].dtype == torch.float16 for name in halves if name)


def decode(
    form: KernelLayout, packed: Packed, slots_F: Integers, first_head: int, out: Tensor
) -> None:
    """Decode frames into `out` [B, h, F * T, D], BF16 or fp32, last dimension contiguous.

    packed: parts [B, H, S, ...]. slots: of the F frames. first_head: the first of the h heads. A
    rotation is not undone.
    """
    batch, num_heads, _, width = out.shape
    num_tokens = packed.page[0]
    access = Access.of(form, packed)
    arguments = (
        access.parts,
        access.specs,
        access.offsets,
        access.outer,
        access.centroids,
        slots_F,
        (first_head, num_heads, num_tokens, width),
        (out.data_ptr(), *out.stride()[:3], out.itemsize),
    )
    _share(loops.decode, arguments, batch * num_heads * len(slots_F), num_tokens * width)


def can_encode(form: KernelLayout, x_BHFTD: Tensor) -> bool:
    """Return whether `encode` serves this layout: whether it knows the fit of every plane."""
    # The loops find metadata from the extremes of a group alone: torch chooses the codes of tables
    # and centroids, and the norms of tokens.
    tables = any(plane.table or plane.scale_table for plane in form.planes)
    if tables or form.token_scale or form.centroids:
        return False
    known = [
        (plane.fit == "absmax" and plane.zero is None and plane.offset < 0)
        or (plane.fit == "minmax" and plane.zero is not None and plane.offset == 0)
        for plane in form.planes
    ]
    return any(known) and all(known) and x_BHFTD.dtype in DTYPES and x_BHFTD.stride(-1) == 1


def encode(form: KernelLayout, x_BHFTD: Tensor, pages: Packed, slots_F: Integers) -> None:
    """Quantize x [B, H, F, T, D], BF16 or fp32, into the planes of a slab, frame f into slots[f].

    pages: parts [B, H, S, ...]; other slots and other parts stay unchanged.
    """
    batch, num_heads, num_frames, num_tokens, width = x_BHFTD.shape
    access = Access.of(form, pages)
    arguments = (
        (x_BHFTD.data_ptr(), *x_BHFTD.stride()[:4], x_BHFTD.itemsize),
        access.parts,
        access.specs,
        access.offsets,
        access.block,
        slots_F,
        (num_heads, num_tokens, width),
    )
    _share(loops.encode, arguments, batch * num_heads * num_frames, num_tokens * width)


@cache
def load() -> None:
    """Load the loops into this process, after compiling them if no earlier process did."""
    load_once("harness.cache.compiled.pages", compile_loops)


def compile_loops() -> None:
    """Load the loops, after compiling them for this processor if no earlier process did."""
    plane = CodePlane(8, 1, "tokens", zero="zero", fit="minmax")
    x = torch.zeros(1, 1, 1, 1, 1)
    parts = {"codes": x.byte(), "scale": x.half(), "zero": x.half()}
    pages, slots = Packed(parts, 8, (1, 1)), np.zeros(1, np.int64)
    encode(KernelLayout((plane,)), x, pages, slots)
    decode(KernelLayout((plane,)), pages, slots, 0, torch.empty(1, 1, 1, 1))


def _share(loop: Callable[..., None], arguments: tuple[Any, ...], tasks: int, values: int) -> None:
    """Run a loop over all tasks, of `values` values each, in as many threads as pay off."""
    number = max(1, min(torch.get_num_threads(), tasks, tasks * values // SHARE))
    in_threads(loop, arguments, tasks, number)


@cache  # the loops get an address: the numbers must stay
def _numbers(table: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(table, np.float32)


def _part(packed: Packed, name: str | tuple[float, ...] | None) -> list[int]:
    """Return a part, or the numbers of a table, as the loops take them: address and steps."""
    if name is None:
        return NOTHING
    if isinstance(name, tuple):  # the same for all frames
        return [_numbers(name).ctypes.data, 0, 0, 0]
    part = packed.parts[name]
    assert part[0, 0, 0].is_contiguous(), f"{name} is not contiguous within a frame"
    return [part.data_ptr(), *part.stride()[:3]]


if __name__ == "__main__":
    compile_loops()
