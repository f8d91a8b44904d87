"""Loops over packed pages that numba compiles for the processor: decode frames, encode frames.

All arithmetic is in fp32, in the order of `methods.quantizers` and without contraction, so results
equal torch's bit for bit. numba has neither FP16 nor BF16 on a CPU: they are 16-bit integers here.

Tensors arrive as rows of int64: address, then the elements from one batch entry, head and slot (or
frame) to the next, then one more number that the function names. An address of 0 stands for a part
that does not exist.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FP16_MAX = np.float32(65504)
FP16_MIN = np.float32(2.0**-24)
TINY = np.float32(2.0**-126)  # replaces a scale of zero as a divisor

BITS, GROUP, BY_TOKENS = 0, 1, 2  # columns of `specs`
CODES, SCALE, ZERO = 0, 1, 2  # rows of a plane in `parts`


@intrinsic
def pointer(typing_context, address):
    """Return an address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@njit(inline="always")
def start_of(part, b, h, slot, itemsize):
    """Return the pointer to the first value of one head of one frame."""
    return pointer(part[0] + (b * part[1] + h * part[2] + slot * part[3]) * itemsize)


@njit(inline="always")
def widen(half, at, count, row, bits):
    """Write `count` FP16 numbers into row [D] fp32; `bits` is the memory of `row` as int32."""
    for i in range(count):
        number = np.int32(half[at + i])
        magnitude = (number & 0x7FFF) << 13
        bits[i] = magnitude
        row[i] *= np.float32(2.0**112)  # mends the exponent, exactly, subnormal numbers too
        if magnitude >= 0x7C00 << 13:  # infinite, or not a number
            bits[i] = magnitude | 0x7F800000
        bits[i] |= (number & 0x8000) << 16


@njit(inline="always")
def narrow(row, bits, count, half, at):
    """Write row [D] fp32 as FP16, rounded to even; magnitudes are at most 65504.

    `bits` is the memory of `row` as int32. Afterwards the row holds the rounded numbers.
    """
    for i in range(count):
        sign, magnitude = (bits[i] >> 16) & 0x8000, bits[i] & 0x7FFFFFFF
        if magnitude > 0x7F800000:  # not a number
            half[at + i] = 0x7E00
            continue
        bits[i] = magnitude
        if magnitude < 113 << 23:  # subnormal: next to 0.5, fp32 has the spacing of 2**-24
            row[i] += np.float32(0.5)
            rounded = bits[i] - (126 << 23)
        else:
            rounded = (magnitude - (112 << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13
        half[at + i] = rounded | sign
    widen(half, at, count, row, bits)


@njit(nogil=True, cache=True, error_model="numpy")
def decode(parts, specs, offsets, channels, slots, shape, out, first, last):  # noqa: C901, PLR0913
    """Decode tasks `first` to `last`, each one head of one frame, into out [B, h, F * T, D].

    parts: [planes, 3, 4], codes, scale and zero of each plane. specs: bits, group and whether
        tokens share metadata, of each plane. offsets: of the codes of each plane.
    channels: [2, 4], scale and mean of the channels of a frame.
    slots: [F] in reading order. shape: first head, heads, T, D.
    out: address, elements from one batch entry, head and token to the next, bytes of a value: 2 for
        BF16, 4 for FP32.
    """
    first_head, num_heads, num_tokens, width = shape
    num_planes = parts.shape[0]
    scales = np.empty((num_planes, width), np.float32)
    zeros = np.empty((num_planes, width), np.float32)
    finish = np.empty((2, width), np.float32)
    finish_bits = finish.view(np.int32)
    total = np.empty(width, np.float32)
    total_bits = total.view(np.int32)
    room = np.empty(width, np.float32)
    room_bits = room.view(np.int32)
    for task in range(first, last):
        f, h = task % slots.size, task // slots.size % num_heads
        b, slot = task // slots.size // num_heads, slots[f]
        h_in = h + first_head
        for i in range(2):
            if channels[i, 0]:
                half = carray(start_of(channels[i], b, h_in, slot, 2), (width,), np.uint16)
                widen(half, 0, width, finish[i], finish_bits[i])
        for t in range(num_tokens):
            for p in range(num_planes):
                bits, group, by_tokens = specs[p, BITS], specs[p, GROUP], specs[p, BY_TOKENS]
                scale, zero = scales[p], zeros[p]
                if not by_tokens or t % group == 0:
                    count = width if by_tokens else width // group
                    each = width // count
                    at = (t // group if by_tokens else t) * count
                    half = carray(
                        start_of(parts[p, SCALE], b, h_in, slot, 2), (at + count,), np.uint16
                    )
                    widen(half, at, count, room, room_bits)
                    for n in range(count):
                        own = room[n]
                        own_zero = own * offsets[p]
                        for j in range(n * each, (n + 1) * each):
                            scale[j] = own
                            zero[j] = own_zero
                    if parts[p, ZERO, 0]:
                        half = carray(
                            start_of(parts[p, ZERO], b, h_in, slot, 2), (at + count,), np.uint16
                        )
                        widen(half, at, count, room, room_bits)
                        for n in range(count):
                            own = room[n]
                            for j in range(n * each, (n + 1) * each):
                                zero[j] += own
                size = width * bits // 8
                codes = carray(
                    start_of(parts[p, CODES], b, h_in, slot, 1), ((t + 1) * size,), np.uint8
                )
                mask = np.int32((1 << bits) - 1)
                for field in range(8 // bits):
                    shift = np.int32(field * bits)
                    start = field * size
                    for j in range(size):
                        code = np.float32((np.int32(codes[t * size + j]) >> shift) & mask)
                        # The product is exact: 8 bits of a code, 11 of a scale.
                        value = code * scale[start + j] + zero[start + j]
                        if p == 0:
                            total[start + j] = value
                        else:
                            total[start + j] += value
            if channels[0, 0]:
                for j in range(width):
                    total[j] *= finish[0, j]
            if channels[1, 0]:
                for j in range(width):
                    total[j] += finish[1, j]
            at = b * out[1] + h * out[2] + (f * num_tokens + t) * out[3]
            if out[4] == 4:
                wide = carray(pointer(out[0] + 4 * at), (width,), np.float32)
                for j in range(width):
                    wide[j] = total[j]
            else:
                brief = carray(pointer(out[0] + 2 * at), (width,), np.uint16)
                for j in range(width):
                    number = total_bits[j]
                    rounded = (number + 0x7FFF + ((number >> 16) & 1)) >> 16
                    if (number & 0x7FFFFFFF) > 0x7F800000:
                        rounded = 0x7FC0
                    brief[j] = rounded


@njit(nogil=True, cache=True, error_model="numpy")
def encode(x, part, spec, offset, slots, shape, first, last):  # noqa: C901, PLR0913
    """Encode tasks `first` to `last`, each one head of one frame of x [B, H, F, T, D].

    x: address, elements from one batch entry, head, frame and token to the next, bytes of a value:
        2 for BF16, 4 for FP32.
    part: [3, 4], codes, scale and zero. spec: bits, group, whether tokens share metadata.
    offset: of the codes. slots: [F], the slot of each frame. shape: heads, T, D.
    """
    num_heads, num_tokens, width = shape
    bits, group, by_tokens = spec[BITS], spec[GROUP], spec[BY_TOKENS]
    stores_zero = part[ZERO, 0] != 0
    top = np.float32((1 << bits) - 1)
    size = width * bits // 8
    most = min(group, num_tokens) if by_tokens else 1
    count = width if by_tokens else width // group
    each = width // count
    rows = np.empty((most, width), np.float32)
    rows_bits = rows.view(np.int32)
    low = np.empty(width, np.float32)
    high = np.empty(width, np.float32)
    scale = np.empty(width, np.float32)
    scale_bits = scale.view(np.int32)
    zero = np.empty(width, np.float32)
    zero_bits = zero.view(np.int32)
    codes_row = np.empty(width, np.int32)
    for task in range(first, last):
        f, h = task % slots.size, task // slots.size % num_heads
        b, slot = task // slots.size // num_heads, slots[f]
        codes = carray(start_of(part[CODES], b, h, slot, 1), (num_tokens * size,), np.uint8)
        num_groups = -(-num_tokens // most)
        scales = carray(start_of(part[SCALE], b, h, slot, 2), (num_groups * count,), np.uint16)
        offsets = carray(start_of(part[ZERO], b, h, slot, 2), (num_groups * count,), np.uint16)
        for start in range(0, num_tokens, most):
            num_rows = min(most, num_tokens - start)
            for r in range(num_rows):
                at = b * x[1] + h * x[2] + f * x[3] + (start + r) * x[4]
                if x[5] == 4:
                    wide = carray(pointer(x[0] + 4 * at), (width,), np.float32)
                    for j in range(width):
                        rows[r, j] = wide[j]
                else:
                    brief = carray(pointer(x[0] + 2 * at), (width,), np.uint16)
                    for j in range(width):
                        rows_bits[r, j] = np.int32(brief[j]) << 16
            if by_tokens:
                for j in range(width):
                    low[j] = high[j] = rows[0, j]
                for r in range(1, num_rows):
                    for j in range(width):
                        low[j] = min(low[j], rows[r, j])
                        high[j] = max(high[j], rows[r, j])
            else:
                for n in range(count):
                    least = largest = rows[0, n * each]
                    for j in range(n * each + 1, (n + 1) * each):
                        least = min(least, rows[0, j])
                        largest = max(largest, rows[0, j])
                    low[n], high[n] = least, largest
            at = start // most * count
            if stores_zero:
                for n in range(count):
                    zero[n] = min(max(low[n], -FP16_MAX), FP16_MAX)
                narrow(zero, zero_bits, count, offsets, at)
                # Measure from the rounded zero, which decoding adds.
                for n in range(count):
                    scale[n] = min(max((high[n] - zero[n]) / top, FP16_MIN), FP16_MAX)
                narrow(scale, scale_bits, count, scales, at)
            else:
                for n in range(count):
                    scale[n] = min(max(abs(low[n]), abs(high[n])) / -offset, FP16_MAX)
                narrow(scale, scale_bits, count, scales, at)
                for n in range(count):
                    zero[n] = scale[n] * offset
            if not by_tokens:
                for n in range(count - 1, -1, -1):  # from the end: the rows are read and written
                    for j in range((n + 1) * each - 1, n * each - 1, -1):
                        scale[j], zero[j] = scale[n], zero[n]
            for r in range(num_rows):
                for j in range(width):
                    code = (rows[r, j] - zero[j]) / max(scale[j], TINY)
                    # Adding 1.5 * 2**23 rounds to an even integer.
                    code = min(max(code, np.float32(0)), top) + np.float32(12582912)
                    codes_row[j] = np.int32(code - np.float32(12582912))
                for j in range(size):
                    packed = codes_row[j]
                    for field in range(1, 8 // bits):
                        packed |= codes_row[field * size + j] << (field * bits)
                    codes[(start + r) * size + j] = packed
