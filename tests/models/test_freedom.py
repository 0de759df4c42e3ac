from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality, ModelInputs, TripletBatch
from prismrec.models.freedom import FREEDOM, FREEDOMConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.edge_sampling import kept_edges
from prismrec.models.layers.modality_graphs import modality_shares
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = FREEDOMConfig(dim=16)


class TestMoreOfEverything(ModelConformance):
    config = FREEDOMConfig(dim=8, layers=3, item_layers=2, neighbours=5, pruned=0.9, reg=0.1)
    plan = TrainingPlan(batch_size=128, epochs=40, learning_rate=0.02, negatives=2)


class TestWithoutContentTermAndPruning(ModelConformance):
    config = FREEDOMConfig(dim=16, pruned=0.0, reg=0.0)
    # Without the term nothing trains content.
    idle = (
        "content.table_0",
        "content.table_1",
        "maps.0.weight",
        "maps.0.bias",
        "maps.1.weight",
        "maps.1.bias",
    )


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: FREEDOMConfig, source: Planted) -> FREEDOM:
    model = FREEDOM(config, source.data.inputs)
    model.prepare(source.data, None)
    model.start_epoch(1)
    return model


def batches_of(source: Planted, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return [b for b in Batches(source.data, plan, 0, False).epoch(1) if isinstance(b, TripletBatch)]


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def dense_item_graph(source: Planted, k: int, shares: list[float]) -> np.ndarray:
    """All rows of S; those of cold items are what they receive."""
    n_items = source.data.inputs.n_items
    vectors, present = source.data.features.gather(np.arange(n_items))
    warm = np.isin(np.arange(n_items), source.data.warm)
    total = np.zeros((n_items, n_items))
    for place, share in enumerate(shares):
        x = vectors[place].astype(np.float64)
        cosines = (x @ x.T) / (np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(x, axis=1) + 1e-12)
        nodes = warm & present[:, place]
        edges = np.zeros((n_items, n_items))
        for i in np.flatnonzero(present[:, place]):
            row = np.where(nodes, cosines[i], -np.inf)
            near = np.argsort(-row)[:k]
            edges[i, near] = row[near] > 0
        degrees = np.maximum(edges.sum(axis=1), 1)
        own = share / np.maximum((np.array(shares) * present).sum(axis=1, keepdims=True), 1e-12)
        total += (
            np.where(present[:, place : place + 1], own, 0.0) * edges / np.sqrt(np.outer(degrees, degrees))
        )
    return total


def dense_vectors(
    model: FREEDOM, source: Planted, touched: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Z of users, final items (training and cold) and what cold items receive, in double precision."""
    s = {name: t.double().numpy() for name, t in model.state().items()}
    n_users, n_items = touched.shape
    whole = np.zeros((n_users + n_items, n_users + n_items))
    whole[:n_users, n_users:] = touched
    whole += whole.T
    degrees = np.maximum(whole.sum(axis=1), 1)
    whole /= np.sqrt(np.outer(degrees, degrees))
    warm = np.isin(np.arange(n_items), source.data.warm)
    ids = s["items"] * warm[:, None]
    stages = [np.concatenate([s["users"], ids])]
    for _ in range(model.config.layers):
        stages.append(whole @ stages[-1])
    z = np.mean(stages, axis=0)
    h = ids
    item_graph = dense_item_graph(source, model.config.neighbours, [0.1, 0.9])
    for _ in range(model.config.item_layers - 1):
        h = item_graph @ h * warm[:, None]
    return z[:n_users], z[n_users:] + item_graph @ h, warm


def all_pairs(source: Planted) -> np.ndarray:
    touched = np.zeros((source.data.inputs.n_users, source.data.inputs.n_items))
    touched[source.data.pairs.users, source.data.pairs.items] = 1.0
    return touched


@pytest.mark.parametrize(("layers", "item_layers"), [(0, 1), (2, 1), (3, 2)])
def test_vectors_are_those_of_dense_matrices_on_the_whole_graph(
    source: Planted, layers: int, item_layers: int
) -> None:
    model = built(FREEDOMConfig(dim=5, layers=layers, item_layers=item_layers, neighbours=4), source).eval()
    z_users, z_items, warm = dense_vectors(model, source, all_pairs(source))
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, z_users, atol=1e-6)
    np.testing.assert_allclose(items, z_items, atol=1e-6)
    assert np.abs(items[source.cold]).max() > 1e-3
    assert not users[-1].any()
    assert (~source.data.features.present[warm]).any()


@pytest.mark.parametrize("pruned", [0.0, 0.5, 0.8])
def test_terms_are_those_of_the_paper_on_the_epochs_edges(source: Planted, pruned: float) -> None:
    model = built(FREEDOMConfig(dim=5, neighbours=4, pruned=pruned, reg=0.3), source)
    with torch.no_grad():
        kept = model.sampled.to_users(torch.eye(source.data.inputs.n_items)).numpy() > 0
        # Trained tables need not be what the content is.
        for table in model.content.tables:
            table.add_(0.1 * torch.randn_like(table))
    assert kept.sum() == kept_edges(len(source.data.pairs), pruned)
    users, items, warm = dense_vectors(model, source, kept)
    s = {name: t.double().numpy() for name, t in model.state().items()}
    for negative_items in ("warm", "all"):
        batch = batches_of(source, negative_items=negative_items)[0]
        codes = batch.items.codes.numpy()
        views = [items]
        for place in range(2):
            x = np.where(
                batch.items.present[:, place : place + 1].numpy(),
                batch.items.vectors[place].double().numpy(),
                s[f"content.mean_{place}"],
            )
            full = s[f"content.table_{place}"].copy()
            cold = ~warm[codes]
            full[codes[cold]] = x[cold]
            views.append(full @ s[f"maps.{place}.weight"].T + s[f"maps.{place}.bias"])
        ranks = []
        for view in views:
            losses = []
            for row, user in enumerate(batch.users.tolist()):
                positive = users[user] @ view[codes[batch.positives[row]]]
                negatives = [users[user] @ view[codes[j]] for j in batch.negatives[row].tolist()]
                losses += [np.log1p(np.exp(score - positive)) for score in negatives]
            ranks.append(np.mean(losses))
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms.keys() == {"rank", "content"}
        assert terms["rank"] == pytest.approx(ranks[0], rel=1e-5)
        assert terms["content"] == pytest.approx(0.3 * (ranks[1] + ranks[2]), rel=1e-5)


def test_an_epoch_has_one_graph_and_the_next_another(source: Planted) -> None:
    model = built(FREEDOMConfig(dim=5, reg=0.1), source).train()
    batch = batches_of(source)[0]
    copies = [
        batch.users.clone(),
        batch.items.codes.clone(),
        batch.positives.clone(),
        batch.negatives.clone(),
    ]
    columns = model.sampled.edges.columns.clone()
    first = {name: value.detach() for name, value in model.losses(batch).items()}
    model.start_batch(1)
    again = {name: value.detach() for name, value in model.losses(batch).items()}
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert torch.equal(model.sampled.edges.columns, columns)
    kept = [batch.users, batch.items.codes, batch.positives, batch.negatives]
    assert all(torch.equal(a, b) for a, b in zip(copies, kept, strict=True))
    model.start_epoch(2)
    assert not torch.equal(model.sampled.edges.columns, columns)
    assert not torch.equal(model.losses(batch)["rank"], first["rank"])


def test_edges_follow_the_seed_alone(source: Planted) -> None:
    model = built(FREEDOMConfig(dim=5), source)
    torch.manual_seed(1)
    model.start_epoch(3)
    columns = model.sampled.edges.columns.clone()
    model.start_epoch(4)
    torch.manual_seed(1)
    model.start_epoch(3)
    assert torch.equal(model.sampled.edges.columns, columns)


def test_evaluation_does_not_see_the_epochs_edges(source: Planted) -> None:
    model = built(FREEDOMConfig(dim=5), source).eval()
    with torch.no_grad():
        users = model.user_vectors(torch.arange(60))
        items = model.item_vectors(everything(source))
        model.start_epoch(2)
        assert torch.equal(model.user_vectors(torch.arange(60)), users)
        assert torch.equal(model.item_vectors(everything(source)), items)
    assert not any(name.startswith("sampled") for name in model.state())


def test_gradient_of_a_step_goes_along_kept_edges_only(source: Planted) -> None:
    model = built(FREEDOMConfig(dim=4, layers=1, pruned=1.0, reg=0.0), source)
    batch = batches_of(source)[0]
    model.losses(batch)["rank"].backward()
    gradient = model.users.grad
    assert gradient is not None
    in_batch = torch.zeros(len(gradient), dtype=torch.bool)
    in_batch[batch.users] = True
    # Without edges nobody but the batch's users is heard.
    assert not gradient[~in_batch].any()
    assert gradient[in_batch].any(dim=1).all()


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {
            "batch_size": 64,
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
        model = FREEDOM(FREEDOMConfig(dim=6, reg=0.1), source.data.inputs)
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
    model = built(FREEDOMConfig(dim=6), source).eval()
    items, cold = everything(source), torch.from_numpy(source.cold.astype(np.int64))
    rows = cold.repeat(5)
    crowd = ItemBatch(torch.full_like(rows, -1), tuple(v[rows] for v in items.vectors), items.present[rows])
    with torch.no_grad():
        vectors = model.item_vectors(items)
        assert_close(model.item_vectors(crowd), vectors[rows])
    bare = cold[~items.present[cold].any(dim=1)]
    assert len(bare)
    assert not vectors[bare].any()


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(FREEDOMConfig(dim=6), source).eval()
    with torch.no_grad():
        first = model.views()
        assert model.views() is first
        model.items.mul_(2.0)
        assert_close(model.views().sent, 2 * first.sent)
    assert model.views().users.requires_grad


def test_shares_are_those_published_for_image_and_text_alone() -> None:
    image, text, audio = Modality("image", 2), Modality("text", 3), Modality("audio", 4)
    assert modality_shares([image, text], None) == [0.1, 0.9]
    assert modality_shares([text, image], None) == [0.9, 0.1]
    assert modality_shares([text, audio], None) == [0.5, 0.5]
    assert modality_shares([image], None) == [1.0]
    assert modality_shares([image, text], (3.0, 1.0)) == [0.75, 0.25]
    for wrong in ((1.0,), (0.0, 0.0)):
        with pytest.raises(InputError, match="shares"):
            FREEDOMConfig(shares=wrong).build(ModelInputs(3, 4, (image, text)))


def test_whole_users_are_refused(source: Planted) -> None:
    model = FREEDOM(FREEDOMConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
