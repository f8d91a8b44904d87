"""The processor's matrix units (AMX), as functions for loops that numba compiles.

There are eight tiles of 16 rows of 64 bytes. Tile numbers are literals.

Source  Intel 64 and IA-32 Architectures Software Developer's Manual, "Intel AMX instructions".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from harness.cache.compiled.once import njit

BYTE, ADDRESS, STEP = ir.IntType(8), ir.IntType(8).as_pointer(), ir.IntType(64)
OFFSET = 0  # codes are multiplied as they are; see `avx512.OFFSET`
# Palette 1, then at 16 the bytes of a row of each tile (16 bits), and at 48 its rows (8 bits). All
# eight tiles have their full size; the loops pad instead.
CONFIG = np.array([1, *[0] * 15, *[64, 0] * 8, *[0] * 16, *[16] * 8, *[0] * 8], np.uint8)


def _emit(builder: Any, name: str, kinds: list[Any], arguments: list[Any]) -> None:
    """Emit a call of an LLVM intrinsic without a result."""
    kind = ir.FunctionType(ir.VoidType(), kinds)
    builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def configure(typing_context, config):
    """Configure the tiles of this thread as `CONFIG` describes them; config: its address."""

    def generate(context, builder, signature, arguments):
        address = builder.inttoptr(arguments[0], ADDRESS)
        _emit(builder, "llvm.x86.ldtilecfg", [ADDRESS], [address])
        return context.get_dummy_value()

    return types.none(types.int64), generate


@intrinsic
def release(typing_context):
    """Give the tiles of this thread back."""

    # torch's own products use the same units, with a configuration of their own.
    def generate(context, builder, signature, arguments):
        _emit(builder, "llvm.x86.tilerelease", [], [])
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic(prefer_literal=True)
def clear(typing_context, tile):
    """Fill a tile with zeros."""
    # The number of a tile is part of the instruction, so it must be known when numba compiles.
    number = ir.Constant(BYTE, tile.literal_value)

    def generate(context, builder, signature, arguments):
        _emit(builder, "llvm.x86.tilezero", [BYTE], [number])
        return context.get_dummy_value()

    return types.none(tile), generate


def _mover(name: str) -> Any:
    """Return the function that moves tiles by an LLVM intrinsic."""

    @intrinsic(prefer_literal=True)
    def move(typing_context, tile, address, step):
        """Move a tile from or to memory: address of its first row, bytes from row to row."""
        number = ir.Constant(BYTE, tile.literal_value)

        def generate(context, builder, signature, arguments):
            where = [number, builder.inttoptr(arguments[1], ADDRESS), arguments[2]]
            _emit(builder, name, [BYTE, ADDRESS, STEP], where)
            return context.get_dummy_value()

        return types.none(tile, types.int64, types.int64), generate

    return move


def _product(name: str) -> Any:
    """Return the function that multiplies tiles by an LLVM intrinsic."""

    @intrinsic(prefer_literal=True)
    def multiply(typing_context, total, left, right):
        """Add the product of two tiles to a third."""
        tiles = [ir.Constant(BYTE, each.literal_value) for each in (total, left, right)]

        def generate(context, builder, signature, arguments):
            _emit(builder, name, [BYTE] * 3, tiles)
            return context.get_dummy_value()

        return types.none(total, left, right), generate

    return multiply


load, store = _mover("llvm.x86.tileloadd64"), _mover("llvm.x86.tilestored64")
add_int8 = _product("llvm.x86.tdpbssd")  # INT32 += INT8 x INT8
add_bf16 = _product("llvm.x86.tdpbf16ps")  # fp32 += BF16 x BF16


@njit(nogil=True, error_model="numpy")
def begin(config):
    """Configure the tiles of this thread; config: `CONFIG`."""
    configure(config.ctypes.data)


@njit(nogil=True, error_model="numpy")
def end():
    """Give the tiles of this thread back."""
    release()


@njit
def _from_zero(starts):
    """Start the products in tiles 0 to 3 with zero."""
    clear(0), clear(1), clear(2), clear(3)


@njit
def _from_starts(starts):
    """Start the products in tiles 0 to 3 with the numbers of their keys; starts: an address."""
    # With a step of 0 all rows of a tile are the same.
    load(0, starts, 0), load(1, starts + 64, 0), load(2, starts, 0), load(3, starts + 64, 0)


def _multiplier(start: Any, add: Any) -> Any:
    """Return the function that multiplies queries by keys.

    start: puts into tiles 0 to 3 what products start with. add: adds the product of two tiles to a
    third.
    """

    @njit(nogil=True, error_model="numpy")
    def multiply(q, k, starts, products, step, num_keys, row):
        """Multiply 32 queries by keys, a multiple of 32, into products of 32 bits.

        q, k, starts, products: addresses. step: bytes of a row of products. row: bytes of a query
            or a key, a multiple of 64.
        """
        # 2 x 2 tiles of products: each tile of q and of k that is loaded serves two products.
        for n in range(0, num_keys, 32):
            start(starts + 4 * n)
            for d in range(0, row, 64):
                load(4, q + d, row), load(5, q + 16 * row + d, row)
                at = k + n * row + 16 * d
                load(6, at, 64), load(7, at + 16 * row, 64)
                add(0, 4, 6), add(1, 4, 7), add(2, 5, 6), add(3, 5, 7)
            at = products + 4 * n
            store(0, at, step), store(1, at + 64, step)
            store(2, at + 16 * step, step), store(3, at + 16 * step + 64, step)

    return multiply


# AMX multiplies signed codes, so their sums need no correction and start with zero.
multiply_codes = _multiplier(_from_zero, add_int8)
multiply_pairs = _multiplier(_from_starts, add_bf16)


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
