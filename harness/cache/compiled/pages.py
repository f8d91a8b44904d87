"""Decodes and encodes pages by compiled loops, in as many threads as torch uses."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import CodePlane, KernelLayout, Packed
from harness.cache.compiled import FOLDER

numba.config.CACHE_DIR = str(FOLDER / f"numba-{numba.__version__}")  # read when loops are defined

from harness.cache.compiled import loops  # noqa: E402

SHARE = 2**19  # values of a thread at least: starting one takes as long as decoding so many
DTYPES = (torch.bfloat16, torch.float32)
NOTHING = [0, 0, 0, 0]  # a part that does not exist
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Access:
    """How the loops reach pages [B, H, S, ...]: addresses and steps of the parts, kinds of codes.

    parts: [planes, 3, 4] codes, scale and zero of each plane. specs: [planes, 3] bits, group, and
        whether tokens share metadata. offsets: [planes] fp32, of the codes.
    channels: [2, 4] scale and mean of the channels of a frame.
    block: the fewest tokens that whole groups of every plane fill, at most those of a frame.
    """

    parts: Integers
    specs: Integers
    offsets: NDArray[np.float32]
    channels: Integers
    block: int

    @classmethod
    def of(cls, form: KernelLayout, packed: Packed) -> Access:
        """Return the access to packed pages; the same object each time, as addresses do not change.

        Raises  AssertionError: a part that is not contiguous within a frame.
        """
        if form not in packed.prepared:
            num_tokens, width = packed.page
            planes, channels = form.planes, (form.channel_scale, form.channel_mean)
            together = math.lcm(*(plane.group for plane in planes if plane.axis == "tokens"))
            packed.prepared[form] = cls(
                np.array([_plane(packed, plane) for plane in planes]),
                np.array([_spec(plane, width) for plane in planes]),
                np.array([plane.offset for plane in planes], np.float32),
                np.array([_part(packed, name) for name in channels]),
                min(together, num_tokens),
            )
        access: Access = packed.prepared[form]
        return access


def can_decode(form: KernelLayout, packed: Packed, out: Tensor) -> bool:
    """Return whether `decode` serves pages of this layout, and this tensor."""
    if not form.planes or out.dtype not in DTYPES or out.stride(-1) != 1:
        return False
    if form in packed.prepared:  # was found to have FP16 metadata
        return True
    named = [name for plane in form.planes for name in (plane.scale, plane.zero) if name]
    named += [name for name in (form.channel_scale, form.channel_mean) if name]
    return all(packed.parts[name].dtype == torch.float16 for name in named)


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
        access.channels,
        slots_F,
        (first_head, num_heads, num_tokens, width),
        (out.data_ptr(), *out.stride()[:3], out.itemsize),
    )
    _share(loops.decode, arguments, batch * num_heads * len(slots_F), num_tokens * width)


def can_encode(form: KernelLayout, x_BHFTD: Tensor) -> bool:
    """Return whether `encode` serves this layout: whether it knows the fit of every plane."""
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


def compile_loops() -> None:
    """Compile the loops for this processor, or load what an earlier process compiled."""
    plane = CodePlane(8, 1, "tokens", zero="zero", fit="minmax")
    x = torch.zeros(1, 1, 1, 1, 1)
    parts = {"codes": x.byte(), "scale": x.half(), "zero": x.half()}
    pages, slots = Packed(parts, 8, (1, 1)), np.zeros(1, np.int64)
    encode(KernelLayout((plane,)), x, pages, slots)
    decode(KernelLayout((plane,)), pages, slots, 0, torch.empty(1, 1, 1, 1))


def _share(loop: Callable[..., None], arguments: tuple[Any, ...], tasks: int, values: int) -> None:
    """Run a loop over all tasks, of `values` values each, in this thread and some more."""
    # Plain threads: numba's own pool would compete with torch's, and some of its kinds do not
    # survive a fork. The loops hold no lock of Python's.
    number = max(1, min(torch.get_num_threads(), tasks, tasks * values // SHARE))
    bounds = [tasks * i // number for i in range(number + 1)]
    others = [
        threading.Thread(target=loop, args=(*arguments, *bounds[i : i + 2]))
        for i in range(1, number)
    ]
    for thread in others:
        thread.start()
    loop(*arguments, *bounds[:2])
    for thread in others:
        thread.join()


def _plane(packed: Packed, plane: CodePlane) -> list[list[int]]:
    """Return codes, scale and zero of a plane as the loops take them."""
    return [_part(packed, name) for name in (plane.codes, plane.scale, plane.zero)]


def _part(packed: Packed, name: str | None) -> list[int]:
    """Return a part as the loops take it: its address and steps."""
    if name is None:
        return NOTHING
    part = packed.parts[name]
    assert part[0, 0, 0].is_contiguous(), f"{name} is not contiguous within a frame"
    return [part.data_ptr(), *part.stride()[:3]]


def _spec(plane: CodePlane, width: int) -> list[int]:
    """Return bits, group, and whether tokens share metadata."""
    by_tokens = plane.axis == "tokens"
    # A group of channels ends with the head, also if the quantizer allows larger groups.
    return [plane.bits, plane.group if by_tokens else min(plane.group, width), by_tokens]
