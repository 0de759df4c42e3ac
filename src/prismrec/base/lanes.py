"""Vector instructions for the kernels that look at every score, written once for all processors.

Numba's own loops cannot keep these in vector registers: it widens small integers, and it may not reorder a
sum. The code here is LLVM's portable vector code; on a processor with narrower registers LLVM splits it.

Scores are looked at as *keys*: the bits of a float as a signed integer, mirrored where negative, so that the
order of keys is the order of scores. A key of bfloat16 has 16 bits, one of float32 has 32.

Numba's cache on the disk does not notice changes here: save the modules that use them, too.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8
"""A scalar product is summed in so many lanes; vectors are padded with zeros to a multiple."""

LINE = 128
"""Bytes of scores that are looked at as one vector: of 16-bit ones, as many as a mask has bits."""

_DOUBLE = ir.DoubleType()


def keys(scores: npt.NDArray[np.float64], bits: int) -> npt.NDArray[np.int64]:
    """Round scores to bfloat16 (16 bits) or float32 (32 bits) and return their keys.

    Rounding to float32 first keeps the order too, and that is all that thresholds need. A zero has the key 0.
    """
    word = (scores.astype(np.float32) + np.float32(0.0)).view(np.int32).astype(np.int64)
    if bits == 16:
        # To the nearest, halves to the even one.
        word = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
    most = (1 << (bits - 1)) - 1
    mirrored: npt.NDArray[np.int64] = word ^ ((word >> (bits - 1)) & most)
    return mirrored


def _line(context: Any, builder: Any, kind: Any, row: Any, start: Any) -> tuple[Any, Any]:
    """Pointer to `LINE` bytes of a row as one vector, and the number of its lanes."""
    array = context.make_array(kind)(context, builder, row)
    lanes = LINE * 8 // kind.dtype.bitwidth
    element = builder.gep(array.data, [start])
    return builder.bitcast(
        element, ir.VectorType(context.get_value_type(kind.dtype), lanes).as_pointer()
    ), lanes


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), zeros)


def _keys_of(builder: Any, line: Any, bits: int) -> Any:
    """Keys of a vector of the bits of floats."""
    lanes = line.type.count
    sign = builder.ashr(line, ir.Constant(line.type, [bits - 1] * lanes))
    mirror = builder.and_(sign, ir.Constant(line.type, [(1 << (bits - 1)) - 1] * lanes))
    return builder.xor(line, mirror)


def _compare(context: Any, builder: Any, kind: Any, args: Any, *, raw: bool) -> Any:
    bits = kind.dtype.bitwidth
    pointer, lanes = _line(context, builder, kind, args[0], args[1])
    line = builder.load(pointer, align=bits // 8)
    bound = _splat(builder, builder.trunc(args[2], line.type.element), lanes)
    mask = builder.icmp_signed(">=", _keys_of(builder, line, bits) if raw else line, bound)
    return builder.zext(builder.bitcast(mask, ir.IntType(lanes)), ir.IntType(64))


@intrinsic  # type: ignore[untyped-decorator]
def at_least(typing: Any, row: Any, start: Any, least: Any) -> Any:
    """Return which of the `LINE` bytes of keys from `start` on are at least `least`, one bit each."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _compare(context, builder, signature.args[0], args, raw=False)

    return types.uint64(row, types.intp, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def scores_at_least(typing: Any, row: Any, start: Any, least: Any) -> Any:
    """Like `at_least` for the bits of floats that are not keys yet."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _compare(context, builder, signature.args[0], args, raw=True)

    return types.uint64(row, types.intp, types.int64), code


@intrinsic  # type: ignore[untyped-decorator]
def to_keys(typing: Any, row: Any, start: Any) -> Any:
    """Turn the bits of `LINE` bytes of floats from `start` on into keys, in place."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = signature.args[0]
        bits = kind.dtype.bitwidth
        pointer, _ = _line(context, builder, kind, args[0], args[1])
        line = builder.load(pointer, align=bits // 8)
        builder.store(_keys_of(builder, line, bits), pointer, align=bits // 8)
        return context.get_dummy_value()

    return types.void(row, types.intp), code


@intrinsic  # type: ignore[untyped-decorator]
def ones(typing: Any, mask: Any) -> Any:
    """Return how many bits of a mask are set."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ctpop(args[0])

    return types.int64(types.uint64), code


@intrinsic  # type: ignore[untyped-decorator]
def lowest(typing: Any, mask: Any) -> Any:
    """Return the place of the lowest bit that is set; the mask must not be 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), code


def _eight(builder: Any, kind: Any, array: Any, first: Any) -> Any:
    """Eight numbers of a vector, as float64."""
    element = ir.FloatType() if kind.dtype.bitwidth == 32 else _DOUBLE
    vector = ir.VectorType(element, LANES)
    pointer = builder.bitcast(builder.gep(array.data, [first]), vector.as_pointer())
    line = builder.load(pointer, align=kind.dtype.bitwidth // 8)
    return line if element is _DOUBLE else builder.fpext(line, ir.VectorType(_DOUBLE, LANES))


@intrinsic  # type: ignore[untyped-decorator]
def dot(typing: Any, left: Any, right: Any) -> Any:
    """Return the scalar product of two float32 vectors, summed in float64 in a fixed order.

    Lane l of eight sums the products at l, l + 8, l + 16, ... in that order; then lanes 0 to 3 and 4 to 7 are
    added, then 0 and 1 with 2 and 3, then the two. A product of two float32 numbers is exact in float64, so
    that this order is all there is to agree on. The length is a multiple of eight. A side that is used often
    is better handed in as float64, still of float32 numbers.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sides = [
            (kind, context.make_array(kind)(context, builder, value))
            for kind, value in zip(signature.args, args, strict=True)
        ]
        size = builder.extract_value(sides[0][1].shape, 0)
        double = ir.VectorType(_DOUBLE, LANES)
        # Fused where the processor is fast at that, which makes no difference: the product is exact.
        add_product = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(double, [double] * 3), f"llvm.fmuladd.v{LANES}f64"
        )
        total = cgutils.alloca_once_value(builder, ir.Constant(double, [0.0] * LANES))
        with cgutils.for_range(builder, builder.udiv(size, ir.Constant(size.type, LANES))) as loop:
            first = builder.mul(loop.index, ir.Constant(size.type, LANES))
            values = [_eight(builder, kind, array, first) for kind, array in sides]
            builder.store(builder.call(add_product, [*values, builder.load(total)]), total)
        lanes = builder.load(total)
        half = LANES // 2
        while half:
            places = [
                ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(s, s + half))) for s in (0, half)
            ]
            low, high = (builder.shuffle_vector(lanes, lanes, p) for p in places)
            lanes = builder.fadd(low, high)
            half //= 2
        return builder.extract_element(lanes, ir.Constant(ir.IntType(32), 0))

    return types.float64(left, right), code
