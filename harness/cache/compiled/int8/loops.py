"""Softmax attention with 8-bit queries and keys, one head at a time, which numba compiles.

All arithmetic between the matrix products is in fp32. Logits are in units of log2, since 2**x takes
fewer steps than exp(x). numba has no BF16 on a CPU: those numbers are 16-bit integers here.

Sums as indices are unsigned: numba counts negative ones from the end, and that test would keep the
compiler from vectorizing the loop.
"""

from __future__ import annotations

import numpy as np

from harness.cache.compiled.bits import bits_of, float_of, rounded
from harness.cache.compiled.int8.tiles import (
    add_bf16,
    add_int8,
    clear,
    configure,
    load,
    release,
    store,
)
from harness.cache.compiled.once import njit

BLOCK = 32  # queries, keys or channels of values that two tiles side by side hold
# Keys and values of a tile of the softmax, 192 KiB at 128 channels, stay in the cache of a core
# while QUERIES queries read them.
KEYS, QUERIES = 512, 512
LEVELS = np.float32(127)
ROUNDER = np.float32(1.5 * 2**23)  # added, it leaves the nearest integer in the low bits
LOWEST = np.float32(-1e30)  # of a maximum: below every logit, and still a number
SMALLEST = np.float32(-126)  # exponent of the smallest normal fp32
ZERO, ONE = np.float32(0), np.float32(1)
# 2**x for -1 < x <= 0, relative error 3e-6: a thousandth of the rounding to BF16 after it.
P0, P1, P2 = np.float32(0.9999973320), np.float32(0.6930281532), np.float32(0.2393316994)
P3, P4 = np.float32(0.0530599208), np.float32(0.0067603016)
LN2 = np.float32(0.6931471806)
MAGNITUDE, UPPER_HALF = np.int32(0x7FFFFFFF), np.int32(-0x10000)
LEAST, HALF_BF16, LOWER_HALF = np.int32(-0x80000000), np.int32(0x8000), np.int32(0xFFFF)
SIGN, BF16, EXPONENT = np.int32(31), np.int32(16), np.int32(23)  # places of a shift


@njit(nogil=True, error_model="numpy")
def zeros(size):
    """Return zero bytes [size] that start a cache line, which is as long as a row of a tile."""
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


@njit(inline="always")
def hold(wide, brief, head, r, row):
    """Write row r of a head of `wide` [H, n, D] fp32, or of `brief` [H, n, D] BF16, to row [D].

    The other one has no heads.
    """
    if brief.shape[0]:
        numbers = brief[head, r]
        for j in range(np.uint64(row.size)):
            row[j] = float_of(np.int32(np.int32(numbers[j]) << BF16))
    else:
        row[:] = wide[head, r]


@njit(nogil=True, error_model="numpy")
def give(row, head, r, wide, brief):
    """Write row [D] to row r of a head of `wide` or `brief`; the reverse of `hold`."""
    if brief.shape[0]:
        numbers = brief[head, r]
        for j in range(np.uint64(row.size)):
            is_nan = row[j] != row[j]
            numbers[j] = np.int16(0x7FC0) if is_nan else np.int16(rounded(row[j]))
    else:
        wide[head, r] = row


@njit(nogil=True, error_model="numpy")
def largest_magnitude(row):
    """Return the largest magnitude of row [D]."""
    top = np.int32(0)  # magnitudes are ordered as their bits are, and maxima of integers vectorize
    for j in range(np.uint64(row.size)):
        bits = np.int32(bits_of(row[j]) & MAGNITUDE)
        top = bits if bits > top else top
    return float_of(top)


@njit(nogil=True, error_model="numpy")
def encode(row, code):
    """Write row [D] as code [D or more] int8; return the step of the codes."""
    # Symmetric, since the matrix units multiply codes without an offset. A product per value is
    # faster than a quotient. A row of zeros has codes and a step of zero.
    top = largest_magnitude(row)
    inverse = LEVELS / top if top > ZERO else ZERO
    for j in range(np.uint64(row.size)):
        code[j] = np.int8(bits_of(row[j] * inverse + ROUNDER))
    return top / LEVELS


@njit(nogil=True, error_model="numpy")
def logits_of(product, steps, step, bias, x):
    """Write the logits of a query to x [n] and return the largest; product [n] int32."""
    top = LEAST
    for j in range(np.uint64(x.size)):
        x[j] = np.float32(product[j]) * (steps[j] * step) + bias[j]
        # In this form integers are ordered as the numbers are, and their maximum vectorizes.
        bits = bits_of(x[j])
        bits = np.int32(bits ^ np.int32(np.int32(bits >> SIGN) & MAGNITUDE))
        top = bits if bits > top else top
    return float_of(np.int32(top ^ np.int32(np.int32(top >> SIGN) & MAGNITUDE)))


@njit(nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def weights_of(x, top, weight):
    """Write 2**(x - top) to weight [n] BF16 and return the sum of the rounded weights."""
    # 2**x: a polynomial of the fraction of x, and the integer part added to its exponent.
    total = ZERO
    for j in range(np.uint64(x.size)):
        logit = max(x[j] - top, SMALLEST)
        whole = np.int32(logit)  # towards zero, so -1 < rest <= 0
        rest = logit - np.float32(whole)
        power = (((P4 * rest + P3) * rest + P2) * rest + P1) * rest + P0
        bits = np.int32(bits_of(power) + np.int32(whole << EXPONENT))
        bits = np.int32(bits + HALF_BF16)  # rounds to nearest; a tie goes up, not to even
        weight[j] = np.int16(bits >> BF16)
        # Sum the rounded weights: the values are multiplied by these.
        total += float_of(np.int32(bits & UPPER_HALF))
    return total


@njit(nogil=True, error_model="numpy")
def encode_queries(wide, brief, head, codes, steps):
    """Encode the queries of a head into codes [T, D] int8 and their steps [T]; see `hold`."""
    row = np.empty(max(wide.shape[2], brief.shape[2]), np.float32)
    for t in range(max(wide.shape[1], brief.shape[1])):
        hold(wide, brief, head, t, row)
        steps[t] = encode(row, codes[t])


@njit(nogil=True, error_model="numpy")
def encode_keys(wide, brief, head, mean, codes, steps):
    """Write the mean of the keys of a head, and the codes and steps of keys less this mean.

    mean: [D]. codes: [n / 16, D / 64, 16, 16] int32 as the matrix unit reads them: blocks of 16
        keys and 64 channels; in a block a number holds four channels of a key, and a row holds the
        same channels of 16 keys. steps: [n]. See `hold`.
    """
    row = np.empty(mean.size, np.float32)
    num_keys = max(wide.shape[1], brief.shape[1])  # one of the two arrays has no heads, not keys
    mean[:] = ZERO
    for n in range(num_keys):
        hold(wide, brief, head, n, row)
        for j in range(np.uint64(row.size)):
            mean[j] += row[j]
    for j in range(mean.size):
        mean[j] /= np.float32(num_keys)
    few = np.zeros((16, 64 * codes.shape[1]), np.int8)  # the codes of 16 keys
    fours = few.view(np.int32).reshape(16, codes.shape[1], 16)
    for n in range(num_keys):
        hold(wide, brief, head, n, row)
        for j in range(np.uint64(row.size)):
            row[j] -= mean[j]
        steps[n] = encode(row, few[n % 16])
        if n % 16 == 15 or n + 1 == num_keys:
            block = codes[n // 16]
            for d in range(codes.shape[1]):
                for i in range(np.uint64(16)):
                    for r in range(np.uint64(16)):
                        block[d, i, r] = fours[r, d, i]


@njit(nogil=True, error_model="numpy")
def pair_values(v, pairs):
    """Write values [n, D] BF16 as the matrix unit reads them.

    pairs: [D / 16, n / 32, 16, 16] int32: blocks of 16 channels and 32 tokens; in a block a number
        holds two tokens of a channel, and a row holds the same tokens of 16 channels.
    """
    # The unit multiplies pairs of BF16 numbers, so neighbouring tokens lie side by side.
    width = v.shape[1]
    for n in range(0, v.shape[0], 2):
        first, second = v[n], v[min(n + 1, v.shape[0] - 1)]
        # Without a second token its half is zero.
        kept = np.int32(-1) if n + 1 < v.shape[0] else LOWER_HALF
        for d in range(0, width, 16):
            pair = pairs[d // 16, n // 32, n % 32 // 2]
            for j in range(np.uint64(min(16, width - d))):
                both = np.int32(np.int32(second[d + j]) << BF16) | (
                    np.int32(first[d + j]) & LOWER_HALF
                )
                pair[j] = np.int32(both & kept)


@njit(nogil=True, error_model="numpy")
def multiply_codes(q, q_step, k, products, step, num_keys, width):
    """Multiply 32 queries by keys, a multiple of 32, into products INT32.

    q, k, products: addresses. q_step, step: bytes of a row of q, and of products. width: channels,
        a multiple of 64.
    """
    # 2 x 2 tiles of products: each tile of q and of k that is loaded serves two products.
    for n in range(0, num_keys, 32):
        clear(0), clear(1), clear(2), clear(3)
        for d in range(0, width, 64):
            load(4, q + d, q_step), load(5, q + 16 * q_step + d, q_step)
            at = k + n * width + 16 * d
            load(6, at, 64), load(7, at + 16 * width, 64)
            add_int8(0, 4, 6), add_int8(1, 4, 7), add_int8(2, 5, 6), add_int8(3, 5, 7)
        at = products + 4 * n
        store(0, at, step), store(1, at + 64, step)
        store(2, at + 16 * step, step), store(3, at + 16 * step + 64, step)


@njit(nogil=True, error_model="numpy")
def add_values(weights, step, v, far, out, num_keys, width):
    """Add the product of the weights of 32 queries with values to out fp32.

    weights, v, out: addresses. step, far: bytes from one row of weights, and from 16 channels of
        values, to the next. width: channels, a multiple of 32.
    """
    row = 4 * width  # bytes of a row of out
    for d in range(0, row, 128):
        at = out + d
        load(0, at, row), load(1, at + 64, row)
        load(2, at + 16 * row, row), load(3, at + 16 * row + 64, row)
        for n in range(0, num_keys, 32):
            load(4, weights + 2 * n, step), load(5, weights + 16 * step + 2 * n, step)
            values = v + d // 64 * far + 32 * n
            load(6, values, 64), load(7, values + far, 64)
            add_bf16(0, 4, 6), add_bf16(1, 4, 7), add_bf16(2, 5, 6), add_bf16(3, 5, 7)
        store(0, at, row), store(1, at + 64, row)
        store(2, at + 16 * row, row), store(3, at + 16 * row + 64, row)


@njit(nogil=True, cache=True, error_model="numpy")
def attend(queries, keys, values, biases, factor, config, outs, lse, first, last):  # noqa: PLR0913
    """Compute the attention of heads `first` to `last`.

    queries, keys: two arrays [H, T or N, D], fp32 and BF16, one of them without heads; see `hold`.
    values: [H, N, D] BF16. biases: [H, N] fp32, added to logits. factor: of the logits, which are
        in units of log2, as the bias is. config: `tiles.CONFIG`.
    outs: two arrays [H, T, D] as those of queries. lse: [H, T] fp32, natural.
    """
    num_queries, width = lse.shape[1], values.shape[2]
    num_keys = values.shape[1]
    padded = -(-num_queries // BLOCK) * BLOCK, -(-num_keys // BLOCK) * BLOCK
    wide, outer = -(-width // 64) * 64, -(-width // BLOCK) * BLOCK
    # What pads keys has no weight: its bias is -inf, its codes and values are zero.
    q, q_steps = (
        zeros(padded[0] * wide).view(np.int8).reshape(padded[0], wide),
        np.zeros(padded[0], np.float32),
    )
    k = zeros(padded[1] * wide).view(np.int32).reshape(-1, wide // 64, 16, 16)
    k_steps, mean = np.zeros(padded[1], np.float32), np.empty(width, np.float32)
    v = zeros(2 * padded[1] * outer).view(np.int32).reshape(outer // 16, -1, 16, 16)
    bias = np.full(padded[1], -np.inf, np.float32)
    # Rows of a power of two bytes would share few places of the cache.
    products = zeros(4 * BLOCK * (KEYS + 16)).view(np.int32).reshape(BLOCK, KEYS + 16)
    weights = zeros(2 * BLOCK * (KEYS + 32)).view(np.int16).reshape(BLOCK, KEYS + 32)
    x, row = np.empty(KEYS, np.float32), np.empty(width, np.float32)
    most = min(QUERIES, padded[0])
    total = zeros(4 * most * outer).view(np.float32).reshape(most, outer)
    # Largest logit of each query so far, and the sum of its weights relative to that.
    best, sums = np.empty(len(total), np.float32), np.empty(len(total), np.float32)
    configure(config.ctypes.data)
    for head in range(first, last):
        encode_queries(*queries, head, q, q_steps)
        # Every logit of a query shifts by q . mean, so the softmax does not change. Keys without
        # what they share are small, and so are the steps of their codes.
        encode_keys(*keys, head, mean, k, k_steps)
        pair_values(values[head], v)
        bias[:num_keys] = biases[head]
        for top_row in range(0, num_queries, len(total)):
            num_rows = min(len(total), padded[0] - top_row)
            total[:], best[:], sums[:] = ZERO, LOWEST, ZERO
            for key in range(0, padded[1], KEYS):
                n = min(KEYS, padded[1] - key)
                steps, added = k_steps[key : key + n], bias[key : key + n]
                for r in range(0, num_rows, BLOCK):
                    multiply_codes(
                        q.ctypes.data + (top_row + r) * wide,
                        wide,
                        k.ctypes.data + key * wide,
                        products.ctypes.data,
                        products.strides[0],
                        n,
                        wide,
                    )
                    for i in range(BLOCK):
                        at = r + i
                        step = q_steps[top_row + at] * factor
                        top = logits_of(products[i, :n], steps, step, added, x[:n])
                        # The online softmax of FlashAttention (arXiv 2205.14135).
                        if top > best[at]:
                            share = np.exp2(best[at] - top)
                            best[at] = top
                            sums[at] *= share
                            total[at] *= share
                        sums[at] += weights_of(x[:n], best[at], weights[i, :n])
                    add_values(
                        weights.ctypes.data,
                        weights.strides[0],
                        v.ctypes.data + 32 * key,
                        v.strides[0],
                        total.ctypes.data + r * outer * 4,
                        n,
                        outer,
                    )
            for r in range(min(num_rows, num_queries - top_row)):
                t = top_row + r
                hold(queries[0], queries[1], head, t, row)
                shift = ZERO
                for j in range(width):
                    shift += row[j] * mean[j]
                shift *= factor
                lse[head, t] = LN2 * (shift + best[r] + np.log2(sums[r]))
                # Codes hide what is not finite; the shift is then not finite, and shows it.
                row[:] = total[r, :width] * (ONE / sums[r] + ZERO * shift)
                give(row, head, t, outs[0], outs[1])
    release()
