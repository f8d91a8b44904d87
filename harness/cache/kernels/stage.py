"""Staging kernel: one launch decodes a group of heads of stored frames into dense scratch.

Memory bandwidth is the limit: 0.6 bytes per element are read (INT4) and 2 written, so both need
wide, coalesced accesses. All arithmetic is in fp32, with one rounding at the store.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from harness.api import KernelLayout, Packed
from harness.cache.kernels import check_head_dim
from harness.cache.kernels.launch import Launch, describe, describe_turns
from harness.cache.kernels.tiles import load_finished, load_turns
from harness.cache.positions import Turns

# Elements that a program decodes: 32 for each thread of 8 warps.
TILE = 8192


# Triton must not specialize on numbers that change between calls: each would compile again.
@triton.jit(do_not_specialize=["first_head", "num_heads", "num_tokens"])
def stage_kernel(  # noqa: PLR0913  a kernel has no objects to group them in
    stored,
    slots,
    turns,
    out,
    out_strides,
    first_head,
    num_heads,
    num_tokens,
    SPECS: tl.constexpr,
    TIME: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
):
    """Decode one tile of tokens of one head of one frame.

    Grid: tiles of a frame's tokens, frames, B * heads of the group.
    """
    # b, h and slot in 64 bits, since their offsets exceed 2**31.
    f = tl.program_id(1)
    b = (tl.program_id(2) // num_heads).to(tl.int64)
    h = (tl.program_id(2) % num_heads).to(tl.int64)
    slot = tl.load(slots + f).to(tl.int64)
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = t < num_tokens
    angles = load_turns(turns, f, t, live, TIME, D)
    x = load_finished(stored, SPECS, angles, (b, first_head + h, slot), t, live, D)
    # Scratch has the heads of the group only, and frame follows frame without a gap, so that the
    # attention that reads it sees one sequence of keys.
    out += b * out_strides[0] + h * out_strides[1]
    rows = f.to(tl.int64) * num_tokens + t
    at = rows[:, None] * out_strides[2] + tl.arange(0, D)[None, :]
    tl.store(out + at, x.to(out.dtype.element_ty), mask=live[:, None])


def stage(
    form: KernelLayout,
    packed: Packed,
    slots: Tensor,
    heads: tuple[int, int],
    out: Tensor,
    turns: Turns | None = None,
) -> None:
    """Decode frames into `out` [B, heads, F * T, D] of any float dtype, last dimension contiguous.

    packed: parts [B, H, S, ...], one slot per frame.
    slots: [F] int32, the slot of each frame in reading order.
    heads: start and stop of the group.
    turns: rotations of keys on reading; None leaves them as they are stored.

    Raises  ValueError: a head width that no kernel serves.
    """
    # Groups of heads, not of tokens: heads are independent, so nothing has to be merged.
    prepare(form, packed, slots, heads, out, turns).run()


def prepare(
    form: KernelLayout,
    packed: Packed,
    slots: Tensor,
    heads: tuple[int, int],
    out: Tensor,
    turns: Turns | None = None,
) -> Launch:
    """Return the launch of `stage`, without running it."""
    batch, _, _, num_tokens, head_dim = packed.shape
    check_head_dim(head_dim)
    num_heads = heads[1] - heads[0]
    assert out.shape == (batch, num_heads, len(slots) * num_tokens, head_dim), out.shape
    assert out.stride(3) == 1, out.stride()
    stored, specs = describe(form, packed)
    tables, time = describe_turns(turns)
    # Whole rows, and a power of two of them, as Triton's ranges must be.
    block = min(TILE // head_dim, triton.next_power_of_2(num_tokens))
    return Launch(
        stage_kernel,
        (triton.cdiv(num_tokens, block), len(slots), batch * num_heads),
        {
            "stored": stored,
            "slots": slots,
            "turns": tables,
            "out": out,
            "out_strides": out.stride()[:3],
            "first_head": heads[0],
            "num_heads": num_heads,
            "num_tokens": num_tokens,
        },
        {"SPECS": specs, "TIME": time, "BLOCK": block, "D": head_dim},
        {"num_warps": 8},
    )
