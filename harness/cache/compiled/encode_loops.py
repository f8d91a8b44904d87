"""Quantizes frames into packed pages, in a loop that numba compiles.

Arithmetic and arguments follow `harness.cache.compiled.decode_loops`.
"""

from __future__ import annotations

import numpy as np

from harness.cache.compiled.bits import bytes_at, floats_at, halves_at, narrow, start_of, take
from harness.cache.compiled.decode_loops import (
    BITS,
    CODES,
    COUNT,
    EVERY,
    SCALE,
    ZERO,
    place_of,
)
from harness.cache.compiled.once import njit
from harness.cache.compiled.vectors import LANES

FP16_MAX = np.float32(65504)
FP16_MIN = np.float32(2.0**-24)
TINY = np.float32(2.0**-126)  # replaces a scale of zero as a divisor
ROUNDER = np.float32(1.5 * 2**23)  # added, it rounds a small number to an integer, half to even


@njit(inline="always")
def fold(low, high, half):
    """Reduce 2 * half minima and maxima to `half` of each."""
    for j in range(np.uint64(half)):
        low[j] = min(low[j], low[j + np.uint64(half)])
        high[j] = max(high[j], high[j + np.uint64(half)])


@njit(inline="always")
def extremes(row, start, size, low, high):
    """Return the smallest and the largest of `size` numbers of row [D]; uses low and high [D]."""
    # Side by side in lanes: the compiler vectorizes this, and not a loop that carries one extreme.
    lanes = np.uint64(LANES if size % LANES == 0 else 1)
    start, end = np.uint64(start), np.uint64(start + size)
    for j in range(lanes):
        low[j] = high[j] = row[start + j]
    start += lanes
    while start < end:
        for j in range(lanes):
            low[j] = min(low[j], row[start + j])
            high[j] = max(high[j], row[start + j])
        start += lanes
    if lanes == LANES:
        fold(low, high, 8)
        fold(low, high, 4)
        fold(low, high, 2)
        fold(low, high, 1)
    return low[0], high[0]


@njit(nogil=True, cache=True, error_model="numpy")
def encode(x, parts, specs, offsets, block, slots, shape, first, last):  # noqa: C901, PLR0913
    """Encode tasks `first` to `last`, each one head of one frame of x [B, H, F, T, D].

    A plane encodes what the planes before it leave: x minus their sum.

    x: address, elements from one batch entry, head, frame and token to the next, bytes of a value:
        2 for BF16, 4 for FP32.
    parts: [planes, 3, 4], codes, scale and zero; without a zero it is scale * offset. specs: bits,
        numbers in a row of metadata, tokens that share a row. offsets: of the codes of each plane.
    block: tokens to hold at a time; groups of every plane end with a block or with the frame.
    slots: [F], the slot of each frame. shape: heads, T, D.
    """
    num_heads, num_tokens, width = shape
    num_planes = parts.shape[0]
    # For all arrays of the loop; see the last line.
    memory = np.empty((5 * block + 6) * width, np.float32)
    held, held_bits, free = take(memory.ctypes.data, (block, width))
    # One value per group of the block: at most as many as the block has values.
    low, _, free = take(free, block * width)
    high, _, free = take(free, block * width)
    steps, steps_bits, free = take(free, block * width)
    zeros, zeros_bits, free = take(free, block * width)
    # One value per channel.
    step, _, free = take(free, width)
    scale, _, free = take(free, width)
    zero, _, free = take(free, width)
    code, _, free = take(free, width)
    other, _, free = take(free, width)
    _, chosen, free = take(free, width)
    for task in range(first, last):
        b, h, f = place_of(task, slots.size, num_heads)
        frame = b, h, slots[f]
        for start in range(0, num_tokens, block):
            num_held = min(block, num_tokens - start)
            for r in range(num_held):
                at = b * x[1] + h * x[2] + f * x[3] + (start + r) * x[4]
                if x[5] == 4:
                    held[r] = floats_at(x[0] + 4 * at, width)
                else:  # BF16 is the upper half of FP32
                    brief, row_bits = halves_at(x[0] + 2 * at, width), held_bits[r]
                    for j in range(width):
                        row_bits[j] = np.int32(brief[j]) << 16
            for p in range(num_planes):
                bits, count = specs[p, BITS], specs[p, COUNT]
                part, offset = parts[p], offsets[p]
                top = np.float32((1 << bits) - 1)
                size = width * bits >> 3
                most = min(specs[p, EVERY], num_tokens)  # tokens that share metadata
                each = width // count
                # Find the metadata of the whole block at once: one token may have too few groups to
                # fill a vector.
                numbers = (num_held + most - 1) // most * count
                for above in range(0, num_held, most):
                    below, at = min(above + most, num_held), np.uint64(above // most * count)
                    # Extremes of each channel over tokens, or of each group of channels of one
                    # token.
                    if count == width:
                        row = held[above]
                        for j in range(np.uint64(width)):
                            low[at + j] = high[at + j] = row[j]
                        for r in range(above + 1, below):
                            row = held[r]
                            for j in range(np.uint64(width)):
                                low[at + j] = min(low[at + j], row[j])
                                high[at + j] = max(high[at + j], row[j])
                    else:
                        for n in range(np.uint64(count)):
                            low[at + n], high[at + n] = extremes(
                                held[above], n * each, each, code, other
                            )
                behind = 2 * (start // most) * count
                scale_halves = halves_at(start_of(part[SCALE], frame, 2) + behind, numbers)
                # `narrow` leaves the numbers as they are stored: the codes must fit those.
                if part[ZERO, 0]:
                    zero_halves = halves_at(start_of(part[ZERO], frame, 2) + behind, numbers)
                    for n in range(numbers):
                        zeros[n] = min(max(low[n], -FP16_MAX), FP16_MAX)
                    narrow(zeros, zeros_bits, zero_halves)
                    # Measure from the rounded zero, because decoding adds that one. FP16_MIN keeps
                    # the scale of a group of equal values above zero.
                    for n in range(numbers):
                        steps[n] = min(max((high[n] - zeros[n]) / top, FP16_MIN), FP16_MAX)
                    narrow(steps, steps_bits, scale_halves)
                else:
                    # The largest magnitude then lies -offset steps from zero.
                    for n in range(numbers):
                        steps[n] = min(max(abs(low[n]), abs(high[n])) / -offset, FP16_MAX)
                    narrow(steps, steps_bits, scale_halves)
                    for n in range(numbers):
                        zeros[n] = steps[n] * offset
                for above in range(0, num_held, most):
                    below, at = min(above + most, num_held), np.uint64(above // most * count)
                    if count == width:
                        for j in range(np.uint64(width)):
                            step[j], zero[j] = steps[at + j], zeros[at + j]
                    else:
                        for n in range(count):
                            own_step, own_zero = steps[at + np.uint64(n)], zeros[at + np.uint64(n)]
                            for j in range(np.uint64(n * each), np.uint64((n + 1) * each)):
                                step[j] = own_step
                                zero[j] = own_zero
                    for j in range(width):
                        scale[j] = max(step[j], TINY)
                    for r in range(above, below):
                        row = held[r]
                        for j in range(width):
                            nearest = min(max((row[j] - zero[j]) / scale[j], np.float32(0)), top)
                            code[j] = (nearest + ROUNDER) - ROUNDER
                            chosen[j] = np.int32(code[j])
                        if p + 1 < num_planes:  # what is left is for the next plane
                            for j in range(width):
                                row[j] -= code[j] * step[j] + zero[j]
                        # Planar packing, field by field, as in `harness.api.bits`.
                        codes = bytes_at(start_of(part[CODES], frame, 1) + (start + r) * size, size)
                        codes[:] = 0
                        for field in range(8 // bits):
                            own = chosen[field * size : (field + 1) * size]
                            for j in range(size):
                                codes[j] |= own[j] << (field * bits)
    memory[0] = 0  # numba frees an array after its last use
