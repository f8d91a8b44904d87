"""Decodes and encodes pages by compiled loops, in as many threads as torch uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.api import CodePlane, KernelLayout, Packed, Quantizer
from harness.cache.compiled import decode_loops, encode_loops
from harness.cache.compiled.once import load_once
from harness.cache.compiled.threads import in_threads
from harness.cache.compiled.vectors import LANES, LINE

# Minimum number of values per thread. Starting work on another thread takes 50 us, and in that time
# one thread decodes about as many values.
SHARE = 2**18
# Values that torch copies in one thread. More of them it shares among its threads, and is faster
# than our copy.
COPY = 2**15
# Largest decoded tensor, in bytes, that stays in a core's cache until attention reads it. Larger
# ones are written with non-temporal stores, which bypass the cache: ordinary stores would read each
# cache line before they write it.
STREAMED = 2**23
# Tokens that encoding holds in fp32 at a time, more if a group has more.
HELD = 16
DTYPES = (torch.bfloat16, torch.float32)
NOTHING = [0, 0, 0, 0]  # a part that does not exist
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Access:
    """How the loops reach pages [B, H, S, ...]: addresses and steps of the parts, kinds of codes.

    exact: [4] values that are stored as they are; an address of 0 if there are none.
    parts: [planes, 6, 4] codes, scale, zero, table, fp32 numbers by byte of the scale, and unit.
    specs: [planes, 4] bits, numbers in a row of metadata, tokens that share a row, bytes of a
        table's entry or 0.
    offsets: [planes] fp32, of the codes.
    outer: [3, 4] scale and mean of the channels of a frame, scale of its tokens.
    centroids: [stages, 2, 4] centroids, and the index of each token's own.
    block: tokens that encoding holds at a time: whole groups of every plane, or a frame.
    usual: which faster loop decodes the pages to BF16: `plain` for one plane of plain codes, `sums`
        for two whose groups have the same tokens, both without a later step. None for other pages.
    encodes: whether a loop knows how to choose metadata and codes.
    num_tokens: of a page.
    dtypes: of the values that can be written.
    exceptions: indices and values [B, H, S, n] of what is stored exactly (`Exceptions`); None if
        nothing is.
    """

    exact: Integers
    parts: Integers
    specs: Integers
    offsets: NDArray[np.float32]
    outer: Integers
    centroids: Integers
    block: int
    usual: Literal["plain", "sums"] | None
    encodes: bool
    num_tokens: int
    dtypes: tuple[torch.dtype, ...]
    exceptions: tuple[Tensor, Tensor] | None

    @classmethod
    def of(cls, quantizer: Quantizer, packed: Packed) -> Access | None:
        """Return the access to pages of a quantizer, or None if the loops do not know its codes.

        It is the same object each time, since addresses do not change.

        Raises  AssertionError: a part that is not contiguous within a frame.
        """
        # By identity, which is faster than hashing a quantizer with all its settings. The entry
        # holds the quantizer, so no other object can get its id.
        key = id(quantizer)
        if key not in packed.prepared:
            form = quantizer.kernel_layout()
            access = None if form is None else cls.to(form, packed)
            packed.prepared[key] = quantizer, access
        found: Access | None = packed.prepared[key][1]
        return found

    @classmethod
    def to(cls, form: KernelLayout, packed: Packed) -> Access | None:
        """Return the access to pages of this layout, or None if the loops cannot read them."""
        planes, page = form.planes, packed.page
        outer = form.channel_scale, form.channel_mean, form.token_scale
        halves = {*outer}.union(*({x.zero, x.scale_table or x.scale} for x in planes))
        if any(packed.parts[n].dtype != torch.float16 for n in halves if isinstance(n, str)):
            return None
        # The pages of an unfinished chunk are the network's own tensors, whatever their strides.
        if not planes and not packed.parts["exact"][0, 0, 0].is_contiguous():
            return None
        parts, specs, offsets, fits, together = [], [], [], [], 1
        for x in planes:
            named = x.codes, x.scale, x.zero, x.table, x.scale_table, x.unit
            parts.append([_part(packed, name) for name in named])
            group = x.group_in(page)
            # Numbers in a row of metadata, and tokens that share the row.
            count, every = (page[1], group) if x.axis == "tokens" else (page[1] // group, 1)
            # A table is a part with fp16 numbers, or the layout's own fp32 numbers.
            entry = 0 if x.table is None else 2 if isinstance(x.table, str) else 4
            specs.append([x.bits, count, every, entry])
            # Adding -0.0 changes no number, adding 0.0 changes -0.0.
            offsets.append(-0.0 if x.table else x.offset)
            fits.append(
                (x.fit == "absmax" and x.zero is None and x.offset < 0)
                or (x.fit == "minmax" and x.zero is not None and x.offset == 0)
            )
            together = math.lcm(together, every)
        tables = any(x.table or x.scale_table for x in planes)
        usual: Literal["plain", "sums"] | None = None
        if not (tables or any(outer) or form.centroids):
            # In every plane each channel has its own metadata, and the same tokens share it.
            grouped = all(count == page[1] for _, count, _, _ in specs)
            grouped = grouped and len({every for _, _, every, _ in specs}) == 1
            in_vectors = all(page[1] * x.bits % (8 * LANES) == 0 for x in planes)
            if len(planes) == 1:
                usual = "plain"
            elif len(planes) == 2 and grouped and in_vectors:
                usual = "sums"
        centroids = [[_part(packed, x.rows), _part(packed, x.nearest)] for x in form.centroids]
        exceptions = None
        if form.exceptions is not None:
            names = form.exceptions
            exceptions = packed.parts[names.index], packed.parts[names.value]
        return cls(
            exact=np.array(_part(packed, None if planes else "exact")),
            parts=np.array(parts, np.int64).reshape(-1, 6, 4),
            specs=np.array(specs, np.int64).reshape(-1, 4),
            offsets=np.array(offsets, np.float32),
            outer=np.array([_part(packed, name) for name in outer]),
            centroids=np.array(centroids, np.int64).reshape(-1, 2, 4),
            block=min(together * max(1, HELD // together), page[0]),
            usual=usual,
            # The loops find metadata from the extremes of a group alone: torch chooses the codes of
            # tables and centroids, and the norms of tokens.
            encodes=any(fits) and all(fits) and not (tables or form.token_scale or centroids),
            num_tokens=page[0],
            dtypes=DTYPES if planes else (packed.parts["exact"].dtype,),
            exceptions=exceptions,
        )

    def can_decode(self, out: Tensor) -> bool:
        """Return whether `decode` can write to this tensor, at least as fast as torch."""
        few = not self.exact[0] or out.numel() <= COPY
        # Exceptions count through the values of a frame, which must be one run of memory.
        apart = self.exceptions is not None and out.stride(2) != out.shape[3]
        return few and not apart and out.dtype in self.dtypes and out.stride(-1) == 1

    def can_encode(self, x: Tensor) -> bool:
        """Return whether `encode` can read this tensor and choose codes for it."""
        return self.encodes and x.dtype in DTYPES and x.stride(-1) == 1


def decode(access: Access, slots_F: Integers, first_head: int, out: Tensor) -> None:
    """Decode frames into `out` [B, h, F * T, D]; a rotation is not undone.

    slots: of the F frames. first_head: the first of the h heads. out: see `Access.can_decode`.
    """
    # The order of preference: a plain copy, a loop for the usual pages, the loop for all others.
    batch, num_heads, _, width = out.shape
    num_tokens = access.num_tokens
    where = (
        slots_F,
        (first_head, num_heads, num_tokens, width),
        (out.data_ptr(), *out.stride()[:3], out.itemsize),
    )
    planes = access.parts, access.specs, access.offsets
    loop = decode_loops.decode
    arguments: tuple[Any, ...] = (*planes, access.outer, access.centroids, *where)
    if access.exact[0]:
        loop, arguments = decode_loops.copy, (access.exact, *where)
    elif access.usual and out.dtype == torch.bfloat16:
        # Every row starts a cache line if the tensor does and all its strides are whole lines.
        places = out.data_ptr(), *(2 * step for step in out.stride()[:3])
        streams = out.nbytes > STREAMED and not any(place % (2 * LINE) for place in places)
        loop = decode_loops.decode_plain if access.usual == "plain" else decode_loops.decode_sums
        arguments = (*planes, *where, streams)
    _share(loop, arguments, batch * num_heads * len(slots_F), num_tokens * width)
    if access.exceptions is None:
        return
    # They are few, so torch writes them over what was decoded. Head by head, since `index_copy_` is
    # ten times as fast as `scatter_`.
    slots, heads = torch.from_numpy(slots_F), slice(first_head, first_head + num_heads)
    index, value = (part[:, heads].index_select(2, slots) for part in access.exceptions)
    first_of_frame = torch.arange(len(slots))[:, None] * (num_tokens * width)
    index, value = (index + first_of_frame).flatten(2), value.to(out.dtype).flatten(2)
    for b in range(batch):
        for h in range(num_heads):
            out[b, h].view(-1).index_copy_(0, index[b, h], value[b, h])


def encode(access: Access, x_BHFTD: Tensor, slots_F: Integers) -> None:
    """Quantize x [B, H, F, T, D] into the planes of a slab, frame f into slots[f].

    Other slots and other parts stay unchanged. x: see `Access.can_encode`.
    """
    batch, num_heads, num_frames, num_tokens, width = x_BHFTD.shape
    arguments = (
        (x_BHFTD.data_ptr(), *x_BHFTD.stride()[:4], x_BHFTD.itemsize),
        access.parts,
        access.specs,
        access.offsets,
        access.block,
        slots_F,
        (num_heads, num_tokens, width),
    )
    _share(encode_loops.encode, arguments, batch * num_heads * num_frames, num_tokens * width)


@cache
def load() -> None:
    """Load the loops into this process, after compiling them if no earlier process did."""
    load_once("harness.cache.compiled.pages", compile_loops)


def compile_loops() -> None:
    """Load the loops, after compiling them for this processor if no earlier process did."""
    # numba compiles for types, not for sizes: one vector of each type is enough.
    plane = CodePlane(8, 1, "tokens", zero="zero", fit="minmax")
    x, slots = torch.zeros(1, 1, 1, 1, LANES), np.zeros(1, np.int64)
    parts = {"codes": x.byte(), "scale": x.half(), "zero": x.half(), "exact": x}
    for form in (KernelLayout((plane,)), KernelLayout((plane, plane)), KernelLayout()):
        access = Access.to(form, Packed(parts, 8, (1, LANES)))
        assert access is not None
        if access.encodes:
            encode(access, x, slots)
        for dtype in access.dtypes:  # some dtypes have a loop of their own
            decode(access, slots, 0, torch.empty(1, 1, 1, LANES, dtype=dtype))


def _share(loop: Callable[..., None], arguments: tuple[Any, ...], tasks: int, values: int) -> None:
    """Run a loop over all tasks, of `values` values each, in as many threads as pay off."""
    number = max(1, min(torch.get_num_threads(), tasks, tasks * values // SHARE))
    in_threads(loop, arguments, tasks, number)


# Cached, because the loops get an address: the numbers must stay where they are.
@cache
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
