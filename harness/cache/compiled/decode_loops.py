"""Dequantizes frames from packed pages, in loops that numba compiles.

All arithmetic is in fp32, in the order of `methods.quantizers` and without contraction, so results
equal torch's bit for bit. numba has neither FP16 nor BF16 on a CPU: they are 16-bit integers here.

Tensors arrive as int64: address, then the elements from one batch entry, head and slot (or frame)
to the next. An address of 0 stands for a part that does not exist.

Sums as indices are unsigned: numba counts negative ones from the end, and that test would keep the
compiler from vectorizing the loop.
"""

from __future__ import annotations

import numpy as np

from harness.cache.compiled.bits import (
    bytes_at,
    field_of,
    floats_at,
    halves_at,
    rounded,
    start_of,
    take,
    widen,
)
from harness.cache.compiled.once import njit
from harness.cache.compiled.vectors import (
    LANES,
    LINE,
    LOOKS_UP,
    WIDENS,
    add_floats,
    add_halves,
    add_levels,
    copy_bytes,
    end_streams,
    fill_floats,
    put_floats,
    put_halves,
    put_halves_alike,
    put_levels,
    put_sums,
    round_floats,
    stream_halves,
    stream_halves_alike,
    stream_sums,
)

BITS, COUNT, EVERY, ENTRY = 0, 1, 2, 3  # columns of `specs`
CODES, SCALE, ZERO, TABLE, BYTE_SCALES, UNIT = 0, 1, 2, 3, 4, 5  # rows of a plane in `parts`
CHANNEL_SCALE, CHANNEL_MEAN, TOKEN_SCALE = 0, 1, 2  # rows of `outer`
ROWS, NEAREST = 0, 1  # rows of `centroids`


@njit(inline="always")
def place_of(task, num_frames, num_heads):
    """Return batch entry, head and frame of a task."""
    # Frames of a head are neighbouring tasks, as they are neighbours in what a loop writes.
    return task // num_frames // num_heads, task // num_frames % num_heads, task % num_frames


@njit(inline="always")
def spread(row, count):
    """Write each of the first `count` numbers of row [D] to its share of the row, in place."""
    each = row.size // count
    # Fill from the end, so that no number is overwritten before it is read.
    if each % LANES == 0:
        for n in range(count - 1, -1, -1):
            number = row[n]
            for j in range(n * each, (n + 1) * each, LANES):
                fill_floats(row.ctypes.data + 4 * j, number)
    elif each > 1:
        for n in range(count - 1, -1, -1):
            number = row[n]
            for j in range(np.uint64(n * each), np.uint64((n + 1) * each)):
                row[j] = number


@njit(inline="always")
def put_plane(codes, bits, by_table, tables, p, scales, zeros, total):  # noqa: PLR0913
    """Dequantize plane p of a token as number * scale + zero.

    The values overwrite total [D] if p is 0, and are added to it otherwise.

    codes: address of the token's bytes. Value j of field n begins at bit n * bits of byte j.
    by_table: whether the number of a code is its entry in table p; otherwise it is the code.
    """
    # One bit field of all bytes at a time: it is a run of neighbouring channels (planar packing,
    # `harness.api.bits`), so the inner loop reads, shifts and writes in order.
    mask, size = np.int32((1 << bits) - 1), total.size * bits >> 3
    if size % LANES == 0 and (not by_table or (LOOKS_UP and bits <= 4)):
        to, scale, zero = total.ctypes.data, scales[p].ctypes.data, zeros[p].ctypes.data
        table = tables[p].ctypes.data
        for field in range(8 // bits):
            shift = np.int32(field * bits)
            for j in range(0, size, LANES):
                own, at = codes + j, 4 * (field * size + j)
                row = scale + at, zero + at, to + at
                if not by_table:
                    if p == 0:
                        put_floats(own, shift, mask, *row)
                    else:
                        add_floats(own, shift, mask, *row)
                elif LOOKS_UP:
                    if p == 0:
                        put_levels(own, shift, mask, table, *row)
                    else:
                        add_levels(own, shift, mask, table, *row)
        return
    # One value at a time: a field is no whole number of vectors, or the table has more entries than
    # a vector.
    values = bytes_at(codes, size)
    for field in range(8 // bits):
        start, shift = np.uint64(field * size), np.int32(field * bits)
        for j in range(np.uint64(size)):
            code = field_of(values[j], shift, mask)
            number = tables[p, np.uint64(code)] if by_table else np.float32(code)
            value = number * scales[p, start + j] + zeros[p, start + j]
            total[start + j] = value if p == 0 else total[start + j] + value


@njit(nogil=True, cache=True, error_model="numpy")
def copy(part, slots, shape, out, first, last):
    """Copy tasks `first` to `last`, each one head of one frame, into out [B, h, F * T, D].

    part: [4], the values in the dtype of out. The others are arguments as for `decode`.
    """
    first_head, num_heads, num_tokens, width = shape
    size = width * out[4]
    # A page is one run of memory. In `out` it is too, unless tokens lie further apart than their
    # width.
    for task in range(first, last):
        b, h, f = place_of(task, slots.size, num_heads)
        source = start_of(part, (b, h + first_head, slots[f]), out[4])
        to = out[0] + (b * out[1] + h * out[2] + f * num_tokens * out[3]) * out[4]
        if out[3] == width:
            copy_bytes(to, source, num_tokens * size)
        else:
            for t in range(num_tokens):
                copy_bytes(to + t * out[3] * out[4], source + t * size, size)


@njit(inline="always")
def room_for_metadata(address, count):
    """Return memory as an array of scales, the same memory as INT32, and both for the zeros."""
    scales, scales_bits, free = take(address, count)
    zeros, zeros_bits, _ = take(free, count)
    return scales, scales_bits, zeros, zeros_bits


@njit(inline="always")
def read_metadata(stored, first, count, room):
    """Convert `count` scales and zeros of a frame to FP32, from number `first` on.

    stored: addresses of the frame's scales and zeros, 0 for a plane without them, and the offset of
        the codes, which gives a zero where none is stored.
    room: see `room_for_metadata`.
    """
    scale_start, zero_start, offset = stored
    scales, scales_bits, zeros, zeros_bits = room
    if scale_start:
        widen(halves_at(scale_start + 2 * first, count), scales, scales_bits)
    else:
        scales[:] = np.float32(1)
    if zero_start:
        widen(halves_at(zero_start + 2 * first, count), zeros, zeros_bits)
    else:
        for n in range(count):
            zeros[n] = scales[n] * offset


@njit(nogil=True, cache=True, error_model="numpy")
def decode_plain(parts, specs, offsets, slots, shape, out, streams, first, last):  # noqa: C901, PLR0913
    """Do what `decode` does for one plane of plain codes without a later step, BF16 only.

    This is the usual case, and the one whose speed counts.

    streams: whether to use non-temporal stores; each row of `out` must then start a cache line.
    The other arguments are those of `decode`.
    """
    first_head, num_heads, num_tokens, width = shape
    part, offset = parts[0], offsets[0]
    bits, count, every = specs[0, BITS], specs[0, COUNT], specs[0, EVERY]
    mask, size, each = np.int32((1 << bits) - 1), width * bits >> 3, width // count
    # The values of a vector are neighbouring channels. Their codes must lie in the same bit field,
    # and each channel has its own scale or all share one. Other pages are decoded one value at a
    # time.
    alike = count < width
    in_vectors = size % LANES == 0 and (not alike or each % LANES == 0)
    in_lines = streams and size % LINE == 0 and (not alike or each % LINE == 0)
    # Convert the metadata of several tokens at once: one row may be too short for a vector.
    rows = max(1, LANES // every)
    memory = np.empty(2 * rows * count, np.float32)
    room = room_for_metadata(memory.ctypes.data, rows * count)
    scales, zeros = room[0], room[2]
    scale_address, zero_address = scales.ctypes.data, zeros.ctypes.data
    for task in range(first, last):
        b, h, f = place_of(task, slots.size, num_heads)
        frame = b, h + first_head, slots[f]
        codes = start_of(part[CODES], frame, 1)
        # The address is 0 for a part that does not exist: its steps are 0 too.
        stored = start_of(part[SCALE], frame, 2), start_of(part[ZERO], frame, 2), offset
        to = out[0] + 2 * (b * out[1] + h * out[2] + f * num_tokens * out[3])
        for start in range(0, num_tokens, rows * every):
            stop = min(start + rows * every, num_tokens)
            numbers = (stop - start + every - 1) // every * count
            read_metadata(stored, start // every * count, numbers, room)
            for t in range(start, stop):
                own, target = codes + t * size, to + 2 * t * out[3]
                row = (t - start) // every * count
                if not in_vectors:
                    values, brief = bytes_at(own, size), halves_at(target, width)
                    for j in range(width):
                        n, shift = row + j // each, np.int32(j // size * bits)
                        code = np.float32(field_of(values[j % size], shift, mask))
                        brief[j] = rounded(code * scales[n] + zeros[n])
                elif alike:
                    at, shift = 0, np.int32(0)
                    for n in range(count):
                        scale, zero = scales[row + n], zeros[row + n]
                        if in_lines:
                            for j in range(n * each, (n + 1) * each, LINE):
                                here = target + 2 * j
                                stream_halves_alike(own + at, shift, mask, scale, zero, here)
                                at += LINE
                                if at == size:
                                    at, shift = 0, np.int32(shift + bits)
                        else:
                            for j in range(n * each, (n + 1) * each, LANES):
                                here = target + 2 * j
                                put_halves_alike(own + at, shift, mask, scale, zero, here)
                                at += LANES
                                if at == size:
                                    at, shift = 0, np.int32(shift + bits)
                else:
                    for field in range(8 // bits):
                        shift = np.int32(field * bits)
                        if in_lines:
                            for j in range(0, size, LINE):
                                at = field * size + j
                                scale, zero = scale_address + 4 * at, zero_address + 4 * at
                                stream_halves(own + j, shift, mask, scale, zero, target + 2 * at)
                        else:
                            for j in range(0, size, LANES):
                                at = field * size + j
                                scale, zero = scale_address + 4 * at, zero_address + 4 * at
                                put_halves(own + j, shift, mask, scale, zero, target + 2 * at)
    end_streams()
    memory[0] = 0  # numba frees an array after its last use


@njit(nogil=True, cache=True, error_model="numpy")
def decode_sums(parts, specs, offsets, slots, shape, out, streams, first, last):  # noqa: PLR0913
    """Do what `decode` does for two planes of plain codes without a later step, BF16 only.

    In both planes the same tokens share metadata, and a bit field has a whole number of vectors.
    The arguments are those of `decode_plain`.
    """
    first_head, num_heads, num_tokens, width = shape
    part, part2, offset, offset2 = parts[0], parts[1], offsets[0], offsets[1]
    every = specs[0, EVERY]
    bits, bits2 = np.int32(specs[0, BITS]), np.int32(specs[1, BITS])
    mask, mask2 = np.int32((1 << bits) - 1), np.int32((1 << bits2) - 1)
    size, size2 = width * bits >> 3, width * bits2 >> 3
    run = min(size, size2)
    in_lines = streams and run % LINE == 0
    memory = np.empty(4 * width, np.float32)
    room = room_for_metadata(memory.ctypes.data, width)
    room2 = room_for_metadata(memory.ctypes.data + 8 * width, width)
    scale, zero = room[0].ctypes.data, room[2].ctypes.data
    scale2, zero2 = room2[0].ctypes.data, room2[2].ctypes.data
    for task in range(first, last):
        b, h, f = place_of(task, slots.size, num_heads)
        frame = b, h + first_head, slots[f]
        codes, codes2 = start_of(part[CODES], frame, 1), start_of(part2[CODES], frame, 1)
        stored = start_of(part[SCALE], frame, 2), start_of(part[ZERO], frame, 2), offset
        stored2 = start_of(part2[SCALE], frame, 2), start_of(part2[ZERO], frame, 2), offset2
        to = out[0] + 2 * (b * out[1] + h * out[2] + f * num_tokens * out[3])
        for start in range(0, num_tokens, every):
            read_metadata(stored, start // every * width, width, room)
            read_metadata(stored2, start // every * width, width, room2)
            for t in range(start, min(start + every, num_tokens)):
                own, own2, target = codes + t * size, codes2 + t * size2, to + 2 * t * out[3]
                # The codes of `run` neighbouring channels are in the same bits of neighbouring
                # bytes. `at` is the first of these bytes, `shift` the lowest of these bits.
                at, at2, shift, shift2 = 0, 0, np.int32(0), np.int32(0)
                for begin in range(0, width, run):
                    if in_lines:
                        for j in range(0, run, LINE):
                            row = 4 * (begin + j)
                            plane = own + at + j, shift, mask, scale + row, zero + row
                            plane2 = own2 + at2 + j, shift2, mask2, scale2 + row, zero2 + row
                            stream_sums(*plane, *plane2, target + row // 2)
                    else:
                        for j in range(0, run, LANES):
                            row = 4 * (begin + j)
                            plane = own + at + j, shift, mask, scale + row, zero + row
                            plane2 = own2 + at2 + j, shift2, mask2, scale2 + row, zero2 + row
                            put_sums(*plane, *plane2, target + row // 2)
                    at += run
                    at2 += run
                    if at == size:
                        at, shift = 0, np.int32(shift + bits)
                    if at2 == size2:
                        at2, shift2 = 0, np.int32(shift2 + bits2)
    end_streams()
    memory[0] = 0  # numba frees an array after its last use


@njit(nogil=True, cache=True, error_model="numpy")
def decode(parts, specs, offsets, outer, centroids, slots, shape, out, first, last):  # noqa: C901, PLR0913
    """Decode tasks `first` to `last`, each one head of one frame, into out [B, h, F * T, D].

    parts: [planes, 6, 4], codes, scale, zero, table, fp32 numbers by byte of the scale, and unit of
        each plane. specs: bits, numbers in a row of metadata, tokens that share a row, and bytes of
        a table's entry, 0 without a table.
    offsets: of the codes of each plane; -0.0 if it has a table.
    outer: [3, 4], scale and mean of the channels of a frame, scale of its tokens.
    centroids: [stages, 2, 4], centroids and the index of each token's own.
    slots: [F] in reading order. shape: first head, heads, T, D.
    out: address, elements from one batch entry, head and token to the next, bytes of a value: 2 for
        BF16, 4 for FP32.
    """
    first_head, num_heads, num_tokens, width = shape
    num_planes = parts.shape[0]
    # For all arrays of the loop; see the last line.
    memory = np.empty(num_planes * (2 * width + 257) + 4 * width, np.float32)
    scales, scales_bits, free = take(memory.ctypes.data, (num_planes, width))
    zeros, zeros_bits, free = take(free, (num_planes, width))
    tables, tables_bits, free = take(free, (num_planes, 256))
    units, _, free = take(free, num_planes)
    finish, finish_bits, free = take(free, (2, width))
    room, room_bits, free = take(free, width)
    total, _, free = take(free, width)
    for p in range(num_planes):
        scales[p, :] = np.float32(1)
        zeros[p, :] = offsets[p]
        units[p] = np.float32(1)
    # The token at which the next row of metadata begins, and the row's first number.
    due, rows = np.empty(num_planes, np.int64), np.empty(num_planes, np.int64)
    for task in range(first, last):
        b, h, f = place_of(task, slots.size, num_heads)
        frame = b, h + first_head, slots[f]
        # Metadata of the whole frame, read once for all of its tokens: the scale and the mean of
        # channels here, tables and units below.
        for i in range(2):
            if outer[i, 0]:
                half = halves_at(start_of(outer[i], frame, 2), width)
                widen(half, finish[i], finish_bits[i])
        for p in range(num_planes):
            due[p], rows[p] = 0, 0
            count, entry = 1 << specs[p, BITS], specs[p, ENTRY]  # of the table
            address = start_of(parts[p, TABLE], frame, entry)
            if entry == 2:
                widen(halves_at(address, count), tables[p], tables_bits[p])
            elif entry == 4:
                tables[p, :count] = floats_at(address, count)
            if parts[p, UNIT, 0]:
                units[p] = floats_at(start_of(parts[p, UNIT], frame, 4), 1)[0]
        for t in range(num_tokens):
            at = b * out[1] + h * out[2] + (f * num_tokens + t) * out[3]
            for p in range(np.uint64(num_planes)):
                bits, count = specs[p, BITS], specs[p, COUNT]
                # Metadata that tokens share are read once, with the first of these tokens.
                if t == due[p]:
                    row = rows[p]
                    due[p], rows[p] = t + specs[p, EVERY], row + count
                    if parts[p, SCALE, 0]:
                        if parts[p, BYTE_SCALES, 0]:
                            numbers = floats_at(parts[p, BYTE_SCALES, 0], 256)
                            small = bytes_at(start_of(parts[p, SCALE], frame, 1) + row, count)
                            for n in range(count):
                                scales[p, n] = numbers[np.uint64(small[n])] * units[p]
                        else:
                            half = halves_at(start_of(parts[p, SCALE], frame, 2) + 2 * row, count)
                            widen(half, scales[p], scales_bits[p])
                        if not (specs[p, ENTRY] or parts[p, ZERO, 0]):
                            for n in range(count):
                                zeros[p, n] = scales[p, n] * offsets[p]
                    if parts[p, ZERO, 0]:
                        half = halves_at(start_of(parts[p, ZERO], frame, 2) + 2 * row, count)
                        widen(half, zeros[p], zeros_bits[p])
                    spread(scales[p], count)
                    # Without a stored zero a table has the same one for all values.
                    if parts[p, ZERO, 0] or not specs[p, ENTRY]:
                        spread(zeros[p], count)
                codes = start_of(parts[p, CODES], frame, 1) + t * (width * bits >> 3)
                put_plane(codes, bits, specs[p, ENTRY] > 0, tables, p, scales, zeros, total)
            # The later steps, in the order of `KernelLayout`.
            if outer[TOKEN_SCALE, 0]:
                half = halves_at(start_of(outer[TOKEN_SCALE], frame, 2) + 2 * t, 1)
                widen(half, room, room_bits)
                factor = room[0]  # a local variable: `total` could be the same memory
                for j in range(width):
                    total[j] *= factor
            if outer[CHANNEL_SCALE, 0]:
                for j in range(width):
                    total[j] *= finish[CHANNEL_SCALE, j]
            if outer[CHANNEL_MEAN, 0]:
                for j in range(width):
                    total[j] += finish[CHANNEL_MEAN, j]
            for i in range(centroids.shape[0]):
                nearest = bytes_at(start_of(centroids[i, NEAREST], frame, 1) + t, 1)
                row = start_of(centroids[i, ROWS], frame, 2) + 2 * width * np.int64(nearest[0])
                if WIDENS and width % LANES == 0:
                    for j in range(0, width, LANES):
                        add_halves(row + 2 * j, total.ctypes.data + 4 * j)
                else:
                    widen(halves_at(row, width), room, room_bits)
                    for j in range(width):
                        total[j] += room[j]
            if out[4] == 4:
                wide = floats_at(out[0] + 4 * at, width)
                for j in range(width):
                    wide[j] = total[j]
            elif width % LANES == 0:
                for j in range(0, width, LANES):
                    round_floats(total.ctypes.data + 4 * j, out[0] + 2 * (at + j))
            else:
                brief = halves_at(out[0] + 2 * at, width)
                for j in range(width):
                    brief[j] = rounded(total[j])
    memory[0] = 0  # numba frees an array after its last use
