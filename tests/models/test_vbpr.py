from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.models.vbpr import VBPR, VBPRConfig
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = VBPRConfig(dim=16)


class TestWithBiases(ModelConformance):
    config = VBPRConfig.presets()["with_biases"].model


class TestRankingAlone(ModelConformance):
    config = VBPRConfig(dim=8, reg=0, normalise=True)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, negatives=3, row_updates="dense")

    def test_gradient_reaches_every_parameter(self) -> None:
        # The same b for all items cancels in each difference of scores: only the penalty moves it, and
        # without one rounding may or may not.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            assert self._reached(VBPR(self.config, self.source().data.inputs)) >= {
                "users",
                "items",
                "map.weight",
            }


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: VBPRConfig, source: Planted) -> VBPR:
    model = VBPR(config, source.data.inputs)
    model.prepare(source.data, None)
    with torch.no_grad():
        # Biases start at 0, where they could be forgotten unnoticed; rows of cold items are noise.
        model.map.bias.normal_()
        model.items[:, config.dim :].normal_()
        model.items[~model.warm] = 50.0
        if model.content_bias is not None:
            model.content_bias.normal_()
    return model.eval()


def batches_of(source: Planted, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, False).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def dense_items(model: VBPR, source: Planted) -> np.ndarray:
    """Write the items' vectors anew in double precision, cold items included."""
    items, warm = everything(source), source.data.warm
    present = items.present.numpy()
    blocks = []
    for place, tensor in enumerate(items.vectors):
        vectors = tensor.double().numpy().copy()
        if model.config.normalise:
            vectors /= np.maximum(np.sqrt((vectors**2).sum(axis=1, keepdims=True)), 1e-12)
        there = [code for code in warm if present[code, place]]
        vectors[~present[:, place]] = vectors[there].mean(axis=0)
        blocks.append(vectors)
    x = np.concatenate(blocks, axis=1)
    s = {name: tensor.double().numpy() for name, tensor in model.state().items()}
    own = np.zeros_like(s["items"])
    own[warm] = s["items"][warm]
    columns = [own[:, : model.config.dim], x @ s["map.weight"].T + s["map.bias"]]
    if model.config.biases:
        columns.append(own[:, -1:] + (x @ s["content_bias"])[:, None])
    return np.concatenate(columns, axis=1)


VARIANTS = [
    VBPRConfig(dim=5, reg=0.3),
    VBPRConfig(dim=3, reg=0.1, normalise=True),
    VBPRConfig(dim=4, reg=0.2, biases=True),
]


@pytest.mark.parametrize("config", VARIANTS, ids=["default", "normalised", "biases"])
def test_vectors_are_those_of_the_formula(source: Planted, config: VBPRConfig) -> None:
    model = built(config, source)
    with torch.no_grad():
        found = model.item_vectors(everything(source)).numpy()
        users = model.user_vectors(torch.arange(source.data.inputs.n_users))
    np.testing.assert_allclose(found, dense_items(model, source), rtol=1e-4, atol=1e-4)
    assert torch.equal(users[:, : 2 * config.dim], model.users.detach())
    assert users.shape[1] == found.shape[1] == 2 * config.dim + config.biases
    assert (users[:, 2 * config.dim :] == 1).all()
    assert not users[-1, : 2 * config.dim].any()


@pytest.mark.parametrize("negative_items", ["warm", "all"])
@pytest.mark.parametrize("config", VARIANTS, ids=["default", "normalised", "biases"])
def test_terms_are_those_of_the_formula(source: Planted, config: VBPRConfig, negative_items: str) -> None:
    model = built(config, source)
    items, factors = dense_items(model, source), model.users.detach().double().numpy()
    ones = np.ones((len(factors), int(config.biases)))
    users = np.concatenate([factors, ones], axis=1)
    for batch in batches_of(source, negative_items=negative_items)[:3]:
        codes = batch.items.codes.numpy()
        rank, count, squares = 0.0, 0, np.zeros(3)
        for row, user in enumerate(batch.users.tolist()):
            positive = items[codes[batch.positives[row]]]
            squares[:2] += factors[user] @ factors[user], positive @ positive
            for code in codes[batch.negatives[row].numpy()]:
                rank += np.logaddexp(0.0, users[user] @ (items[code] - positive))
                squares[2] += items[code] @ items[code]
                count += 1
        expected = {"rank": rank / count, "reg": config.reg * np.sqrt(squares).sum() / len(batch.users)}
        terms = {name: value.item() for name, value in model.losses(batch).items()}
        assert terms == pytest.approx(expected, rel=1e-4)


def test_a_term_without_weight_is_left_out(source: Planted) -> None:
    assert built(VBPRConfig(dim=4, reg=0), source).losses(batches_of(source)[0]).keys() == {"rank"}


def test_a_cold_item_is_its_content_alone(source: Planted) -> None:
    model = built(VBPRConfig(dim=4), source)
    items, cold = everything(source), torch.from_numpy(source.cold.astype(np.int64))
    later = ItemBatch(torch.full_like(items.codes, -1), items.vectors, items.present)
    with torch.no_grad():
        vectors, unseen = model.item_vectors(items), model.item_vectors(later)
        expected = model.map(model.filled(items))
    assert not vectors[cold, :4].any()
    assert_close(vectors[:, 4:], expected)
    assert not unseen[:, :4].any()
    assert_close(unseen[:, 4:], expected)


def test_items_without_content_get_the_mean_of_the_training_items(source: Planted) -> None:
    model = built(VBPRConfig(dim=4), source)
    items = everything(source)
    bare = ~items.present.any(dim=1)
    assert bare.any()
    filled = model.filled(items)
    assert_close(filled[bare], model.mean.expand(int(bare.sum()), -1))
    place, there = 1, items.present[:, 1] & model.warm
    assert_close(model.mean[-9:], items.vectors[place][there].mean(dim=0), rtol=1e-4, atol=1e-5)


def test_content_of_cold_items_does_not_enter_the_mean(source: Planted) -> None:
    model = VBPR(VBPRConfig(dim=4), source.data.inputs)
    everyone = everything(source).vectors[0]
    there = everything(source).present[:, 0]
    model.prepare(source.data, None)
    assert (model.mean[:12] - everyone[there].mean(dim=0)).abs().max() > 1e-3


@pytest.mark.parametrize("updates", ["lazy", "dense"])
@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(
    source: Planted, negatives: str, updates: str
) -> None:
    plan = TrainingPlan.model_validate(
        {
            "batch_size": 64,
            "epochs": 2,
            "learning_rate": 0.01,
            "negative_items": negatives,
            "row_updates": updates,
        }
    )
    found = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = Noisy(VBPRConfig(dim=6), source.data.inputs)
        model.noise = noise
        fit(model, source.data, plan, seed=0)
        assert (model.items[~model.warm] == noise).all()
        assert not model.users[-1].any()
        with torch.no_grad():
            found.append(model.item_vectors(everything(source)))
    assert torch.equal(*found)


class Noisy(VBPR):
    """Has something in its rows of cold items after `prepare`."""

    noise = 0.0

    def prepare(self, data, score):  # type: ignore[no-untyped-def]
        super().prepare(data, score)
        with torch.no_grad():
            self.items[~self.warm] = self.noise
        return {}


def test_lazy_gradients_are_those_of_whole_tables(source: Planted) -> None:
    lazy = built(VBPRConfig(dim=4, biases=True), source)
    dense = built(VBPRConfig(dim=4, biases=True), source)
    dense.load_state(lazy.state())
    lazy.lazy_rows = True
    batch = batches_of(source, negative_items="all")[0]
    for model in (lazy, dense):
        torch.stack(list(model.losses(batch).values())).sum().backward()
    for (name, one), (_, two) in zip(lazy.named_parameters(), dense.named_parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        assert one.grad.is_sparse == (name in VBPR.row_tables)
        assert_close(one.grad.to_dense(), two.grad, rtol=1e-4, atol=1e-6)


def test_losses_are_the_same_when_asked_again(source: Planted) -> None:
    model = built(VBPRConfig(dim=4), source).train()
    batch = batches_of(source)[0]
    before = [batch.users.clone(), batch.items.codes.clone(), *(v.clone() for v in batch.items.vectors)]
    first, second = model.losses(batch), model.losses(batch)
    assert all(torch.equal(first[name], second[name]) for name in first)
    after = [batch.users, batch.items.codes, *batch.items.vectors]
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_whole_users_are_refused(source: Planted) -> None:
    model = VBPR(VBPRConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
