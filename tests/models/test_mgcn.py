from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.mgcn import MGCN, MGCNConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = MGCNConfig(dim=16)


class TestMoreOfEverything(ModelConformance):
    config = MGCNConfig(dim=8, layers=3, item_layers=2, neighbours=5, contrast=0.1, temperature=0.5, reg=1e-3)
    plan = TrainingPlan(batch_size=256, epochs=30, learning_rate=0.02, negatives=2)


class TestRankingAlone(ModelConformance):
    config = MGCNConfig(dim=8, layers=0, contrast=0, reg=0)
    plan = TrainingPlan(batch_size=256, epochs=30, learning_rate=0.02)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: MGCNConfig, source: Planted) -> MGCN:
    model = MGCN(config, source.data.inputs)
    model.prepare(source.data, None)
    with torch.no_grad():
        # Trained tables need not be what the content is, and Xavier's start is small.
        for table in model.content.tables:
            table.add_(0.1 * torch.randn_like(table))
        model.items.mul_(5.0)
        model.users.mul_(5.0)
    return model.eval()


def batches_of(source: Planted, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return [b for b in Batches(source.data, plan, 0, False).epoch(1) if isinstance(b, TripletBatch)]


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def dense_item_graph(source: Planted, place: int, k: int) -> np.ndarray:
    """All rows of a modality's S; those of cold items are what they receive."""
    n_items = source.data.inputs.n_items
    vectors, present = source.data.features.gather(np.arange(n_items))
    warm = np.isin(np.arange(n_items), source.data.warm)
    x = vectors[place].astype(np.float64)
    cosines = (x @ x.T) / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(x, axis=1) + 1e-12)
    nodes = warm & present[:, place]
    edges = np.zeros((n_items, n_items))
    for i in np.flatnonzero(present[:, place]):
        row = np.where(nodes, cosines[i], -np.inf)
        near = np.argsort(-row)[:k]
        edges[i, near] = np.maximum(row[near], 0)
    degrees = np.where(edges.any(axis=1), edges.sum(axis=1), 1)
    return edges / np.sqrt(np.outer(degrees, degrees))


def dense_views(model: MGCN, source: Planted) -> dict[str, np.ndarray]:
    """Write the forward pass anew, row by row where it is not a product; cold items have a C of 0."""
    s = {name: t.double().numpy() for name, t in model.state().items() if t.is_floating_point()}
    data, config = source.data, model.config
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    touched = np.zeros((n_users, n_items))
    touched[data.pairs.users, data.pairs.items] = 1.0
    block = touched / np.sqrt(
        np.maximum(touched.sum(axis=1), 1)[:, None] * np.maximum(touched.sum(axis=0), 1)
    )
    warm = touched.any(axis=0)
    present = data.features.gather(np.arange(n_items))[1]
    ids = s["items"] * warm[:, None]
    u, v = s["users"], ids
    c_users, c_items = u, v
    for _ in range(config.layers):
        u, v = block @ v, block.T @ u
        c_users, c_items = c_users + u, c_items + v
    c_users, c_items = c_users / (config.layers + 1), c_items / (config.layers + 1)
    m_users, m_items = [], []
    for place in range(2):
        f = s[f"content.table_{place}"] @ s[f"maps.{place}.weight"].T + s[f"maps.{place}.bias"]
        h = ids * sigmoid(f @ s[f"gates.{place}.weight"].T + s[f"gates.{place}.bias"])
        graph = dense_item_graph(source, place, config.neighbours)
        for _ in range(config.item_layers - 1):
            h = graph @ h * warm[:, None]
        h = graph @ h
        m_items.append(h)
        m_users.append(block @ (h * warm[:, None]))
    told_users = np.stack([touched @ (warm & present[:, place]) > 0 for place in range(2)], axis=1)
    return {
        "c_users": c_users,
        "c_items": c_items,
        "s_users": sides(s, c_users, m_users, told_users),
        "s_items": sides(s, c_items, m_items, present),
        "told_users": told_users,
        "told_items": present,
        "warm": warm,
    }


def sides(s: dict[str, np.ndarray], c: np.ndarray, m: list[np.ndarray], told: np.ndarray) -> np.ndarray:
    found = np.zeros_like(c)
    for row in range(len(c)):
        places = np.flatnonzero(told[row])
        if len(places) == 0:
            continue
        y = [
            np.tanh(m[p][row] @ s["attention.0.weight"].T + s["attention.0.bias"])
            @ s["attention.2.weight"][0]
            for p in places
        ]
        b = np.exp(y) / np.exp(y).sum()
        common = sum(weight * m[p][row] for weight, p in zip(b, places, strict=True))
        total = common
        for p in places:
            wish = sigmoid(c[row] @ s[f"preferences.{p}.weight"].T + s[f"preferences.{p}.bias"])
            total = total + wish * (m[p][row] - common)
        found[row] = total / 3
    return found


@pytest.mark.parametrize(("layers", "item_layers"), [(0, 1), (2, 1), (3, 2)])
def test_vectors_are_those_of_dense_matrices(source: Planted, layers: int, item_layers: int) -> None:
    model = built(MGCNConfig(dim=5, layers=layers, item_layers=item_layers, neighbours=4), source)
    view = dense_views(model, source)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, view["c_users"] + view["s_users"], atol=2e-6)
    np.testing.assert_allclose(items, view["c_items"] + view["s_items"], atol=2e-6)
    assert np.abs(items[source.cold]).max() > 1e-2
    assert not users[-1].any()
    # There are items of one modality, and of none.
    assert set(view["told_items"][view["warm"]].sum(axis=1)) == {0, 1, 2}


@pytest.mark.parametrize("negative_items", ["warm", "all"])
def test_terms_are_those_of_the_paper(source: Planted, negative_items: str) -> None:
    model = built(MGCNConfig(dim=5, neighbours=4, contrast=0.3, temperature=0.4, reg=0.05), source)
    view = dense_views(model, source)
    users, items = view["c_users"] + view["s_users"], view["c_items"] + view["s_items"]
    for batch in batches_of(source, negative_items=negative_items)[:3]:
        codes = batch.items.codes.numpy()
        positives = codes[batch.positives.numpy()]
        rank, squares = [], 0.0
        for row, user in enumerate(batch.users.tolist()):
            u, i = users[user], items[positives[row]]
            negatives = [items[codes[j]] for j in batch.negatives[row].tolist()]
            rank += [np.log1p(np.exp(u @ j - u @ i)) for j in negatives]
            squares += u @ u + i @ i + np.mean([j @ j for j in negatives])
        who = [u for u in np.unique(batch.users.numpy()) if view["told_users"][u].any()]
        what = [i for i in np.unique(positives) if view["told_items"][i].any()]
        contrast = nce_by_hand(view["s_users"][who], view["c_users"][who], 0.4)
        contrast += nce_by_hand(view["s_items"][what], view["c_items"][what], 0.4)
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms.keys() == {"rank", "reg", "contrast"}
        assert terms["rank"] == pytest.approx(np.mean(rank), rel=1e-5)
        assert terms["reg"] == pytest.approx(0.05 * squares / (2 * len(positives)), rel=1e-5)
        assert terms["contrast"] == pytest.approx(0.3 * contrast, rel=1e-5)


def nce_by_hand(sides: np.ndarray, others: np.ndarray, temperature: float) -> float:
    total = 0.0
    for row in range(len(sides)):
        logits = []
        for other in others:
            lengths = np.sqrt((sides[row] @ sides[row]) * (other @ other))
            logits.append(sides[row] @ other / lengths / temperature)
        total += np.log(np.exp(logits).sum()) - logits[row]
    return total / len(sides)


def test_a_term_without_weight_is_left_out(source: Planted) -> None:
    model = built(MGCNConfig(dim=4, contrast=0, reg=0), source)
    assert model.losses(batches_of(source)[0]).keys() == {"rank"}


def test_a_batch_of_items_without_content_has_no_contrast_of_items(source: Planted) -> None:
    model = built(MGCNConfig(dim=4, contrast=1.0), source)
    bare = [i for i in source.data.warm.tolist() if not source.data.features.present[i].any()]
    assert bare
    items = item_batch(source.data.features, np.array([bare[0], source.data.warm[5]]))
    users = torch.tensor([0])
    batch = TripletBatch(users, items, torch.tensor([0]), torch.tensor([[1]]))
    terms = model.losses(batch)
    # A single user is told from nobody.
    assert terms["contrast"].item() == pytest.approx(0.0, abs=1e-6)
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_gradients_are_finite_where_a_modality_is_missing(source: Planted) -> None:
    model = built(MGCNConfig(dim=4), source).train()
    for batch in batches_of(source)[:2]:
        torch.stack(list(model.losses(batch).values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_two_passes_over_a_batch_agree_and_leave_it(source: Planted) -> None:
    model = built(MGCNConfig(dim=5), source).train()
    batch = batches_of(source)[0]
    tensors = [batch.users, batch.items.codes, batch.positives, batch.negatives]
    copies = [tensor.clone() for tensor in tensors]
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    first, again = model.losses(batch), model.losses(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    with torch.no_grad():
        model.items.add_(0.1)
    assert not torch.equal(model.losses(batch)["rank"], first["rank"])
    assert all(torch.equal(a, b) for a, b in zip(copies, tensors, strict=True))
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())


def test_evaluation_is_a_pass_of_its_own(source: Planted) -> None:
    model = built(MGCNConfig(dim=6), source)
    with torch.no_grad():
        first = model.views()
        assert model.views() is first
        model.train()
        model.losses(batches_of(source)[0])
        model.items.mul_(2.0)
        model.eval()
        second = model.views()
    assert second is not first
    assert_close(second.sent[0], 2 * first.sent[0])


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {
            "batch_size": 128,
            "epochs": 2,
            "learning_rate": 0.01,
            "negative_items": negatives,
            "row_updates": "dense",
        }
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = MGCN(MGCNConfig(dim=6), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        assert not any(table[cold].any() for table in model.content.tables)
        models.append(model.eval())
    with torch.no_grad():
        one, two = (model.item_vectors(everything(source)) for model in models)
    assert torch.equal(one, two)


def test_an_item_without_any_content_and_a_crowd_of_cold_ones(source: Planted) -> None:
    model = built(MGCNConfig(dim=6), source)
    items, cold = everything(source), torch.from_numpy(source.cold.astype(np.int64))
    rows = cold.repeat(5)
    crowd = ItemBatch(torch.full_like(rows, -1), tuple(v[rows] for v in items.vectors), items.present[rows])
    with torch.no_grad():
        vectors = model.item_vectors(items)
        assert_close(model.item_vectors(crowd), vectors[rows])
    bare = cold[~items.present[cold].any(dim=1)]
    assert len(bare)
    assert not vectors[bare].any()


def test_whole_users_are_refused(source: Planted) -> None:
    model = MGCN(MGCNConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
