"""Exact search among all items: how many are above one, and which are the best, at the speed of a product.

What a score is does not depend on the engine: it is the scalar product of two float32 vectors, summed in
float64 in one fixed order (`prismrec.base.lanes.dot`). A matrix product gives the scores of a tile, some
users against some items, only roughly, but with a proven bound on the error; items that the bound cannot
tell from a threshold are scored again canonically. So the answer is the same to the last place for any
number of threads, any tile, any processor, and equal vectors have equal scores. Equal scores are told apart
by the order of ties that comes with the items.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from prismrec.base import exact_kernels as kernels
from prismrec.base.blocks import in_blocks
from prismrec.base.errors import InputError
from prismrec.base.exact_kernels import Codes, Doubles, Floats, Starts
from prismrec.base.exact_products import Operand, Product, error_bounds, fastest, operand, thresholds, tiles
from prismrec.base.lanes import LANES
from prismrec.base.progress import Task

# A product lays out its items anew each time, which many users pay for; few items stay in the cache.
_TILE_USERS = 2048
_TILE_ITEMS = 1024
_TILE_SCORES = _TILE_USERS * _TILE_ITEMS
_COLLECTED = 1 << 23
_DOUBTS = 256
_MORE = 128
_HUGE = 1e38
_TOO_ROUGH = (
    "A matrix product on this machine was less exact than its precision allows. "
    "Set torch.set_float32_matmul_precision('highest') and report the machine."
)
_DIVERGED = "If they come from training, it has diverged: lower the learning rate or clip gradients."


@dataclass(frozen=True)
class ItemMatrix:
    """Items' vectors, checked and laid out once for any number of searches.

    Made by `ItemMatrix.of`.

    Parameters
    ----------
    vectors
        Shape ``(n, d)``, float32, d padded with zeros to a multiple of eight.
    ties
        The place of each item in the order that decides among equal scores: a permutation, shape ``(n,)``.
    lengths
        Euclidean length of each vector.
    dim
        Size of a vector without the padding.
    """

    vectors: Floats
    ties: Codes
    lengths: Doubles
    dim: int

    @staticmethod
    def of(vectors: npt.NDArray[np.floating[Any]], ties: Codes | None = None) -> "ItemMatrix":
        """Lay out vectors.

        Parameters
        ----------
        vectors
            Shape ``(n, d)``.
        ties
            See above; None: the order of the rows.

        Raises
        ------
        InputError
            If a vector is not finite, or the ties are no permutation of the right length.
        """
        padded = _padded(vectors)
        order = np.arange(len(padded), dtype=np.int32) if ties is None else ties.astype(np.int32)
        if not np.array_equal(np.sort(order), np.arange(len(padded))):
            raise InputError(
                f"The order of {len(order)} ties does not fit {len(padded)} vectors.",
                f"It holds each number from 0 to {len(padded) - 1} once.",
            )
        return ItemMatrix(padded, order, _lengths(padded, "An item"), vectors.shape[1])

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: npt.NDArray[np.integer[Any]]) -> "ItemMatrix":
        """Return some of the items, in the order of `rows`; each row at most once."""
        if len(rows) == len(self) and (rows == np.arange(len(self))).all():
            return self
        order = np.argsort(self.ties[rows], kind="stable")
        ties = np.empty(len(rows), dtype=np.int32)
        ties[order] = np.arange(len(rows), dtype=np.int32)
        return ItemMatrix(self.vectors[rows], ties, self.lengths[rows], self.dim)

    @cached_property
    def longest(self) -> float:
        """Largest length of a vector."""
        return float(self.lengths.max(initial=0.0))

    @cached_property
    def by_tie(self) -> Codes:
        """Items in the order of ties."""
        order: Codes = np.argsort(self.ties, kind="stable").astype(np.int32)
        return order

    @cached_property
    def _split(self) -> Operand:
        return operand(self.vectors, self.lengths, Product.SPLIT, is_user=False).largest()

    @cached_property
    def _half(self) -> Operand:
        return operand(self.vectors, self.lengths, Product.HALF, is_user=False).largest()

    def operand(self, product: Product) -> Operand:
        """Return what is multiplied, with the largest lengths alone; rounded vectors are made once."""
        if product is Product.FLOAT32:
            whole = np.array([self.longest])
            return operand(self.vectors, whole, product, is_user=False)
        return self._split if product is Product.SPLIT else self._half


def count_above(
    users: Floats,
    items: ItemMatrix,
    starts: Starts,
    wanted: Codes,
    masked_starts: Starts,
    masked: Codes,
    task: Task,
    product: Product | None = None,
) -> Starts:
    """Count for each wanted item how many other items are above it for its user.

    Parameters
    ----------
    users
        Shape ``(u, d)``.
    items
        Items to search.
    starts, wanted
        Items of user i are ``wanted[starts[i]:starts[i + 1]]``.
    masked_starts, masked
        Likewise the items that do not count, ascending within a user.
    task
        Is advanced by the number of users done.
    product
        None: the fastest here.

    Returns
    -------
    ndarray
        Shape of `wanted`; -1 where the wanted item is itself masked.

    Raises
    ------
    InputError
        If a user's vector is not finite or of another size, or scores may overflow.
    """
    product = product or fastest(len(users), items.dim, few=False)
    users, lengths = checked_users(users, items)
    right = items.operand(product)
    above = np.zeros(len(wanted), dtype=np.int64)
    # All scores of such a user are zero: the order of ties alone decides.
    zero = lengths * items.longest == 0.0

    def count(block: slice) -> None:
        mine = starts[block.start : block.stop + 1]
        span = slice(mine[0], mine[-1])
        mine = mine - mine[0]
        chosen, counts = wanted[span], above[span]
        wide = users[block].astype(np.float64)
        scores = kernels.pair_scores(wide, items.vectors, mine, chosen)
        left = operand(users[block], lengths[block], product, is_user=True)
        owner = np.repeat(np.arange(len(wide)), np.diff(mine))
        low, high = thresholds(scores, error_bounds(left, right)[owner], product.bits)
        met = zero[block][owner]
        doubts = np.empty((_DOUBTS, 2), dtype=np.int32)
        known = (wide, items.vectors, items.ties, mine, chosen, scores)
        for first, tile in _tiles(left, right):
            kernels.count_tile(tile, first, *known, low, high, doubts, counts, met)
        if not met.all():
            raise ArithmeticError(_TOO_ROUGH)
        tied = zero[block][owner]
        counts[tied] = items.ties[chosen[tied]]
        kernels.leave_out_masked(*known, masked_starts[block.start : block.stop + 1], masked, counts)

    in_blocks(len(users), _TILE_USERS, count, task)
    return above


def best(
    users: Floats,
    items: ItemMatrix,
    k: int,
    masked_starts: Starts,
    masked: Codes,
    task: Task,
    product: Product | None = None,
) -> tuple[Codes, Floats]:
    """Find each user's k best items, best first.

    Parameters
    ----------
    users, items, masked_starts, masked, task, product
        As in `count_above`.
    k
        At least 1, at most the number of items.

    Returns
    -------
    found
        Shape ``(u, k)``, -1 where fewer than k items are left.
    scores
        Canonical scores, rounded to float32; ``-inf`` at -1.

    Raises
    ------
    InputError
        If a user's vector is not finite or of another size, or scores may overflow.
    """
    product = product or fastest(len(users), items.dim, few=True)
    users, lengths = checked_users(users, items)
    found = np.full((len(users), k), -1, dtype=np.int32)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    zero = lengths * items.longest == 0.0
    right = items.operand(product)
    room = min(len(items), k + max(k, _MORE))
    most = 1 << (product.bits - 1)

    def collect(block: slice) -> None:
        wide, hidden = users[block].astype(np.float64), masked_starts[block.start : block.stop + 1]
        n = len(wide)
        left = operand(users[block], lengths[block], product, is_user=True)
        errors = error_bounds(left, right)
        counts = np.zeros(n, dtype=np.int64)
        floors = np.where(zero[block], most - 1, 1 - most)
        kept, kept_keys = np.empty((n, room), dtype=np.int32), np.empty((n, room), dtype=np.int32)
        known = (wide, items.vectors, items.ties, k, errors)
        for first, tile in _tiles(left, right):
            kernels.collect_tile(tile, first, *known, hidden, masked, floors, counts, kept, kept_keys)
        kernels.finish_lists(*known, counts, kept, kept_keys, product.bits, found[block], scores[block])

    in_blocks(len(users), min(_TILE_USERS, max(1, _COLLECTED // room)), collect, task)
    if zero.any():
        kernels.fill_by_tie(np.flatnonzero(zero), items.by_tie, masked_starts, masked, found, scores)
    return found, scores


def _tiles(left: Operand, right: Operand) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    width = max(_TILE_ITEMS, _TILE_SCORES // len(left.matrix) // 64 * 64)
    return tiles(left.matrix, right.matrix, width)


def checked_users(users: Floats, items: ItemMatrix) -> tuple[Floats, Doubles]:
    """Return user vectors padded like the items', and their lengths.

    Raises
    ------
    InputError
        If a vector is not finite or of another size than the items', or scores may overflow.
    """
    if users.ndim != 2 or users.shape[1] != items.dim:
        raise InputError(f"User vectors of shape {users.shape} do not fit items of {items.dim} dimensions.")
    padded = _padded(users)
    lengths = _lengths(padded, "A user")
    longest = lengths.max(initial=0.0)
    # No partial sum of a product is larger.
    if max(longest, items.longest, longest * items.longest) > _HUGE:
        raise InputError("User and item vectors are so large that their scores overflow.", _DIVERGED)
    return padded, lengths


def _lengths(padded: Floats, whose: str) -> Doubles:
    lengths: Doubles = kernels.norms(padded)
    if not np.isfinite(lengths).all():
        raise InputError(f"{whose} vector holds NaN or infinite numbers.", _DIVERGED)
    return lengths


def _padded(vectors: npt.NDArray[np.floating[Any]]) -> Floats:
    """Vectors as float32 in one piece, with zeros up to a multiple of the lanes."""
    n, dim = vectors.shape
    if dim % LANES == 0:
        return np.ascontiguousarray(vectors, dtype=np.float32)
    padded = np.zeros((n, dim + LANES - dim % LANES), dtype=np.float32)
    padded[:, :dim] = vectors
    return padded
