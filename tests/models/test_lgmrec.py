from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.lgmrec import LGMRec, LGMRecConfig, contrast
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.testing.planted import TWO_MODALITIES
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class OfLGMRec(ModelConformance):
    plan = TrainingPlan(batch_size=128, epochs=12, learning_rate=0.02)
    # All that a cold item has are its shares in a few hyperedges, and most of them are in one.
    least_auc = 0.7


class TestConformance(OfLGMRec):
    config = LGMRecConfig(dim=16)


class TestForClothing(OfLGMRec):
    config = LGMRecConfig.presets()["clothing"].model


class TestRankingAlone(OfLGMRec):
    config = LGMRecConfig(dim=8, layers=0, content_layers=0, contrast=0, reg=0, dropout=0, hyperedges=16)
    plan = TrainingPlan(batch_size=128, epochs=12, learning_rate=0.02, negatives=3)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: LGMRecConfig, source: Planted) -> LGMRec:
    model = LGMRec(config, source.data.inputs)
    model.prepare(source.data, None)
    with torch.no_grad():
        model.items[~model.features.warm] = 50.0
    return model.eval()


def batches_of(source: Planted, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, False).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def units(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.sqrt((rows**2).sum(axis=1, keepdims=True)), 1e-12)


def softmax(logits: np.ndarray) -> np.ndarray:
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


class Dense:
    """The forward pass anew, with dense matrices in double precision.

    `given` are shares of users and of items in the hyperedges of each modality, with noise and dropout; None:
    they are computed without either.
    """

    def __init__(self, model: LGMRec, source: Planted, given: list[np.ndarray] | None = None) -> None:
        data, config = source.data, model.config
        self.state = {name: tensor.double().numpy() for name, tensor in model.state().items()}
        n_users, n_items = data.inputs.n_users, data.inputs.n_items
        touched = np.zeros((n_users, n_items))
        touched[data.pairs.users, data.pairs.items] = 1.0
        self.warm, self.known = touched.any(axis=0), touched.any(axis=1)
        adjacency = np.zeros((n_users + n_items,) * 2)
        adjacency[:n_users, n_users:] = touched
        adjacency += adjacency.T
        degrees = adjacency.sum(axis=1)
        scale = np.where(degrees > 0, 1 / np.sqrt(np.maximum(degrees, 1)), 0.0)
        adjacency = scale[:, None] * adjacency * scale
        ids = np.concatenate([self.state["users"], self.state["items"] * self.warm[:, None]])
        stages = [np.linalg.matrix_power(adjacency, k) @ ids for k in range(config.layers + 1)]
        z = np.mean(stages, axis=0)
        items = z[n_users:]
        self.x = self._filled(source)
        self.g_users, self.g_items, self.edges = [], [], []
        for place, contents in enumerate(self.x):
            x = contents * self.warm[:, None]
            if given is None:
                logits = x @ self.state[f"to_edges.{place}"]
                of_users = softmax(touched @ logits / config.temperature) * self.known[:, None]
                of_items = softmax(logits / config.temperature) * self.warm[:, None]
            else:
                of_users, of_items = given[2 * place], given[2 * place + 1]
            passed = items
            for _ in range(config.hyper_layers):
                edges = of_items.T @ passed
                passed, of_these = of_items @ edges, of_users @ edges
            self.g_users.append(of_these)
            self.g_items.append(passed)
            self.edges.append(edges)
            f = x @ self.state[f"maps.{place}"]
            mean = touched @ f / np.maximum(touched.sum(axis=1, keepdims=True), 1)
            content = np.concatenate([mean, f])
            z = z + units(np.linalg.matrix_power(adjacency, config.content_layers) @ content)
        g = np.concatenate([sum(self.g_users), sum(self.g_items)])
        z = z + config.alpha * units(g)
        self.users, self.items = z[:n_users], z[n_users:]
        for item in np.flatnonzero(~self.warm):
            total = np.zeros(config.dim)
            for place, x in enumerate(self.x):
                logits = x[item : item + 1] @ self.state[f"to_edges.{place}"] / config.temperature
                total += softmax(logits)[0] @ self.edges[place]
            self.items[item] = config.alpha * total / np.sqrt(total @ total)

    def _filled(self, source: Planted) -> list[np.ndarray]:
        found = []
        batch = everything(source)
        for tensor, there in zip(batch.vectors, batch.present.numpy().T, strict=True):
            vectors = tensor.double().numpy().copy()
            vectors[~there] = vectors[there & self.warm].mean(axis=0)
            found.append(vectors)
        return found


CONFIGS = [
    LGMRecConfig(dim=5),
    LGMRecConfig(dim=4, layers=1, content_layers=3, hyperedges=6, hyper_layers=3, alpha=0.7, temperature=0.5),
    LGMRecConfig(dim=3, layers=0, content_layers=0, hyper_layers=2, alpha=2.0),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["default", "deep", "flat"])
def test_vectors_are_those_of_dense_matrices(source: Planted, config: LGMRecConfig) -> None:
    model, users = built(config, source), torch.arange(source.data.inputs.n_users)
    dense = Dense(model, source)
    with torch.no_grad():
        found_users, found = model.user_vectors(users).numpy(), model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(found_users, dense.users, atol=1e-4)
    np.testing.assert_allclose(found, dense.items, atol=1e-4)
    assert not found_users[-1].any()
    np.testing.assert_allclose(np.sqrt((found[source.cold] ** 2).sum(axis=1)), config.alpha, rtol=1e-5)


@pytest.mark.parametrize("modalities", [1, 3])
def test_vectors_of_another_number_of_modalities(modalities: int) -> None:
    three = (*TWO_MODALITIES, Modality("audio", 7))
    source = planted(three[:modalities], n_users=20, n_items=60)
    model = built(LGMRecConfig(dim=4), source)
    with torch.no_grad():
        found = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(found, Dense(model, source).items, atol=1e-4)
    terms = model.losses(batches_of(source)[0]).keys()
    assert ("contrast" in terms) == (modalities > 1)


def terms_by_hand(dense: Dense, config: LGMRecConfig, batch: TripletBatch) -> dict[str, float]:
    codes = batch.items.codes.numpy()
    rank, count, total, squares = 0.0, 0, 0.0, np.zeros(3)
    for row, user in enumerate(batch.users.tolist()):
        item = codes[batch.positives[row]]
        u, i = dense.users[user], dense.items[item]
        squares[:2] += u @ u, i @ i
        for code in codes[batch.negatives[row].numpy()]:
            j = dense.items[code]
            rank, count = rank + np.logaddexp(0.0, u @ j - u @ i), count + 1
            squares[2] += j @ j
        for (anchor, other), who, among in (
            (dense.g_users, user, dense.known),
            (dense.g_items, item, dense.warm),
        ):
            cosines = units(other)[among] @ units(anchor)[who] / config.temperature
            own = units(other)[who] @ units(anchor)[who] / config.temperature
            total += np.log(np.exp(cosines).sum()) - own
    return {
        "rank": rank / count,
        "contrast": config.contrast * total,
        "reg": config.reg * np.sqrt(squares).sum() / len(batch.users),
    }


@pytest.mark.parametrize("negative_items", ["warm", "all"])
def test_terms_are_those_of_the_paper(source: Planted, negative_items: str) -> None:
    config = LGMRecConfig(dim=5, contrast=0.1, reg=0.2, temperature=0.4, hyperedges=5)
    model = built(config, source)
    dense = Dense(model, source)
    for batch in batches_of(source, negative_items=negative_items)[:3]:
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms == pytest.approx(terms_by_hand(dense, config, batch), rel=1e-4)


def test_noise_and_dropout_enter_where_they_should(source: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    config = LGMRecConfig(dim=5, contrast=0.1, reg=0.2, hyper_layers=2)
    model = built(config, source).train()
    drawn: list[np.ndarray] = []
    dropped = model.dropout.forward

    def listening(shares: torch.Tensor) -> torch.Tensor:
        out = dropped(shares)
        drawn.append(out.detach().double().numpy())
        return out

    monkeypatch.setattr(model.dropout, "forward", listening)
    batch = batches_of(source)[0]
    terms = {name: value.item() for name, value in model.losses(batch).items()}
    assert len(drawn) == 4
    for shares, there in zip(drawn, [model.known, model.features.warm] * 2, strict=True):
        # Small shares round to 0, users' above all: their logits are sums.
        assert (shares[there.numpy()] == 0).mean() > 0.35
        assert (shares[there.numpy()].sum(axis=1) > 1.5).any()
        assert not shares[~there.numpy()].any()
    assert terms == pytest.approx(terms_by_hand(Dense(model, source, drawn), config, batch), rel=1e-4)


def test_a_thinned_graph_gives_sums_and_means_of_its_own_edges(source: Planted) -> None:
    model = built(LGMRecConfig(dim=4, content_layers=0), source).train()
    model.graph.thin(0.5, np.random.default_rng(0))
    edges, n_users = model.graph.used, source.data.inputs.n_users
    touched = torch.zeros(n_users, source.data.inputs.n_items)
    touched[torch.arange(n_users).repeat_interleave(edges.starts.diff()), edges.columns] = 1.0
    assert 0.4 < touched.sum() / len(source.data.pairs) < 0.6
    vectors = torch.randn(source.data.inputs.n_items, 3)
    assert_close(model._sum_of_items(vectors), touched @ vectors, rtol=1e-4, atol=1e-4)
    mean = touched @ vectors / touched.sum(dim=1, keepdim=True).clamp_min(1)
    assert_close(model._content_along(vectors)[0], mean, rtol=1e-4, atol=1e-4)


def test_noise_is_added_before_the_temperature_divides(source: Planted) -> None:
    model = built(LGMRecConfig(dim=4), source).train()
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5])
    shares = model._shares(logits.expand(20000, 4))
    assert_close(shares.sum(dim=1), torch.ones(20000))
    # The largest of logits with Gumbel noise is each one as often as the softmax says.
    often = torch.bincount(shares.argmax(dim=1), minlength=4) / 20000
    assert_close(often, torch.softmax(logits, dim=0), rtol=0, atol=0.015)
    assert_close(model.eval()._shares(logits[None])[0], torch.softmax(5 * logits, dim=0))


def test_evaluation_is_free_of_noise(source: Planted) -> None:
    model = built(LGMRecConfig(dim=4), source)
    with torch.no_grad():
        one = model.views().items
        torch.manual_seed(99)
        model.train()
        first, second = model.views(), model.views()
        assert not torch.equal(first.items, second.items)
        model.eval()
        assert torch.equal(model.views().items, one)
        model._views.forget()
        assert torch.equal(model.views().items, one)


@pytest.mark.parametrize("negative_items", ["warm", "all"])
def test_the_same_draws_give_the_same_losses(source: Planted, negative_items: str) -> None:
    model = built(LGMRecConfig(dim=4), source).train()
    batch = batches_of(source, negative_items=negative_items)[0]
    before = [batch.users.clone(), batch.items.codes.clone(), *(v.clone() for v in batch.items.vectors)]
    state = torch.get_rng_state()
    first = model.losses(batch)
    other = model.losses(batch)
    torch.set_rng_state(state)
    again = model.losses(batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["rank"], other["rank"])
    after = [batch.users, batch.items.codes, *batch.items.vectors]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_users_have_hyperedges_of_each_modality(source: Planted) -> None:
    # The code as first released gave users of both modalities those of the text.
    model = built(LGMRecConfig(dim=4), source)
    with torch.no_grad():
        model.to_edges[0].mul_(30.0)
        after = Dense(model, source)
        for view, expected in zip(model.views().hyper, after.g_users, strict=True):
            np.testing.assert_allclose(view.users.numpy(), expected, atol=1e-4)
        before = model.views().hyper
        model.to_edges[1].normal_()
        assert torch.equal(model.views().hyper[0].users, before[0].users)
        assert not torch.equal(model.views().hyper[1].users, before[1].users)


def test_the_order_of_the_modalities_does_not_matter(source: Planted) -> None:
    one, other = (planted(order) for order in (TWO_MODALITIES, TWO_MODALITIES[::-1]))
    assert built(LGMRecConfig(dim=4), one)._pairs == [(0, 1)]
    assert built(LGMRecConfig(dim=4), other)._pairs == [(1, 0)]


def test_contrast_by_hand() -> None:
    # Lengths do not count. Row 0 is asked twice, row 2 is in no denominator.
    anchors = torch.tensor([[3.0, 0.0], [0.6, 0.8], [1.0, 1.0]])
    others = torch.tensor([[1.0, 0.0], [0.0, 9.0], [5.0, 5.0]])
    among = torch.tensor([True, True, False])
    first = np.log(np.exp(2.0) + np.exp(0.0)) - 2.0
    second = np.log(np.exp(1.2) + np.exp(1.6)) - 1.6
    found = contrast(anchors, others, torch.tensor([0, 1, 0]), among, 0.5)
    assert found.item() == pytest.approx(2 * first + second, rel=1e-6)
    # At this temperature exponentials overflow.
    assert contrast(anchors, others, torch.tensor([0, 1]), among, 1e-3).isfinite()


def test_terms_without_weight_are_left_out(source: Planted) -> None:
    model = built(LGMRecConfig(dim=4, contrast=0, reg=0), source)
    assert model.losses(batches_of(source)[0]).keys() == {"rank"}


def test_other_cold_items_do_not_matter(source: Planted) -> None:
    model = built(LGMRecConfig(dim=6), source)
    items, cold = everything(source), torch.from_numpy(source.cold.astype(np.int64))
    rows = cold.repeat(10)
    crowd = ItemBatch(torch.full_like(rows, -1), tuple(v[rows] for v in items.vectors), items.present[rows])
    with torch.no_grad():
        assert_close(model.item_vectors(crowd), model.item_vectors(items)[rows])


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {"batch_size": 128, "epochs": 2, "learning_rate": 0.01, "negative_items": negatives}
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    found = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = LGMRec(LGMRecConfig(dim=6), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        with torch.no_grad():
            found.append(model.item_vectors(everything(source)))
    assert torch.equal(*found)


def test_content_and_graph_stay_as_they_were(source: Planted) -> None:
    model = built(LGMRecConfig(dim=6), source)
    before = {name: tensor.clone() for name, tensor in model.named_buffers()}
    fit(model, source.data, TrainingPlan(batch_size=256, epochs=1), seed=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.named_buffers())


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(LGMRecConfig(dim=6), source)
    with torch.no_grad():
        first = model.views()
        assert model.views() is first
        model.items.mul_(2.0)
        assert model.views() is not first
    assert model.views().users.requires_grad


def test_whole_users_are_refused(source: Planted) -> None:
    model = LGMRec(LGMRecConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
