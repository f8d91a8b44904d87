"""Sixteen or 32 values at a time, as functions for loops that numba compiles.

They take addresses, so the compiler need not ask in every row whether arrays overlap: for rows of
64 values that question takes longer than the work. The vectors are LLVM's, not a processor's: where
a register holds fewer numbers, LLVM takes several.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # values of a call
LINE = 32  # values of a call of `stream_...`: a cache line of BF16, 64 bytes
BYTE, HALF, INTEGER, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
_HAS = torch.cpu.get_capabilities()
# What the processor does in one instruction: round FP32 to BF16, widen FP16 to FP32, look 16
# numbers up in a table of 16.
ROUNDS, WIDENS, LOOKS_UP = (_HAS.get(name, False) for name in ("avx512_bf16", "f16c", "avx512_f"))
ADDRESS, SHIFT, NUMBER = types.int64, types.int32, types.float32


def _load(builder: Any, address: Any, kind: Any, lanes: int) -> Any:
    """Emit the load of a vector at any address."""
    # Without `align`, LLVM would take the address for a multiple of the vector's size, which rows
    # of codes are not, and emit an instruction that faults on others.
    vector = ir.VectorType(kind, lanes)
    loaded = builder.load(builder.inttoptr(address, vector.as_pointer()))
    loaded.align = 1
    return loaded


def _store(builder: Any, vector: Any, address: Any) -> None:
    """Emit the store of a vector at any address."""
    builder.store(vector, builder.inttoptr(address, vector.type.as_pointer()), align=1)


def _stream(builder: Any, vector: Any, address: Any) -> None:
    """Emit a non-temporal store of one cache line; the address must be aligned to a line."""
    # An ordinary store first reads the line from memory. A non-temporal store of a whole line does
    # not.
    to = builder.inttoptr(address, vector.type.as_pointer())
    stored = builder.store(vector, to, align=2 * LINE)
    once = builder.module.add_metadata([ir.Constant(INTEGER, 1)])
    stored.set_metadata("nontemporal", once)


def _alike(builder: Any, number: Any, kind: Any, lanes: int) -> Any:
    """Emit a vector of one number."""
    vector = ir.Constant(ir.VectorType(kind, lanes), ir.Undefined)
    for lane in range(lanes):
        vector = builder.insert_element(vector, number, ir.Constant(INTEGER, lane))
    return vector


def instruction(name: str, result: Any, operands: list[Any], constraints: str) -> Any:
    """Return a function of LLVM that is one instruction of the processor.

    operands: types of what it takes. constraints: places of the result and the operands, as LLVM's
    manual has them ("Inline Assembler Expressions"): `v` for a vector register, `0` for that of
    the result.
    """
    # Not by an intrinsic of LLVM: their types change with its versions. numba has no use for an
    # assembler, so it does not load one.
    llvmlite.binding.initialize_native_asmparser()
    registers = [each for each in constraints.split(",") if each != "0"]
    places = ", ".join(f"${i}" for i in reversed(range(len(registers))))
    return ir.InlineAsm(ir.FunctionType(result, operands), f"{name} {places}", constraints)


def _rounded(builder: Any, numbers: Any) -> Any:
    """Emit the bits of FP32 numbers as BF16, rounded to even; see `bits.rounded` on NaN."""
    lanes = numbers.type.count
    if ROUNDS:
        # Numbers below 2**-126 become zero. There are none: a scale of FP16 is at least 2**-24.
        half, pair = ir.VectorType(HALF, LANES), ir.VectorType(HALF, LINE)
        one = ir.VectorType(FLOAT, LANES)
        if lanes == LANES:
            return builder.call(instruction("vcvtneps2bf16", half, [one], "=v,v"), [numbers])
        low, high = (
            builder.shuffle_vector(
                numbers, numbers, ir.Constant(ir.VectorType(INTEGER, LANES), list(places))
            )
            for places in (range(LANES), range(LANES, LINE))
        )
        both = instruction("vcvtne2ps2bf16", pair, [one, one], "=v,v,v")
        return builder.call(both, [high, low])
    kind = ir.VectorType(INTEGER, lanes)
    one, place, half = (ir.Constant(kind, [n] * lanes) for n in (1, 16, 0x7FFF))
    bits = builder.bitcast(numbers, kind)
    last = builder.and_(builder.lshr(bits, place), one)
    up = builder.add(builder.add(bits, half), last)
    return builder.trunc(builder.lshr(up, place), ir.VectorType(HALF, lanes))


def _decoded(builder: Any, read: Any, lanes: int, plane: Any, fuse: bool, table: Any = None) -> Any:
    """Emit the decoding of codes: code * scale + zero.

    read: emits a vector of scales or zeros. plane: address of the codes, shift, mask, scale, zero.
    table: address of 16 numbers, which replace the codes; None for the codes themselves.
    fuse: allow a fused multiply-add, which does not round the product. Scales that were FP16 give
        the same result either way: with 8 bits of a code the product has at most 19 bits, which
        FP32 holds exactly.
    """
    codes, shift, mask, scale, zero = plane
    wide = builder.zext(_load(builder, codes, BYTE, lanes), ir.VectorType(INTEGER, lanes))
    field = builder.lshr(wide, _alike(builder, shift, INTEGER, lanes))
    code = builder.and_(field, _alike(builder, mask, INTEGER, lanes))
    if table is None:
        number = builder.sitofp(code, ir.VectorType(FLOAT, lanes))
    else:
        numbers = _load(builder, table, FLOAT, lanes)
        look_up = instruction("vpermps", numbers.type, [code.type, numbers.type], "=v,v,v")
        number = builder.call(look_up, [code, numbers])
    scale, zero = (read(builder, each, FLOAT, lanes) for each in (scale, zero))
    if not fuse:
        return builder.fadd(builder.fmul(number, scale), zero)
    kind = ir.FunctionType(number.type, [number.type] * 3)
    # LLVM emits a product and a sum for processors without a fused multiply-add.
    name = f"llvm.fmuladd.v{lanes}f32"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    return builder.call(function, [number, scale, zero])


def _putter(kind: Any, read: Any, lanes: int, write: Any, fuse: bool = True) -> Any:
    """Return a function that decodes `lanes` neighbouring codes and writes the values.

    kind: numba's type of scale and zero. read, fuse: see `_decoded`. write: emits the store of the
    decoded values at an address.
    """

    @intrinsic
    def put(typing_context, codes, shift, mask, scale, zero, out):
        """Decode the codes at an address and write them to `out`."""

        def generate(context, builder, signature, arguments):
            *plane, out = arguments
            write(builder, _decoded(builder, read, lanes, plane, fuse), out)
            return context.get_dummy_value()

        return types.none(ADDRESS, SHIFT, SHIFT, kind, kind, ADDRESS), generate

    return put


def _table_putter(write: Any) -> Any:
    """Return a function that writes the scaled numbers of a table at 16 neighbouring codes."""

    @intrinsic
    def put(typing_context, codes, shift, mask, table, scale, zero, out):  # noqa: PLR0913
        """Look the codes at an address up, and write table[code] * scale + zero to `out`."""

        def generate(context, builder, signature, arguments):
            codes, shift, mask, table, scale, zero, out = arguments
            plane = codes, shift, mask, scale, zero
            write(builder, _decoded(builder, _load, LANES, plane, False, table), out)
            return context.get_dummy_value()

        return types.none(ADDRESS, SHIFT, SHIFT, *[ADDRESS] * 4), generate

    return put


def _sum_putter(lanes: int, write: Any) -> Any:
    """Return a function that decodes neighbouring codes of two planes and writes their sums."""

    @intrinsic
    def put(  # noqa: PLR0913
        typing_context, codes, shift, mask, scale, zero, codes2, shift2, mask2, scale2, zero2, out
    ):
        """Decode the codes at two addresses, add them and write the sums to `out`."""

        def generate(context, builder, signature, arguments):
            planes, out = (arguments[:5], arguments[5:10]), arguments[10]
            first, second = (_decoded(builder, _load, lanes, plane, True) for plane in planes)
            write(builder, builder.fadd(first, second), out)
            return context.get_dummy_value()

        plane = ADDRESS, SHIFT, SHIFT, ADDRESS, ADDRESS
        return types.none(*plane, *plane, ADDRESS), generate

    return put


def _halves(builder: Any, numbers: Any, out: Any) -> None:
    """Emit the store of FP32 numbers as BF16."""
    _store(builder, _rounded(builder, numbers), out)


def _streamed(builder: Any, numbers: Any, out: Any) -> None:
    """Emit the non-temporal store of FP32 numbers as BF16."""
    _stream(builder, _rounded(builder, numbers), out)


def _added(builder: Any, numbers: Any, out: Any) -> None:
    """Emit the addition of FP32 numbers to those at `out`."""
    there = _load(builder, out, FLOAT, numbers.type.count)
    _store(builder, builder.fadd(there, numbers), out)


# The values have scales and zeros of their own, given by addresses, or (`alike`) share one each.
put_halves = _putter(ADDRESS, _load, LANES, _halves)
put_halves_alike = _putter(NUMBER, _alike, LANES, _halves)
stream_halves = _putter(ADDRESS, _load, LINE, _streamed)
stream_halves_alike = _putter(NUMBER, _alike, LINE, _streamed)
put_sums = _sum_putter(LANES, _halves)
stream_sums = _sum_putter(LINE, _streamed)
# For pages of other planes, whose scales may have as many bits as FP32. The sum is rounded once,
# when the last plane has been added.
put_floats = _putter(ADDRESS, _load, LANES, _store, fuse=False)
add_floats = _putter(ADDRESS, _load, LANES, _added, fuse=False)
# Where the processor `LOOKS_UP`: for codes of at most 4 bits.
put_levels = _table_putter(_store)
add_levels = _table_putter(_added)


@intrinsic
def round_floats(typing_context, floats, out):
    """Write 16 numbers of FP32 as BF16."""

    def generate(context, builder, signature, arguments):
        floats, out = arguments
        _halves(builder, _load(builder, floats, FLOAT, LANES), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, ADDRESS), generate


@intrinsic
def fill_floats(typing_context, out, number):
    """Write the same FP32 number 16 times."""

    def generate(context, builder, signature, arguments):
        out, number = arguments
        _store(builder, _alike(builder, number, FLOAT, LANES), out)
        return context.get_dummy_value()

    return types.none(ADDRESS, NUMBER), generate


def _widener(write: Any) -> Any:
    """Return a function that widens 16 numbers of FP16 and writes them; it needs `WIDENS`."""

    @intrinsic
    def put(typing_context, halves, out):
        """Write FP16 numbers as FP32; every NaN becomes the standard one."""

        def generate(context, builder, signature, arguments):
            halves, out = arguments
            kind = ir.VectorType(FLOAT, LANES)
            wide = builder.fpext(_load(builder, halves, ir.HalfType(), LANES), kind)
            nan = ir.Constant(kind, [float("nan")] * LANES)
            is_number = builder.fcmp_ordered("ord", wide, wide)
            write(builder, builder.select(is_number, wide, nan), out)
            return context.get_dummy_value()

        return types.none(ADDRESS, ADDRESS), generate

    return put


widen_halves = _widener(_store)
add_halves = _widener(_added)


@intrinsic
def end_streams(typing_context):
    """Make what `stream_...` has written visible to other threads."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def copy_bytes(typing_context, to, source, count):
    """Copy `count` bytes from one address to another."""

    def generate(context, builder, signature, arguments):
        to, source = (builder.inttoptr(each, cgutils.voidptr_t) for each in arguments[:2])
        cgutils.raw_memcpy(builder, to, source, arguments[2], 1)
        return context.get_dummy_value()

    return types.none(ADDRESS, ADDRESS, types.int64), generate
