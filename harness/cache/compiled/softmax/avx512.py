"""Products by the dot products of AVX-512 (VNNI and BF16), for loops that numba compiles.

An instruction multiplies groups of four INT8 or two BF16 numbers and adds them to 16 sums. A call
of the functions below keeps 8 x 2 vectors of sums in registers, which is enough to never wait for
the latency of an instruction.

Source  Intel 64 and IA-32 Architectures Software Developer's Manual, VPDPBUSD and VDPBF16PS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from harness.cache.compiled.once import njit
from harness.cache.compiled.vectors import instruction

# VPDPBUSD multiplies unsigned by signed numbers, so this is added to the codes of queries. Each sum
# of products starts with minus what the addition contributes to it.
OFFSET = 128
CONFIG = np.zeros(0, np.uint8)  # these units need no configuration
ROWS, VECTORS = 8, 2  # rows and vectors of 16 columns of the sums in registers
WORD, INTEGER, FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
ADDRESS = types.int64


def _dot_product(name: str, kind: Any) -> Any:
    """Return the function that multiplies 8 rows by 32 columns.

    name: of the instruction, which adds products of groups to 16 sums. kind: LLVM's type of a sum.
    """
    sums, groups = ir.VectorType(kind, 16), ir.VectorType(INTEGER, 16)
    multiply = instruction(name, sums, [groups, groups, sums], "=v,v,v,0")

    @intrinsic
    def dot(typing_context, a, a_step, b, far, depth, start, start_step, out, out_step):  # noqa: PLR0913
        """Write start + a @ b to `out`; a, b, start, out: addresses.

        a: rows of groups of 4 bytes, `a_step` bytes apart. b: two blocks of 16 columns, `far` bytes
        apart; a row of a block is 64 bytes long and holds a group of each column. depth: groups.
        start, out: rows of 32 numbers, `start_step` and `out_step` bytes apart.
        """

        def generate(context, builder, signature, arguments):
            a, a_step, b, far, depth, start, start_step, out, out_step = arguments

            def pointer(base: Any, kind: Any, *terms: tuple[Any, int]) -> Any:
                """Emit a pointer to `base` plus the products of `terms`."""
                for factor, number in terms:
                    base = builder.add(base, builder.mul(factor, ir.Constant(WORD, number)))
                return builder.inttoptr(base, kind.as_pointer())

            one, places = ir.Constant(WORD, 1), range(ROWS * VECTORS)
            held = [cgutils.alloca_once(builder, sums) for _ in places]  # become registers
            for i in places:
                at = pointer(start, sums, (start_step, i // VECTORS), (one, 64 * (i % VECTORS)))
                first = builder.load(at)
                first.align = 4
                builder.store(first, held[i])
            with cgutils.for_range(builder, depth) as loop:
                columns = []
                for i in range(VECTORS):
                    columns.append(builder.load(pointer(b, groups, (far, i), (loop.index, 64))))
                    columns[-1].align = 4
                for r in range(ROWS):
                    group = builder.load(pointer(a, INTEGER, (a_step, r), (loop.index, 4)))
                    group.align = 4
                    row = ir.Constant(groups, ir.Undefined)
                    row = builder.insert_element(row, group, ir.Constant(INTEGER, 0))
                    row = builder.shuffle_vector(row, row, ir.Constant(groups, [0] * 16))
                    for i in range(VECTORS):
                        sum_ = held[VECTORS * r + i]
                        found = builder.call(multiply, [row, columns[i], builder.load(sum_)])
                        builder.store(found, sum_)
            for i in places:
                at = pointer(out, sums, (out_step, i // VECTORS), (one, 64 * (i % VECTORS)))
                builder.store(builder.load(held[i]), at, align=4)
            return context.get_dummy_value()

        return types.none(*[ADDRESS] * 9), generate

    return dot


_dot_codes = _dot_product("vpdpbusd", INTEGER)
_dot_pairs = _dot_product("vdpbf16ps", FLOAT)


@njit
def begin(config):
    """Prepare this thread for products; nothing to do here."""


@njit
def end():
    """End the products of this thread; nothing to do here."""


def _multiplier(dot: Any) -> Any:
    """Return the function that multiplies queries by keys; dot: see `_dot_product`."""

    @njit(nogil=True, error_model="numpy")
    def multiply(q, k, starts, products, step, num_keys, row):
        """Multiply 32 queries by keys, a multiple of 32, into products of 32 bits.

        q, k, starts, products: addresses. starts: what the products of a key start with.
        step: bytes of a row of products. row: bytes of a query or a key, a multiple of 64.
        """
        for n in range(0, num_keys, 32):
            for r in range(0, 32, ROWS):
                own, out = q + r * row, products + r * step + 4 * n
                dot(own, row, k + n * row, 16 * row, row // 4, starts + 4 * n, 0, out, step)

    return multiply


multiply_codes, multiply_pairs = _multiplier(_dot_codes), _multiplier(_dot_pairs)


@njit(nogil=True, error_model="numpy")
def add_values(weights, step, v, far, out, num_keys, width):
    """Add the product of the weights of 32 queries with values to out fp32.

    weights, v, out: addresses. step, far: bytes from one row of weights, and from 16 channels of
        values, to the next. width: channels, a multiple of 32.
    """
    row = 4 * width  # bytes of a row of out
    for d in range(0, row, 128):
        for r in range(0, 32, ROWS):
            at = out + r * row + d
            values = v + d // 64 * far
            _dot_pairs(weights + r * step, step, values, far, num_keys // 2, at, row, at, row)
