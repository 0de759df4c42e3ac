"""SASRec: self-attention over what a user took, in its order, predicts what comes next.

W.-C. Kang, J. McAuley: Self-Attentive Sequential Recommendation, ICDM 2018, arXiv 1808.09781. The softmax
over all items as a loss is that of A. Klenitskiy, A. Vasilev: Turning Dross Into Gold Loss: is BERT4Rec
really better than SASRec?, RecSys 2023, arXiv 2309.07602. It knows items by their interactions alone, so it
says nothing of an item that nobody has touched.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.base import GradientModel, ModelConfig, Preset
from prismrec.models.batches import Batch, ItemBatch, ModelInputs, TrainingData, UserBatch
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.plan import TrainingPlan

# Users whose states are computed at a time: more would not be faster and take more memory.
_BLOCK = 1024
# Of the released code; torch's own would be larger than the variance of embeddings at the start.
_EPSILON = 1e-8
_HISTORY = "histories.items"


class SASRecConfig(ModelConfig):
    """Hyper-parameters of SASRec."""

    name: ClassVar[str] = "sasrec"
    summary: ClassVar[str] = "Self-attention over a user's items in their order (ICDM 2018); warm items only."
    recommends_cold_items: ClassVar[bool] = False
    uses_content: ClassVar[bool] = False
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(64, ge=1, le=4096, description="Size of an item's embedding and of a state.")
    max_length: int = Field(
        50,
        ge=1,
        le=10_000,
        description="A user's latest items that are read; earlier ones are not looked at.",
    )
    blocks: int = Field(2, ge=1, le=64, description="Blocks of self-attention, one on top of the other.")
    heads: int = Field(
        1, ge=1, le=256, description="Attention heads of a block; 'dim' is divided among them."
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of the embeddings, attention weights and hidden units dropped."
    )
    loss: Literal["softmax", "bce"] = Field(
        "softmax",
        description="'softmax': the next item among all training items. 'bce': as published, a yes or no for "
        "the next item and for one drawn item that the user has not touched.",
    )
    block: Literal["paper", "released"] = Field(
        "paper",
        description="'paper': x + f(norm(x)). 'released': norm(x) + f(norm(x)), and keys and values of "
        "attention are not normalised.",
    )
    init: float = Field(0.02, gt=0, description="Standard deviation of the embeddings at the start.")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"'dim' ({self.dim}) cannot be divided among {self.heads} 'heads'")
        return self

    def build(self, inputs: ModelInputs) -> "SASRec":
        """Make an untrained model."""
        return SASRec(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``default``, ``as_published`` and ``as_published_ml1m``."""
        plan = TrainingPlan(sampling="users", batch_size=128, epochs=200, patience=10)
        sparse = cls(dim=50, dropout=0.5, loss="bce", block="released")
        dense = sparse.model_copy(update={"dropout": 0.2, "max_length": 200})
        return {
            "default": Preset(cls(), plan, "Softmax over all training items (Klenitskiy and Vasilev, 2023)."),
            "as_published": Preset(sparse, plan, "Loss and settings of the paper for Amazon and Steam."),
            "as_published_ml1m": Preset(dense, plan, "Loss and settings of the paper for MovieLens 1M."),
        }


class SASRec(GradientModel):
    """The model: ``s(u, i) = h_u . e_i``, h_u the last state over the user's training items, oldest first.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes; modalities are not used.
    """

    is_trained: Tensor

    def __init__(self, config: SASRecConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        self.config: SASRecConfig = config
        self.items = nn.Parameter(torch.randn(inputs.n_items, config.dim) * config.init)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.dim) * config.init)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.dim, eps=_EPSILON)
        self.histories = _Histories(inputs.n_users)
        self.register_buffer("is_trained", torch.zeros(inputs.n_items, dtype=torch.bool))

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take over each user's latest items, and set rows of items without interactions to 0.

        Raises
        ------
        InputError
            If the training pairs have no order.
        """
        del score
        self.histories.fit(data, self.config.max_length + 1)
        self.is_trained.zero_()
        self.is_trained[torch.from_numpy(data.warm.astype(np.int64)).to(self.is_trained.device)] = True
        self.items.mul_(self.is_trained.unsqueeze(1))
        sizes = np.bincount(data.pairs.users, minlength=data.inputs.n_users)
        # What a user of one item says of the next is nothing, and what is cut off is not read.
        return {
            "users of one item": float((sizes == 1).sum()),
            "users cut off": float((sizes > self.config.max_length + 1).sum()),
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` returned; histories are as long as the data made them."""
        if _HISTORY in state:
            self.histories.items = self.histories.items.new_zeros(state[_HISTORY].shape)
        super().load_state(state)

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the last states over users' training items; 0 for users without any."""
        found = [
            self.sequence_vectors(self.histories.latest(some, self.config.max_length))
            for some in torch.split(users, _BLOCK)
        ]
        return torch.cat([self.items.new_zeros(0, self.config.dim), *found])

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return the embeddings; 0 for items that came later."""
        return rows_or_zero(self.items, items.codes)

    def sequence_vectors(self, sequences: Tensor) -> Tensor:
        """Return the vectors of users with given histories, known users or not.

        Parameters
        ----------
        sequences
            Item codes, oldest first, shape ``(b, length)`` with any length; -1 fills up at the left. Items
            that training did not show are left out, wherever they stand, and so is what is older than the
            latest `max_length` of the others.

        Returns
        -------
        Tensor
            Shape ``(b, dim)``; their products with items' vectors are scores. 0 where nothing is left.
        """
        known = (sequences >= 0) & self.is_trained[sequences.clamp_min(0)]
        places = known.to(torch.uint8).sort(dim=1, stable=True).indices
        closed = torch.where(known, sequences, -1).gather(1, places)
        longest = int(known.sum(dim=1).max()) if known.numel() else 0
        if longest == 0:
            return self.items.new_zeros(len(sequences), self.config.dim)
        closed = closed[:, -min(longest, self.config.max_length) :]
        return self.states(closed)[:, -1] * (closed[:, -1:] >= 0)

    def states(self, sequences: Tensor) -> Tensor:
        """Return the state after each item of some sequences; later items do not enter it.

        Parameters
        ----------
        sequences
            Codes of training items, oldest first, shape ``(b, length)``, length at most `max_length`; -1
            fills up at the left.

        Returns
        -------
        Tensor
            Shape ``(b, length, dim)``; what stands where nothing but padding came means nothing.
        """
        length = sequences.shape[1]
        known = sequences >= 0
        table = rows_or_zero(self.items, sequences.flatten()).view(*sequences.shape, -1)
        # Counted from the end: the latest item is always at the last position.
        found = table * self.config.dim**0.5 + self.positions[self.config.max_length - length :]
        found = functional.dropout(found, self.config.dropout, self.training)
        earlier = torch.ones(length, length, dtype=torch.bool, device=sequences.device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=sequences.device)
        # Padding sees itself, as a softmax over nothing would not be a number; nothing else sees padding.
        seen = (earlier & (known.unsqueeze(1) | itself)).unsqueeze(1)
        for block in self.blocks:
            found = block(found, seen)
        states: Tensor = self.norm(found)
        return states

    @torch.no_grad()
    def fold_in(self, liked: Tensor, catalog: Tensor, history: Tensor) -> Tensor | None:
        """Return the last state over the items in the order in which they are given, oldest first."""
        del liked, catalog
        codes = torch.nonzero(self.is_trained)[:, 0][history[history >= 0]]
        return self.sequence_vectors(codes.unsqueeze(0))[0] if len(codes) else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the term ``rank``: the mean over all items that follow another one.

        Raises
        ------
        InputError
            If the batch holds triplets.
        """
        if not isinstance(batch, UserBatch):
            raise InputError("SASRec is trained on whole users.", "Set sampling='users'.")
        window = self.histories.latest(batch.users, self.config.max_length + 1)
        known = window[:, :-1] >= 0
        states = self.states(window[:, :-1])[known]
        targets = window[:, 1:][known]
        if self.config.loss == "softmax":
            scores = (states @ self.items[batch.items.codes].T).float()
            each = functional.cross_entropy(
                scores, torch.searchsorted(batch.items.codes, targets), reduction="none"
            )
        else:
            each = self._yes_and_no(batch, states, targets, torch.nonzero(known)[:, 0])
        return {"rank": each.sum() / max(1, len(each))}

    def _yes_and_no(self, batch: UserBatch, states: Tensor, targets: Tensor, users: Tensor) -> Tensor:
        """Binary cross-entropy of the next item and of a drawn one, shape ``(n,)``."""
        drawn, there = untouched(batch, users)
        positive = (states * self.items[targets]).sum(dim=1)
        negative = (states * self.items[batch.items.codes[drawn]]).sum(dim=1)
        return functional.softplus(-positive) + functional.softplus(negative) * there


class _Block(nn.Module):
    """Causal self-attention, then two layers on each state, each beside a short cut (section III)."""

    def __init__(self, config: SASRecConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config = config
        self.attention_norm = nn.LayerNorm(dim, eps=_EPSILON)
        # No biases, as in the paper: that of the keys would change nothing in any softmax.
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.layers_norm = nn.LayerNorm(dim, eps=_EPSILON)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        for layer in (self.query, self.key, self.value, self.inner, self.outer):
            nn.init.xavier_uniform_(layer.weight)
        for layer in (self.inner, self.outer):
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor, seen: Tensor) -> Tensor:
        released = self.config.block == "released"
        normed = self.attention_norm(states)
        states = (normed if released else states) + self._attend(normed, states if released else normed, seen)
        normed = self.layers_norm(states)
        hidden = self._dropped(torch.relu(self.inner(normed)))
        return (normed if released else states) + self._dropped(self.outer(hidden))

    def _attend(self, asking: Tensor, asked: Tensor, seen: Tensor) -> Tensor:
        parts = (self.query(asking), self.key(asked), self.value(asked))
        query, key, value = (part.unflatten(2, (self.config.heads, -1)).transpose(1, 2) for part in parts)
        rate = self.config.dropout if self.training else 0.0
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=rate)
        return found.transpose(1, 2).flatten(2)

    def _dropped(self, hidden: Tensor) -> Tensor:
        return functional.dropout(hidden, self.config.dropout, self.training)


class _Histories(nn.Module):
    """The latest training items of each user, oldest first, saved with the model."""

    starts: Tensor
    items: Tensor

    def __init__(self, n_users: int) -> None:
        super().__init__()
        self.register_buffer("starts", torch.zeros(n_users + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int32))

    def fit(self, data: TrainingData, most: int) -> None:
        """Take over so many of each user's latest training items; where times are equal, by code."""
        if data.order is None:
            raise InputError(
                "SASRec reads the items of a user in their order, and the interactions have neither a "
                "timestamp nor a position.",
                "Map a column to 'timestamp' or 'position' at ingest, or choose a model that needs no order.",
            )
        lacking = int(np.isnan(data.order).sum())
        if lacking:
            raise InputError(
                f"SASRec reads the items of a user in their order, and {lacking:,} of {len(data.pairs):,} "
                "training pairs have none.",
                "Fill the column that is mapped to 'timestamp' or 'position', or leave those rows out.",
            )
        users, n_users = data.pairs.users, data.inputs.n_users
        queue = np.lexsort((data.pairs.items, data.order, users))
        sizes = np.bincount(users, minlength=n_users)
        ends = np.cumsum(sizes)
        kept = np.arange(len(users)) >= np.repeat(ends - most, sizes)
        starts = np.concatenate(([0], np.cumsum(np.minimum(sizes, most))))
        device = self.starts.device
        self.starts = torch.from_numpy(starts).to(device)
        self.items = torch.from_numpy(data.pairs.items[queue[kept]].astype(np.int32)).to(device)

    def latest(self, users: Tensor, most: int) -> Tensor:
        """Return users' latest items, oldest first, at most so many, -1 before them.

        Parameters
        ----------
        users
            Codes, shape ``(b,)``; those below 0 have no items.
        most
            Items of a user.

        Returns
        -------
        Tensor
            Int64, shape ``(b, length)``: as long as the longest of them needs, but at least 2, so that there
            is always something before something.
        """
        known = users.clamp_min(0)
        ends = self.starts[known + 1]
        sizes = ((ends - self.starts[known]) * (users >= 0)).clamp_max(most)
        length = max(2, int(sizes.max())) if len(users) else 2
        back = torch.arange(length, 0, -1, device=users.device)
        there = back <= sizes.unsqueeze(1)
        if len(self.items) == 0:
            return torch.full_like(there, -1, dtype=torch.int64)
        places = (ends.unsqueeze(1) - back).clamp_min(0)
        return torch.where(there, self.items[places].long(), -1)


def untouched(batch: UserBatch, users: Tensor) -> tuple[Tensor, Tensor]:
    """Draw training items that users have not touched, each as likely; no draw is ever repeated.

    Parameters
    ----------
    batch
        Whole users.
    users
        Positions in the batch's users, one for each draw, shape ``(n,)``.

    Returns
    -------
    drawn
        Rows in the batch's items, shape ``(n,)``.
    there
        Whether there is such an item, shape ``(n,)``; where a user has touched all, what is drawn is not.
    """
    n_items = len(batch.items)
    sizes = torch.bincount(batch.rows, minlength=len(batch.users))
    starts = sizes.cumsum(0) - sizes
    keys = (batch.rows * n_items + batch.columns).sort().values
    rows, columns = keys // n_items, keys % n_items
    # A touched item has as many free ones before it as its place less the touched ones before it. So the free
    # item of rank r comes after the touched ones that have at most r free ones before them.
    free_before = columns - (torch.arange(len(rows), device=rows.device) - starts[rows])
    free = (n_items - sizes)[users]
    rank = torch.randint(1 << 62, users.shape, device=users.device) % free.clamp_min(1)
    width = n_items + 1
    touched = torch.searchsorted(rows * width + free_before, users * width + rank, right=True) - starts[users]
    return (rank + touched).clamp_max(n_items - 1), free > 0
