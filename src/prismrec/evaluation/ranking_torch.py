"""Ranks and lists computed by torch, on a GPU or wherever its tensors live.

The same definition of a score and the same proof as in `prismrec.base.exact`, so that results are equal to
the last place: a float32 product, and what its error bound leaves open summed again in float64 in the fixed
order. Only the loops differ: many items at a time instead of one.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from prismrec.base.exact import ItemMatrix, checked_users
from prismrec.base.exact_kernels import fill_by_tie
from prismrec.base.exact_products import Product, error_bounds, operand
from prismrec.base.lanes import LANES
from prismrec.base.progress import Task

if TYPE_CHECKING:
    from prismrec.evaluation.ranking import Rows

_TILE_USERS = 1024
_TILE_ITEMS = 16_384
# Numbers gathered at a time to be scored again.
_GATHERED = 1 << 26
# What a list keeps beyond its length until scores are exact.
_SPARE = 64


def count_above(
    users: npt.NDArray[np.float32],
    items: ItemMatrix,
    positives: "Rows",
    masked: "Rows",
    device: str,
    task: Task,
) -> npt.NDArray[np.int64]:
    """Count for each positive how many candidates are above it; -1 where it is itself masked.

    Parameters and errors as in `prismrec.evaluation.ranking.rank_positives`.
    """
    users, lengths = checked_users(users, items)
    vectors, right = torch.from_numpy(users).to(device), _Items(items, device)
    wanted = torch.from_numpy(positives.items).long().to(device)
    owner = _owners(positives, device)
    exact = _canonical(vectors, right.vectors, owner, wanted)
    above = torch.zeros(len(wanted), dtype=torch.int64, device=device)
    errors = torch.from_numpy(_bounds(users, lengths, items)).to(device)
    low, high = _round(exact - errors[owner]), _round(exact + errors[owner])
    for first in range(0, len(users), _TILE_USERS):
        block = slice(first, min(first + _TILE_USERS, len(users)))
        columns = list(_columns(positives, block))
        for start, scores in right.tiles(vectors[block]):
            for rows, places in columns:
                r, p = torch.from_numpy(rows).to(device), torch.from_numpy(places).to(device)
                mine = scores[r]
                certain = mine > high[p, None]
                above[p] += certain.sum(dim=1)
                row, column = torch.nonzero((mine >= low[p, None]) & ~certain, as_tuple=True)
                item, place = column + start, p[row]
                again = _canonical(vectors, right.vectors, r[row] + first, item)
                won = _is_above(again, right.ties[item], exact[place], right.ties[wanted[place]])
                above.index_add_(0, place, won.long())
        task.advance(block.stop - block.start)
    zero = torch.from_numpy(lengths * items.longest == 0.0).to(device)[owner]
    above[zero] = right.ties[wanted[zero]]
    _leave_out_masked(above, exact, vectors, right, positives, masked)
    return above.cpu().numpy()


def best(
    users: npt.NDArray[np.float32], items: ItemMatrix, k: int, masked: "Rows", device: str, task: Task
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Find each user's k best candidates; as `prismrec.evaluation.ranking.top_k`."""
    users, lengths = checked_users(users, items)
    vectors, right = torch.from_numpy(users).to(device), _Items(items, device)
    # Where all scores are zero the order of ties alone decides: nothing is in doubt.
    zero = lengths * items.longest == 0.0
    bounds = np.where(zero, -np.inf, _bounds(users, lengths, items))
    errors = torch.from_numpy(bounds).to(device)
    found = np.full((len(users), k), -1, dtype=np.int32)
    scores = np.full((len(users), k), -np.inf, dtype=np.float32)
    height = max(1, min(_TILE_USERS, _GATHERED // ((k + _SPARE) * users.shape[1])))
    for first in range(0, len(users), height):
        block = slice(first, min(first + height, len(users)))
        chosen, exact = _block_lists(vectors[block], right, k, masked, first, errors[block])
        found[block] = chosen.cpu().numpy()
        scores[block] = exact.float().cpu().numpy()
        task.advance(block.stop - block.start)
    fill_by_tie(np.flatnonzero(zero), items.by_tie, masked.starts, masked.items, found, scores)
    return found, scores


def _bounds(
    users: npt.NDArray[np.float32], lengths: npt.NDArray[np.float64], items: ItemMatrix
) -> npt.NDArray[np.float64]:
    product = Product.FLOAT32
    return error_bounds(operand(users, lengths, product, is_user=True), items.operand(product))


class _Items:
    """The candidates on a device."""

    def __init__(self, items: ItemMatrix, device: str) -> None:
        self.vectors = torch.from_numpy(items.vectors).to(device)
        self.ties = torch.from_numpy(items.ties).long().to(device)

    def __len__(self) -> int:
        return len(self.vectors)

    def tiles(self, users: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Rough scores of some users against some items at a time."""
        for start in range(0, len(self), _TILE_ITEMS):
            yield start, _product(users, self.vectors[start : start + _TILE_ITEMS])


def _product(users: Tensor, items: Tensor) -> Tensor:
    """Return the products in float32: the bound on their error does not hold for what a setting may allow."""
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        return users @ items.T
    finally:
        torch.set_float32_matmul_precision(allowed)


def _owners(rows: "Rows", device: str) -> Tensor:
    return torch.from_numpy(np.repeat(np.arange(len(rows.sizes)), rows.sizes)).to(device)


def _columns(rows: "Rows", block: slice) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Users of a block that have an n-th item, and its place, for n = 0, 1, ..."""
    sizes, starts = rows.sizes[block], rows.starts[block]
    for n in range(int(sizes.max(initial=0))):
        users = np.flatnonzero(sizes > n)
        yield users, starts[users] + n


def _canonical(users: Tensor, items: Tensor, user: Tensor, item: Tensor) -> Tensor:
    """Canonical scores of pairs (`prismrec.base.lanes.dot`), shape of `user`."""
    scores = torch.empty(len(user), dtype=torch.float64, device=users.device)
    step = max(1, _GATHERED // users.shape[1])
    for first in range(0, len(user), step):
        some = slice(first, first + step)
        left, right = users[user[some]].double(), items[item[some]].double()
        total = left[:, :LANES] * right[:, :LANES]
        for lane in range(LANES, users.shape[1], LANES):
            # Exact products: whether they are fused with the sum makes no difference.
            total = total + left[:, lane : lane + LANES] * right[:, lane : lane + LANES]
        half = LANES // 2
        while half:
            total = total[:, :half] + total[:, half:]
            half //= 2
        scores[some] = total[:, 0]
    return scores


def _round(thresholds: Tensor) -> Tensor:
    """Round as the scores are, which keeps the order."""
    return thresholds.float()


def _is_above(score: Tensor, tie: Tensor, other: Tensor, other_tie: Tensor) -> Tensor:
    return (score > other) | ((score == other) & (tie < other_tie))


def _leave_out_masked(
    above: Tensor, exact: Tensor, users: Tensor, items: _Items, positives: "Rows", masked: "Rows"
) -> None:
    """Take masked items out of the counts; a positive that is itself masked gets the count -1."""
    device = str(users.device)
    hidden = torch.from_numpy(masked.items).long().to(device)
    scores = _canonical(users, items.vectors, _owners(masked, device), hidden)
    wanted = torch.from_numpy(positives.items).long().to(device)
    out = torch.zeros(len(wanted), dtype=torch.bool, device=device)
    # Each masked item once.
    keys = _owners(masked, device) * len(items) + hidden
    once = torch.ones_like(keys, dtype=torch.bool)
    once[1:] = keys[1:] != keys[:-1]
    for rows, places in _columns(positives, slice(0, len(users))):
        p = torch.from_numpy(places).to(device)
        n = torch.from_numpy(masked.sizes[rows]).to(device)
        begin = torch.from_numpy(masked.starts[:-1][rows]).to(device)
        place = torch.repeat_interleave(p, n)
        inside = torch.arange(len(place), device=device) - torch.repeat_interleave(n.cumsum(0) - n, n)
        at = torch.repeat_interleave(begin, n) + inside
        item = hidden[at]
        won = _is_above(scores[at], items.ties[item], exact[place], items.ties[wanted[place]])
        above.index_add_(0, place, -(won & once[at]).long())
        out[place[item == wanted[place]]] = True
    above[out] = -1


def _block_lists(
    users: Tensor, items: _Items, k: int, masked: "Rows", first: int, errors: Tensor
) -> tuple[Tensor, Tensor]:
    """Make the lists of some users: the best by rough score and some more, in canonical order."""
    room = min(len(items), k + _SPARE)
    kept = torch.full((len(users), room), -torch.inf, device=users.device)
    place = torch.full((len(users), room), -1, dtype=torch.int64, device=users.device)
    rows, columns = _masked_pairs(masked, first, len(users), users.device)
    for start, scores in items.tiles(users):
        here = (columns >= start) & (columns < start + scores.shape[1])
        scores[rows[here], columns[here] - start] = -torch.inf
        joined = torch.cat((kept, scores), dim=1)
        at = torch.arange(start, start + scores.shape[1], device=users.device).expand(len(users), -1)
        kept, chosen = joined.topk(room, dim=1)
        place = torch.cat((place, at), dim=1).gather(1, chosen)
    order, exact = _in_order(users, items, place.masked_fill(torch.isneginf(kept), -1), k)
    # Complete if whatever was dropped is too low even with the largest error, or if nothing was dropped.
    complete = kept[:, -1].double() < kept[:, k - 1].double() - 2 * errors
    complete |= torch.isneginf(kept[:, -1]) | torch.tensor(room == len(items), device=users.device)
    for user in torch.nonzero(~complete)[:, 0].tolist():
        every = torch.arange(len(items), device=users.device)
        every[columns[rows == user]] = -1
        order[user], exact[user] = (x[0] for x in _in_order(users[user : user + 1], items, every[None], k))
    return order, exact


def _masked_pairs(masked: "Rows", first: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    starts = masked.starts[first : first + n + 1]
    rows = np.repeat(np.arange(n), np.diff(starts))
    columns = masked.items[starts[0] : starts[-1]].astype(np.int64)
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


def _in_order(users: Tensor, items: _Items, some: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k best of some items of each user (-1: none) and their canonical scores."""
    n, width = some.shape
    user = torch.arange(n, device=users.device).repeat_interleave(width)
    exact = _canonical(users, items.vectors, user, some.clamp(min=0).view(-1)).view(n, width)
    exact = exact.masked_fill(some < 0, -torch.inf)
    by_tie = torch.where(some < 0, len(items), items.ties[some.clamp(min=0)]).argsort(dim=1, stable=True)
    best_first = exact.gather(1, by_tie).argsort(dim=1, descending=True, stable=True)[:, :k]
    order = by_tie.gather(1, best_first)
    return some.gather(1, order), exact.gather(1, order)
