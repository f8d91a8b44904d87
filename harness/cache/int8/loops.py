"""Loops between the matrix products of 8-bit attention, which numba compiles for the processor.

All arithmetic is in fp32. Logits are in units of log2, since 2**x takes fewer steps than exp(x).
numba has no BF16 on a CPU: those numbers are 16-bit integers here.

Sums as indices are unsigned: numba counts negative ones from the end, and that test would keep the
compiler from vectorizing the loop.
"""

from __future__ import annotations

import numpy as np
from numba import njit

LEVELS = np.float32(127)
ROUNDER = np.float32(1.5 * 2**23)  # added, it leaves the nearest integer in the low bits
LOWEST = np.float32(-1e30)  # of a maximum: below every logit, and still a number
SMALLEST = np.float32(-126)  # exponent of the smallest normal fp32
ZERO = np.float32(0)
# 2**x for -0.5 <= x <= 0.5, relative error 3e-6: a thousandth of the rounding to BF16 after it.
P0, P1, P2 = np.float32(0.9999991908), np.float32(0.6931219677), np.float32(0.2402498111)
P3, P4 = np.float32(0.0559170392), np.float32(0.0095605102)
HALF_BF16, UPPER_HALF = np.int32(0x8000), np.int32(-0x10000)
BITS_BF16, BITS_MANTISSA = np.int32(16), np.int32(23)


@njit(inline="always")
def largest(x, room):
    """Return the largest number of x [n]; room [n] is overwritten."""
    if x.size == 1:
        return x[0]
    # By halves: the compiler vectorizes this, and not a loop that carries one maximum along.
    size = np.uint64(x.size)
    half = size // np.uint64(2)
    for j in range(half):
        room[j] = x[j] if x[j] > x[j + half] else x[j + half]
    if size % np.uint64(2):
        room[0] = max(room[0], x[size - np.uint64(1)])
    while half > np.uint64(16):
        size = half
        half = size // np.uint64(2)
        for j in range(half):
            room[j] = room[j] if room[j] > room[j + half] else room[j + half]
        if size % np.uint64(2):
            room[0] = max(room[0], room[size - np.uint64(1)])
    top = room[0]
    for j in range(half):
        top = max(top, room[j])
    return top


@njit(nogil=True, fastmath={"reassoc"}, error_model="numpy")
def total_of(x):
    """Return the sum of x [n], in any order."""
    total = ZERO
    for j in range(np.uint64(x.size)):
        total += x[j]
    return total


@njit(inline="always")
def hold(wide, brief, r, row, row_bits):
    """Write row r of `wide` [n, D] fp32, or of `brief` [n, D] BF16 if it has rows, to row [D]."""
    if brief.shape[0]:
        for j in range(np.uint64(row.size)):
            row_bits[j] = np.int32(brief[r, j]) << BITS_BF16
    else:
        for j in range(np.uint64(row.size)):
            row[j] = wide[r, j]


@njit(nogil=True, cache=True, error_model="numpy")
def take_mean(wide, brief, mean):
    """Write the mean of the rows of `wide`, or of `brief`, to mean [D] fp32; see `hold`."""
    num_rows = max(wide.shape[0], brief.shape[0])
    row = np.empty(mean.size, np.float32)
    row_bits = row.view(np.int32)
    mean[:] = ZERO
    for r in range(num_rows):
        hold(wide, brief, r, row, row_bits)
        for j in range(np.uint64(row.size)):
            mean[j] += row[j]
    for j in range(mean.size):
        mean[j] /= np.float32(num_rows)


@njit(nogil=True, cache=True, error_model="numpy")
def quantize(wide, brief, mean, factor, codes, scales):
    """Encode (row - mean) * factor as code * scale, with a scale per row.

    wide, brief: the rows; see `hold`. mean: [D] fp32. codes: [n, D] int8. scales: [n] fp32.
    """
    row = np.empty(mean.size, np.float32)
    row_bits = row.view(np.int32)
    size, room = np.empty_like(row), np.empty_like(row)
    for r in range(codes.shape[0]):
        hold(wide, brief, r, row, row_bits)
        for j in range(np.uint64(row.size)):
            row[j] -= mean[j]
            size[j] = abs(row[j])
        top = largest(size, room)
        scales[r] = top * factor / LEVELS
        inverse = LEVELS / top if top > ZERO else ZERO
        code = codes[r]
        for j in range(np.uint64(row.size)):
            row[j] = row[j] * inverse + ROUNDER
        for j in range(np.uint64(row.size)):
            code[j] = np.int8(row_bits[j])


@njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def weigh(products, q_scales, k_scales, bias, weights, tops, totals):
    """Write the softmax weights of a tile, not yet divided by their sum.

    products: of the codes [T, n] int32. q_scales: [T]. k_scales, bias: [n] fp32.
    weights: [T, n] BF16, 2**(logit - top). tops, totals: [T] fp32, largest logit of each query, and
        sum of its rounded weights.
    """
    size = np.uint64(products.shape[1])
    x = np.empty(size, np.float32)
    x_bits = x.view(np.int32)
    room = np.empty(size, np.float32)
    room_bits = room.view(np.int32)
    for r in range(np.uint64(products.shape[0])):
        product, weight, scale = products[r], weights[r], q_scales[r]
        for j in range(size):
            x[j] = np.float32(product[j]) * (k_scales[j] * scale) + bias[j]
        top = max(largest(x, room), LOWEST)  # a bias of -inf hides a token, or all tokens
        for j in range(size):
            logit = max(x[j] - top, SMALLEST)
            # The sum has the integer next to the logit in its low bits, the exponent of 2**logit.
            room[j] = logit + ROUNDER
            rest = logit - (room[j] - ROUNDER)
            x[j] = (((P4 * rest + P3) * rest + P2) * rest + P1) * rest + P0
        for j in range(size):
            number = np.int32(x_bits[j] + np.int32(room_bits[j] << BITS_MANTISSA))
            number = np.int32(number + HALF_BF16)
            weight[j] = np.int16(number >> BITS_BF16)
            # The sum takes the weights as rounded, so that they add up to one.
            x_bits[j] = number & UPPER_HALF
        tops[r] = top
        totals[r] = total_of(x)


@njit(nogil=True, cache=True, error_model="numpy")
def merge(part, tops, totals, out, best, sums):
    """Add the weighted values of a tile to those of the tiles before it.

    part: [T, D] BF16, relative to 2**tops. out: [T, D] fp32, relative to 2**best.
    tops, totals, best, sums: [T] fp32.

    Source  the online softmax of FlashAttention (arXiv 2205.14135).
    """
    row = np.empty(out.shape[1], np.float32)
    row_bits = row.view(np.int32)
    for r in range(out.shape[0]):
        top = max(best[r], tops[r])
        old, new = np.exp2(best[r] - top), np.exp2(tops[r] - top)
        whole, brief = out[r], part[r]
        for j in range(np.uint64(row.size)):
            row_bits[j] = np.int32(brief[j]) << BITS_BF16
        for j in range(np.uint64(row.size)):
            whole[j] = whole[j] * old + row[j] * new
        sums[r] = sums[r] * old + totals[r] * new
        best[r] = top
