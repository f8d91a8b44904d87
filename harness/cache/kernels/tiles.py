"""Device functions that decode a tile of stored tokens in registers, for staging and attention.

frame: (b, h, slot) of one head of one stored frame; int64, because offsets exceed 2**31.
t: token indices in the frame [BLOCK]. live: which of them exist [BLOCK].
stored, specs, turns: see `harness.cache.kernels.launch`.
TIME: number of channels that rotate with the frame.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def start_of(part, frame):
    """Return the pointer to the first value of one head of one stored frame."""
    b, h, slot = frame
    return part.start + b * part.of_batch + h * part.of_head + slot * part.of_slot


@triton.jit
def load_numbers(plane, spec: tl.constexpr, frame, t, live, D: tl.constexpr):
    """Load the numbers of a plane [BLOCK, D] fp32: codes plus offset, or entries of the table.

    Codes plus offset are exact in BF16 up to 8 bits.
    """
    WIDTH: tl.constexpr = D * spec.bits // 8
    c = tl.arange(0, D)
    # Byte j holds channels j, j + WIDTH, ... Each channel loads its own byte, so a row is read
    # 8 / bits times, from L1. In return every thread has neighbouring channels of one row in
    # natural order, for wide stores and for the rotation of pairs.
    at = t[:, None] * WIDTH + (c % WIDTH)[None, :]
    code = tl.load(start_of(plane.codes, frame) + at, mask=live[:, None], other=0)
    if spec.bits < 8:
        shift = (c // WIDTH * spec.bits).to(tl.uint8)
        code = (code >> shift[None, :]) & (2**spec.bits - 1)
    if plane.table is not None:
        return tl.load(start_of(plane.table, frame) + code.to(tl.int32)).to(tl.float32)
    return code.to(tl.float32) + spec.offset


@triton.jit
def load_metadata(part, spec: tl.constexpr, frame, t, live, D: tl.constexpr):
    """Load scale or zero as stored, to broadcast over the tile viewed as [BLOCK, N, D / N]."""
    start = start_of(part, frame)
    if spec.by_tokens:  # `group` tokens share a row [D]; all but the first read it from L1
        at = (t // spec.group)[:, None] * D + tl.arange(0, D)[None, :]
        values = tl.load(start + at, mask=live[:, None], other=0)[:, None, :]
    else:
        N: tl.constexpr = D // spec.group
        at = t[:, None] * N + tl.arange(0, N)[None, :]
        values = tl.load(start + at, mask=live[:, None], other=0)[:, :, None]
    return values


@triton.jit
def load_scale(plane, spec: tl.constexpr, frame, t, live, D: tl.constexpr):
    """Load the scale of a plane in fp32, shaped like `load_metadata`."""
    scale = load_metadata(plane.scale, spec, frame, t, live, D)
    if plane.byte_scales is not None:
        scale = tl.load(start_of(plane.byte_scales, frame) + scale.to(tl.int32))
    if plane.unit is not None:
        scale = scale * tl.load(start_of(plane.unit, frame))
    return scale.to(tl.float32)


@triton.jit
def load_plane(plane, spec: tl.constexpr, frame, t, live, D: tl.constexpr):
    """Decode one plane [BLOCK, D] fp32: number * scale, plus zero."""
    x = load_numbers(plane, spec, frame, t, live, D)
    # A view with a dimension for groups, so that metadata broadcast over the channels of a group.
    N: tl.constexpr = 1 if spec.by_tokens else D // spec.group
    x = tl.reshape(x, [t.shape[0], N, D // N])
    if plane.scale is not None:
        x = x * load_scale(plane, spec, frame, t, live, D)
    if plane.zero is not None:
        x = x + load_metadata(plane.zero, spec, frame, t, live, D).to(tl.float32)
    return tl.reshape(x, [t.shape[0], D])


@triton.jit
def load_tile(stored, specs: tl.constexpr, frame, t, live, D: tl.constexpr):
    """Load the sum of the planes [BLOCK, D] fp32, or the exact values in their own dtype."""
    # Without conversion: the caller converts to what its products take, which may be this dtype.
    if stored.exact is not None:
        at = t[:, None] * D + tl.arange(0, D)[None, :]
        x = tl.load(start_of(stored.exact, frame) + at, mask=live[:, None], other=0)
    else:
        x = load_plane(stored.planes[0], specs[0], frame, t, live, D)
        # Unrolled: every plane has its own bits and groups, which are compiled in.
        for i in tl.static_range(1, len(specs)):
            x += load_plane(stored.planes[i], specs[i], frame, t, live, D)
    return x


@triton.jit
def load_channels(part, frame, D: tl.constexpr):
    """Load channel_scale or channel_mean: one value per channel of a stored frame [1, D] fp32."""
    values = tl.load(start_of(part, frame) + tl.arange(0, D)).to(tl.float32)
    return values[None, :]


@triton.jit
def load_time(turns, f, TIME: tl.constexpr, D: tl.constexpr):
    """Load the time rotation of a frame [1, D] fp32, real and imaginary parts alternating."""
    # Channels that time does not rotate get 1 + 0i, so that a tile is rotated as a whole.
    c = tl.arange(0, D)
    still = ((c + 1) % 2).to(tl.float32)
    return tl.load(turns.time + f * TIME + c, mask=c < TIME, other=still)[None, :]


@triton.jit
def load_turns(turns, f, t, live, TIME: tl.constexpr, D: tl.constexpr):
    """Load the rotations of a tile of frame f [BLOCK or 1, D] fp32; None without turns.

    Real and imaginary parts alternate.
    """
    angles = None
    if turns is not None:
        angles = load_time(turns, f, TIME, D)
        if turns.space is not None:
            # The table has no columns for the channels of time, which come first.
            c = tl.arange(0, D) - TIME
            at = t[:, None] * (D - TIME) + c[None, :]
            spatial = (c >= 0)[None, :]
            space = tl.load(turns.space + at, mask=live[:, None] & spatial, other=0)
            angles = tl.where(spatial, space, angles)
    return angles


@triton.jit
def turn_pairs(x, angles, BACK: tl.constexpr, D: tl.constexpr):
    """Rotate the channel pairs of x [ROWS, D] by `angles` [ROWS or 1, D], or back (BACK); fp32."""
    even, odd = tl.split(tl.reshape(x.to(tl.float32), [x.shape[0], D // 2, 2]))
    cos, sin = tl.split(tl.reshape(angles, [angles.shape[0], D // 2, 2]))
    # The conjugate turns back.
    if BACK:
        sin = -sin
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [x.shape[0], D])


@triton.jit
def load_finished(stored, specs: tl.constexpr, angles, frame, t, live, D: tl.constexpr):
    """Load a tile [BLOCK, D]: planes, then scales, mean, centroids, rotations."""
    # In the order of `KernelLayout`. Parts that are None cost nothing: the compiler drops them.
    x = load_tile(stored, specs, frame, t, live, D)
    if stored.token_scale is not None:
        scale = tl.load(start_of(stored.token_scale, frame) + t, mask=live, other=0)
        x = x * scale.to(tl.float32)[:, None]
    if stored.channel_scale is not None:
        x = x * load_channels(stored.channel_scale, frame, D)
    if stored.channel_mean is not None:
        x = x + load_channels(stored.channel_mean, frame, D)
    if stored.centroids is not None:
        for i in tl.static_range(len(stored.centroids)):
            nearest = tl.load(start_of(stored.centroids[i].nearest, frame) + t, mask=live, other=0)
            at = nearest.to(tl.int32)[:, None] * D + tl.arange(0, D)[None, :]
            x = x + tl.load(start_of(stored.centroids[i].rows, frame) + at).to(tl.float32)
    if angles is not None:
        x = turn_pairs(x, angles, False, D)
    return x
