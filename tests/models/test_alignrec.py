from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.alignrec import AlignRec, AlignRecConfig, similarity_gap
from prismrec.models.batches import ItemBatch, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.losses import info_nce
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = AlignRecConfig(dim=16)


class TestAsPublished(ModelConformance):
    config = AlignRecConfig.presets()["as_published"].model


class TestRankingAlone(ModelConformance):
    config = AlignRecConfig(dim=8, layers=0, neighbours=3, align=0, user_item=0, similarity=0, l2=0)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, negatives=3)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: AlignRecConfig, source: Planted) -> AlignRec:
    model = AlignRec(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batches_of(source: Planted, model: AlignRec, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, model.wants_catalog).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def dense_views(model: AlignRec, source: Planted) -> dict[str, np.ndarray]:
    """Write the forward pass anew, with dense matrices in double precision, cold items included."""
    data, s = source.data, {name: t.double().numpy() for name, t in model.state().items()}
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    touched = np.zeros((n_users, n_items))
    touched[data.pairs.users, data.pairs.items] = 1.0
    users, items = touched.sum(axis=1), touched.sum(axis=0)
    block = touched / np.sqrt(np.maximum(users, 1)[:, None] * np.maximum(items, 1))
    warm = items > 0
    table = s["items"] * warm[:, None]
    u, v = s["users"], table
    t_users, t_items = u, v
    for _ in range(model.config.layers):
        u, v = block @ v, block.T @ u
        t_users, t_items = t_users + u, t_items + v
    x = model.content(everything(source)).double().numpy()
    f = x @ s["map.weight"].T + s["map.bias"]
    g = table / (1 + np.exp(-(f @ s["gate.weight"].T + s["gate.bias"])))
    weights = np.zeros((n_items, n_items))
    for i in range(n_items):
        near = sorted((j for j in np.flatnonzero(warm) if j != i), key=lambda j: -(x[i] @ x[j]))
        for j in near[: model.config.neighbours - int(warm[i])]:
            weights[i, j] = max(0.0, x[i] @ x[j])
        weights[i, i] = float(warm[i])
    degrees = np.where(weights.any(axis=1), weights.sum(axis=1), 1.0)
    h_items = weights / np.sqrt(degrees[:, None] * degrees) @ g
    scale = model.config.layers + 1
    return {
        "t_users": t_users / scale,
        "t_items": t_items / scale,
        "h_users": block @ h_items,
        "h_items": h_items,
        "x": x,
        "warm": warm,
    }


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_vectors_are_those_of_dense_matrices(source: Planted, layers: int) -> None:
    model = built(AlignRecConfig(dim=5, layers=layers, neighbours=4), source)
    view = dense_views(model, source)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, view["t_users"] + view["h_users"], atol=1e-5)
    expected = np.where(view["warm"][:, None], view["t_items"] + view["h_items"], view["h_items"])
    np.testing.assert_allclose(items, expected, atol=1e-5)
    assert np.abs(items[source.cold]).max() > 1e-3
    assert not users[-1].any()


def test_terms_are_those_of_the_paper(source: Planted) -> None:
    config = AlignRecConfig(
        dim=5, neighbours=4, align=0.3, temperature=0.4, user_item=0.7, similarity=0.2, l2=0.05
    )
    model = built(config, source)
    view = dense_views(model, source)
    users, items = view["t_users"] + view["h_users"], view["t_items"] + view["h_items"]
    for batch in batches_of(source, model)[:3]:
        codes = batch.items.codes.numpy()
        positives = codes[batch.positives.numpy()]
        rank, squares, cosines, count = 0.0, 0.0, [], 0
        for row, user in enumerate(batch.users.tolist()):
            u, i = users[user], items[positives[row]]
            negatives = [items[codes[j]] for j in batch.negatives[row].tolist()]
            rank += sum(np.log1p(np.exp(u @ j - u @ i)) for j in negatives)
            count += len(negatives)
            squares += u @ u + i @ i + np.mean([j @ j for j in negatives])
            cosines.append(u @ i / np.sqrt((u @ u) * (i @ i)))
        who, what = np.unique(batch.users.numpy()), np.unique(positives)
        told = [code for code in what if view["x"][code].any()]
        h, x = view["h_items"][told], view["x"][told]
        expected = {
            "rank": rank / count,
            "l2": 0.05 * squares / (2 * len(positives)),
            "align": 0.3
            * (
                nce_by_hand(view["h_users"][who], view["t_users"][who], 0.4)
                + nce_by_hand(view["h_items"][what], view["t_items"][what], 0.4)
            ),
            "user_item": 0.7 * (1 - np.mean(cosines)),
            "similarity": 0.2 * np.sqrt(((h @ h.T - x @ x.T) ** 2).sum()) / len(told),
        }
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms.keys() == expected.keys()
        for name, value in expected.items():
            assert terms[name] == pytest.approx(value, rel=1e-4), name


def nce_by_hand(h: np.ndarray, t: np.ndarray, temperature: float) -> float:
    total = 0.0
    for row in range(len(h)):
        logits = [h[row] @ o / np.sqrt((h[row] @ h[row]) * (o @ o)) / temperature for o in t]
        total += np.log(np.exp(logits).sum()) - logits[row]
    return total / len(h)


def test_contrast_by_hand() -> None:
    # Lengths do not count; the cosines of the first with both are 1 and 0, of the second 0.6 and 0.8.
    h, t = torch.tensor([[3.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [0.0, 9.0]])
    first = np.log(np.exp(2.0) + np.exp(0.0)) - 2.0
    second = np.log(np.exp(1.2) + np.exp(1.6)) - 1.6
    assert info_nce(h, t, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_similarity_gap_by_hand() -> None:
    h, x = torch.tensor([[2.0], [1.0]]), torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    # HH' = [[4, 2], [2, 1]], XX' = [[1, 0.6], [0.6, 1]].
    assert similarity_gap(h, x).item() == pytest.approx((9 + 2 * 1.4**2) ** 0.5 / 2, rel=1e-6)
    assert similarity_gap(h[:0], x[:0]).item() == 0.0


def test_a_term_without_weight_is_left_out(source: Planted) -> None:
    model = built(AlignRecConfig(dim=4, align=0, user_item=0, similarity=0, l2=0), source)
    assert model.losses(batches_of(source, model)[0]).keys() == {"rank"}


def test_a_cold_item_listens_to_training_items_only(source: Planted) -> None:
    model = built(AlignRecConfig(dim=6), source)
    items, cold = everything(source), torch.from_numpy(source.cold.astype(np.int64))
    # The same cold items ten times over would be their own nearest neighbours.
    rows = cold.repeat(10)
    crowd = ItemBatch(torch.full_like(rows, -1), tuple(v[rows] for v in items.vectors), items.present[rows])
    with torch.no_grad():
        assert_close(model.item_vectors(crowd), model.item_vectors(items)[rows])


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {"batch_size": 64, "epochs": 2, "learning_rate": 0.01, "negative_items": negatives}
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = AlignRec(AlignRecConfig(dim=6), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        models.append(model)
    with torch.no_grad():
        one, two = (model.item_vectors(everything(source)) for model in models)
    assert torch.equal(one, two)


def test_content_and_graphs_stay_as_they_were(source: Planted) -> None:
    model = built(AlignRecConfig(dim=6), source)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    parameters = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for batch in batches_of(source, model.train())[:3]:
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch).values())).sum().backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())
    assert all(not torch.equal(tensor, parameters[name]) for name, tensor in model.named_parameters())


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(AlignRecConfig(dim=6), source)
    with torch.no_grad():
        first = model.views()
        assert model.views() is first
        model.items.mul_(2.0)
        second = model.views()
        assert second is not first
        assert_close(second.item_contents, 2 * first.item_contents)
        model.train()
        assert model.views() is not second
    model.eval()
    assert model.views().users.requires_grad


def test_cold_negatives_teach_through_their_neighbours(source: Planted) -> None:
    model = built(AlignRecConfig(dim=6), source)
    batch = batches_of(source, model, negative_items="all")[0]
    warm = model.item_graph.marks(batch.items)
    assert not warm.all()
    with torch.no_grad():
        expected = model.item_vectors(batch.items)
    found = model._item_vectors(batch.items, model.views())
    assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found[~warm].sum(), model.items)
    assert gradient.any()


def test_whole_users_are_refused(source: Planted) -> None:
    model = AlignRec(AlignRecConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
