"""Sixteen values at a time, as functions for loops that numba compiles.

They take addresses, so the compiler need not ask in every row whether arrays overlap: for rows of
64 values that question takes longer than the work. The vectors are LLVM's, not a processor's: where
a register holds fewer than sixteen numbers, LLVM takes several.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # values of a call
BYTES, HALVES, INTEGERS, FLOATS = (
    ir.VectorType(kind, LANES)
    for kind in (ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType())
)
ADDRESS, SHIFT, NUMBER = types.int64, types.int32, types.float32


def _load(builder: Any, address: Any, kind: Any) -> Any:
    """Emit the load of a vector at any address."""
    # Without `align`, LLVM would take the address for a multiple of the vector's size, which rows
    # of codes are not, and emit an instruction that faults on others.
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = 1
    return loaded


def _store(builder: Any, vector: Any, address: Any) -> None:
    """Emit the store of a vector at any address."""
    builder.store(vector, builder.inttoptr(address, vector.type.as_pointer()), align=1)


def _alike(builder: Any, number: Any, kind: Any) -> Any:
    """Emit a vector of one number."""
    vector = ir.Constant(kind, ir.Undefined)
    for lane in range(LANES):
        vector = builder.insert_element(vector, number, ir.Constant(ir.IntType(32), lane))
    return vector


def _integers(number: int) -> Any:
    """Return a constant vector."""
    return ir.Constant(INTEGERS, [number] * LANES)


def _rounded(builder: Any, numbers: Any, out: Any) -> Any:
    """Emit the bits of FP32 numbers as BF16, rounded to even; see `bits.rounded` on NaN."""
    bits = builder.bitcast(numbers, INTEGERS)
    last = builder.and_(builder.lshr(bits, _integers(16)), _integers(1))
    up = builder.add(builder.add(bits, _integers(0x7FFF)), last)
    return builder.trunc(builder.lshr(up, _integers(16)), HALVES)


def _putter(kind: Any, read: Any, finish: Any) -> Any:
    """Return a function that decodes 16 codes and writes them: code * scale + zero.

    kind: numba's type of scale and zero. read: emits a vector of either. finish: emits what is
    written, from the decoded numbers and the address.
    """

    @intrinsic
    def put(typing_context, codes, shift, mask, scale, zero, out):
        """Decode the 16 codes at an address and write them to `out`."""

        def generate(context, builder, signature, arguments):
            codes, shift, mask, *metadata, out = arguments
            scale, zero = (read(builder, each, FLOATS) for each in metadata)
            wide = builder.zext(_load(builder, codes, BYTES), INTEGERS)
            field = builder.lshr(wide, _alike(builder, shift, INTEGERS))
            code = builder.sitofp(builder.and_(field, _alike(builder, mask, INTEGERS)), FLOATS)
            # LLVM does not contract these two into one operation, which would round once less.
            numbers = builder.fadd(builder.fmul(code, scale), zero)
            _store(builder, finish(builder, numbers, out), out)
            return context.get_dummy_value()

        return types.none(ADDRESS, SHIFT, SHIFT, kind, kind, ADDRESS), generate

    return put


def _unchanged(builder: Any, numbers: Any, out: Any) -> Any:
    """Emit FP32 numbers as they are."""
    # For pages of several planes: the sum is rounded once, when the last plane has been added.
    return numbers


def _added(builder: Any, numbers: Any, out: Any) -> Any:
    """Emit the sum of FP32 numbers and those at `out`."""
    return builder.fadd(_load(builder, out, FLOATS), numbers)


# The 16 values have scales and zeros of their own, given by addresses, or (`alike`) share one each.
put_halves = _putter(ADDRESS, _load, _rounded)
put_halves_alike = _putter(NUMBER, _alike, _rounded)
put_floats = _putter(ADDRESS, _load, _unchanged)
add_floats = _putter(ADDRESS, _load, _added)


@intrinsic
def round_floats(typing_context, floats, out):
    """Write 16 numbers of FP32 as BF16."""

    def generate(context, builder, signature, arguments):
        floats, out = arguments
        _store(builder, _rounded(builder, _load(builder, floats, FLOATS), out), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, ADDRESS), generate


@intrinsic
def copy_bytes(typing_context, to, source, count):
    """Copy `count` bytes from one address to another."""

    def generate(context, builder, signature, arguments):
        to, source = (builder.inttoptr(each, cgutils.voidptr_t) for each in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.none(ADDRESS, ADDRESS, types.int64), generate
