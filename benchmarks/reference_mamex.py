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

from prismrec.models.batches import TripletBatch
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
        self.experts = nn.ModuleList(nn.ModuleList(nn.Linear(n, d) for _ in range(experts)) for n in dims)
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

    def copy_into(self, model: MAMEX) -> None:
        """Give a model of the package the weights of this one."""
        with torch.no_grad():
            model.users.copy_(self.users)
            for place, experts in enumerate(self.experts):
                maps = model.experts[place].maps
                maps.weight.copy_(torch.cat([expert.weight for expert in experts]))
                maps.bias.copy_(torch.cat([expert.bias for expert in experts]))
        model.routers.load_state_dict(self.routers.state_dict())
        model.gate.load_state_dict(self.gate.state_dict())


def same_losses(reference: ReferenceMAMEX, model: MAMEX, batch: TripletBatch) -> None:
    """Give the model the weights of the reference, and check that their losses agree."""
    reference.copy_into(model)
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
