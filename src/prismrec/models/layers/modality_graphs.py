"""Training items tied to those that are alike in one modality, frozen, and where cold items come in."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.features.store import ItemFeatures
from prismrec.models.batches import ItemBatch, Modality
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.nearest import NearestItems
from prismrec.models.layers.sparse import SparseMatrix

_BLOCK = 8192
Weighting = Literal["cosine", "binary"]


class ModalityGraph(nn.Module):
    """The k nearest training items of each training item by the cosine of one modality, itself among them.

    An edge from i to j weighs ``w_ij / sqrt(r_i r_j)``: w their cosine or 1, r the sum of an item's w. With
    weights of 1 this is 1/k. Edges of a cosine of 0 or less are left out. An item without the modality has no
    edges, not even to itself, and is nobody's neighbour: nothing is known of it here. A cold item is no node;
    it listens to its k nearest training items and nobody listens to it.

    LATTICE (arXiv 2104.09036, equations 2 to 5), FREEDOM (arXiv 2211.06924, equations 1 to 3).

    Parameters
    ----------
    n_items
        Items of the vocabulary.
    dim
        Size of the modality's vectors.
    k
        Neighbours of an item; a training item is its own first one.
    weighting
        What an edge weighs before it is normalised.
    """

    units: Tensor
    nodes: Tensor
    degrees: Tensor

    def __init__(self, n_items: int, dim: int, k: int, weighting: Weighting) -> None:
        super().__init__()
        self.k, self.weighting = k, weighting
        self.register_buffer("units", torch.zeros(n_items, dim))
        self.register_buffer("nodes", torch.zeros(n_items, dtype=torch.bool))
        self.register_buffer("degrees", torch.ones(n_items))
        self.edges = SparseMatrix(n_items, n_items)
        self._nearest = NearestItems()

    @torch.no_grad()
    def fit(self, place: int, features: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        """Take the training items' vectors of the modality at a place and find their neighbours.

        Parameters
        ----------
        place
            Of the modality in `ItemBatch`.
        features
            Features of all items; rows of `warm` are read only.
        warm
            Codes of the training items, ascending.
        """
        device = self.units.device
        self.units.zero_()
        self.nodes.zero_()
        for first in range(0, len(warm), _BLOCK):
            items = item_batch(features, warm[first : first + _BLOCK])
            there = items.present[:, place]
            codes = items.codes[there].to(device)
            self.units[codes] = functional.normalize(items.vectors[place][there], dim=1).to(device)
            self.nodes[codes] = True
        codes = torch.nonzero(self.nodes)[:, 0].cpu()
        own = np.arange(len(codes), dtype=np.int32)
        found, cosines = self._nearest(
            self.units[codes.to(device)], self.units, self.nodes, min(self.k, len(codes)) - 1, own
        )
        sources = torch.cat([codes, codes.repeat_interleave(found.shape[1])])
        targets = torch.cat([codes, found.flatten()])
        weights = torch.cat([torch.ones(len(codes)), self._weights(cosines).flatten()])
        kept = weights > 0
        sources, targets, weights = sources[kept], targets[kept], weights[kept].double()
        degrees = torch.zeros(len(self.nodes), dtype=torch.float64).index_add_(0, sources, weights)
        self.degrees.copy_(torch.where(degrees > 0, degrees, 1.0))
        self.edges.fill(sources, targets, weights / (degrees[sources] * degrees[targets]).sqrt())

    def forward(self, vectors: Tensor) -> Tensor:
        """Return what training items receive, shape ``(n_items, d)`` as `vectors`; 0 for the others."""
        received: Tensor = self.edges(vectors)
        return received

    def received_by(self, contents: Tensor, present: Tensor, vectors: Tensor) -> Tensor:
        """Return what items that are no nodes receive.

        Parameters
        ----------
        contents
            Their vectors of the modality, shape ``(n, dim)``.
        present
            Which of them there are, bool, shape ``(n,)``.
        vectors
            What the training items send, shape ``(n_items, d)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``; 0 for items without the modality, and those that are like no training item.
        """
        asked = torch.where(present.unsqueeze(1), functional.normalize(contents, dim=1), 0.0)
        found, cosines = self._nearest(asked, self.units, self.nodes, self.k)
        if found.numel() == 0:
            return vectors.new_zeros(len(contents), vectors.shape[1])
        found, weights = found.to(vectors.device), self._weights(cosines).to(vectors.device, vectors.dtype)
        degrees = weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        weights = weights / (degrees * self.degrees[found]).sqrt()
        # Of an item without edges only the first one is read, with weight 0.
        return functional.embedding_bag(found, vectors, mode="sum", per_sample_weights=weights)

    def _weights(self, cosines: Tensor) -> Tensor:
        return cosines if self.weighting == "cosine" else (cosines > 0).to(cosines.dtype)


class ModalityGraphs(nn.Module):
    """Graphs of all modalities, added up with a share each.

    Of an item that lacks a modality the other shares are scaled up to add up to 1; an item without content
    receives nothing.

    Parameters
    ----------
    modalities
        In the order of `ItemBatch`.
    n_items
        Items of the vocabulary.
    k
        Neighbours in each modality.
    weighting
        As for `ModalityGraph`.
    shares
        One for each modality, adding up to 1.
    """

    shares: Tensor

    def __init__(
        self,
        modalities: Sequence[Modality],
        n_items: int,
        k: int,
        weighting: Weighting,
        shares: Sequence[float],
    ) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(ModalityGraph(n_items, m.dim, k, weighting) for m in modalities)
        self.register_buffer("shares", torch.tensor(list(shares)), persistent=False)
        self.edges = SparseMatrix(n_items, n_items)

    def fit(self, features: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        """Take the training items' content, find neighbours, and add the graphs up to one matrix."""
        for place, graph in enumerate(self._each):
            graph.fit(place, features, warm)
        nodes = torch.stack([graph.nodes for graph in self._each], dim=1)
        shares = self._shares(nodes)
        rows, columns, values = [], [], []
        for place, graph in enumerate(self._each):
            edges = graph.edges
            own = torch.arange(edges.n_rows, device=edges.starts.device)
            sources = torch.repeat_interleave(own, edges.starts.diff())
            rows.append(sources)
            columns.append(edges.columns)
            values.append(edges.values * shares[sources, place])
        self.edges.fill(torch.cat(rows), torch.cat(columns), torch.cat(values))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return what training items receive, shape ``(n_items, d)`` as `vectors`; 0 for the others."""
        received: Tensor = self.edges(vectors)
        return received

    def received_by(self, items: ItemBatch, vectors: Tensor) -> Tensor:
        """Return what items that are no nodes receive from what training items send, shape ``(n, d)``."""
        shares = self._shares(items.present)
        total = vectors.new_zeros(len(items), vectors.shape[1])
        for place, graph in enumerate(self._each):
            received = graph.received_by(items.vectors[place], items.present[:, place], vectors)
            total = total + shares[:, place : place + 1] * received
        return total

    @property
    def _each(self) -> list[ModalityGraph]:
        return [graph for graph in self.graphs if isinstance(graph, ModalityGraph)]

    def _shares(self, present: Tensor) -> Tensor:
        shares = self.shares * present
        return shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)


def modality_shares(modalities: Sequence[Modality], given: Sequence[float] | None) -> list[float]:
    """Return the weight of each modality in an items' graph; they add up to 1.

    Without given ones they are those of FREEDOM and DRAGON, 0.1 for image and 0.9 for text, where these are
    the modalities, and equal otherwise.

    Raises
    ------
    InputError
        If there are more or fewer given than modalities, one is below 0 or no number, or all are 0.
    """
    names = [modality.name for modality in modalities]
    if given is None:
        published = sorted(names) == ["image", "text"]
        return [{"image": 0.1, "text": 0.9}[n] if published else 1.0 / len(names) for n in names]
    if len(given) != len(names) or min(given) < 0 or not 0 < sum(given) < math.inf:
        raise InputError(
            f"The shares {list(given)} do not fit the modalities {', '.join(names)}.",
            "Give one number for each, none below 0, and not all of them 0.",
        )
    return [share / sum(given) for share in given]
