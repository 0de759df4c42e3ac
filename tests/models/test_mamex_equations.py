"""MAMEX against its equations, computed item by item in NumPy."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from prismrec.models.batches import ItemBatch, TripletBatch, UserBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.mamex import MAMEX, MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import Planted, planted
from prismrec.training.batches import Batches

Array = np.ndarray


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(missing=0.2)


def untrained(preset: str, source: Planted, **changes: object) -> MAMEX:
    values = {
        **MAMEXConfig.presets()[preset].model.model_dump(),
        "dim": 6,
        "experts": 5,
        "top_k": 2,
        **changes,
    }
    torch.manual_seed(11)
    return MAMEX(MAMEXConfig.model_validate(values), source.data.inputs).eval()


def triplets(model: MAMEX, source: Planted) -> TripletBatch:
    plan = TrainingPlan(batch_size=64, negatives=2)
    batch = next(iter(Batches(source.data, plan, 0, model.wants_catalog).epoch(1)))
    assert isinstance(batch, TripletBatch)
    return batch


def softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


class Oracle:
    """Equations (3), (5) and (6) for each item, one after the other, in double precision."""

    def __init__(self, model: MAMEX, items: ItemBatch) -> None:
        self.d, self.experts, self.k = model.config.dim, model.config.experts, model.config.top_k
        self.state = {name: tensor.double().numpy() for name, tensor in model.state().items()}
        self.present = items.present.numpy()
        self.e = np.zeros((len(items), self.d))
        self.z = np.zeros((2, len(items), self.d))
        self.gates = np.full((2, len(items), self.experts), np.nan)
        self.alpha = np.zeros((len(items), 2))
        for i in range(len(items)):
            for m in range(2):
                if self.present[i, m]:
                    self.expert_layer(i, m, items.vectors[m][i].double().numpy())
            self.fuse(i)

    def expert_layer(self, i: int, m: int, h: Array) -> None:
        h = h / np.linalg.norm(h)
        logits = self.state[f"routers.{m}.weight"] @ h + self.state[f"routers.{m}.bias"]
        self.gates[m, i] = softmax(logits)
        top = np.argsort(-logits)[: self.k]
        for weight, expert in zip(softmax(logits[top]), top, strict=True):
            rows = slice(expert * self.d, (expert + 1) * self.d)
            matrix, bias = self.state[f"experts.{m}.maps.weight"], self.state[f"experts.{m}.maps.bias"]
            self.z[m, i] += weight * (matrix[rows] @ h + bias[rows])

    def fuse(self, i: int) -> None:
        there = np.flatnonzero(self.present[i])
        if len(there) == 0:
            return
        hidden = self.state["gate.0.weight"] @ np.concatenate(self.z[:, i]) + self.state["gate.0.bias"]
        logits = self.state["gate.3.weight"] @ np.maximum(hidden, 0) + self.state["gate.3.bias"]
        self.alpha[i, there] = softmax(logits[there])
        self.e[i] = sum(self.alpha[i, m] * self.z[m, i] for m in there)

    def mean_gates(self) -> Iterator[Array]:
        for m in range(2):
            yield np.mean(
                [g for g, there in zip(self.gates[m], self.present[:, m], strict=True) if there], axis=0
            )

    def mean_alpha(self) -> Array:
        return np.mean([a for a, there in zip(self.alpha, self.present, strict=True) if there.all()], axis=0)

    def alignment(self) -> float:
        """(8) summed over dimensions, mean over the items with content."""
        total, counted = 0.0, 0
        for i, there in enumerate(self.present):
            counted += bool(there.any())
            total += sum(((self.e[i] - self.z[m, i]) ** 2).sum() for m in np.flatnonzero(there))
        return total / counted

    def bpr(self, batch: TripletBatch) -> list[float]:
        """(10), one number for each triplet."""
        found = []
        for row in range(len(batch.users)):
            user = self.state["users"][batch.users[row]]
            positive = user @ self.e[batch.positives[row]]
            for negative in batch.negatives[row]:
                found.append(-np.log(1 / (1 + np.exp(user @ self.e[negative] - positive))))
        return found

    def output_norms(self, batch: TripletBatch) -> float:
        found = []
        for row in range(len(batch.users)):
            user = (self.state["users"][batch.users[row]] ** 2).sum()
            positive = (self.e[batch.positives[row]] ** 2).sum()
            found.append(user + positive + np.mean([(self.e[j] ** 2).sum() for j in batch.negatives[row]]))
        return float(np.mean(found))


def kl(p: Array, q: Array) -> float:
    return float((p * np.log(p / q)).sum())


def values(model: MAMEX, batch: TripletBatch | UserBatch) -> dict[str, float]:
    with torch.no_grad():
        return {name: float(value) for name, value in model.losses(batch).items()}


def test_forward_pass(source: Planted) -> None:
    model = untrained("paper", source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    oracle = Oracle(model, items)
    with torch.no_grad():
        encoded = model.encode(items)
    np.testing.assert_allclose(encoded.vectors, oracle.e, atol=1e-6)
    np.testing.assert_allclose(encoded.weights, oracle.alpha, atol=1e-6)
    np.testing.assert_allclose(torch.stack(encoded.parts), oracle.z, atol=1e-6)


def test_losses_as_the_paper_writes_them(source: Planted) -> None:
    model = untrained("paper", source, align=0.3, balance=0.7, fusion_balance=0.9, l2=0.01)
    batch = triplets(model, source)
    assert len(batch.items) < source.data.inputs.n_items
    oracle = Oracle(model, batch.items)
    uniform = np.full(5, 0.2)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad and name != "users"}
    weights = sum(float(p.detach().square().sum()) for p in trained.values())
    expected = {
        "rank": sum(oracle.bpr(batch)),
        "align": 0.3 * oracle.alignment(),
        "balance": 0.7 * sum(kl(mean, uniform) for mean in oracle.mean_gates()),
        "fusion_balance": 0.9 * kl(oracle.mean_alpha(), np.full(2, 0.5)),
        "l2": 0.01 * (weights + float(model.users.detach()[batch.users].square().sum())),
    }
    assert values(model, batch) == pytest.approx(expected, rel=1e-4)


def test_losses_as_released(source: Planted) -> None:
    model = untrained("as_released", source, l2=0.01)
    batch = triplets(model, source)
    assert len(batch.items) == source.data.inputs.n_items
    oracle = Oracle(model, batch.items)
    uniform = np.full(5, 0.2)
    expected = {
        "rank": float(np.mean(oracle.bpr(batch))),
        "align": oracle.alignment() / 6,
        "balance": sum(kl(uniform, mean) for mean in oracle.mean_gates()),
        "fusion_balance": kl(np.full(2, 0.5), oracle.mean_alpha()),
        "l2": 0.01 * oracle.output_norms(batch),
    }
    assert values(model, batch) == pytest.approx(expected, rel=1e-4)


def test_softmax_over_all_training_items(source: Planted) -> None:
    model = untrained("paper", source, loss="softmax", item_bias=True, reduction="mean")
    assert model.item_bias is not None
    with torch.no_grad():
        model.item_bias.copy_(torch.linspace(-1, 1, len(model.item_bias)))
    plan = TrainingPlan(sampling="users", batch_size=9)
    batch = next(iter(Batches(source.data, plan, 0, False).epoch(1)))
    assert isinstance(batch, UserBatch)
    oracle = Oracle(model, batch.items)
    bias = oracle.state["item_bias"][batch.items.codes]
    found = []
    for row, column in zip(batch.rows.tolist(), batch.columns.tolist(), strict=True):
        probabilities = softmax(oracle.e @ oracle.state["users"][batch.users[row]] + bias)
        found.append(-np.log(probabilities[column]))
    assert values(model, batch)["rank"] == pytest.approx(np.mean(found), rel=1e-4)


def test_softmax_over_drawn_negatives(source: Planted) -> None:
    model = untrained("paper", source, loss="softmax", item_bias=True, reduction="mean")
    assert model.item_bias is not None
    with torch.no_grad():
        model.item_bias.copy_(torch.linspace(-1, 1, len(model.item_bias)))
    batch = next(iter(Batches(source.data, TrainingPlan(batch_size=40, negatives=3), 0, False).epoch(1)))
    assert isinstance(batch, TripletBatch)
    oracle = Oracle(model, batch.items)
    scores = oracle.e @ oracle.state["users"].T + oracle.state["item_bias"][batch.items.codes][:, None]
    found = []
    for user, positive, negatives in zip(batch.users, batch.positives, batch.negatives, strict=True):
        found.append(-np.log(softmax(scores[[int(positive), *negatives.tolist()], user])[0]))
    assert values(model, batch)["rank"] == pytest.approx(np.mean(found), rel=1e-4)


@pytest.mark.parametrize("preset", ["paper", "as_released"])
def test_no_loss_sees_what_lies_under_a_missing_modality(source: Planted, preset: str) -> None:
    model = untrained(preset, source)
    batch = triplets(model, source)
    items = batch.items
    assert not items.present.all()
    dirty = tuple(
        torch.where(items.present[:, m : m + 1], vectors, 50.0 + torch.arange(vectors.shape[1]))
        for m, vectors in enumerate(items.vectors)
    )
    changed = TripletBatch(
        batch.users, ItemBatch(items.codes, dirty, items.present), batch.positives, batch.negatives
    )
    assert values(model, changed) == pytest.approx(values(model, batch), rel=1e-6)


@pytest.mark.parametrize("direction", ["paper", "released"])
def test_balance_is_zero_for_even_gates_and_positive_else(source: Planted, direction: str) -> None:
    model = untrained("paper", source, balance_direction=direction, balance=1.0)
    batch = triplets(model, source)
    with torch.no_grad():
        for router in model.routers:
            router.weight.zero_()
            router.bias.zero_()
        assert model.gate is not None
        model.gate[-1].weight.zero_()
        model.gate[-1].bias.zero_()
    even = values(model, batch)
    assert even["balance"] == pytest.approx(0, abs=1e-6)
    assert even["fusion_balance"] == pytest.approx(0, abs=1e-6)
    tilt = torch.tensor([5.0, 0.0, 0.0, 0.0, 0.0])
    with torch.no_grad():
        model.routers[0].bias.copy_(tilt)
    gates = softmax(tilt.double().numpy())
    uniform = np.full(5, 0.2)
    expected = kl(gates, uniform) if direction == "paper" else kl(uniform, gates)
    assert kl(gates, uniform) != pytest.approx(kl(uniform, gates), rel=0.05)
    assert values(model, batch)["balance"] == pytest.approx(expected, rel=1e-5)
