"""Rough scores of many users and items at a time, by matrix products whose errors have a proven bound.

In a sum of n products in float32, in any order, each sum and product is off by at most the factor 2^-24
(Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1), so that the whole is off by at
most n 2^-24 |u| |v| up to terms of second order, which a few percent cover.

Where the processor multiplies matrices of bfloat16 (AMX), a vector is split into its bfloat16 rounding x1,
the rounding x2 of what that leaves, and a remainder r; u1 v1 + u1 v2 + u2 v1 is one product of three times
the length. What is left out is at most |u2| |v2| + |ru| |v| + |u| |rv| (Cauchy and Schwarz, with the norms
that the vectors really have). It comes out rounded to bfloat16; rounding keeps the order, so that thresholds
are rounded likewise. For short lists of long vectors u1 v1 alone is faster: more is scored again.

Measured on one core of a Xeon with AMX, 4,096 users and 63,001 items of 64 / 128 dimensions, seconds for the
products and, in brackets, for exact ranks of 6 positives a user in all: float32 0.20 (0.42) / 0.40 (0.63),
three products of bfloat16 0.08 (0.23) / 0.13 (0.31). One product of bfloat16 takes as long to write its
scores, and leaves so much open that ranks take five times as long. In float32 torch (MKL) reaches 280 to 340
GFLOP/s on two cores and NumPy (OpenBLAS) 180 to 260, hence torch. Two threads that share each product and
each loop took up to four times as long as two with users of their own, when the machine had other work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from prismrec.base.exact_kernels import Doubles, Floats, Starts, norms, rough_scores
from prismrec.base.lanes import keys

if TYPE_CHECKING:
    import torch

# Fewer users are not worth splitting the items' vectors for.
_FEW_USERS = 128
# From here on one product of bfloat16 and more items scored again are faster than three products.
_LONG = 256


class Product(Enum):
    """How a tile's scores are computed."""

    FLOAT32 = "float32"
    SPLIT = "three products of bfloat16"
    HALF = "one product of bfloat16"

    @property
    def bits(self) -> int:
        """Bits of a score."""
        return 32 if self is Product.FLOAT32 else 16


@dataclass(frozen=True)
class Operand:
    """One side of a product.

    Parameters
    ----------
    matrix
        What is multiplied, shape ``(n, K)``.
    whole, second, rest
        Lengths of each vector, of its second part and of the remainder, shape ``(n,)``, or the largest of
        each, shape ``(1,)``.
    """

    matrix: "torch.Tensor"
    whole: Doubles
    second: Doubles
    rest: Doubles

    def largest(self) -> "Operand":
        """Keep only the largest lengths."""
        most = [part.max(initial=0.0, keepdims=True) for part in (self.whole, self.second, self.rest)]
        return Operand(self.matrix, *most)


def operand(vectors: Floats, lengths: Doubles, product: Product, *, is_user: bool) -> Operand:
    """Round vectors as a product needs them.

    Parameters
    ----------
    vectors
        Shape ``(n, d)``.
    lengths
        Their Euclidean lengths, shape ``(n,)``, or the largest, shape ``(1,)``.
    product
        Which.
    is_user
        Whether they are the left side of the product.
    """
    import torch

    tensor = torch.from_numpy(vectors)
    none = np.zeros_like(lengths)
    if product is Product.FLOAT32:
        return Operand(tensor, lengths, none, lengths * _input_rounding())
    # The differences are exact: what rounding to fewer bits leaves fits into the bits that were dropped.
    first = tensor.bfloat16()
    rest = tensor - first.float()
    if product is Product.HALF:
        return Operand(first, lengths, none, norms(rest.numpy()))
    second = rest.bfloat16()
    parts = (first, first, second) if is_user else (first, second, first)
    rest = rest - second.float()
    return Operand(
        torch.cat(parts, dim=1),
        lengths,
        norms(second.float().numpy()),
        norms(rest.numpy()),
    )


def error_bounds(users: Operand, items: Operand) -> Doubles:
    """Bound on how far a rough score is from the canonical one, for each user."""
    longest = items.whole.max(initial=0.0)
    missing = (
        users.second * items.second.max(initial=0.0)
        + users.rest * longest
        + (users.whole + users.rest) * items.rest.max(initial=0.0)
    )
    terms = users.matrix.shape[1] + 8
    rounding = terms * 2.0**-24 * users.whole * longest
    # Numbers below 2^-126 may be taken for zero, in the vectors, their parts and the sums.
    tiny = terms * 2.0**-120 * (1.0 + users.whole) * (1.0 + longest)
    bound: Doubles = 1.01 * missing + 1.05 * rounding + tiny
    return bound


def _input_rounding() -> float:
    """Return the relative error of the numbers that torch multiplies in place of float32.

    Torch can be set to multiply fewer bits; results stay exact, and take longer.
    """
    import torch

    try:
        exact = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:
        # Torch refuses to tell where it was set in two ways.
        exact = False
    return 0.0 if exact else 2.0**-8


def fastest(n_users: int, dim: int, *, few: bool) -> Product:
    """Return the fastest product on this machine.

    Parameters
    ----------
    n_users
        Number of users.
    dim
        Size of the vectors.
    few
        Whether only few items of each user are looked at closely (lists), or all places (ranks).
    """
    if n_users < _FEW_USERS or not _has_bfloat16():
        return Product.FLOAT32
    return Product.HALF if few and dim >= _LONG else Product.SPLIT


@cache
def _has_bfloat16() -> bool:
    """Whether the processor multiplies matrices of bfloat16."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    return bool(llvm.get_host_cpu_features().get("amx-bf16", False))


def thresholds(exact: Doubles, error: Doubles, bits: int) -> tuple[Starts, Starts]:
    """Return the keys between which a rough score leaves open whether it is above an exact one.

    Both ends belong to the open range.
    """
    low, high = keys(exact - error, bits), keys(exact + error, bits)
    # Zero has the key 0, but a product may give -0.0, which has the key -1.
    low[low == 0] = -1
    return low, high


def tiles(left: "torch.Tensor", right: "torch.Tensor", width: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Multiply users by some items at a time; give the first item and the bits of the scores.

    The memory is that of the tile before.
    """
    import torch

    buffer = torch.empty(len(left) * min(width, len(right)), dtype=right.dtype)
    bits = torch.int32 if buffer.dtype == torch.float32 else torch.int16
    for first in range(0, len(right), width):
        some = right[first : first + width]
        scores = buffer[: len(left) * len(some)].view(len(left), len(some))
        if len(left) == 1 and bits == torch.int32:
            # Bound by reading the vectors, and too short for several threads to meet.
            rough_scores(left.numpy()[0], some.numpy(), scores.numpy()[0])
        else:
            torch.mm(left, some.T, out=scores)
        yield first, scores.view(bits).numpy()
