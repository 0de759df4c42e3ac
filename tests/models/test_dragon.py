from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality, TrainingData, TripletBatch
from prismrec.models.dragon import DRAGON, DRAGONConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

THREE = (Modality("image", 12), Modality("text", 9), Modality("audio", 7))


class TestConformance(ModelConformance):
    config = DRAGONConfig(dim=16, hidden=32)


class TestAsPublished(ModelConformance):
    config = DRAGONConfig.presets()["default"].model


class TestRankingAlone(ModelConformance):
    config = DRAGONConfig(dim=8, hidden=20, user_neighbours=3, neighbours=1, reg=0)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, negatives=3)


def sparse_data(modalities: int) -> TrainingData:
    """Few pairs: some users have few like them, none, or no pairs, and more items are cold."""
    data = planted(THREE[:modalities], n_users=30, n_items=80, missing=0.2).data
    rng = np.random.default_rng(5)
    pairs = data.pairs.take(rng.random(len(data.pairs)) < 0.22)
    # User 0 has one item, which nobody else has.
    pairs = pairs.take((pairs.users != 0) & (pairs.items != data.warm[5]) & (pairs.users != 7))
    users = np.append(pairs.users, 0).astype(np.int32)
    items = np.append(pairs.items, data.warm[5]).astype(np.int32)
    pairs = replace(pairs, users=users, items=items)
    return replace(data, pairs=pairs, warm=np.unique(items).astype(np.int32))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return sparse_data(2)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: DRAGONConfig, data: TrainingData) -> DRAGON:
    model = DRAGON(config, data.inputs)
    model.prepare(data, None)
    # As drawn, the weights of the modalities hardly differ.
    with torch.no_grad():
        model.weights += torch.randn(model.weights.shape)
    return model.eval()


def batches_of(data: TrainingData, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 20, "negatives": 2, **changes})
    return list(Batches(data, plan, 0, False).epoch(1))


def everything(data: TrainingData) -> ItemBatch:
    return item_batch(data.features, np.arange(data.inputs.n_items))


def user_weights(touched: np.ndarray, k: int) -> np.ndarray:
    counts = touched @ touched.T
    weights = np.zeros_like(counts)
    for user, row in enumerate(counts):
        others = [code for code in np.flatnonzero(row) if code != user]
        near = sorted(others, key=lambda code: (-row[code], code))[:k]
        weights[user, near] = np.exp(row[near])
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-300)


def item_weights(model: DRAGON, data: TrainingData) -> np.ndarray:
    """Write S anew; rows of cold items are what they hear, and nobody hears from them."""
    vectors, present = data.features.gather(np.arange(data.inputs.n_items))
    names = [modality.name for modality in data.inputs.modalities]
    usual = [0.1, 0.9] if names == ["image", "text"] else [1.0] * len(names)
    shares = np.array(model.config.shares or usual)
    by_item = shares * present
    by_item /= np.maximum(by_item.sum(axis=1, keepdims=True), 1e-300)
    total = np.zeros((data.inputs.n_items, data.inputs.n_items))
    for place, own in enumerate(vectors):
        units = own.astype(np.float64)
        units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
        nodes = [code for code in data.warm.tolist() if present[code, place]]
        edges = np.zeros_like(total)
        for i in np.flatnonzero(present[:, place]):
            cosines = {j: units[i] @ units[j] if i != j else 1.0 for j in nodes}
            for j in sorted(nodes, key=lambda j: (j != i, -cosines[j]))[: model.config.neighbours]:
                edges[i, j] = float(cosines[j] > 0)
        sums = np.maximum(edges.sum(axis=1), 1e-300)
        total += by_item[:, [place]] * edges / np.sqrt(sums[:, None] * np.where(edges.any(axis=1), sums, 1.0))
    return total


def dense_vectors(
    model: DRAGON, data: TrainingData, among_users: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Write the forward pass anew, with dense matrices in double precision, cold items included."""
    s = {name: tensor.double().numpy() for name, tensor in model.state().items()}
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    touched = np.zeros((n_users, n_items))
    touched[data.pairs.users, data.pairs.items] = 1.0
    degrees = np.concatenate([touched.sum(axis=1), touched.sum(axis=0)])
    scale = np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)
    whole = np.zeros((len(degrees), len(degrees)))
    whole[:n_users, n_users:], whole[n_users:, :n_users] = touched, touched.T
    whole = scale[:, None] * whole * scale
    vectors, present = data.features.gather(np.arange(n_items))
    warm = degrees[n_users:] > 0
    z = []
    for place, own in enumerate(vectors):
        there = present[:, place]
        x = np.where(there[:, None], own, own[warm & there].astype(np.float64).mean(axis=0))
        first, second = (f"encoder.maps.{place}.{layer}." for layer in (0, 2))
        h = x @ s[first + "weight"].T + s[first + "bias"]
        f = np.where(h > 0, h, 0.01 * h) @ s[second + "weight"].T + s[second + "bias"]
        nodes = np.concatenate([s["users"][:, place], f])
        nodes /= np.maximum(np.linalg.norm(nodes, axis=1, keepdims=True), 1e-12)
        z.append(nodes + whole @ nodes + whole @ whole @ nodes)
    if among_users is None:
        among_users = user_weights(touched, model.config.user_neighbours)
    q = np.concatenate([s["weights"][:, [p]] * z[p][:n_users] for p in range(len(z))], axis=1)
    r = np.concatenate([part[n_users:] for part in z], axis=1)
    return q + among_users @ q, r + item_weights(model, data) @ r


def test_there_are_users_and_items_of_all_kinds(data: TrainingData) -> None:
    touched = np.zeros((data.inputs.n_users, data.inputs.n_items))
    touched[data.pairs.users, data.pairs.items] = 1.0
    others = (touched @ touched.T > 0).sum(axis=1) - (touched.any(axis=1))
    assert touched[0].any()
    assert others[0] == 0
    assert not touched[[7, 29]].any()
    assert ((others > 0) & (others < 8)).any()
    assert (others > 8).any()
    warm = touched.any(axis=0)
    assert not data.features.present[warm].all()
    assert (~data.features.present[warm]).all(axis=1).any()
    assert not data.features.present[~warm].all()


@pytest.mark.parametrize(
    ("modalities", "config"),
    [
        (2, DRAGONConfig(dim=5)),
        (1, DRAGONConfig(dim=4, hidden=6, user_neighbours=1, neighbours=3)),
        (3, DRAGONConfig(dim=3, hidden=300, user_neighbours=8, neighbours=4, shares=(2.0, 1.0, 0.5))),
    ],
)
def test_vectors_are_those_of_dense_matrices(modalities: int, config: DRAGONConfig) -> None:
    data = sparse_data(modalities)
    model = built(config, data)
    users, items = dense_vectors(model, data)
    with torch.no_grad():
        np.testing.assert_allclose(
            model.user_vectors(torch.arange(data.inputs.n_users)).numpy(), users, atol=1e-5
        )
        np.testing.assert_allclose(model.item_vectors(everything(data)).numpy(), items, atol=1e-5)
        assert not model.user_vectors(torch.tensor([7, 29, -1])).any()
        assert model.user_vectors(torch.tensor([0])).any()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_terms_are_those_of_the_card(data: TrainingData, training: bool, negatives: str) -> None:
    model = built(DRAGONConfig(dim=5, user_neighbours=8, reg=0.3), data)
    among = None
    if training:
        model.train().start_epoch(1)
        with torch.no_grad():
            among = model.user_graph(torch.eye(data.inputs.n_users)).double().numpy()
    users, items = dense_vectors(model, data, among)
    p, w = model.users.detach().double().numpy(), model.weights.detach().double().numpy()
    for batch in batches_of(data, negative_items=negatives)[:3]:
        codes, rank, squares = batch.items.codes.numpy(), [], np.zeros(2)
        for row, user in enumerate(batch.users.tolist()):
            positive = users[user] @ items[codes[batch.positives[row]]]
            for j in batch.negatives[row].tolist():
                rank.append(np.log2(1 + np.exp(users[user] @ items[codes[j]] - positive)))
            squares += [np.mean(p[user, place] ** 2) for place in range(2)]
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        expected = squares.sum() / len(batch.users) + np.mean(w**2)
        assert terms == {
            "rank": pytest.approx(np.mean(rank), rel=1e-5),
            "reg": pytest.approx(0.3 * expected, rel=1e-5),
        }


def test_a_penalty_without_weight_is_left_out(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=4, reg=0), data)
    assert model.losses(batches_of(data)[0]).keys() == {"rank"}


def test_modalities_count_alike_at_the_start(data: TrainingData) -> None:
    model = DRAGON(DRAGONConfig(dim=8), data.inputs)
    assert_close(model.weights.sum(dim=1), torch.ones(30))
    assert 0.02 < model.weights.std() < 0.2
    assert model.users.std().item() == pytest.approx((2 / 38) ** 0.5, rel=0.1)


def test_a_batch_can_be_passed_twice(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6, user_neighbours=8), data).train()
    model.start_epoch(1)
    batch = batches_of(data)[0]
    before = [t.clone() for t in (batch.users, batch.items.codes, batch.positives, batch.negatives)]
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    passes = []
    for _ in range(2):
        model.zero_grad()
        loss = torch.stack(list(model.losses(batch).values())).sum()
        loss.backward()
        passes.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
        torch.rand(5)
    assert torch.equal(passes[0][0], passes[1][0])
    assert all(torch.equal(one, two) for one, two in zip(passes[0][1], passes[1][1], strict=True))
    after = [batch.users, batch.items.codes, batch.positives, batch.negatives]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())


def test_each_epoch_has_its_own_lists_and_evaluation_has_none(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6, user_neighbours=8), data)
    everyone = torch.arange(data.inputs.n_users)
    with torch.no_grad():
        still = model.user_vectors(everyone)
        drawn = []
        for epoch, seed in ((1, 5), (2, 6), (1, 5)):
            torch.manual_seed(seed)
            model.train().start_epoch(epoch)
            drawn.append(model.user_vectors(everyone))
            assert torch.equal(model.user_vectors(everyone), drawn[-1])
            assert torch.equal(model.eval().user_vectors(everyone), still)
    assert torch.equal(drawn[0], drawn[2])
    assert (drawn[0] - drawn[1]).abs().max() > 1e-3
    assert (drawn[0] - still).abs().max() > 1e-3


def test_evaluation_is_fresh_and_kept_until_a_parameter_changes(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6), data).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for batch in batches_of(data)[:2]:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        first = model.views()
        assert model.views() is first
        np.testing.assert_allclose(first.users.numpy(), dense_vectors(model, data)[0], atol=1e-5)
        model.weights.mul_(2.0)
        assert_close(model.views().users, 2 * first.users)
    assert model.views().users.requires_grad


def test_features_and_graphs_stay_as_they_were(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6), data)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    parameters = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    assert not any("table" in name for name in parameters)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches_of(data)[:3]:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    assert all(not torch.equal(tensor, parameters[name]) for name, tensor in model.named_parameters())
    assert not model.users[[7, 29]].any()


def test_rows_of_cold_items_are_never_read(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6), data)
    cold = torch.from_numpy(np.setdiff1d(np.arange(data.inputs.n_items), data.warm))
    everyone, batch = torch.arange(data.inputs.n_users), batches_of(data, negative_items="all")[0]
    assert np.isin(batch.items.codes.numpy(), cold.numpy()).any()
    seen = []
    for noise in (0.0, 100.0):
        with torch.no_grad():
            for table in model.encoder.tables.tables:
                table[cold] += noise
            vectors = (model.user_vectors(everyone), model.item_vectors(everything(data)))
            assert not model.views().items[cold].any()
        seen.append((*vectors, torch.stack(list(model.losses(batch).values()))))
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))


def test_cold_negatives_teach_the_map_of_content(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6), data)
    items = everything(data)
    cold = torch.from_numpy(np.setdiff1d(np.arange(data.inputs.n_items), data.warm))
    found = model._item_vectors(items, model.views())
    with torch.no_grad():
        assert_close(found, model.item_vectors(items))
    (gradient,) = torch.autograd.grad(found[cold].sum(), model.encoder.maps[0][0].weight)
    assert gradient.any()


def test_shares_that_do_not_fit_are_refused(data: TrainingData) -> None:
    for wrong in ((1.0,), (0.0, 0.0)):
        with pytest.raises(InputError, match="do not fit the modalities"):
            DRAGON(DRAGONConfig(shares=wrong), data.inputs)


def test_a_cold_item_without_content_hears_from_nobody(data: TrainingData) -> None:
    model = built(DRAGONConfig(dim=6), data)
    bare = ItemBatch(torch.tensor([-1]), (torch.ones(1, 12), torch.ones(1, 9)), torch.zeros(1, 2).bool())
    with torch.no_grad():
        assert_close(model.item_vectors(bare), model.encoder.alone(bare).flatten(1))


def test_whole_users_are_refused(data: TrainingData) -> None:
    model = DRAGON(DRAGONConfig(dim=4), data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, data, TrainingPlan(sampling="users"), seed=0)
