"""MAMEX as one would write it down from the paper: the step that bench_mamex.py measures against.

Every batch encodes the whole catalogue with every expert, in full precision, and dense Adam moves every row
of every table. Nothing is done to slow it down: the experts of a modality are linear layers whose outputs are
stacked, weighted and summed. Its losses are those of `MAMEXConfig.presets()["as_released"]`, which
`same_losses` checks before anything is timed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from prismrec.models.base import TripletBatch
from prismrec.models.mamex import MAMEX


class ReferenceMAMEX(nn.Module):
    """The model: features of all items, and losses of a batch of triplets."""

    def __init__(self, n_users: int, features: Sequence[Tensor], d: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.features = [functional.normalize(feature, dim=1) for feature in features]
        self.top_k = top_k
        dims = [feature.shape[1] for feature in features]
        self.users = nn.Parameter(torch.randn(n_users, d) * 0.1)
        self.routers = nn.ModuleList(nn.Linear(n, experts) for n in dims)
        self.experts = nn.ModuleList(
            nn.ModuleList(nn.Linear(n, d) for _ in range(experts)) for n in dims
        )
        self.gate = nn.Sequential(
            nn.Linear(len(dims) * d, d), nn.ReLU(), nn.Dropout(0.1), nn.Linear(d, len(dims))
        )

    def losses(self, users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        """Return the sum of ranking, alignment and both balance losses."""
        parts, balance = [], torch.zeros(())
        for content, router, experts in zip(self.features, self.routers, self.experts, strict=True):
            logits = router(content)
            top, chosen = logits.topk(self.top_k, dim=1)
            sparse = torch.zeros_like(logits).scatter(1, chosen, top.softmax(dim=1))
            outputs = torch.stack([expert(content) for expert in experts], dim=1)
            parts.append((outputs * sparse.unsqueeze(2)).sum(dim=1))
            balance = balance + _divergence(logits.softmax(dim=1).mean(dim=0))
        alpha = self.gate(torch.cat(parts, dim=1)).softmax(dim=1)
        items = (alpha.unsqueeze(2) * torch.stack(parts, dim=1)).sum(dim=1)
        align = torch.stack([(items - part).square().mean() for part in parts]).sum()
        rows = self.users[users]
        positive, negative = items[positives], items[negatives]
        rank = functional.softplus((rows * negative).sum(dim=1) - (rows * positive).sum(dim=1)).mean()
        norms = rows.square().sum(dim=1) + positive.square().sum(dim=1) + negative.square().sum(dim=1)
        return rank + align + balance + _divergence(alpha.mean(dim=0)) + 1e-6 * norms.mean()


def same_losses(reference: ReferenceMAMEX, model: MAMEX, batch: TripletBatch) -> None:
    """Give both the same weights and check that their losses agree."""
    d = model.config.dim
    with torch.no_grad():
        reference.users.copy_(model.users)
        for place, experts in enumerate(reference.experts):
            maps = model.experts[place].maps
            for k, expert in enumerate(experts):
                expert.weight.copy_(maps.weight[k * d : (k + 1) * d])
                expert.bias.copy_(maps.bias[k * d : (k + 1) * d])
        reference.routers.load_state_dict(model.routers.state_dict())
        reference.gate.load_state_dict(model.gate.state_dict())
    reference.eval()
    model.eval()
    ours = torch.stack(list(model.losses(batch).values())).sum()
    codes = batch.items.codes
    theirs = reference.losses(batch.users, codes[batch.positives], codes[batch.negatives[:, 0]])
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    reference.train()
    model.train()


def _divergence(mean: Tensor) -> Tensor:
    """KL(uniform, mean), as the released code has it."""
    uniform = torch.full_like(mean, 1.0 / len(mean))
    return (uniform * (uniform.log() - mean.log())).sum()
