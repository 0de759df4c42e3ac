"""MAMEX: multi-modal adaptive mixture of experts for cold-start recommendation.

V.-K. Nguyen et al., CIKM 2025, arXiv 2508.08042. Equation numbers below are the paper's. Items are made of
content alone, so an item that nobody has touched goes the same way as any other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from prismrec.base.errors import InputError
from prismrec.models.base import Explanation, GradientModel, ModelConfig, Preset
from prismrec.models.batches import (
    Batch,
    ItemBatch,
    ModelInputs,
    TrainingData,
    TripletBatch,
    UserBatch,
    part_of,
)
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.cross_modal import CrossModal
from prismrec.models.layers.dropout import Dropout
from prismrec.models.layers.fusion import fuse
from prismrec.models.layers.kernel_start import KernelStart
from prismrec.models.layers.lookup import rows_or_zero
from prismrec.models.layers.losses import bpr, kl_divergence, softmax_cross_entropy
from prismrec.models.layers.moe import Experts, masked_softmax, sparse_softmax, whole_rows
from prismrec.models.layers.pair_scores import pair_scores
from prismrec.models.layers.routing import route
from prismrec.models.layers.unit import unit_rows
from prismrec.models.plan import TrainingPlan

_BLOCK = 8192


class MAMEXConfig(ModelConfig):
    """Hyper-parameters of MAMEX. The defaults are the preset ``tuned``."""

    name: ClassVar[str] = "mamex"
    summary: ClassVar[str] = "Adaptive mixture of experts per modality, gated fusion (CIKM 2025)."
    phases: ClassVar[tuple[str, ...]] = ("gradient steps",)

    dim: int = Field(256, ge=1, le=4096, description="Size d of user and item vectors.")
    experts: int = Field(4, ge=1, le=256, description="Experts K of each modality.")
    top_k: int = Field(2, ge=1, description="Experts that are chosen for an item, at most K.")
    router: Literal["mamex", "modality", "joint", "joint-concat"] = Field(
        "mamex",
        description="Who owns routers and experts. 'mamex': each modality its own. 'modality': own routers, "
        "one shared pool of experts. 'joint': one router on all content, shared experts on each modality. "
        "'joint-concat': one router, experts take all content at once; no fusion is left.",
    )
    fusion: Literal["gate", "mean"] = Field(
        "gate", description="'mean' weighs the present modalities equally (ablation without fusion)."
    )
    fusion_top_k: int | None = Field(
        None, ge=1, description="Modalities that the gate chooses for an item; None: all that are present."
    )
    gate_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout in the fusion gate.")
    modalities: tuple[str, ...] | None = Field(
        None, description="Use these modalities only; None: all that there are."
    )
    centre: bool = Field(
        True,
        description="Subtract the training items' mean from a modality's vectors before they are normalised.",
    )
    feature_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the content vectors in training.")
    start: Literal["random", "kernel"] = Field(
        "kernel",
        description="'kernel': users begin as singular vectors of the training matrix, each modality as a "
        "kernel regression from its content to the items' singular vectors, its settings by validation; "
        "experts begin at 0 and learn what that misses.",
    )
    landmarks: int = Field(
        8192, ge=1, le=32768, description="With start='kernel': training items that carry the kernel."
    )
    start_scale: float = Field(
        4.0,
        gt=0,
        description="With start='kernel': factor of the users' singular vectors, the softmax's sharpness.",
    )
    start_missing: Literal["auto", "spread", "lapse"] = Field(
        "auto",
        description="With start='kernel': whether an item that lacks a modality is predicted as strongly as "
        "one that has all ('spread'), or more weakly ('lapse'). 'auto': validation chooses.",
    )
    missing: Literal["renormalise", "shrink"] = Field(
        "shrink",
        description="Whether the gate spreads the weight of a missing modality over the others, or "
        "drops it, so that an item of which less is known has a shorter vector.",
    )
    generate: bool = Field(
        False,
        description="Whether a missing modality's vector is predicted from the modalities that an item has, "
        "by ridge regressions fitted on the training items. Items without content stay without.",
    )
    loss: Literal["bpr", "softmax"] = Field(
        "softmax",
        description="'softmax': over all training items with sampling='users', over a pair's positive and "
        "its drawn negatives with sampling='triplets' (sampled softmax, without correction of the draw).",
    )
    item_bias: bool = Field(
        False,
        description="With 'softmax': a free popularity for each training item, so that content need not "
        "explain it. It takes no part in scores.",
    )
    align: float = Field(0.01, ge=0, description="Weight lambda_1 of the alignment loss (8).")
    balance: float = Field(0.01, ge=0, description="Weight lambda_2 of the experts' balance loss (4).")
    fusion_balance: float = Field(0.01, ge=0, description="Weight lambda_3 of the fusion's balance loss (7).")
    l2: float = Field(0.0, ge=0, description="Weight lambda_4 of the L2 term of (11).")
    l2_on: Literal["parameters", "vectors"] = Field(
        "vectors",
        description="'parameters': all weights and the vectors of the batch's users, for (11). 'vectors': "
        "users' and items' output vectors of the batch, as released.",
    )
    reduction: Literal["sum", "mean"] = Field(
        "mean",
        description="'sum': the ranking loss summed over the batch and (8) summed over dimensions, as the "
        "equations read. 'mean': means of both, as released.",
    )
    balance_direction: Literal["paper", "released"] = Field(
        "paper", description="'paper': KL(mean gate, uniform). 'released': KL(uniform, mean gate)."
    )
    scope: Literal["batch", "catalog"] = Field(
        "batch",
        description="Items that the balance and alignment terms see. 'catalog': all, cold ones included, as "
        "released (transductive).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "MAMEXConfig":
        if self.top_k > self.experts:
            raise ValueError(f"top_k = {self.top_k} is more than the {self.experts} experts")
        if self.start == "kernel" and self.router == "joint-concat":
            raise ValueError("start = 'kernel' predicts by modality, which router = 'joint-concat' has not")
        return self

    def build(self, inputs: ModelInputs) -> "MAMEX":
        """Make an untrained model."""
        return MAMEX(self, inputs)

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """Return ``tuned`` (also ``default``), ``paper`` and ``as_released``."""
        tuned = Preset(
            cls(),
            TrainingPlan(
                sampling="users",
                batch_size=512,
                epochs=20,
                learning_rate=3e-4,
                patience=3,
                row_updates="dense",
            ),
            "Ours, chosen by validation: starts from collaborative factors and a kernel regression.",
        )
        paper = Preset(
            cls(
                dim=128,
                centre=False,
                start="random",
                missing="renormalise",
                loss="bpr",
                align=0.1,
                balance=0.1,
                fusion_balance=0.1,
                l2=1e-5,
                l2_on="parameters",
                reduction="sum",
                balance_direction="paper",
                scope="batch",
            ),
            TrainingPlan(evaluate_every=1, patience=20, row_updates="dense"),
            "The equations as printed; where the paper is silent, the released code.",
        )
        released = Preset(
            cls(
                dim=128,
                centre=False,
                start="random",
                missing="renormalise",
                loss="bpr",
                align=1.0,
                balance=1.0,
                fusion_balance=1.0,
                l2=1e-6,
                l2_on="vectors",
                reduction="mean",
                balance_direction="released",
                scope="catalog",
            ),
            TrainingPlan(
                epochs=1000, negative_items="all", evaluate_every=10, patience=21, row_updates="dense"
            ),
            "The released code: catalogue-wide terms, cold items as negatives.",
        )
        return {"default": tuned, "tuned": tuned, "paper": paper, "as_released": released}


@dataclass(frozen=True)
class Encoded:
    """What MAMEX computes for items on the way to their vectors.

    Parameters
    ----------
    vectors
        ``e_i`` of (6), shape ``(n, d)``.
    parts
        ``z_m`` of (3), one tensor a modality, shape ``(n, d)``; 0 where content is missing.
    gaps
        Squared distance of each part to the vector, shape ``(n, parts)``.
    weights
        ``alpha`` of (5), shape ``(n, parts)``; 0 where content is missing.
    present
        Which parts exist, bool, shape ``(n, parts)``.
    routing
        Dense softmax over experts of each router, shape ``(n, K)`` each.
    chosen
        Sparse weights of (3), one tensor a router, shape ``(n, K)``.
    routed
        Which items each router saw content of, bool, shape ``(n,)`` each.
    """

    vectors: Tensor
    parts: list[Tensor]
    gaps: Tensor
    weights: Tensor
    present: Tensor
    routing: list[Tensor]
    chosen: list[Tensor]
    routed: list[Tensor]


class MAMEX(GradientModel):
    """The model.

    Parameters
    ----------
    config
        Hyper-parameters.
    inputs
        Sizes.

    Raises
    ------
    InputError
        If there is no modality, or one that the configuration names does not exist.
    """

    row_tables: ClassVar[tuple[str, ...]] = ("users",)

    def __init__(self, config: MAMEXConfig, inputs: ModelInputs) -> None:
        super().__init__(inputs)
        inputs.require_content("MAMEX")
        self.config: MAMEXConfig = config
        self._columns = _chosen_columns(config, inputs)
        dims = [inputs.modalities[column].dim for column in self._columns]
        d, k = config.dim, config.experts
        self.users = nn.Parameter(torch.randn(inputs.n_users, d) * 0.1)
        self.item_bias = (
            nn.Parameter(torch.zeros(inputs.n_items))
            if config.item_bias and config.loss == "softmax"
            else None
        )
        self.centres = nn.ParameterList(nn.Parameter(torch.zeros(n), requires_grad=False) for n in dims)
        joint = config.router.startswith("joint")
        concatenated = config.router == "joint-concat"
        shared = config.router in ("modality", "joint")
        # A shared pool of experts needs inputs of one size.
        self.projections = nn.ModuleList(
            nn.Linear(n, d) if shared and len(set(dims)) > 1 else nn.Identity() for n in dims
        )
        inside = [d] * len(dims) if shared and len(set(dims)) > 1 else dims
        self.routers = nn.ModuleList(
            [nn.Linear(sum(dims), k)] if joint else [nn.Linear(n, k) for n in inside]
        )
        pools = [sum(dims)] if concatenated else inside[:1] if shared else inside
        self.experts = nn.ModuleList(Experts(n, d, k, config.top_k) for n in pools)
        self.start = (
            KernelStart(dims, d, min(config.landmarks, inputs.n_items)) if config.start == "kernel" else None
        )
        n_parts = 1 if concatenated else len(dims)
        self.gate = (
            nn.Sequential(
                nn.Linear(n_parts * d, d), nn.ReLU(), Dropout(config.gate_dropout), nn.Linear(d, n_parts)
            )
            if config.fusion == "gate" and n_parts > 1
            else None
        )

        self.crossing = CrossModal(dims) if config.generate and len(dims) > 1 else None
        if self.start is not None:
            self._start_at_zero()

    @property
    def wants_catalog(self) -> bool:
        """Whether the balance and alignment terms see the whole catalogue."""
        return self.config.scope == "catalog"

    @torch.no_grad()
    def prepare(self, data: TrainingData, score: Callable[[], float] | None) -> dict[str, float]:
        """Take what is known before the first step: means, popularity, and the start from factors."""
        if self.config.centre:
            self._centre(data)
        if self.item_bias is not None:
            counts = np.bincount(data.pairs.items, minlength=self.inputs.n_items)
            self.item_bias.copy_(torch.from_numpy(np.log1p(counts)).to(self.item_bias.dtype))
        told = self._learn_crossing(data)
        if self.start is None:
            return told
        inputs, _ = self._contents(item_batch(data.features, data.warm))
        spread = {"auto": None, "spread": True, "lapse": False}[self.config.start_missing]
        found = self.start.fit(data, inputs, self.users, self.config.start_scale, score, spread)
        names = [self.inputs.modalities[column].name for column in self._columns]
        return found.described(names) | told

    def _learn_crossing(self, data: TrainingData) -> dict[str, float]:
        """Fit what predicts modalities from each other, and tell how near predictions come."""
        if self.crossing is None:
            return {}

        def contents(codes: npt.NDArray[np.int32]) -> tuple[list[Tensor], Tensor]:
            return self._own_contents(item_batch(data.features, codes))

        cosines = self.crossing.fit(contents, data.warm)
        names = [self.inputs.modalities[column].name for column in self._columns]
        return {f"cosine of generated {name}": value for name, value in zip(names, cosines, strict=True)}

    def _centre(self, data: TrainingData) -> None:
        """Take the mean of each modality's unit vectors over the training items that have it."""
        sums = [torch.zeros(len(centre), dtype=torch.float64) for centre in self.centres]
        for first in range(0, len(data.warm), _BLOCK):
            vectors, _ = data.features.gather(data.warm[first : first + _BLOCK])
            for total, column in zip(sums, self._columns, strict=True):
                # Rows of missing content are zero, and add nothing.
                total.add_(functional.normalize(torch.from_numpy(vectors[column]), dim=1).sum(dim=0))
        counts = data.features.present[data.warm].sum(axis=0)
        for centre, total, column in zip(self.centres, sums, self._columns, strict=True):
            centre.copy_(total / max(1, int(counts[column])))

    @torch.no_grad()
    def _start_at_zero(self) -> None:
        """Experts give 0 and the gate weighs alike, so that the model begins as its kernel regression."""
        layers = [experts.maps for experts in self.experts if isinstance(experts, Experts)]
        for layer in [*layers, *([] if self.gate is None else [self.gate[-1]])]:
            assert isinstance(layer, nn.Linear)
            layer.weight.zero_()
            layer.bias.zero_()

    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the rows of the users' embedding; zeros for users that came later."""
        return rows_or_zero(self.users, users)

    def item_vectors(self, items: ItemBatch) -> Tensor:
        """Return ``e_i`` of (6)."""
        return self.encode(items).vectors

    def explain(self, items: ItemBatch) -> Explanation:
        """Return the fusion weights of (5) and the experts' weights of (3) for all modalities of the data.

        With start='kernel' a modality's weight is the length of its addend ``alpha_m z_m`` relative to all.
        """
        encoded = self.encode(items)
        n_all = len(self.inputs.modalities)
        modality = encoded.weights.new_zeros(len(items), n_all)
        experts = encoded.weights.new_zeros(len(items), n_all, self.config.experts)
        single = encoded.weights.shape[1] == 1 and len(self._columns) > 1
        for place, column in enumerate(self._columns):
            present = items.present[:, column].to(modality.dtype)
            chosen = encoded.chosen[min(place, len(encoded.chosen) - 1)]
            experts[:, column] = chosen * present.unsqueeze(1)
            # What was generated is not the item's: its weight belongs to what it was told from.
            modality[:, column] = present if single else encoded.weights[:, place] * present
            if self.start is not None:
                # The regression's addends differ in length, so the gate alone does not say what counts.
                modality[:, column] *= encoded.parts[place].norm(dim=1)
        total = modality.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return Explanation(modality / total, experts)

    def encode(self, items: ItemBatch) -> Encoded:
        """Compute (3), (5) and (6) for items."""
        contents, present = self._contents(items)
        inputs = [functional.dropout(c, self.config.feature_dropout, self.training) for c in contents]
        if self.config.router == "joint-concat":
            return self._encode_concatenated(inputs, present)
        # Routers are small and decide: in full precision they cost nothing.
        with torch.autocast(present.device.type, enabled=False):
            dense, sparse, routed = self._route(inputs, present)
        started = None if self.start is None else self.start(items, contents)
        parts = []
        # Elsewhere than on a CPU, to ask would make the device wait.
        complete = present.device.type == "cpu" and bool(present.all())
        for place, content in enumerate(inputs):
            experts = self.experts[min(place, len(self.experts) - 1)]
            chosen = sparse[min(place, len(sparse) - 1)]
            z = experts(self.projections[place](content), chosen)
            if started is not None:
                # The addends of the regression, undone of the gate's equal weights at the start.
                z = z + len(inputs) * started[place]
            parts.append(z if complete else z * present[:, place : place + 1])
        weights = self._fuse(parts, present)
        vectors, gaps = fuse(parts, weights)
        return Encoded(vectors, parts, gaps, weights, present, dense, sparse, routed)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the terms of (11): rank, align, balance, fusion_balance, l2."""
        encoded = self._encode_together(batch.items)
        users = self.rows(self.users, batch.users)
        terms = {"rank": self._rank_loss(batch, users, encoded.vectors)}
        if self.config.align > 0 and encoded.present.shape[1] > 1:
            terms["align"] = self.config.align * self._alignment(encoded)
        if self.config.balance > 0 and self.config.experts > 1:
            terms["balance"] = self.config.balance * self._expert_balance(encoded)
        if self.config.fusion_balance > 0 and self.gate is not None:
            terms["fusion_balance"] = self.config.fusion_balance * self._fusion_balance(encoded)
        if self.config.l2 > 0:
            terms["l2"] = self.config.l2 * self._l2(batch, users, encoded.vectors)
        return terms

    def _encode_together(self, items: ItemBatch) -> Encoded:
        """Encode items, of several processes each its share; what no term of the loss reads stays out."""
        team, n = self.team, len(items)
        if n < team.size or team.size == 1:
            return self.encode(items)
        with team.apart():
            own = self.encode(items[team.share(n)])
        n_seen = len(own.routed)
        sent = [own.vectors, own.gaps, own.weights, own.present, *own.routing, torch.stack(own.routed, 1)]
        widths = [part.shape[1] for part in sent]
        # One message instead of seven.
        whole = torch.split(team.whole(torch.cat([part.float() for part in sent], dim=1), n), widths, dim=1)
        seen = whole[-1].bool()
        return Encoded(
            vectors=whole[0],
            parts=[],
            gaps=whole[1],
            weights=whole[2],
            present=whole[3].bool(),
            routing=list(whole[4:-1]),
            chosen=[],
            routed=[seen[:, place] for place in range(n_seen)],
        )

    def _contents(self, items: ItemBatch) -> tuple[list[Tensor], Tensor]:
        """Content vectors as the experts see them, and which there are."""
        inputs, present = self._own_contents(items)
        return (inputs, present) if self.crossing is None else self.crossing(inputs, present)

    def _own_contents(self, items: ItemBatch) -> tuple[list[Tensor], Tensor]:
        """Content vectors normalised row by row, after centring where asked for; missing ones stay 0."""
        present = items.present[:, self._columns]
        inputs = []
        for place, column in enumerate(self._columns):
            centre = self.centres[place] if self.config.centre else None
            inputs.append(unit_rows(items.vectors[column], present[:, place], centre))
        return inputs, present

    def _route(
        self, inputs: Sequence[Tensor], present: Tensor
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Gates of (3), dense and sparse, and which items each router may count."""
        k = self.config.top_k
        routers = [layer for layer in self.routers if isinstance(layer, nn.Linear)]
        if self.config.router == "joint":
            pairs = [route(routers[0], torch.cat(list(inputs), dim=1), k)]
            routed = [present.any(dim=1)]
        else:
            pairs = [
                route(router, projection(content), k)
                for router, projection, content in zip(routers, self.projections, inputs, strict=True)
            ]
            routed = [present[:, place] for place in range(len(inputs))]
        dense, sparse = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        return dense, sparse, routed

    def _encode_concatenated(self, inputs: Sequence[Tensor], present: Tensor) -> Encoded:
        content = torch.cat(list(inputs), dim=1)
        logits = self.routers[0](content)
        chosen = sparse_softmax(logits, self.config.top_k)
        any_content = present.any(dim=1)
        z = self.experts[0](content, chosen) * any_content.unsqueeze(1)
        weights = any_content.to(z.dtype).unsqueeze(1)
        return Encoded(
            z,
            [z],
            torch.zeros_like(weights),
            weights,
            any_content.unsqueeze(1),
            [logits.softmax(dim=1)],
            [chosen],
            [any_content],
        )

    def _fuse(self, parts: Sequence[Tensor], present: Tensor) -> Tensor:
        """Fusion weights (5) over the modalities that an item has."""
        if self.gate is None:
            counted = present.to(parts[0].dtype)
            whole = len(parts) if self.config.missing == "shrink" else counted.sum(dim=1, keepdim=True)
            return counted / torch.as_tensor(whole).clamp_min(1.0)
        joined = torch.cat(list(parts), dim=1)
        logits = self.gate(whole_rows(joined))[: len(joined)].to(parts[0].dtype)
        allowed = present
        if self.config.fusion_top_k is not None and self.config.fusion_top_k < len(parts):
            shown = logits.masked_fill(~present, float("-inf"))
            best = shown.topk(self.config.fusion_top_k, dim=1).indices
            allowed = present & torch.zeros_like(present).scatter(1, best, True)
        if self.config.missing == "shrink":
            return masked_softmax(logits, allowed | ~present) * present
        return masked_softmax(logits, allowed)

    def _rank_loss(self, batch: Batch, users: Tensor, vectors: Tensor) -> Tensor:
        in_all = isinstance(batch, TripletBatch) and self.config.reduction == "sum"
        if self.team.size == 1:
            terms = self._rank_terms(batch, users, vectors)
            return terms.sum() if in_all else terms.mean()
        # Each process scores its share; the mean over processes is what one would have.
        rows = self.team.share(len(users))
        terms = self._rank_terms(part_of(batch, rows), users[rows], vectors)
        whole = 1 if in_all else len(batch.rows if isinstance(batch, UserBatch) else batch.users)
        return terms.sum() * (self.team.size / whole)

    def _rank_terms(self, batch: Batch, users: Tensor, vectors: Tensor) -> Tensor:
        """One term for each positive pair."""
        if isinstance(batch, UserBatch):
            if self.config.loss != "softmax":
                raise InputError("MAMEX with loss='bpr' is trained on triplets.", "Set sampling='triplets'.")
            logits = users @ vectors.T
            if self.item_bias is not None:
                logits = logits + self.item_bias[batch.items.codes]
            return softmax_cross_entropy(logits.float(), batch.rows, batch.columns)
        places = torch.cat([batch.positives.unsqueeze(1), batch.negatives], dim=1)
        scores = pair_scores(users, vectors, places)
        if self.config.loss == "bpr":
            return bpr(scores[:, :1], scores[:, 1:])
        if self.item_bias is not None:
            scores = scores + self.item_bias[batch.items.codes][places]
        return scores.logsumexp(dim=1) - scores[:, 0]

    def _alignment(self, encoded: Encoded) -> Tensor:
        """(8), over the modalities that are present."""
        counted = encoded.present.any(dim=1).sum().clamp_min(1)
        total = (encoded.gaps * encoded.present).sum() / counted
        return total if self.config.reduction == "sum" else total / self.config.dim

    def _expert_balance(self, encoded: Encoded) -> Tensor:
        """(4): one divergence for each router, over the items whose content it saw."""
        uniform = encoded.vectors.new_full((self.config.experts,), 1.0 / self.config.experts)
        total = encoded.vectors.new_zeros(())
        for gates, seen in zip(encoded.routing, encoded.routed, strict=True):
            counted = seen.to(gates.dtype).unsqueeze(1)
            mean = (gates * counted).sum(dim=0) / counted.sum().clamp_min(1.0)
            if bool(seen.any()):
                total = total + self._divergence(mean, uniform)
        return total

    def _fusion_balance(self, encoded: Encoded) -> Tensor:
        """(7), against the mean of the uniform distributions over what each item has.

        With all modalities present that is the paper's 1/m. Items with a single modality leave the gate no
        choice and are not counted.
        """
        free = encoded.present.sum(dim=1) > 1
        if not bool(free.any()):
            return encoded.vectors.new_zeros(())
        present = encoded.present[free].to(encoded.weights.dtype)
        target = (present / present.sum(dim=1, keepdim=True)).mean(dim=0)
        # Where a missing modality keeps its weight, what is left of an item's weights adds up to less than 1.
        weights = encoded.weights[free]
        weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-12)
        return self._divergence(weights.mean(dim=0), target)

    def _divergence(self, mean: Tensor, target: Tensor) -> Tensor:
        if self.config.balance_direction == "paper":
            return kl_divergence(mean, target)
        return kl_divergence(target, mean)

    def _l2(self, batch: Batch, users: Tensor, vectors: Tensor) -> Tensor:
        if self.config.l2_on == "parameters":
            # Of the users those of the batch, as BPR has it: the others' vectors do not enter the loss.
            weights = [p for p in self.parameters() if p.requires_grad and p is not self.users]
            return torch.stack([p.square().sum() for p in (*weights, users)]).sum()
        if isinstance(batch, TripletBatch):
            norms = vectors.square().sum(dim=1)
            items = norms[batch.positives] + norms[batch.negatives].mean(dim=1)
            return (users.square().sum(dim=1) + items).mean()
        return users.square().sum(dim=1).mean() + vectors.square().sum(dim=1).mean()


def _chosen_columns(config: MAMEXConfig, inputs: ModelInputs) -> list[int]:
    names = [modality.name for modality in inputs.modalities]
    if config.modalities is None:
        return list(range(len(names)))
    unknown = [name for name in config.modalities if name not in names]
    if unknown or not config.modalities:
        raise InputError(
            f"MAMEX: there are no features {', '.join(unknown) or '(none named)'}.",
            f"There are: {', '.join(names)}.",
        )
    return [names.index(name) for name in config.modalities]
