from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality, ModelInputs, TripletBatch
from prismrec.models.grcn import GRCN, GRCNConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = GRCNConfig(dim=16)
    plan = TrainingPlan(batch_size=128, epochs=10, learning_rate=0.02)


class TestAsReleased(ModelConformance):
    config = GRCNConfig(dim=16, routings=0)
    plan = TrainingPlan(batch_size=128, epochs=10, learning_rate=0.02)


class TestSignedEdgesAlone(ModelConformance):
    config = GRCNConfig(dim=8, routings=1, layers=1, prune=False, l2=0)
    plan = TrainingPlan(batch_size=128, epochs=10, learning_rate=0.02, negatives=3)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: GRCNConfig, source: Planted) -> GRCN:
    model = GRCN(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batches_of(source: Planted, model: GRCN, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, model.wants_catalog).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def attention(x: np.ndarray, senders: np.ndarray) -> np.ndarray:
    """Row i: the softmax of x_i . x_j over the nodes j that send to i; zeros where nobody sends."""
    powers = np.where(senders, np.exp(x @ x.T), 0.0)
    return powers / np.where(senders.any(axis=1), powers.sum(axis=1), 1.0)[:, None]


def dense_vectors(model: GRCN, source: Planted) -> tuple[np.ndarray, np.ndarray]:
    """Write the forward pass anew: one matrix of all nodes, in double precision, cold items included."""
    data, s = source.data, {name: t.double().numpy() for name, t in model.state().items()}
    config, n_users, n_items = model.config, data.inputs.n_users, data.inputs.n_items
    both = np.zeros((n_users + n_items, n_users + n_items), dtype=np.bool_)
    both[data.pairs.users, n_users + data.pairs.items] = True
    upward = both.copy()
    both |= both.T
    known = both.any(axis=1)
    vectors, present = data.features.gather(np.arange(n_items))
    trust = np.concatenate([s["user_trust"], s["item_trust"]])
    refined, weights = [], []
    for m, raw in enumerate(vectors):
        content = raw.astype(np.float64)
        content[~present[:, m]] = content[known[n_users:] & present[:, m]].mean(axis=0)
        f = content @ s[f"maps.{m}.weight"].T + s[f"maps.{m}.bias"]
        f = unit(np.where(f > 0, f, 0.01 * f))
        p = unit(s["tastes"][:, m * config.dim : (m + 1) * config.dim])
        for _ in range(config.routings):
            x = np.concatenate([p, f])
            p = unit(p + (attention(x, upward) @ x)[:n_users])
        x = np.concatenate([p, f])
        a = attention(x, both)
        refined.append(x + a @ x)
        weights.append(a * trust[:, m])
    w = np.where(both, np.max(weights, axis=0), 0.0)
    if config.prune:
        w = np.maximum(w, 0.0)
    e = unit(np.concatenate([s["users"], s["items"]]))
    total = e
    for _ in range(config.layers):
        e = w @ e
        total = total + e
    total = total * known[:, None]
    found = np.concatenate([total, *refined], axis=1)
    found[:n_users] *= known[:n_users, None]
    return found[:n_users], found[n_users:]


CONFIGS = [
    GRCNConfig(dim=5),
    GRCNConfig(dim=5, routings=0, layers=3),
    GRCNConfig(dim=4, routings=1, layers=1, prune=False),
    GRCNConfig(dim=4, routings=2, layers=0),
]


def with_strong_edges(model: GRCN) -> GRCN:
    """At first edges weigh next to nothing, and no test would notice if they were wrong."""
    with torch.no_grad():
        model.user_trust.mul_(20.0)
        model.item_trust.mul_(20.0)
        for linear in model.maps:
            linear.get_parameter("bias").add_(torch.randn(model.config.dim))
    return model


@pytest.mark.parametrize("config", CONFIGS)
def test_vectors_are_those_of_dense_matrices(source: Planted, config: GRCNConfig) -> None:
    model = with_strong_edges(built(config, source))
    expected_users, expected_items = dense_vectors(model, source)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, expected_users, atol=1e-5)
    np.testing.assert_allclose(items, expected_items, atol=1e-5)
    assert not items[source.cold, : config.dim].any()
    lengths = np.linalg.norm(items[source.cold, config.dim : 2 * config.dim], axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    assert not users[-1].any()


def test_edges_weigh_what_the_oracle_tests() -> None:
    source = planted(n_users=20, n_items=60)
    plain = dense_vectors(with_strong_edges(built(GRCNConfig(dim=5), source)), source)
    torch.manual_seed(7)
    signed = dense_vectors(with_strong_edges(built(GRCNConfig(dim=5, prune=False), source)), source)
    assert np.abs(plain[0] - signed[0]).max() > 0.05


@pytest.mark.parametrize("names", [("image", "text"), ("text", "image"), ("image", "audio"), ("text",)])
def test_terms_are_those_of_the_release(names: tuple[str, ...]) -> None:
    source = planted([Modality(name, 5 + place) for place, name in enumerate(names)], n_users=20, n_items=60)
    model = built(GRCNConfig(dim=5, l2=0.3), source)
    users, items = dense_vectors(model, source)
    user_ids, item_ids, tastes = (
        table.detach().double().numpy() for table in (model.users, model.items, model.tastes)
    )
    blocks = np.split(tastes, len(names), axis=1)
    counted = [blocks[names.index("image")]] if set(names) == {"image", "text"} else blocks
    whole = np.mean([(block**2).mean() for block in counted])
    for batch in batches_of(source, model)[:3]:
        codes = batch.items.codes.numpy()
        rank, squares = [], []
        for row, user in enumerate(batch.users.tolist()):
            i = codes[batch.positives[row]]
            for place in batch.negatives[row].tolist():
                j = codes[place]
                rank.append(np.log1p(np.exp(users[user] @ items[j] - users[user] @ items[i])))
                # The release has each user twice: with the positive and with the negative.
                squares += [user_ids[user] ** 2 + item_ids[i] ** 2, user_ids[user] ** 2 + item_ids[j] ** 2]
        of_batch = sum((block[batch.users.numpy()] ** 2).mean() for block in blocks)
        terms = model.losses(batch)
        assert terms.keys() == {"rank", "l2"}
        assert terms["rank"].item() == pytest.approx(np.mean(rank), rel=1e-4)
        assert terms["l2"].item() == pytest.approx(0.3 * (np.mean(squares) + whole + of_batch), rel=1e-4)


def test_a_term_without_weight_is_left_out(source: Planted) -> None:
    model = built(GRCNConfig(dim=4, l2=0), source)
    assert model.losses(batches_of(source, model)[0]).keys() == {"rank"}


def test_routing_draws_tastes_to_content(source: Planted) -> None:
    # In the released code it changes nothing.
    model = built(GRCNConfig(dim=6, routings=0), source)
    (content, *_) = model._contents(model.features.tables)
    tastes = model.tastes[:, :6]
    affinities = []
    for routings in (0, 1, 3):
        model.config = GRCNConfig(dim=6, routings=routings)
        with torch.no_grad():
            refined = model._refine(tastes, content)
            mean = model.edges.mean_to_users(content)
            affinities.append(torch.nn.functional.cosine_similarity(refined.users, mean)[:-1].mean().item())
    assert affinities[0] < affinities[1] < affinities[2]


def test_losses_are_the_same_when_asked_again(source: Planted) -> None:
    model = built(GRCNConfig(dim=6), source).train()
    one, two = batches_of(source, model)[:2]
    before = [t.clone() for t in (one.users, one.items.codes, one.positives, one.negatives)]
    first, _, again = model.losses(one), model.losses(two), model.losses(one)
    assert all(torch.equal(first[name], again[name]) for name in first)
    after = (one.users, one.items.codes, one.positives, one.negatives)
    assert all(torch.equal(was, now) for was, now in zip(before, after, strict=True))


def test_tables_start_with_the_spread_of_xavier() -> None:
    inputs = ModelInputs(300, 500, (Modality("image", 40), Modality("text", 30)))
    model = GRCN(GRCNConfig(), inputs)
    assert model.tastes.shape == (300, 128)
    assert model.tastes.std().item() == pytest.approx((2 / (300 + 64)) ** 0.5, rel=0.03)
    # Users and items are one table, so both counts are its fan.
    for table in (model.users, model.items):
        assert table.std().item() == pytest.approx((2 / (800 + 64)) ** 0.5, rel=0.03)
    for table in (model.user_trust, model.item_trust):
        assert table.std().item() == pytest.approx((2 / (800 + 2)) ** 0.5, rel=0.15)


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {"batch_size": 128, "epochs": 2, "learning_rate": 0.01, "negative_items": negatives}
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = GRCN(GRCNConfig(dim=6, l2=0.1), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
            model.item_trust[cold] += noise
        before = model.items[cold].clone(), model.item_trust[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before[0])
        assert torch.equal(model.item_trust[cold], before[1])
        models.append(model)
    with torch.no_grad():
        one, two = (model.item_vectors(everything(source)) for model in models)
    assert torch.equal(one, two)


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(GRCNConfig(dim=6), source)
    with torch.no_grad():
        first = model.views()
        assert model.views() is first
        model.tastes.mul_(-2.0)
        second = model.views()
        assert second is not first
        assert not torch.equal(second.items, first.items)
        model.train()
        assert model.views() is not second
    model.eval()
    assert model.views().users.requires_grad


def test_evaluation_sees_the_latest_weights(source: Planted) -> None:
    # The released code ranks by what the last training pass left behind.
    model = built(GRCNConfig(dim=6), source).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    torch.stack(list(model.losses(batches_of(source, model)[0]).values())).sum().backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(items, dense_vectors(model, source)[1], atol=1e-5)


def test_cold_negatives_teach_the_maps(source: Planted) -> None:
    model = built(GRCNConfig(dim=6), source)
    batch = batches_of(source, model, negative_items="all")[0]
    warm = model.features.marks(batch.items)
    assert not warm.all()
    with torch.no_grad():
        expected = model.item_vectors(batch.items)
    found = model._item_vectors(batch.items, model.views())
    assert_close(found, expected)
    factors = torch.randn(found.shape[1])
    (gradient,) = torch.autograd.grad((found[~warm] @ factors).sum(), model.get_parameter("maps.0.weight"))
    assert gradient.any()


def test_whole_users_are_refused(source: Planted) -> None:
    model = GRCN(GRCNConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
