"""Loops over packed pages that numba compiles for the processor: decode frames, encode frames.

All arithmetic is in fp32, in the order of `methods.quantizers` and without contraction, so results
equal torch's bit for bit. numba has neither FP16 nor BF16 on a CPU: they are 16-bit integers here.

Tensors arrive as int64: address, then the elements from one batch entry, head and slot (or frame)
to the next. An address of 0 stands for a part that does not exist.

Sums as indices are unsigned: numba counts negative ones from the end, and that test would keep the
compiler from vectorizing the loop.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FP16_MAX = np.float32(65504)
FP16_MIN = np.float32(2.0**-24)
TINY = np.float32(2.0**-126)  # replaces a scale of zero as a divisor
ROUNDER = np.float32(1.5 * 2**23)  # added, it rounds a small number to an integer, half to even

BITS, GROUP, BY_TOKENS, ENTRY = 0, 1, 2, 3  # columns of `specs`
CODES, SCALE, ZERO, TABLE, BYTE_SCALES, UNIT = 0, 1, 2, 3, 4, 5  # rows of a plane in `parts`
CHANNEL_SCALE, CHANNEL_MEAN, TOKEN_SCALE = 0, 1, 2  # rows of `outer`
ROWS, NEAREST = 0, 1  # rows of `centroids`


@intrinsic
def pointer(typing_context, address):
    """Return an address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@njit(inline="always")
def start_of(part, frame, itemsize):
    """Return the address of the first value of a frame (b, h, slot)."""
    b, h, slot = frame
    return part[0] + (b * part[1] + h * part[2] + slot * part[3]) * itemsize


@njit(inline="always")
def bytes_at(address, count):
    """Return memory as an array [count] of bytes."""
    return carray(pointer(address), (count,), np.uint8)


@njit(inline="always")
def halves_at(address, count):
    """Return memory as an array [count] of 16-bit integers."""
    return carray(pointer(address), (count,), np.uint16)


@njit(inline="always")
def floats_at(address, count):
    """Return memory as an array [count] of FP32."""
    return carray(pointer(address), (count,), np.float32)


@njit(inline="always")
def widen(half, row, bits):
    """Write FP16 numbers to the start of row [D] fp32; `bits` is the same memory as int32."""
    for i in range(half.size):
        number = np.int32(half[i])
        magnitude = (number & 0x7FFF) << 13
        bits[i] = magnitude
        row[i] *= np.float32(2.0**112)  # fixes the exponent, exactly, of subnormal numbers too
        if magnitude >= 0x7C00 << 13:  # infinite, or not a number
            bits[i] = magnitude | 0x7F800000
        bits[i] |= (number & 0x8000) << 16


@njit(inline="always")
def narrow(row, bits, half):
    """Write the start of row [D] fp32 as FP16, rounded to even, and keep the rounded numbers in it.

    bits: the memory of `row` as int32. No magnitude exceeds 65504.
    """
    for i in range(half.size):
        sign, magnitude = (bits[i] >> 16) & 0x8000, bits[i] & 0x7FFFFFFF
        bits[i] = magnitude
        if magnitude > 0x7F800000:  # not a number
            rounded = 0x7E00
        elif magnitude < 113 << 23:  # subnormal: next to 0.5, FP32 has the spacing of 2**-24
            row[i] += np.float32(0.5)
            rounded = bits[i] - (126 << 23)
        else:
            rounded = (magnitude - (112 << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13
        half[i] = rounded | sign
    widen(half, row, bits)


@njit
def spread(few, row):
    """Write each of a few numbers to its equal share of row [D]."""
    each = row.size // few.size
    if each == 1:
        for j in range(row.size):
            row[j] = few[j]
        return
    for n in range(few.size):
        own, number = row[n * each : (n + 1) * each], few[n]
        for j in range(each):
            own[j] = number


@njit(inline="always")
def put_plane(codes, bits, p, scales, zeros, total):
    """Write plane p of a token to total [D], or add it if p is not 0: code * scale + zero."""
    size, start, shift = np.uint64(codes.size), np.uint64(0), 0
    mask = (1 << bits) - 1
    while start < np.uint64(total.size):
        # numba's operators widen to 64 bits, which is slower: codes go back to 32.
        if p == 0:
            for j in range(size):
                code = np.float32(np.int32((codes[j] >> shift) & mask))
                total[start + j] = code * scales[p, start + j] + zeros[p, start + j]
        else:
            for j in range(size):
                code = np.float32(np.int32((codes[j] >> shift) & mask))
                total[start + j] += code * scales[p, start + j] + zeros[p, start + j]
        start += size
        shift += bits


@njit(inline="always")
def put_numbers(codes, bits, table, p, scales, zeros, total):
    """Do what `put_plane` does with the table's entries in place of the codes."""
    size, start, shift = np.uint64(codes.size), np.uint64(0), 0
    mask = (1 << bits) - 1
    while start < np.uint64(total.size):
        if p == 0:
            for j in range(size):
                number = table[np.uint64((codes[j] >> shift) & mask)]
                total[start + j] = number * scales[p, start + j] + zeros[p, start + j]
        else:
            for j in range(size):
                number = table[np.uint64((codes[j] >> shift) & mask)]
                total[start + j] += number * scales[p, start + j] + zeros[p, start + j]
        start += size
        shift += bits


@njit(nogil=True, cache=True, error_model="numpy")
def decode(parts, specs, offsets, outer, centroids, slots, shape, out, first, last):  # noqa: C901, PLR0913
    """Decode tasks `first` to `last`, each one head of one frame, into out [B, h, F * T, D].

    parts: [planes, 6, 4], codes, scale, zero, table, fp32 numbers by byte of the scale, and unit of
        each plane. specs: bits, group, whether tokens share metadata, and bytes of a table's entry,
        0 without a table.
    offsets: of the codes of each plane; -0.0 if it has a table.
    outer: [3, 4], scale and mean of the channels of a frame, scale of its tokens.
    centroids: [stages, 2, 4], centroids and the index of each token's own.
    slots: [F] in reading order. shape: first head, heads, T, D.
    out: address, elements from one batch entry, head and token to the next, bytes of a value: 2 for
        BF16, 4 for FP32.
    """
    first_head, num_heads, num_tokens, width = shape
    num_planes = parts.shape[0]
    scales = np.ones((num_planes, width), np.float32)
    zeros = np.empty((num_planes, width), np.float32)
    for p in range(num_planes):
        zeros[p, :] = offsets[p]
    units = np.ones(num_planes, np.float32)
    tables = np.empty((num_planes, 256), np.float32)
    tables_bits = tables.view(np.int32)
    finish = np.empty((2, width), np.float32)
    finish_bits = finish.view(np.int32)
    total = np.empty(width, np.float32)
    total_bits = total.view(np.int32)
    room = np.empty(width, np.float32)
    room_bits = room.view(np.int32)
    for task in range(first, last):
        f, h = task % slots.size, task // slots.size % num_heads
        b = task // slots.size // num_heads
        frame = b, h + first_head, slots[f]
        for i in range(2):
            if outer[i, 0]:
                half = halves_at(start_of(outer[i], frame, 2), width)
                widen(half, finish[i], finish_bits[i])
        for p in range(num_planes):
            count, entry = 1 << specs[p, BITS], specs[p, ENTRY]
            address = start_of(parts[p, TABLE], frame, entry)
            if entry == 2:
                widen(halves_at(address, count), tables[p], tables_bits[p])
            elif entry == 4:
                tables[p, :count] = floats_at(address, count)
            if parts[p, UNIT, 0]:
                units[p] = floats_at(start_of(parts[p, UNIT], frame, 4), 1)[0]
        for t in range(num_tokens):
            for p in range(np.uint64(num_planes)):
                bits, group, by_tokens = specs[p, BITS], specs[p, GROUP], specs[p, BY_TOKENS]
                if not by_tokens or t % group == 0:
                    count = width if by_tokens else width // group
                    row = count * (t // group if by_tokens else t)
                    if parts[p, SCALE, 0]:
                        if parts[p, BYTE_SCALES, 0]:
                            numbers = floats_at(parts[p, BYTE_SCALES, 0], 256)
                            small = bytes_at(start_of(parts[p, SCALE], frame, 1) + row, count)
                            for n in range(count):
                                room[n] = numbers[np.uint64(small[n])] * units[p]
                        else:
                            half = halves_at(start_of(parts[p, SCALE], frame, 2) + 2 * row, count)
                            widen(half, room, room_bits)
                        spread(room[:count], scales[p])
                        if not specs[p, ENTRY]:
                            for j in range(width):
                                zeros[p, j] = scales[p, j] * offsets[p]
                    if parts[p, ZERO, 0]:
                        half = halves_at(start_of(parts[p, ZERO], frame, 2) + 2 * row, count)
                        widen(half, room, room_bits)
                        spread(room[:count], zeros[p])
                size = width * bits // 8
                codes = bytes_at(start_of(parts[p, CODES], frame, 1) + t * size, size)
                if specs[p, ENTRY]:
                    put_numbers(codes, bits, tables[p], p, scales, zeros, total)
                else:
                    put_plane(codes, bits, p, scales, zeros, total)
            if outer[TOKEN_SCALE, 0]:
                half = halves_at(start_of(outer[TOKEN_SCALE], frame, 2) + 2 * t, 1)
                widen(half, room, room_bits)
                for j in range(width):
                    total[j] *= room[0]
            if outer[CHANNEL_SCALE, 0]:
                for j in range(width):
                    total[j] *= finish[CHANNEL_SCALE, j]
            if outer[CHANNEL_MEAN, 0]:
                for j in range(width):
                    total[j] += finish[CHANNEL_MEAN, j]
            for i in range(centroids.shape[0]):
                nearest = bytes_at(start_of(centroids[i, NEAREST], frame, 1) + t, 1)
                at = start_of(centroids[i, ROWS], frame, 2) + 2 * width * np.int64(nearest[0])
                widen(halves_at(at, width), room, room_bits)
                for j in range(width):
                    total[j] += room[j]
            at = b * out[1] + h * out[2] + (f * num_tokens + t) * out[3]
            if out[4] == 4:
                wide = floats_at(out[0] + 4 * at, width)
                for j in range(width):
                    wide[j] = total[j]
            else:
                brief = halves_at(out[0] + 2 * at, width)
                for j in range(width):
                    number = total_bits[j]
                    rounded = (number + 0x7FFF + ((number >> 16) & 1)) >> 16
                    if (number & 0x7FFFFFFF) > 0x7F800000:  # not a number
                        rounded = 0x7FC0
                    brief[j] = rounded


@njit(inline="always")
def gather(low, high):
    """Move the smallest number of low [n] and the largest of high [n] to their first places."""
    size = np.uint64(low.size)
    # By halves: the compiler vectorizes this, and not a loop that carries one extreme along.
    while size % np.uint64(2) == 0:
        size //= np.uint64(2)
        for j in range(size):
            low[j] = min(low[j], low[j + size])
            high[j] = max(high[j], high[j + size])
    for j in range(np.uint64(1), size):
        low[0] = min(low[0], low[j])
        high[0] = max(high[0], high[j])


@njit(nogil=True, cache=True, error_model="numpy")
def encode(x, parts, specs, offsets, block, slots, shape, first, last):  # noqa: C901, PLR0913
    """Encode tasks `first` to `last`, each one head of one frame of x [B, H, F, T, D].

    A plane encodes what the planes before it leave: x minus their sum.

    x: address, elements from one batch entry, head, frame and token to the next, bytes of a value:
        2 for BF16, 4 for FP32.
    parts: [planes, 3, 4], codes, scale and zero; without a zero it is scale * offset. specs: bits,
        group, whether tokens share metadata, of each plane. offsets: of the codes of each plane.
    block: tokens to hold at a time; groups of every plane end with a block or with the frame.
    slots: [F], the slot of each frame. shape: heads, T, D.
    """
    num_heads, num_tokens, width = shape
    num_planes = parts.shape[0]
    held = np.empty((block, width), np.float32)
    held_bits = held.view(np.int32)
    low = np.empty(width, np.float32)
    high = np.empty(width, np.float32)
    room = np.empty(width, np.float32)
    room_bits = room.view(np.int32)
    step = np.empty(width, np.float32)
    scale = np.empty(width, np.float32)
    zero = np.empty(width, np.float32)
    code = np.empty(width, np.float32)
    chosen = np.empty(width, np.int32)
    for task in range(first, last):
        f, h = task % slots.size, task // slots.size % num_heads
        b = task // slots.size // num_heads
        frame = b, h, slots[f]
        for start in range(0, num_tokens, block):
            num_held = min(block, num_tokens - start)
            for r in range(num_held):
                at = b * x[1] + h * x[2] + f * x[3] + (start + r) * x[4]
                if x[5] == 4:
                    held[r] = floats_at(x[0] + 4 * at, width)
                else:
                    brief, row_bits = halves_at(x[0] + 2 * at, width), held_bits[r]
                    for j in range(width):
                        row_bits[j] = np.int32(brief[j]) << 16
            for p in range(num_planes):
                bits, group, by_tokens = specs[p, BITS], specs[p, GROUP], specs[p, BY_TOKENS]
                part, offset = parts[p], offsets[p]
                top = np.float32((1 << bits) - 1)
                size = width * bits // 8
                most = min(group, num_tokens) if by_tokens else 1  # tokens that share metadata
                count = width if by_tokens else width // group
                each = width // count
                for above in range(0, num_held, most):
                    below = min(above + most, num_held)
                    low[:], high[:] = held[above], held[above]
                    if by_tokens:
                        for r in range(above + 1, below):
                            row = held[r]
                            for j in range(width):
                                low[j] = min(low[j], row[j])
                                high[j] = max(high[j], row[j])
                    else:
                        for n in range(count):
                            at = n * each
                            gather(low[at : at + each], high[at : at + each])
                            low[n], high[n] = low[at], high[at]
                    at = 2 * ((start + above) // most) * count
                    scales = halves_at(start_of(part[SCALE], frame, 2) + at, count)
                    if part[ZERO, 0]:
                        for n in range(count):
                            room[n] = min(max(low[n], -FP16_MAX), FP16_MAX)
                        zeros = halves_at(start_of(part[ZERO], frame, 2) + at, count)
                        narrow(room, room_bits, zeros)
                        spread(room[:count], zero)
                        for n in range(count):
                            # Measure from the rounded zero, which decoding adds.
                            room[n] = min(max((high[n] - room[n]) / top, FP16_MIN), FP16_MAX)
                        narrow(room, room_bits, scales)
                    else:
                        for n in range(count):
                            room[n] = min(max(abs(low[n]), abs(high[n])) / -offset, FP16_MAX)
                        narrow(room, room_bits, scales)
                        for n in range(count):
                            low[n] = room[n] * offset
                        spread(low[:count], zero)
                    spread(room[:count], step)
                    for j in range(width):
                        scale[j] = max(step[j], TINY)
                    for r in range(above, below):
                        row = held[r]
                        for j in range(width):
                            nearest = min(max((row[j] - zero[j]) / scale[j], np.float32(0)), top)
                            code[j] = (nearest + ROUNDER) - ROUNDER
                            chosen[j] = np.int32(code[j])
                        if p + 1 < num_planes:
                            for j in range(width):
                                row[j] -= code[j] * step[j] + zero[j]
                        codes = bytes_at(start_of(part[CODES], frame, 1) + (start + r) * size, size)
                        codes[:] = 0
                        for field in range(8 // bits):
                            own = chosen[field * size : (field + 1) * size]
                            for j in range(size):
                                codes[j] |= own[j] << (field * bits)
