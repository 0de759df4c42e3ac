"""Users and non-users of items, drawn for learning tasks of which each is an item."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prismrec.data.interactions import Pairs


@dataclass(frozen=True)
class Visits:
    """A mini-batch of each of some items: users who touched it and users who did not.

    Parameters
    ----------
    users
        User codes, shape ``(n, k)``.
    labels
        1 for users of the item, 0 for others, shape ``(n, k)``.
    weights
        They add up to 1 for each item, to less where no non-user was found; 0 for places that are not used,
        shape ``(n, k)``.
    """

    users: Tensor
    labels: Tensor
    weights: Tensor


class Visitors(nn.Module):
    """Draws users and non-users of items. Needed in training alone, so no part of the model's state."""

    active: Tensor
    starts: Tensor
    users: Tensor
    gaps: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("active", "starts", "users", "gaps"):
            self.register_buffer(name, torch.zeros(0, dtype=torch.int64), persistent=False)

    def fit(self, pairs: Pairs, n_items: int) -> None:
        """List each item's users, as places among the users that have any pair."""
        active, places = np.unique(pairs.users, return_inverse=True)
        order = np.lexsort((places, pairs.items))
        sizes = np.bincount(pairs.items, minlength=n_items)
        starts = np.concatenate(([0], np.cumsum(sizes)))
        users, items = places[order].astype(np.int64), pairs.items[order].astype(np.int64)
        self.active = torch.from_numpy(active.astype(np.int64))
        self.starts = torch.from_numpy(starts.astype(np.int64))
        self.users = torch.from_numpy(users)
        # For each user of an item, how many non-users come before; ascending over all items.
        before = users - (np.arange(len(users)) - starts[items])
        self.gaps = torch.from_numpy(items * (len(active) + 1) + before)

    def draw(self, items: Tensor, samples: int, odds: Tensor) -> tuple[Visits, Visits]:
        """Draw two mini-batches for each item that have no user in common.

        Parameters
        ----------
        items
            Codes of items with two users or more, shape ``(n,)``.
        samples
            Users of a mini-batch, half of them the item's; an item with fewer users gets fewer of both.
        odds
            What users of an item weigh together, relative to non-users, shape ``(n,)``.
        """
        sizes = self.starts[items + 1] - self.starts[items]
        half = (sizes // 2).clamp_max(samples // 2)
        width = 2 * int(half.max())
        inside = torch.arange(width, device=items.device) < 2 * half.unsqueeze(1)
        liked = self._some_users(items, sizes, inside)
        others, found = self._some_others(items, sizes, inside)
        shares = torch.stack([odds, torch.ones_like(odds)], dim=1) / (1.0 + odds).unsqueeze(1)
        batches = []
        # Even and odd places, so that an item with few users fills both alike.
        for part in (slice(0, None, 2), slice(1, None, 2)):
            users = torch.cat([liked[:, part], others[:, part]], dim=1)
            used = torch.stack([inside[:, part], found[:, part]], dim=1).float()
            weights = used * (shares.unsqueeze(2) / used.sum(dim=2, keepdim=True).clamp_min(1.0))
            labels = torch.zeros_like(used)
            labels[:, 0] = 1.0
            batches.append(Visits(self.active[users], labels.flatten(1), weights.flatten(1)))
        return batches[0], batches[1]

    def _some_users(self, items: Tensor, sizes: Tensor, inside: Tensor) -> Tensor:
        """Return distinct users of each item at random, as many as `inside` has room for."""
        which = torch.arange(len(items), device=items.device).repeat_interleave(sizes)
        begins = sizes.cumsum(0) - sizes
        place = torch.arange(len(which), device=items.device) - begins[which]
        # A shuffle of all, brought into the order of the items again, is a shuffle of each.
        mixed = torch.randperm(len(which), device=items.device)
        mixed = mixed[which[mixed].argsort(stable=True)]
        columns = torch.arange(inside.shape[1], device=items.device)
        taken = mixed[(begins.unsqueeze(1) + columns).clamp_max(len(mixed) - 1)]
        users = self.users[self.starts[items][which[taken]] + place[taken]]
        return torch.where(inside, users, 0)

    def _some_others(self, items: Tensor, sizes: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return non-users of each item at random, and which of the places hold one.

        A non-user that is drawn again counts once, so that those that are left are distinct.
        """
        n_others = (len(self.active) - sizes).unsqueeze(1)
        ranks = (torch.rand(inside.shape, dtype=torch.float64, device=items.device) * n_others).long()
        ranks = ranks.clamp_max((n_others - 1).clamp_min(0))
        again = (ranks.unsqueeze(2) == ranks.unsqueeze(1)).tril(-1).any(dim=2)
        # The rank-th non-user stands behind all the item's users that have at most so many before them.
        keys = items.unsqueeze(1) * (len(self.active) + 1) + ranks
        behind = torch.searchsorted(self.gaps, keys, right=True) - self.starts[items].unsqueeze(1)
        found = inside & (n_others > 0) & ~again
        return torch.where(found, ranks + behind, 0), found
