"""Softmax attention with queries and keys in INT8 or BF16, head by head, which numba compiles.

All arithmetic between the matrix products is in fp32. Logits are in units of log2, since 2**x takes
fewer steps than exp(x). numba has no BF16 on a CPU: those numbers are 16-bit integers here.

Sums as indices are unsigned: numba counts negative ones from the end, and that test would keep the
compiler from vectorizing the loop.
"""

from __future__ import annotations

import numpy as np

from harness.cache.compiled.bits import bits_of, float_of, rounded
from harness.cache.compiled.once import njit
from harness.cache.compiled.softmax import amx, avx512, units

# Known when numba compiles, so the loops contain instructions of one kind only. What numba keeps is
# kept by the processor's name.
unit = amx if units() == "amx" else avx512

BLOCK = 32  # queries, keys or channels of values that one product takes
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
INFINITE = np.int16(0x7F80)  # bits of BF16's infinity; NaN has more
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
        for j in range(np.uint64(row.size)):
            row[j] = wide[head, r, j]


@njit(nogil=True, error_model="numpy")
def give(total, r, factor, wide, brief, head, t):
    """Write row r of total, times factor, to row t of a head of `wide` or `brief`; see `hold`."""
    if brief.shape[0]:
        for j in range(np.uint64(brief.shape[2])):
            number = total[r, j] * factor
            is_nan = number != number
            brief[head, t, j] = np.int16(0x7FC0) if is_nan else np.int16(rounded(number))
    else:
        for j in range(np.uint64(wide.shape[2])):
            wide[head, t, j] = total[r, j] * factor


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


# The next functions take whole arrays and indices into them. Slices would be slower for short rows,
# because numba counts the references to each slice.
@njit(nogil=True, error_model="numpy")
def scale_products(  # noqa: PLR0913
    products, q_steps, query, k_steps, bias, key, factor, logits, n
):
    """Write the logits of 32 queries and n keys, from their products INT32 [32, n].

    query, key: the first of each in steps and bias.
    """
    for i in range(BLOCK):
        step = q_steps[query + i] * factor
        for j in range(np.uint64(n)):
            at = np.uint64(key) + j
            logits[i, j] = np.float32(products[i, j]) * (k_steps[at] * step) + bias[at]


@njit(nogil=True, error_model="numpy")
def largest(x, i, n):
    """Return the largest of the first n numbers of row i of x."""
    top = LEAST
    for j in range(np.uint64(n)):
        # In this form integers are ordered as the numbers are, and their maximum vectorizes.
        bits = bits_of(x[i, j])
        bits = np.int32(bits ^ np.int32(np.int32(bits >> SIGN) & MAGNITUDE))
        top = bits if bits > top else top
    return float_of(np.int32(top ^ np.int32(np.int32(top >> SIGN) & MAGNITUDE)))


@njit(nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
def weights_of(x, r, n, factor, top, weight, i):
    """Write 2**(factor * x[r] - top) to row i of weight BF16; return the sum of what was written.

    n: of numbers. top: at least factor times each of them.
    """
    # 2**x: a polynomial of the fraction of x, and the integer part added to its exponent.
    total = ZERO
    for j in range(np.uint64(n)):
        logit = max(factor * x[r, j] - top, SMALLEST)
        whole = np.int32(logit)  # towards zero, so -1 < rest <= 0
        rest = logit - np.float32(whole)
        power = (((P4 * rest + P3) * rest + P2) * rest + P1) * rest + P0
        bits = np.int32(bits_of(power) + np.int32(whole << EXPONENT))
        bits = np.int32(bits + HALF_BF16)  # rounds to nearest; a tie goes up, not to even
        weight[i, j] = np.int16(bits >> BF16)
        # Sum the rounded weights: the values are multiplied by these.
        total += float_of(np.int32(bits & UPPER_HALF))
    return total


@njit(nogil=True, error_model="numpy")
def soften(  # noqa: PLR0913
    logits, n, factor, is_first, row, best, sums, total, weights
):
    """Write the softmax weights of 32 queries for n keys; rescale their sums so far.

    factor: of the logits. is_first: whether there are no sums yet. row: of the first query in best
    (largest logit), sums (of weights) and total (of values).
    """
    # The online softmax of FlashAttention (arXiv 2205.14135).
    for i in range(BLOCK):
        r = row + i
        top = max(factor * largest(logits, i, n), LOWEST)  # all of these keys may be hidden
        if is_first:
            best[r], sums[r] = top, ZERO
        elif top > best[r]:
            share = np.exp2(best[r] - top)
            best[r] = top
            sums[r] *= share
            for j in range(np.uint64(total.shape[1])):
                total[r, j] *= share
        sums[r] += weights_of(logits, i, n, factor, best[r], weights, i)


@njit(nogil=True, error_model="numpy")
def encode_queries(wide, brief, head, rows, codes, steps):
    """Encode queries of a head into codes [T, bytes] and their steps [T]; see `hold`.

    rows: the first query and the one after the last.
    """
    row = np.empty(max(wide.shape[2], brief.shape[2]), np.float32)
    for t in range(*rows):
        hold(wide, brief, head, t, row)
        code = codes[t]
        steps[t] = encode(row, code)
        if unit.OFFSET:
            for j in range(np.uint64(code.size)):
                # Flipping the highest bit adds 128.
                code[j] = np.int8(code[j] ^ np.int8(-unit.OFFSET))


@njit(nogil=True, error_model="numpy")
def copy_queries(brief, head, rows, q):
    """Copy queries of a head [H, T, D] to q [T, D or more], BF16; rows: see `encode_queries`."""
    for t in range(*rows):
        for j in range(np.uint64(brief.shape[2])):
            q[t, j] = brief[head, t, j]


@njit(nogil=True, error_model="numpy")
def encode_keys(wide, brief, head, mean, codes, steps, starts):
    """Write the mean of the keys of a head, and the codes and steps of keys less this mean.

    mean: [D]. codes: [n / 16, bytes of a key / 64, 16, 16] int32 as the units read them: blocks of
        16 keys and 64 bytes; in a block a number holds four bytes of a key, and a row holds the
        same bytes of 16 keys. steps: [n]. starts: [n] int32, what products are to start with.
        See `hold`.
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
    fours = few.view(np.int32)
    for n in range(num_keys):
        hold(wide, brief, head, n, row)
        for j in range(np.uint64(row.size)):
            row[j] -= mean[j]
        code = few[n % 16]
        steps[n] = encode(row, code)
        total = np.int32(0)
        for j in range(np.uint64(code.size)):
            total += np.int32(code[j])
        starts[n] = -unit.OFFSET * total
        if n % 16 == 15 or n + 1 == num_keys:
            turn(fours, codes[n // 16])


@njit(nogil=True, error_model="numpy")
def pack_keys(keys, codes):
    """Write keys [N, D] BF16 in the layout of `encode_keys`; return whether all are finite."""
    few = np.zeros((16, 32 * codes.shape[1]), np.int16)  # 16 keys
    fours = few.view(np.int32)
    top = np.int16(0)
    for n in range(keys.shape[0]):
        key, room = keys[n], few[n % 16]
        for j in range(np.uint64(key.size)):
            room[j] = key[j]
            magnitude = np.int16(key[j] & np.int16(0x7FFF))
            top = magnitude if magnitude > top else top
        if n % 16 == 15 or n + 1 == keys.shape[0]:
            turn(fours, codes[n // 16])
    return top < INFINITE


@njit(nogil=True, error_model="numpy")
def turn(fours, block):
    """Transpose 16 keys [16, n] int32 into blocks [n / 16, 16, 16] with one key per column."""
    for d in range(block.shape[0]):
        for i in range(np.uint64(16)):
            for r in range(np.uint64(16)):
                block[d, i, r] = fours[r, 16 * d + i]


@njit(nogil=True, error_model="numpy")
def pair_values(v, pairs):
    """Write values [n, D] BF16 as the units read them.

    pairs: [D / 16, n / 32, 16, 16] int32: blocks of 16 channels and 32 tokens; in a block a number
        holds two tokens of a channel, and a row holds the same tokens of 16 channels.
    """
    # The units multiply pairs of BF16 numbers, so neighbouring tokens lie side by side.
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


@njit(nogil=True, cache=True, error_model="numpy")
def attend(  # noqa: PLR0913
    queries, keys, values, biases, factor, coded, config, outs, lse, first, last
):
    """Compute the attention of blocks of 32 queries, `first` to `last`, counted through all heads.

    queries, keys: two arrays [H, T or N, D], fp32 and BF16, one of them without heads; see `hold`.
    values: [H, N, D] BF16. biases: [H, N] fp32, added to logits. factor: of the logits, which are
        in units of log2, as the bias is. coded: whether queries and keys become INT8; else both
        are BF16. config: that of the units.
    outs: two arrays [H, T, D] as those of queries. lse: [H, T] fp32, natural.
    """
    num_queries, width = lse.shape[1], values.shape[2]
    num_keys = values.shape[1]
    blocks = -(-num_queries // BLOCK)
    padded = blocks * BLOCK, -(-num_keys // BLOCK) * BLOCK
    outer = -(-width // BLOCK) * BLOCK
    # Bytes of a query or a key: whole rows of a unit. The bytes that pad one are zero.
    wide = -(-width // 64) * 64 if coded else 2 * outer
    room = zeros(padded[0] * wide)
    q = room.view(np.int8).reshape(padded[0], wide)
    q_halves = room.view(np.int16).reshape(padded[0], wide // 2)
    q_steps, k_steps = np.zeros(padded[0], np.float32), np.zeros(padded[1], np.float32)
    k = zeros(padded[1] * wide).view(np.int32).reshape(-1, wide // 64, 16, 16)
    mean = np.empty(width, np.float32)
    starts = np.zeros(padded[1], np.int32)  # of products; fp32 if these are
    v = zeros(2 * padded[1] * outer).view(np.int32).reshape(outer // 16, -1, 16, 16)
    # What pads keys has no weight: its bias is -inf, its codes and values are zero.
    bias = np.full(padded[1], -np.inf, np.float32)
    # Rows of a power of two bytes would share few places of the cache.
    products = zeros(4 * BLOCK * (KEYS + 16)).view(np.int32).reshape(BLOCK, KEYS + 16)
    logits = zeros(4 * BLOCK * (KEYS + 16)).view(np.float32).reshape(BLOCK, KEYS + 16)
    weights = zeros(2 * BLOCK * (KEYS + 32)).view(np.int16).reshape(BLOCK, KEYS + 32)
    row = np.empty(width, np.float32)
    most = min(QUERIES, padded[0])
    total = zeros(4 * most * outer).view(np.float32).reshape(most, outer)
    # Largest logit of each query so far, and the sum of its weights relative to that.
    best, sums = np.empty(len(total), np.float32), np.empty(len(total), np.float32)
    unit.begin(config)
    for head in range(first // blocks, -(-last // blocks)):
        # The first block and the last one may lie inside a head.
        start = BLOCK * max(first - head * blocks, 0)
        stop = min(BLOCK * (last - head * blocks), num_queries)
        bias[:num_keys] = biases[head]
        if coded:
            encode_queries(*queries, head, (start, stop), q, q_steps)
            # Every logit of a query shifts by q . mean, so the softmax does not change. Keys
            # without what they share are small, and so are the steps of their codes.
            encode_keys(*keys, head, mean, k, k_steps, starts)
            not_finite = ZERO
        else:
            copy_queries(queries[1], head, (start, stop), q_halves)
            # Added to the output: zero or NaN.
            not_finite = ZERO if pack_keys(keys[1][head], k) else np.float32(np.nan)
            # Products that start with the bias have only to be multiplied.
            starts.view(np.float32)[:] = bias / factor
        pair_values(values[head], v)
        for top_row in range(start, stop, len(total)):
            num_rows = min(len(total), -(-stop // BLOCK) * BLOCK - top_row)
            total[:] = ZERO
            for key in range(0, padded[1], KEYS):
                n = min(KEYS, padded[1] - key)
                at_k, at_start = k.ctypes.data + key * wide, starts.ctypes.data + 4 * key
                for r in range(0, num_rows, BLOCK):
                    at_q = q.ctypes.data + (top_row + r) * wide
                    if coded:
                        to, far, scale = products.ctypes.data, products.strides[0], ONE
                        unit.multiply_codes(at_q, at_k, at_start, to, far, n, wide)
                        query = top_row + r
                        scale_products(
                            products, q_steps, query, k_steps, bias, key, factor, logits, n
                        )
                    else:
                        to, far, scale = logits.ctypes.data, logits.strides[0], factor
                        unit.multiply_pairs(at_q, at_k, at_start, to, far, n, wide)
                    soften(logits, n, scale, key == 0, r, best, sums, total, weights)
                    unit.add_values(
                        weights.ctypes.data,
                        weights.strides[0],
                        v.ctypes.data + 32 * key,
                        v.strides[0],
                        total.ctypes.data + r * outer * 4,
                        n,
                        outer,
                    )
            for r in range(min(num_rows, stop - top_row)):
                t = top_row + r
                shift = not_finite
                if coded:
                    hold(queries[0], queries[1], head, t, row)
                    for j in range(np.uint64(width)):
                        shift += row[j] * mean[j]
                    shift *= factor
                lse[head, t] = LN2 * (shift + best[r] + np.log2(sums[r]))
                # INT8 codes lose NaN and infinity. The shift keeps them and passes them on.
                give(total, r, ONE / sums[r] + ZERO * shift, outs[0], outs[1], head, t)
    unit.end()
