"""The training pairs as edges that each have a weight of their own, which may be learnt: attention."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from prismrec.data.interactions import Pairs

# Edges whose two ends are copied side by side at a time.
_BLOCK = 1 << 16


class Side(NamedTuple):
    """The edges as the nodes of one side receive them.

    Parameters
    ----------
    starts
        Where the edges of each receiver begin, shape ``(receivers + 1,)``.
    senders
        Other end of each edge, receiver by receiver, shape ``(edges,)``.
    edges
        Which edge that is, shape ``(edges,)``.
    receivers
        Receiver of each edge in the order of the edges, shape ``(edges,)``.
    """

    starts: Tensor
    senders: Tensor
    edges: Tensor
    receivers: Tensor


class Edges(nn.Module):
    """Edges between users and items, in order of users and then items.

    Whatever adds up over the edges of a node gathers them in a fixed order, so that it is the same in every
    run, on a GPU too. Vectors are held for a block of edges at most, and nothing is of the size of users by
    items. What is computed here can be differentiated once.

    Parameters
    ----------
    n_users, n_items
        Numbers of nodes. There are no edges until `fit`.
    """

    users: Tensor
    items: Tensor
    user_starts: Tensor
    item_starts: Tensor
    senders: Tensor
    by_user: Tensor
    by_item: Tensor
    user_shares: Tensor
    item_shares: Tensor

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_users, self.n_items = n_users, n_items
        for name in ("users", "items"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64))
        # The rest follows from these two, so it is not saved.
        for name in ("user_starts", "item_starts", "senders", "by_user", "by_item"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)
        for name in ("user_shares", "item_shares"):
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self._derive()

    def __len__(self) -> int:
        return len(self.users)

    def fit(self, pairs: Pairs) -> None:
        """Take the pairs as edges, in place of those that there are."""
        starts, items = pairs.by_user(self.n_users)
        users = torch.repeat_interleave(torch.arange(self.n_users), torch.from_numpy(starts).diff())
        self.users = users.to(self.users.device)
        self.items = torch.from_numpy(items).to(self.items)
        self._derive()

    @property
    def known_users(self) -> Tensor:
        """Which users have edges, bool, shape ``(n_users,)``."""
        return self.user_starts.diff() > 0

    @property
    def known_items(self) -> Tensor:
        """Which items have edges, bool, shape ``(n_items,)``."""
        return self.item_starts.diff() > 0

    def dots(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the dot product of both ends of each edge.

        Parameters
        ----------
        users, items
            Shape ``(n_users, d)`` and ``(n_items, d)``.

        Returns
        -------
        Tensor
            Shape ``(edges,)``.
        """
        users, items = _of_one_kind(users, items)
        found: Tensor = _Dots.apply(users, items, *self._sides())  # type: ignore[no-untyped-call]
        return found

    def softmax_by_user(self, logits: Tensor) -> Tensor:
        """Return the softmax over the edges of each user, from and to shape ``(edges,)``."""
        found: Tensor = _Softmax.apply(logits, self._sides()[0])  # type: ignore[no-untyped-call]
        return found

    def softmax_by_item(self, logits: Tensor) -> Tensor:
        """Return the softmax over the edges of each item, from and to shape ``(edges,)``."""
        found: Tensor = _Softmax.apply(logits, self._sides()[1])  # type: ignore[no-untyped-call]
        return found

    def to_users(self, items: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the items of each user; zeros for users without edges.

        Parameters
        ----------
        items
            Shape ``(n_items, d)``.
        weights
            Of the edges, shape ``(edges,)``. Both get gradients.

        Returns
        -------
        Tensor
            Shape ``(n_users, d)``.
        """
        to_users, to_items = self._sides()
        items, weights = _of_one_kind(items, weights)
        found: Tensor = _Sum.apply(items, weights, to_users, to_items)  # type: ignore[no-untyped-call]
        return found

    def to_items(self, users: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the users of each item, as `to_users`, shape ``(n_items, d)``."""
        to_users, to_items = self._sides()
        users, weights = _of_one_kind(users, weights)
        found: Tensor = _Sum.apply(users, weights, to_items, to_users)  # type: ignore[no-untyped-call]
        return found

    def mean_to_users(self, items: Tensor) -> Tensor:
        """Return the mean of the items of each user, ``(n_users, d)``; zeros for users without edges."""
        return self.to_users(items, self.user_shares)

    def mean_to_items(self, users: Tensor) -> Tensor:
        """Return the mean of the users of each item, ``(n_items, d)``; zeros for items without edges."""
        return self.to_items(users, self.item_shares)

    def _sides(self) -> tuple[Side, Side]:
        to_users = Side(self.user_starts, self.items, self.by_user, self.users)
        return to_users, Side(self.item_starts, self.senders, self.by_item, self.items)

    def _derive(self) -> None:
        """Order the edges by item, and count."""
        of_user = torch.bincount(self.users, minlength=self.n_users)
        of_item = torch.bincount(self.items, minlength=self.n_items)
        self.user_starts, self.item_starts = (functional.pad(n.cumsum(0), (1, 0)) for n in (of_user, of_item))
        self.by_user = torch.arange(len(self.users), device=self.users.device)
        self.by_item = torch.argsort(self.items, stable=True)
        self.senders = self.users[self.by_item]
        self.user_shares = of_user[self.users].to(self.user_shares.dtype).reciprocal()
        self.item_shares = of_item[self.items].to(self.item_shares.dtype).reciprocal()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """Load edges whose number is known only now."""
        for name in ("users", "items"):
            given = state_dict.get(prefix + name)
            if given is not None:
                setattr(self, name, getattr(self, name).new_empty(given.shape))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if missing_keys or error_msgs:
            return
        if self._is_whole():
            self._derive()
        else:
            error_msgs.append(f"{prefix}users and items are not the edges of one graph.")

    def _is_whole(self) -> bool:
        if self.users.ndim != 1 or self.users.shape != self.items.shape:
            return False
        for codes, count in ((self.users, self.n_users), (self.items, self.n_items)):
            if bool(((codes < 0) | (codes >= count)).any()):
                return False
        return not bool((self.users.diff() < 0).any())


def _of_one_kind(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Bring both to one precision, float32 at least: sums over many edges need it."""
    kind = torch.promote_types(torch.promote_types(one.dtype, other.dtype), torch.float32)
    return one.to(kind), other.to(kind)


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, to_users: Side, to_items: Side) -> Tensor:
        ctx.save_for_backward(users, items)
        ctx.sides = to_users, to_items
        return _products(users, to_users.receivers, items, to_items.receivers)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        users, items = ctx.saved_tensors
        to_users, to_items = ctx.sides
        wanted = ctx.needs_input_grad
        of_users = _gathered(items, gradient, to_users) if wanted[0] else None
        of_items = _gathered(users, gradient, to_items) if wanted[1] else None
        return of_users, of_items, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, ahead: Side, back: Side) -> Tensor:
        ctx.save_for_backward(values, weights)
        ctx.sides = ahead, back
        return _gathered(values, weights, ahead)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, weights = ctx.saved_tensors
        ahead, back = ctx.sides
        wanted = ctx.needs_input_grad
        of_values = _gathered(gradient, weights, back) if wanted[0] else None
        of_weights = _products(gradient, ahead.receivers, values, back.receivers) if wanted[1] else None
        return of_values, of_weights, None, None


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, side: Side) -> Tensor:
        # Less the largest of its node, no logit is above 0, so that nothing overflows.
        tops = logits.new_zeros(len(side.starts) - 1)
        tops.scatter_reduce_(0, side.receivers, logits, "amax", include_self=False)
        powers = (logits - tops[side.receivers]).exp()
        shares = powers / _totals(powers, side)[side.receivers]
        ctx.save_for_backward(shares)
        ctx.side = side
        return shares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (shares,) = ctx.saved_tensors
        weighed = shares * gradient
        return weighed - shares * _totals(weighed, ctx.side)[ctx.side.receivers], None


def _gathered(values: Tensor, weights: Tensor, side: Side) -> Tensor:
    """Add up the senders' vectors by receiver, weighted."""
    if len(side.senders) == 0:
        return values.new_zeros(len(side.starts) - 1, values.shape[1])
    return functional.embedding_bag(
        side.senders,
        values.contiguous(),
        side.starts[:-1],
        mode="sum",
        per_sample_weights=weights[side.edges],
    )


def _totals(numbers: Tensor, side: Side) -> Tensor:
    """Add up numbers of edges by receiver."""
    if len(side.edges) == 0:
        return numbers.new_zeros(len(side.starts) - 1)
    column = numbers.contiguous().unsqueeze(1)
    return functional.embedding_bag(side.edges, column, side.starts[:-1], mode="sum").squeeze(1)


def _products(one: Tensor, rows: Tensor, other: Tensor, columns: Tensor) -> Tensor:
    """Multiply chosen rows of two tables."""
    found = one.new_empty(len(rows))
    for first in range(0, len(rows), _BLOCK):
        some = slice(first, first + _BLOCK)
        found[some] = (one[rows[some]] * other[columns[some]]).sum(dim=1)
    return found
