from collections.abc import Iterator

import numpy as np
import pytest
import torch

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.batches import ItemBatch, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.lightgcn import LightGCN, LightGCNConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = LightGCNConfig(dim=16)
    plan = TrainingPlan(batch_size=128, epochs=5, learning_rate=0.02)


class TestAsInPaper(ModelConformance):
    config = LightGCNConfig.presets()["as_in_paper"].model
    plan = TrainingPlan(batch_size=128, epochs=5, learning_rate=0.02, row_updates="dense")


class TestMatrixFactorisation(ModelConformance):
    config = LightGCNConfig(dim=8, layers=0, reg=0)
    plan = TrainingPlan(batch_size=128, epochs=5, learning_rate=0.02, negatives=3)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: LightGCNConfig, source: Planted) -> LightGCN:
    model = LightGCN(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batches_of(source: Planted, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, False).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def dense_vectors(model: LightGCN, source: Planted) -> dict[str, np.ndarray]:
    """Write the forward pass anew: the whole adjacency, its powers one by one, in double precision."""
    data, n_users = source.data, source.data.inputs.n_users
    nodes = n_users + data.inputs.n_items
    adjacency = np.zeros((nodes, nodes))
    adjacency[data.pairs.users, n_users + data.pairs.items] = 1.0
    adjacency += adjacency.T
    degrees = adjacency.sum(axis=1)
    scale = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1)), 0.0)
    adjacency = scale[:, None] * adjacency * scale
    ego = np.concatenate([model.users.detach().double().numpy(), model.items.detach().double().numpy()])
    ego[degrees == 0] = 0.0
    stages = [np.linalg.matrix_power(adjacency, step) @ ego for step in range(model.config.layers + 1)]
    z = np.mean(stages, axis=0)
    return {"users": z[:n_users], "items": z[n_users:], "e_users": ego[:n_users], "e_items": ego[n_users:]}


@pytest.mark.parametrize("layers", [0, 1, 4])
def test_vectors_are_those_of_dense_matrices(source: Planted, layers: int) -> None:
    model = built(LightGCNConfig(dim=5, layers=layers), source)
    expected = dense_vectors(model, source)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, expected["users"], atol=1e-6)
    np.testing.assert_allclose(items, expected["items"], atol=1e-6)
    assert np.abs(items[source.data.warm]).min(axis=1).max() > 0


@pytest.mark.parametrize("negative_items", ["warm", "all"])
@pytest.mark.parametrize("penalty", ["lengths", "squares"])
def test_terms_are_those_of_the_paper(source: Planted, penalty: str, negative_items: str) -> None:
    config = LightGCNConfig.parse({"dim": 5, "layers": 2, "reg": 0.3, "penalty": penalty})
    model = built(config, source)
    dense = dense_vectors(model, source)
    for batch in batches_of(source, negative_items=negative_items)[:3]:
        codes = batch.items.codes.numpy()
        rank, count = 0.0, 0
        squares = {"user": 0.0, "positive": 0.0, "negative": 0.0}
        for row, user in enumerate(batch.users.tolist()):
            positive = codes[batch.positives[row]]
            squares["user"] += (dense["e_users"][user] ** 2).sum()
            squares["positive"] += (dense["e_items"][positive] ** 2).sum()
            for negative in codes[batch.negatives[row].numpy()]:
                gap = dense["users"][user] @ (dense["items"][positive] - dense["items"][negative])
                rank, count = rank + np.log1p(np.exp(-gap)), count + 1
                squares["negative"] += (dense["e_items"][negative] ** 2).sum()
        lengths = sum(np.sqrt(value) for value in squares.values())
        total = lengths if penalty == "lengths" else sum(squares.values()) / 2
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms == pytest.approx({"rank": rank / count, "reg": 0.3 * total / len(batch.users)}, rel=1e-5)


def test_a_chain_by_hand() -> None:
    # User 0 has touched items 0 and 1, user 1 item 1; item 2 is cold. Edges: 1/sqrt(2), 1/2, 1/sqrt(2).
    base = planted(n_users=3, n_items=40).data
    pairs = Pairs(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32))
    inputs = ModelInputs(3, 40, base.inputs.modalities)
    data = TrainingData(pairs, inputs, base.features, np.array([0, 1], np.int32), 0)
    model = LightGCN(LightGCNConfig(dim=1, layers=1), inputs)
    with torch.no_grad():
        model.users.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        model.items.fill_(100.0)
        model.items[:2] = torch.tensor([[4.0], [8.0]])
    model.prepare(data, None)
    half = 0.5**0.5
    with torch.no_grad():
        users, items = model.eval().vectors()
    assert users[:, 0].tolist() == pytest.approx([(1 + 4 * half + 4) / 2, (2 + 8 * half) / 2, 0.0])
    assert items[:3, 0].tolist() == pytest.approx([(4 + half) / 2, (8 + 0.5 + 2 * half) / 2, 0.0])


def test_items_without_interactions_score_0(source: Planted) -> None:
    model = built(LightGCNConfig(dim=6), source)
    items = everything(source)
    cold = np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm)
    later = ItemBatch(torch.full_like(items.codes, -1), items.vectors, items.present)
    with torch.no_grad():
        assert not model.item_vectors(items)[cold].any()
        assert not model.item_vectors(later).any()
        assert not model.user_vectors(torch.tensor([-1, source.data.inputs.n_users - 1])).any()


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {"batch_size": 64, "epochs": 2, "learning_rate": 0.01, "negative_items": negatives}
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = LightGCN(LightGCNConfig(dim=6), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        models.append(model)
    with torch.no_grad():
        one, two = (torch.cat(model.vectors()) for model in models)
    assert torch.equal(one, two)


def test_every_embedding_near_the_batch_gets_a_gradient(source: Planted) -> None:
    model = built(LightGCNConfig(dim=4, layers=2, reg=0), source).train()
    batch = batches_of(source, batch_size=1, negatives=1)[0]
    model.losses(batch)["rank"].backward()
    assert model.users.grad is not None
    touched = model.users.grad.any(dim=1)
    assert touched.sum() > 1
    assert not touched[-1]


def test_losses_are_the_same_when_asked_again(source: Planted) -> None:
    model = built(LightGCNConfig(dim=4), source).train()
    batch = batches_of(source)[0]
    before = [
        batch.users.clone(),
        batch.items.codes.clone(),
        batch.positives.clone(),
        batch.negatives.clone(),
    ]
    first, second = model.losses(batch), model.losses(batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    after = [batch.users, batch.items.codes, batch.positives, batch.negatives]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(LightGCNConfig(dim=6), source)
    with torch.no_grad():
        first = model.vectors()
        assert model.vectors() is first
        model.items.mul_(2.0)
        assert model.vectors() is not first
    assert model.vectors()[0].requires_grad


def test_it_learns_who_likes_what(source: Planted) -> None:
    rng = np.random.default_rng(0)
    taste, kind = rng.normal(size=(50, 3)), rng.normal(size=(60, 3))
    order = rng.permuted(np.argsort(-(taste @ kind.T), axis=1)[:, :20], axis=1)
    pairs = Pairs(np.repeat(np.arange(50, dtype=np.int32), 15), order[:, :15].ravel().astype(np.int32))
    base = planted(n_users=50, n_items=60).data
    warm = np.unique(pairs.items).astype(np.int32)
    data = TrainingData(pairs, ModelInputs(50, 60, base.inputs.modalities), base.features, warm, 0)
    model = LightGCN(LightGCNConfig(dim=8), data.inputs)
    fit(model, data, TrainingPlan(batch_size=128, epochs=40, learning_rate=0.02), seed=0)
    with torch.no_grad():
        scores = (model.vectors()[0] @ model.vectors()[1].T).numpy()
    hits = 0
    for user in range(50):
        scores[user, order[user, :15]] = -np.inf
        hits += len(set(np.argsort(-scores[user])[:5]) & set(order[user, 15:]))
    # By chance 5 of the 45 items that are left would hit 5 * 5 / 45 a user.
    assert hits / 50 > 2.5


def test_whole_users_are_refused(source: Planted) -> None:
    model = LightGCN(LightGCNConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
