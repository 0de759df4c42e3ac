from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, TripletBatch
from prismrec.models.lattice import LATTICE, LATTICEConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = LATTICEConfig(dim=16)


class TestMoreOfEverything(ModelConformance):
    config = LATTICEConfig(dim=8, layers=3, item_layers=2, neighbours=5, frozen=0.5, reg=1e-3)
    plan = TrainingPlan(batch_size=256, epochs=40, learning_rate=0.02, negatives=2)


class TestLearntGraphAlone(ModelConformance):
    config = LATTICEConfig(dim=16, layers=0, frozen=0.0, reg=0.0)
    plan = TrainingPlan(batch_size=256, epochs=30, learning_rate=0.02)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: LATTICEConfig, source: Planted) -> LATTICE:
    model = LATTICE(config, source.data.inputs)
    model.prepare(source.data, None)
    with torch.no_grad():
        # Trained tables need not be what the content is, nor shares equal.
        for table in model.content.tables:
            table.add_(0.1 * torch.randn_like(table))
        model.logits.add_(torch.randn_like(model.logits))
    return model.eval()


def batches_of(source: Planted, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return [b for b in Batches(source.data, plan, 0, False).epoch(1) if isinstance(b, TripletBatch)]


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


Weights = dict[str, np.ndarray]


def weights_of(model: LATTICE) -> Weights:
    return {name: t.double().numpy().copy() for name, t in model.state().items() if t.is_floating_point()}


def nearest(x: np.ndarray, present: np.ndarray, nodes: np.ndarray, k: int) -> np.ndarray:
    """Cosines of each item with its k nearest nodes, as a dense matrix."""
    cosines = (x @ x.T) / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(x, axis=1) + 1e-12)
    edges = np.zeros((len(x), len(x)))
    for i in np.flatnonzero(present):
        row = np.where(nodes, cosines[i], -np.inf)
        near = np.argsort(-row)[:k]
        edges[i, near] = np.maximum(row[near], 0)
    return edges


def sym(edges: np.ndarray) -> np.ndarray:
    sums = np.where(edges.any(axis=1), edges.sum(axis=1), 1)
    return edges / np.sqrt(np.outer(sums, sums))


def dense_item_graph(s: Weights, config: LATTICEConfig, source: Planted) -> np.ndarray:
    """All rows of G; those of cold items are what they receive."""
    n_items = source.data.inputs.n_items
    vectors, present = source.data.features.gather(np.arange(n_items))
    warm = np.isin(np.arange(n_items), source.data.warm)
    shares = np.exp(s["logits"]) / np.exp(s["logits"]).sum() * present
    shares = shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-12)
    frozen, learned = np.zeros((n_items, n_items)), np.zeros((n_items, n_items))
    for place in range(2):
        there, own = present[:, place], shares[:, place : place + 1]
        raw = vectors[place].astype(np.float64)
        frozen += own * sym(nearest(raw, there, there & warm, config.neighbours))
        x = np.where(warm[:, None], s[f"content.table_{place}"], raw)
        x = x @ s[f"maps.{place}.weight"].T + s[f"maps.{place}.bias"]
        learned += own * nearest(x, there, there & warm, config.neighbours)
    return config.frozen * frozen + (1 - config.frozen) * sym(learned)


def dense_vectors(
    s: Weights, config: LATTICEConfig, source: Planted, item_graph: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Final users and items, training and cold."""
    data = source.data
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    whole = np.eye(n_users + n_items)
    whole[data.pairs.users, n_users + data.pairs.items] = 1.0
    whole[n_users + data.pairs.items, data.pairs.users] = 1.0
    whole /= whole.sum(axis=1, keepdims=True)
    warm = np.isin(np.arange(n_items), data.warm)
    ids = s["items"] * warm[:, None]
    stages = [np.concatenate([s["users"], ids])]
    for _ in range(config.layers):
        stages.append(whole @ stages[-1])
    z = np.mean(stages, axis=0)
    h = ids
    for step in range(config.item_layers):
        h = item_graph @ (h if step == 0 else h * warm[:, None])
    h = h / np.maximum(np.linalg.norm(h, axis=1, keepdims=True), 1e-12)
    return z[:n_users], z[n_users:] + h


def dense_terms(
    config: LATTICEConfig, batch: TripletBatch, users: np.ndarray, items: np.ndarray
) -> dict[str, float]:
    codes = batch.items.codes.numpy()
    rank, squares = [], 0.0
    for row, user in enumerate(batch.users.tolist()):
        u, i = users[user], items[codes[batch.positives[row]]]
        negatives = [items[codes[j]] for j in batch.negatives[row].tolist()]
        rank += [np.log1p(np.exp(u @ j - u @ i)) for j in negatives]
        squares += u @ u + i @ i + np.mean([j @ j for j in negatives])
    return {"rank": float(np.mean(rank)), "reg": config.reg * squares / (2 * len(batch.users))}


@pytest.mark.parametrize(
    ("layers", "item_layers", "frozen"), [(0, 1, 0.9), (2, 1, 0.5), (3, 2, 0.0), (2, 3, 1.0)]
)
def test_vectors_are_those_of_dense_matrices(
    source: Planted, layers: int, item_layers: int, frozen: float
) -> None:
    config = LATTICEConfig(dim=5, layers=layers, item_layers=item_layers, neighbours=4, frozen=frozen)
    model = built(config, source)
    s = weights_of(model)
    expected = dense_vectors(s, config, source, dense_item_graph(s, config, source))
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, expected[0], atol=1e-6)
    np.testing.assert_allclose(items, expected[1], atol=2e-5)
    assert not users[-1].any()
    lengths = np.linalg.norm(items[source.cold], axis=1)
    told = source.data.features.present[source.cold].any(axis=1)
    np.testing.assert_allclose(lengths, told, atol=1e-5)
    assert not told.all()


@pytest.mark.parametrize("negative_items", ["warm", "all"])
def test_first_batch_learns_the_graph(source: Planted, negative_items: str) -> None:
    config = LATTICEConfig(dim=5, neighbours=4, frozen=0.4, reg=0.05)
    model = built(config, source).train()
    batch = batches_of(source, negative_items=negative_items)[0]
    model.start_epoch(1)
    model.start_batch(0)
    s = weights_of(model)

    def terms_at(weights: Weights) -> dict[str, float]:
        graph = dense_item_graph(weights, config, source)
        return dense_terms(config, batch, *dense_vectors(weights, config, source, graph))

    terms, expected = model.losses(batch), terms_at(s)
    assert terms.keys() == {"rank", "reg"}
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5)
    torch.stack(list(terms.values())).sum().backward()
    step = 1e-5
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        # Where the gradient is largest, and anywhere.
        places = [int(gradient.abs().argmax()), int(torch.randint(gradient.numel(), ()))]
        for place in places:
            ends = []
            for sign in (1, -1):
                moved = {key: value.copy() for key, value in s.items()}
                moved[name].flat[place] += sign * step
                ends.append(sum(terms_at(moved).values()))
            slope = (ends[0] - ends[1]) / (2 * step)
            assert gradient.flatten()[place].item() == pytest.approx(slope, rel=2e-3, abs=2e-6), name
        assert gradient.abs().max() > 1e-5, name


@pytest.mark.parametrize("negative_items", ["warm", "all"])
def test_later_batches_have_one_graph_that_stands_still(source: Planted, negative_items: str) -> None:
    config = LATTICEConfig(dim=5, neighbours=4, frozen=0.4, reg=0.05)
    model = built(config, source).train()
    batches = batches_of(source, negative_items=negative_items)
    model.start_batch(0)
    model.losses(batches[0])
    model.start_batch(1)
    at_second = dense_item_graph(weights_of(model), config, source)
    with torch.no_grad():
        # Of what the graph is made of nothing may be heard before the next epoch.
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    for number in (1, 2):
        model.start_batch(number)
        s = weights_of(model)
        users, items = dense_vectors(s, config, source, at_second)
        batch = batches[number]
        terms = model.losses(batch)
        if negative_items == "warm":
            for name, value in dense_terms(config, batch, users, items).items():
                assert terms[name].item() == pytest.approx(value, rel=1e-5)
        model.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        assert model.items.grad is not None
        assert model.users.grad is not None
        for learnt in (model.logits, *model.content.parameters(), *model.maps.parameters()):
            assert learnt.grad is None
    # The next epoch's first batch builds it from the weights as they are.
    model.start_epoch(2)
    model.start_batch(0)
    s = weights_of(model)
    users, items = dense_vectors(s, config, source, dense_item_graph(s, config, source))
    terms = model.losses(batches[0])
    for name, value in dense_terms(config, batches[0], users, items).items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("number", [0, 1])
def test_both_passes_over_a_batch_see_the_same_kind_of_graph(source: Planted, number: int) -> None:
    model = built(LATTICEConfig(dim=5, frozen=0.3), source).train()
    batch = batches_of(source)[0]
    tensors = [batch.users, batch.items.codes, batch.positives, batch.negatives]
    copies = [tensor.clone() for tensor in tensors]
    for place in range(number + 1):
        model.start_batch(place)
    first, again = model.losses(batch), model.losses(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    with torch.no_grad():
        model.maps[0].weight.add_(0.5)  # type: ignore[operator]
    moved = model.losses(batch)
    # In the first batch the perturbed weights make the graph, in a later one they do not.
    assert torch.equal(moved["rank"], first["rank"]) == (number == 1)
    assert all(torch.equal(a, b) for a, b in zip(copies, tensors, strict=True))


def test_content_moves_once_an_epoch(source: Planted) -> None:
    plan = TrainingPlan(batch_size=128, epochs=1, learning_rate=0.01, row_updates="dense")
    model = LATTICE(LATTICEConfig(dim=5), source.data.inputs)
    torch.manual_seed(3)
    model.prepare(source.data, None)
    before = [table.clone() for table in model.content.tables]
    fit(model, source.data, plan, seed=0)
    for table, old in zip(model.content.tables, before, strict=True):
        # A single step of Adam is at most its rate; there are more batches than one.
        assert 0 < float((table - old).detach().abs().max()) <= 0.01 * 1.01


def test_evaluation_builds_the_graph_anew(source: Planted) -> None:
    config = LATTICEConfig(dim=5, neighbours=4, frozen=0.2)
    model = built(config, source).train()
    model.start_batch(0)
    model.start_batch(1)
    with torch.no_grad():
        for parameter in model.maps.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    model.eval()
    s = weights_of(model)
    _, expected = dense_vectors(s, config, source, dense_item_graph(s, config, source))
    with torch.no_grad():
        np.testing.assert_allclose(model.item_vectors(everything(source)).numpy(), expected, atol=2e-5)
        first = model.views()
        assert model.views() is first
        model.logits.add_(1.0)
        assert model.views() is not first
    assert not any("still" in name for name in model.state())


def test_gradients_are_finite_where_nothing_is_known(source: Planted) -> None:
    model = built(LATTICEConfig(dim=4, layers=0), source).train()
    bare = [i for i in source.data.warm.tolist() if not source.data.features.present[i].any()]
    items = item_batch(source.data.features, np.array([*bare[:2], source.data.warm[7]]))
    batch = TripletBatch(torch.tensor([0, 1]), items, torch.tensor([0, 1]), torch.tensor([[2], [2]]))
    torch.stack(list(model.losses(batch).values())).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() < 100


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {
            "batch_size": 256,
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
        model = LATTICE(LATTICEConfig(dim=6), source.data.inputs)
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


def test_a_crowd_of_cold_items_hears_training_items_only(source: Planted) -> None:
    model = built(LATTICEConfig(dim=6), source)
    items, cold = everything(source), torch.from_numpy(source.cold.astype(np.int64))
    rows = cold.repeat(5)
    crowd = ItemBatch(torch.full_like(rows, -1), tuple(v[rows] for v in items.vectors), items.present[rows])
    with torch.no_grad():
        assert_close(model.item_vectors(crowd), model.item_vectors(items)[rows])


def test_whole_users_are_refused(source: Planted) -> None:
    model = LATTICE(LATTICEConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
