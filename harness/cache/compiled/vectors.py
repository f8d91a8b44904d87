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


def _decoded(builder: Any, codes: Any, shift: Any, mask: Any, scale: Any, zero: Any) -> Any:
    """Emit `((codes >> shift) & mask) * scale + zero` in FP32, without contraction."""
    wide = builder.zext(_load(builder, codes, BYTES), INTEGERS)
    field = builder.lshr(wide, _alike(builder, shift, INTEGERS))
    code = builder.sitofp(builder.and_(field, _alike(builder, mask, INTEGERS)), FLOATS)
    return builder.fadd(builder.fmul(code, scale), zero)


def _rounded(builder: Any, numbers: Any) -> Any:
    """Emit the bits of numbers as BF16, rounded to even; see `bits.rounded` on NaN."""
    bits = builder.bitcast(numbers, INTEGERS)
    last = builder.and_(builder.lshr(bits, _integers(16)), _integers(1))
    up = builder.add(builder.add(bits, _integers(0x7FFF)), last)
    return builder.trunc(builder.lshr(up, _integers(16)), HALVES)


@intrinsic
def put_halves(typing_context, codes, shift, mask, scales, zeros, out):
    """Write code * scale + zero as BF16. codes, scales, zeros, out: addresses of 16 values each."""

    def generate(context, builder, signature, arguments):
        codes, shift, mask, scales, zeros, out = arguments
        scale, zero = (_load(builder, each, FLOATS) for each in (scales, zeros))
        value = _decoded(builder, codes, shift, mask, scale, zero)
        _store(builder, _rounded(builder, value), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, SHIFT, SHIFT, ADDRESS, ADDRESS, ADDRESS), generate


@intrinsic
def put_halves_alike(typing_context, codes, shift, mask, scale, zero, out):
    """Write code * scale + zero as BF16 for 16 codes that share a scale and a zero."""

    def generate(context, builder, signature, arguments):
        codes, shift, mask, scale, zero, out = arguments
        scale, zero = (_alike(builder, each, FLOATS) for each in (scale, zero))
        value = _decoded(builder, codes, shift, mask, scale, zero)
        _store(builder, _rounded(builder, value), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, SHIFT, SHIFT, NUMBER, NUMBER, ADDRESS), generate


@intrinsic
def put_floats(typing_context, codes, shift, mask, scales, zeros, out):
    """Write code * scale + zero as FP32. codes, scales, zeros, out: addresses of 16 values each."""

    def generate(context, builder, signature, arguments):
        codes, shift, mask, scales, zeros, out = arguments
        scale, zero = (_load(builder, each, FLOATS) for each in (scales, zeros))
        _store(builder, _decoded(builder, codes, shift, mask, scale, zero), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, SHIFT, SHIFT, ADDRESS, ADDRESS, ADDRESS), generate


@intrinsic
def add_floats(typing_context, codes, shift, mask, scales, zeros, out):
    """Add code * scale + zero to 16 numbers of FP32 at `out`."""

    def generate(context, builder, signature, arguments):
        codes, shift, mask, scales, zeros, out = arguments
        scale, zero = (_load(builder, each, FLOATS) for each in (scales, zeros))
        value = _decoded(builder, codes, shift, mask, scale, zero)
        _store(builder, builder.fadd(_load(builder, out, FLOATS), value), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, SHIFT, SHIFT, ADDRESS, ADDRESS, ADDRESS), generate


@intrinsic
def round_floats(typing_context, floats, out):
    """Write 16 numbers of FP32 as BF16."""

    def generate(context, builder, signature, arguments):
        _store(builder, _rounded(builder, _load(builder, arguments[0], FLOATS)), arguments[1])
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
