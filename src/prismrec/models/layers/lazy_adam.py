"""Adam on single rows of a table, compiled: for optimisers and epochs that touch few rows a step.

Lazy Adam: a row that a step does not touch keeps its value and its moments. Bias is corrected by the number
of steps, not by how often the row was touched.
"""

import math
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic


@dataclass(frozen=True)
class AdamStep:
    """What a step needs besides gradient and moments (Kingma and Ba 2015, the end of their section 2).

    Parameters
    ----------
    rate
        Learning rate.
    betas
        Shares that the two moments keep.
    eps
        Added to the root of the second moment, before its bias is corrected.
    """

    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def size(self, step: int) -> float:
        """Return the step size: the rate with both moments' bias corrected, for a step counted from 1."""
        first, second = self.betas
        return self.rate * math.sqrt(1.0 - second**step) / (1.0 - first**step)


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing: Any, table: Any, row: Any, column: Any) -> Any:
    """Ask for the cache line that holds an entry; reads and changes nothing."""
    del typing

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        places = [
            context.cast(builder, a, t, types.intp) for a, t in zip(args[1:], signature.args[1:], strict=True)
        ]
        pointer = cgutils.get_item_pointer(context, builder, signature.args[0], array, places)
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        # llvmlite mangles the name as its LLVM wants it.
        ask = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        # For writing or reading alike, to be kept, data.
        builder.call(ask, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(table, row, column), code


@numba.njit(cache=True, inline="always")  # type: ignore[untyped-decorator]
def prefetch_row(table: Any, row: Any) -> None:
    """Ask for a row of a table ahead of its use: the processor cannot guess which one comes next."""
    for column in range(0, table.shape[1], 64 // table.itemsize):
        _prefetch(table, row, column)


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def group_rows(codes: Any, slots: Any, rows: Any, first: Any, last: Any, following: Any) -> int:
    """Chain the places at which each code occurs, in ascending order; no sorting, no allocation.

    Parameters
    ----------
    codes
        Shape ``(n,)``.
    slots
        Scratch, int32, one for each row of the table, all -1; left so.
    rows, first, last
        Written, one entry for each unique code in order of appearance: the code, its first place, its last.
    following
        Written, shape ``(n,)``: the next place of the same code, -1 at the end.

    Returns
    -------
    int
        Number of unique codes.
    """
    found = 0
    for place in range(len(codes)):
        code = codes[place]
        slot = slots[code]
        following[place] = -1
        if slot < 0:
            slots[code] = found
            rows[found] = code
            first[found] = place
            last[found] = place
            found += 1
        else:
            following[last[slot]] = place
            last[slot] = place
    for slot in range(found):
        slots[rows[slot]] = -1
    return found


@numba.njit(cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def update_row(
    table: Any,
    mean: Any,
    square: Any,
    row: int,
    gradient: Any,
    size: Any,
    keep: Any,
    keep_square: Any,
    eps: Any,
) -> None:
    """Take one step on a row of a table, whose moments are `mean` and `square`; all of one dtype."""
    one = keep - keep + 1
    for column in range(table.shape[1]):
        g = gradient[column]
        m = keep * mean[row, column] + (one - keep) * g
        v = keep_square * square[row, column] + (one - keep_square) * g * g
        mean[row, column] = m
        square[row, column] = v
        table[row, column] -= size * m / (np.sqrt(v) + eps)


# One thread: beside torch's pool of threads a second one would take its cores from it.
@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def update_rows(
    table: Any,
    mean: Any,
    square: Any,
    codes: Any,
    gradients: Any,
    slots: Any,
    size: Any,
    keep: Any,
    keep_square: Any,
    eps: Any,
) -> None:
    """Take one step on the rows that occur in `codes`; gradients of one row are added up in order.

    Parameters
    ----------
    table, mean, square
        Shape ``(rows, d)``; changed in place.
    codes
        Rows, repeated or not, shape ``(n,)``.
    gradients
        Shape ``(n, d)``.
    slots
        Scratch, int32, shape ``(rows,)``, all -1; left so.
    size, keep, keep_square, eps
        Step size, shares that the moments keep, and what is added to the root; of the table's dtype.
    """
    n = len(codes)
    rows, first, last = np.empty(n, np.int64), np.empty(n, np.int32), np.empty(n, np.int32)
    following = np.empty(n, np.int32)
    found = group_rows(codes, slots, rows, first, last, following)
    for slot in range(found):
        place = first[slot]
        total = gradients[place].copy()
        place = following[place]
        while place >= 0:
            for column in range(len(total)):
                total[column] += gradients[place, column]
            place = following[place]
        update_row(table, mean, square, rows[slot], total, size, keep, keep_square, eps)
