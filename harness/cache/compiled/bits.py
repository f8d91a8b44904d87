"""Memory by address, and numbers by their bits, as functions for loops that numba compiles.

numba has neither FP16 nor BF16 on a CPU: they are 16-bit integers here.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic

from harness.cache.compiled.once import njit
from harness.cache.compiled.vectors import LANES, WIDENS, widen_halves


@intrinsic
def pointer(typing_context, address):
    """Return an address as a pointer."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


@intrinsic
def field_of(typing_context, byte, shift, mask):
    """Return `(byte >> shift) & mask`, in 32 bits: numba's operators take 64, at half the speed."""

    def generate(context, builder, signature, arguments):
        byte, shift, mask = arguments
        return builder.and_(builder.lshr(builder.zext(byte, shift.type), shift), mask)

    return types.int32(types.uint8, types.int32, types.int32), generate


@intrinsic
def bits_of(typing_context, number):
    """Return the bits of an FP32 number as int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def float_of(typing_context, bits):
    """Return the FP32 number of some bits, int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


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
def take(address, shape):
    """Return memory as an array of FP32, the same memory as INT32, and the address after it."""
    # The loops cut their own arrays out of memory like this because numba counts the references to
    # arrays that it allocates, for each row that is taken from one: half of the time of decoding.
    array = carray(pointer(address), shape, np.float32)
    return array, carray(pointer(address), shape, np.int32), address + 4 * array.size


@njit(inline="always")
def rounded(number):
    """Return the bits of an FP32 number, rounded to even, as those of BF16; NaN as in `widen`."""
    # The standard NaN survives the rounding; another one could become a zero. Integers are typed,
    # because numba computes with plain ones in 64 bits, which takes twice the time.
    bits = bits_of(number)
    # Add half of BF16's last place, less the smallest bit if that place is even: ties go to even.
    last = (bits >> np.int32(16)) & np.int32(1)
    return (bits + np.int32(0x7FFF) + last) >> np.int32(16)


@njit(inline="always")
def widen(half, row, bits):
    """Write FP16 numbers to the start of row [D] fp32; `bits` is the same memory as int32.

    Every NaN becomes the standard one, so that `rounded` needs no test for others.
    """
    if WIDENS and half.size % LANES == 0:
        for i in range(0, half.size, LANES):
            widen_halves(half.ctypes.data + 2 * i, row.ctypes.data + 4 * i)
        return
    # By integers, since numba knows no FP16: the sign apart, then exponent and mantissa together.
    for i in range(half.size):
        number = np.int32(half[i])
        # FP16 has 10 bits of mantissa and a bias of 15 in its exponent, FP32 has 23 and 127.
        magnitude = (number & 0x7FFF) << 13
        bits[i] = magnitude
        row[i] *= np.float32(2.0**112)  # fixes the exponent, exactly, of subnormal numbers too
        # Infinity and NaN have an exponent of all ones, which a product does not restore.
        if magnitude >= 0x7C00 << 13:
            bits[i] = 0x7F800000 if magnitude == 0x7C00 << 13 else 0x7FC00000
        bits[i] |= (number & 0x8000) << 16


@njit(inline="always")
def narrow(row, bits, half):
    """Write the start of row [D] fp32 as FP16, rounded to even; row then holds what FP16 holds.

    bits: the memory of `row` as int32. No magnitude exceeds 65504.
    """
    for i in range(half.size):
        sign, magnitude = (bits[i] >> 16) & 0x8000, bits[i] & 0x7FFFFFFF
        bits[i] = magnitude
        if magnitude > 0x7F800000:  # not a number
            short = 0x7E00
        elif magnitude < 113 << 23:  # below 2**-14: next to 0.5, FP32 has the spacing 2**-24
            row[i] += np.float32(0.5)
            short = bits[i] - (126 << 23)
        else:  # 112 is the difference of the biases; the last 13 bits are rounded away
            short = (magnitude - (112 << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13
        half[i] = short | sign
    # The caller goes on with what is stored: codes must fit the rounded metadata.
    widen(half, row, bits)
