"""Training items tied to those that are alike by vectors that are learnt, with gradients to these vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prismrec.models.layers.nearest import NearestItems
from prismrec.models.layers.pair_scores import pair_scores


@dataclass(frozen=True)
class LearnedGraph:
    """Edges from each training item to its nearest ones in each modality, made by `LearnedGraph.of`.

    An edge from i to j weighs ``w_ij / sqrt(r_i r_j)``: w the sum over the modalities of the item's share
    times the cosine, where j is among the k nearest of i in the modality, r the sum of an item's w. Cosines
    of 0 and less make no edge. Which items are near is found exactly and without gradient; their cosines are
    then computed again with gradient, at these k places alone, so a matrix of all items against all is never
    made. A cold item is no node: it listens to its k nearest training items and nobody listens to it.

    J. Zhang, Y. Zhu, Q. Liu, S. Wu, S. Wang, L. Wang: Mining Latent Structures for Multimedia Recommendation,
    ACM MM 2021, arXiv 2104.09036.

    Parameters
    ----------
    targets
        Neighbours modality by modality, int64, shape ``(n_items, m)``.
    weights
        Of these edges, same shape; 0 where there is none.
    degrees
        r, shape ``(n_items,)``; 1 for items without edges.
    units
        Vectors of unit length, one tensor a modality, shape ``(n_items, dim)``; 0 for all but nodes.
    nodes
        Which training items have which modality, bool, shape ``(n_items, modalities)``.
    k
        Neighbours in each modality, a training item itself among its own.
    searches
        One for each modality, for what is asked later.
    """

    targets: Tensor
    weights: Tensor
    degrees: Tensor
    units: tuple[Tensor, ...]
    nodes: Tensor
    k: int
    searches: tuple[NearestItems, ...]

    @staticmethod
    def of(vectors: Sequence[Tensor], nodes: Tensor, shares: Tensor, k: int) -> "LearnedGraph":
        """Find neighbours and weigh them.

        Parameters
        ----------
        vectors
            One tensor a modality, shape ``(n_items, dim)``.
        nodes, k
            As above.
        shares
            Weight of each modality for each item, 0 where it is missing, shape ``(n_items, modalities)``.
        """
        units, searches, targets, weights = [], [], [], []
        for place, own in enumerate(vectors):
            there = nodes[:, place]
            # A search keeps what it laid out as long as it is given the same tensor, so each has its own.
            units.append(torch.where(there.unsqueeze(1), functional.normalize(own.float(), dim=1), 0.0))
            searches.append(NearestItems())
            found, cosines = _among_nodes(units[place], there, k, searches[place])
            targets.append(found)
            weights.append(shares[:, place : place + 1] * cosines)
        aims, raw = torch.cat(targets, dim=1), torch.cat(weights, dim=1)
        total = raw.sum(dim=1)
        degrees = torch.where(total > 0, total, 1.0)
        normalised = raw / (degrees.unsqueeze(1) * degrees[aims]).sqrt()
        return LearnedGraph(aims, normalised, degrees, tuple(units), nodes, k, tuple(searches))

    def __call__(self, sent: Tensor) -> Tensor:
        """Return what training items receive, shape ``(n_items, d)`` as `sent`; 0 for the others."""
        return _gathered(self.targets, sent, self.weights)

    def received_by(self, vectors: Sequence[Tensor], present: Tensor, shares: Tensor, sent: Tensor) -> Tensor:
        """Return what items that are no nodes receive.

        Parameters
        ----------
        vectors
            Theirs, one tensor a modality, shape ``(n, dim)``.
        present
            Which of them there are, bool, shape ``(n, modalities)``.
        shares
            Weight of each modality for each of them, 0 where it is missing, same shape.
        sent
            What the training items send, shape ``(n_items, d)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``; 0 for items without content, and those that are like no training item.
        """
        targets, weights = [], []
        for place, own in enumerate(vectors):
            there = present[:, place : place + 1]
            asked = torch.where(there, functional.normalize(own.float(), dim=1), 0.0)
            search, table = self.searches[place], self.units[place]
            found, near = search(asked, table, self.nodes[:, place], self.k)
            found, near = found.to(table.device), near.to(table.device)
            targets.append(found)
            weights.append(shares[:, place : place + 1] * _cosines(asked, table, found, near))
        aims, raw = torch.cat(targets, dim=1), torch.cat(weights, dim=1)
        total = raw.sum(dim=1, keepdim=True)
        degrees = torch.where(total > 0, total, 1.0)
        return _gathered(aims, sent, raw / (degrees * self.degrees[aims]).sqrt())


def _among_nodes(units: Tensor, nodes: Tensor, k: int, search: NearestItems) -> tuple[Tensor, Tensor]:
    """Nearest nodes of each node, itself first, and the cosines; rows of other items have weights of 0."""
    codes = torch.nonzero(nodes)[:, 0]
    own = np.arange(len(codes), dtype=np.int32)
    found, near = search(units[codes], units, nodes, min(k, len(codes)) - 1, own)
    found, near = found.to(units.device), near.to(units.device)
    cosines = torch.cat(
        [units.new_ones(len(codes), 1), _cosines(units[codes], units, found, near)],
        dim=1,
    )
    targets = torch.zeros(len(units), cosines.shape[1], dtype=torch.int64, device=units.device)
    targets[codes] = torch.cat([codes.unsqueeze(1), found], dim=1)
    return targets, torch.zeros_like(targets, dtype=cosines.dtype).index_copy(0, codes, cosines)


def _cosines(asked: Tensor, table: Tensor, found: Tensor, near: Tensor) -> Tensor:
    """Compute again with gradient what a search found, shape ``(n, k)``."""
    if found.numel() == 0:
        return asked.new_zeros(found.shape)
    return torch.where(near > 0, pair_scores(asked, table, found), 0.0).clamp_min(0.0)


def _gathered(targets: Tensor, sent: Tensor, weights: Tensor) -> Tensor:
    if targets.numel() == 0:
        return sent.new_zeros(len(targets), sent.shape[1])
    # Of an item without edges only the first one is read, with weight 0.
    return functional.embedding_bag(targets, sent, mode="sum", per_sample_weights=weights.to(sent.dtype))
