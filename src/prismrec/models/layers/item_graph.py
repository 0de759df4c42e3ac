"""Training items tied to those that are alike by content, and where cold items come in."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.features.store import ItemFeatures
from prismrec.models.batches import ItemBatch
from prismrec.models.layers.content import Content, item_batch
from prismrec.models.layers.nearest import NearestItems
from prismrec.models.layers.sparse import SparseMatrix

_BLOCK = 8192


class ItemGraph(nn.Module):
    """The k nearest training items of each training item by the cosine of their content, itself among them.

    An edge from i to j weighs ``w_ij / sqrt(d_i d_j)``: w their cosine (that of an item with itself is 1), d
    the sum of an item's cosines. Edges of a cosine of 0 or less are left out, so an item without content is
    tied to itself alone. A cold item is no node: it listens to its k nearest training items and nobody
    listens to it, so that what training items receive does not depend on which cold items there are. Its
    edges are looked for when it is asked for, and never kept.

    Neighbours are found exactly and the same on every machine (`prismrec.base.exact`); a matrix of all items
    against all is never made.

    Parameters
    ----------
    n_items
        Items of the vocabulary.
    dim
        Size of a content vector.
    k
        Neighbours of an item; a training item is its own first one.
    """

    content: Tensor
    warm: Tensor
    degrees: Tensor

    def __init__(self, n_items: int, dim: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.register_buffer("content", torch.zeros(n_items, dim))
        self.register_buffer("warm", torch.zeros(n_items, dtype=torch.bool))
        self.register_buffer("degrees", torch.ones(n_items))
        self.edges = SparseMatrix(n_items, n_items)
        self._nearest = NearestItems()

    def fit(self, content: Content, features: ItemFeatures, warm: npt.NDArray[np.int32]) -> None:
        """Take the training items' content and find their neighbours.

        Parameters
        ----------
        content
            Fitted. Its vectors have unit length, or are 0 for items without content.
        features
            Features of all items; rows of `warm` are read only.
        warm
            Codes of the training items, ascending.
        """
        codes = torch.from_numpy(warm.astype(np.int64))
        self.warm.zero_()
        self.warm[codes] = True
        self.content.zero_()
        for first in range(0, len(warm), _BLOCK):
            rows = slice(first, first + _BLOCK)
            self.content[codes[rows]] = content(item_batch(features, warm[rows])).to(self.content.device)
        own = np.arange(len(warm), dtype=np.int32)
        found, cosines = self._nearest(
            self.content[codes], self.content, self.warm, min(self.k, len(warm)) - 1, own
        )
        sources = torch.cat([codes, codes.repeat_interleave(found.shape[1])])
        targets = torch.cat([codes, found.flatten()])
        weights = torch.cat([torch.ones(len(codes)), cosines.flatten()])
        kept = weights > 0
        sources, targets, weights = sources[kept], targets[kept], weights[kept].double()
        degrees = torch.zeros(len(self.warm), dtype=torch.float64).index_add_(0, sources, weights)
        self.degrees.copy_(torch.where(degrees > 0, degrees, 1.0))
        self.edges.fill(sources, targets, weights / (degrees[sources] * degrees[targets]).sqrt())

    def forward(self, vectors: Tensor) -> Tensor:
        """Return what training items receive, shape ``(n_items, d)`` as `vectors`; 0 for the others."""
        received: Tensor = self.edges(vectors)
        return received

    def received_by(self, contents: Tensor, vectors: Tensor) -> Tensor:
        """Return what items that are no nodes receive.

        Parameters
        ----------
        contents
            Their content vectors, shape ``(n, dim)``.
        vectors
            What the training items send, shape ``(n_items, d)``.

        Returns
        -------
        Tensor
            Shape ``(n, d)``; 0 for items without content, and those that are like no training item.
        """
        found, cosines = self._nearest(contents, self.content, self.warm, self.k)
        if found.numel() == 0:
            return vectors.new_zeros(len(contents), vectors.shape[1])
        found, cosines = found.to(vectors.device), cosines.to(vectors.device, vectors.dtype)
        degrees = cosines.sum(dim=1, keepdim=True).clamp_min(1e-12)
        weights = cosines / (degrees * self.degrees[found]).sqrt()
        # Of an item without edges only the first one is read, with weight 0.
        return functional.embedding_bag(found, vectors, mode="sum", per_sample_weights=weights)

    def marks(self, items: ItemBatch) -> Tensor:
        """Return which items of a batch are training items, bool, shape ``(n,)``."""
        return self.warm[items.codes.clamp_min(0)] & (items.codes >= 0)
