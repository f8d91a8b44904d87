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

BYTE, ADDRESS, STEP = ir.IntType(8), ir.IntType(8).as_pointer(), ir.IntType(64)
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
