"""A graph of some of the users' and items' edges, drawn anew for each epoch."""

import math
from fractions import Fraction

import torch

from prismrec.models.layers.graph import UserItemGraph


class SampledGraph(UserItemGraph):
    """Some edges of a whole graph, fewer of them between nodes that have many, weighted by what is left.

    An edge is drawn with a probability proportional to ``1 / sqrt(d_u d_i)``, d being numbers of edges in the
    whole graph, without being drawn twice. The edges that are kept weigh ``1 / sqrt(d'_u d'_i)``, d' being
    numbers of kept edges; a node that lost all its edges receives 0. It is state of an epoch: its edges are
    not saved with the model, and there are none before the first `draw`.

    X. Zhou, Z. Shen: A Tale of Two Graphs, ACM MM 2023, arXiv 2211.06924.
    """

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__(n_users, n_items)
        for name, buffer in list(self.edges.named_buffers()):
            self.edges.register_buffer(name, buffer, persistent=False)

    @torch.no_grad()
    def draw(self, whole: UserItemGraph, pruned: float) -> None:
        """Take some of a graph's edges in place of those that there are.

        Random numbers come from torch's global generator of the CPU, so that a GPU keeps the same edges.

        Parameters
        ----------
        whole
            Whose edges are drawn; of the same size.
        pruned
            Share of its edges that is left out, 0 to 1.
        """
        n_users, n_items = whole.edges.n_rows, whole.edges.n_columns
        count = kept_edges(len(whole.edges.values), pruned)
        # The largest of ln p + Gumbel noise are a draw without replacement (Efraimidis and Spirakis, 2006),
        # for any number of edges; minus the logarithm of an exponential draw is such noise.
        noise = torch.empty(len(whole.edges.values), dtype=torch.float64).exponential_().log_()
        # The weights are 1 / sqrt(d_u d_i) themselves.
        keys = whole.edges.values.cpu().double().log() - noise
        # In the graph's own order, for the same sums of vectors in every run.
        chosen = keys.topk(count, sorted=False).indices.sort().values
        rows = torch.arange(n_users, device=whole.edges.starts.device)
        chosen = chosen.to(rows.device)
        users = rows.repeat_interleave(whole.edges.starts.diff())[chosen]
        items = whole.edges.columns[chosen]
        of_user = torch.bincount(users, minlength=n_users)[users]
        of_item = torch.bincount(items, minlength=n_items)[items]
        # What was thinned of an earlier draw must not lie over this one.
        self.restore()
        self.edges.fill(users, items, (of_user * of_item).double().rsqrt())


def kept_edges(edges: int, pruned: float) -> int:
    """Return ``floor(edges (1 - pruned))``, for the share as it is written.

    Of ten edges 0.8 leaves two; in binary numbers 10 (1 - 0.8) is a little less, and one would be left.
    """
    return edges - math.ceil(Fraction(repr(float(pruned))) * edges)
