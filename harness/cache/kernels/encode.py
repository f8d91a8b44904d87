"""Encoding kernel: one launch quantizes new frames directly into pages of a slab.

Memory bandwidth is the limit: 2 bytes per value are read and 0.6 written (INT4). A program first
loads all its values into registers, in pieces of equal layout, so that tokens that share metadata
and channels that share a byte lie in the same thread. All arithmetic is in fp32 and follows
`methods.quantizers`; the result equals theirs on a CPU bit for bit.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from harness.api import KernelLayout, Packed
from harness.cache.kernels import check_head_dim
from harness.cache.kernels.launch import Launch, describe
from harness.cache.kernels.tiles import start_of

TILE = 4096  # values of a program if tokens share no metadata: 32 per thread
ROWS = 16  # tokens of a group in the same thread
LARGEST_GROUP = 128  # tokens that share metadata; registers must hold all their values


# Triton must not specialize on numbers that change between calls: each would compile again.
@triton.jit(do_not_specialize=["num_heads", "num_tokens"])
def encode_kernel(  # noqa: PLR0913  a kernel has no objects to group them in
    x,
    x_strides,
    plane,
    slots,
    num_heads,
    num_tokens,
    SPEC: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    D: tl.constexpr,
):
    """Encode one tile of SIZE tokens of one head of one frame.

    Grid: tiles of a frame (one per group, if tokens share metadata), frames, B * heads. A tile is
    loaded in pieces of BLOCK tokens and the channels of one bit field of the packed bytes.
    """
    WIDTH: tl.constexpr = D * SPEC.bits // 8
    FIELDS: tl.constexpr = 8 // SPEC.bits
    PIECES: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    CUT: tl.constexpr = WIDTH if SPEC.by_tokens else min(SPEC.group, WIDTH)
    SHARING: tl.constexpr = 1 if SPEC.by_tokens else SPEC.group // CUT  # bit fields per metadatum
    GROUPS: tl.constexpr = WIDTH // CUT
    f = tl.program_id(1).to(tl.int64)
    b = (tl.program_id(2) // num_heads).to(tl.int64)
    h = (tl.program_id(2) % num_heads).to(tl.int64)
    frame = (b, h, tl.load(slots + f).to(tl.int64))
    start = tl.program_id(0) * SIZE
    end = tl.minimum(start + SIZE, num_tokens)
    rows = start + tl.arange(0, BLOCK)[:, None]
    c = tl.arange(0, WIDTH)[None, :]
    x += b * x_strides[0] + h * x_strides[1] + f * x_strides[2]
    # Tuples of pieces: Triton cannot index a tensor that lies in registers.
    values = ()
    for field in tl.static_range(FIELDS):
        for i in tl.static_range(PIECES):
            # Beyond the tile, repeat its last token: minimum and maximum stay the same.
            t = tl.minimum(rows + i * BLOCK, end - 1)
            value = tl.load(x + (t * x_strides[3] + c) + field * WIDTH)
            values += (value,)  # type: ignore[assignment]
    codes = ()
    for field in tl.static_range(0, FIELDS, SHARING):
        few = values[field * PIECES : (field + SHARING) * PIECES]
        scale, zero = fit(few, plane, SPEC, CUT)
        if SPEC.by_tokens:
            at = (tl.program_id(0) * D + field * WIDTH + c)[:, None, :]
            live = at >= 0  # all: a group has its metadata even if tokens are missing at its end
        else:
            n = field * WIDTH // SPEC.group + tl.arange(0, GROUPS)[None, :]
            at = (rows * (D // SPEC.group) + n)[:, :, None]
            live = (rows < end)[:, :, None]
        tl.store(start_of(plane.scale, frame) + at, scale, mask=live)
        if plane.zero is not None:
            tl.store(start_of(plane.zero, frame) + at, zero, mask=live)
        for i in tl.static_range(SHARING * PIECES):
            code = nearest(cut(few[i], CUT), scale, zero, SPEC)
            codes += (tl.reshape(code, [BLOCK, WIDTH]),)  # type: ignore[assignment]
    for i in tl.static_range(PIECES):
        packed = codes[i]  # type: ignore[var-annotated]
        for field in tl.static_range(1, FIELDS):
            packed |= codes[field * PIECES + i] << (SPEC.bits * field)
        t = rows + i * BLOCK
        at = start_of(plane.codes, frame) + (t * WIDTH + c)
        tl.store(at, packed.to(tl.uint8), mask=t < end)


@triton.jit
def cut(x, CUT: tl.constexpr):
    """View a piece [BLOCK, WIDTH] as fp32 runs of CUT channels that share metadata.

    The result is [BLOCK, GROUPS, CUT].
    """
    return tl.reshape(x.to(tl.float32), [x.shape[0], x.shape[1] // CUT, CUT])


@triton.jit
def fit(values, plane, SPEC: tl.constexpr, CUT: tl.constexpr):
    """Return scale (fp16) and zero (fp16, or fp32 if it is not stored) of pieces that share them.

    Shapes broadcast over a piece: [1, 1, WIDTH] if tokens share metadata, else [BLOCK, GROUPS, 1].
    """
    AXIS: tl.constexpr = 0 if SPEC.by_tokens else 2
    if plane.zero is None:
        high = tl.abs(cut(values[0], CUT))
        for i in tl.static_range(1, len(values)):
            high = tl.maximum(high, tl.abs(cut(values[i], CUT)))
        high = tl.max(high, AXIS, keep_dims=True)
        # div_rn rounds correctly, like a CPU; Triton's plain division may not. 65504 is the largest
        # fp16.
        scale = tl.minimum(tl.div_rn(high, -SPEC.offset), 65504.0).to(tl.float16)
        zero = scale.to(tl.float32) * SPEC.offset  # exact: 11 bits times 8
    else:
        low = cut(values[0], CUT)
        high = low
        for i in tl.static_range(1, len(values)):
            low = tl.minimum(low, cut(values[i], CUT))
            high = tl.maximum(high, cut(values[i], CUT))
        low = tl.min(low, AXIS, keep_dims=True)
        high = tl.max(high, AXIS, keep_dims=True)
        zero = tl.minimum(tl.maximum(low, -65504.0), 65504.0).to(tl.float16)
        # Measure from the rounded zero, which the decoder adds. 2**-24, the smallest positive fp16,
        # keeps a constant group from a scale of 0.
        step = tl.div_rn(high - zero.to(tl.float32), 2.0**SPEC.bits - 1)
        scale = tl.minimum(tl.maximum(step, 2.0**-24), 65504.0).to(tl.float16)
    return scale, zero


@triton.jit
def nearest(x, scale, zero, SPEC: tl.constexpr):
    """Return (x - zero) / scale rounded half to even into 0 .. 2**bits - 1, int32, exactly."""
    # No division per value. The product with the reciprocal finds the two codes around x; the
    # comparison with their middle decides. The middle is exact (9 bits times the 11 bits of a
    # scale), and so is the result: a quotient of floats that is not a middle is too far from it to
    # be rounded onto it.
    x -= zero.to(tl.float32)
    # A group of zeros has a scale of 0. The smallest other one is 2**-24, far above 1e-30.
    scale = tl.maximum(scale.to(tl.float32), 1e-30)
    below = tl.maximum(x * (1.0 / scale) - 0.5, 0.0)
    # Adding 2**23 rounds to an integer and leaves it in the lowest bits of the float.
    below = tl.minimum(below, 2.0**SPEC.bits - 2) + 8388608.0
    middle = (below - 8388608.0) * scale + 0.5 * scale
    code = below.to(tl.int32, bitcast=True) & 255
    odd = (code & 1) != 0
    return code + ((x > middle) | ((x == middle) & odd)).to(tl.int32)


def can_encode(form: KernelLayout | None) -> bool:
    """Return whether `encode` serves this layout: a single plane whose `fit` the kernel knows."""
    if form is None or not form.only_planes or len(form.planes) != 1:
        return False
    plane = form.planes[0]
    # A group of None is a whole frame of tokens, too many for registers as well.
    if plane.axis == "tokens" and (plane.group is None or plane.group > LARGEST_GROUP):
        return False
    if plane.fit == "absmax":
        return plane.zero is None and plane.offset < 0
    return plane.fit == "minmax" and plane.zero is not None and plane.offset == 0


def encode(form: KernelLayout, x_BHFTD: Tensor, pages: Packed, slots: Tensor) -> None:
    """Quantize x [B, H, F, T, D] into the pages of a slab, frame f into slot slots[f].

    x: bf16, fp16 or fp32, any strides, last dimension contiguous.
    pages: parts [B, H, S, ...]; other slots stay unchanged.
    slots: [F] int32, each slot once.

    Raises  ValueError: a head width that no kernel serves.
    """
    prepare(form, x_BHFTD, pages, slots).run()


def prepare(form: KernelLayout, x_BHFTD: Tensor, pages: Packed, slots: Tensor) -> Launch:
    """Return the launch of `encode`, without running it."""
    assert can_encode(form), form
    batch, num_heads, num_frames, num_tokens, head_dim = x_BHFTD.shape
    check_head_dim(head_dim)
    assert pages.shape[:2] + pages.shape[3:] == (batch, num_heads, num_tokens, head_dim), (
        pages.shape
    )
    assert slots.shape == (num_frames,), slots.shape
    assert x_BHFTD.stride(4) == 1, x_BHFTD.stride()
    stored, (spec,) = describe(form, pages)
    assert stored.planes is not None
    if spec.by_tokens:
        size = spec.group
        # A group is at most ROWS pieces of `block` tokens: a thread holds up to ROWS of its tokens.
        block = warps = triton.next_power_of_2(triton.cdiv(size, ROWS))
    else:
        size = block = min(TILE // head_dim, triton.next_power_of_2(num_tokens))
        warps = 4
    return Launch(
        encode_kernel,
        (triton.cdiv(num_tokens, size), num_frames, batch * num_heads),
        {
            "x": x_BHFTD,
            "x_strides": x_BHFTD.stride()[:4],
            "plane": stored.planes[0],
            "slots": slots,
            "num_heads": num_heads,
            "num_tokens": num_tokens,
        },
        {"SPEC": spec, "SIZE": size, "BLOCK": block, "D": head_dim},
        {"num_warps": warps},
    )
