from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality, ModelInputs, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.mmgcn import MMGCN, MMGCNConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = MMGCNConfig(dim=16)
    # The weights learn to read neighbours in each layer, and a cold item has none in any of them. With one
    # layer, as below, the same data gives about 0.9.
    least_auc = 0.65


class TestAsReleased(ModelConformance):
    config = MMGCNConfig(dim=16, layers=2, frozen=True)
    plan = TrainingPlan(batch_size=128, epochs=10, learning_rate=0.02)
    least_auc = 0.65


class TestMappedContentOneLayer(ModelConformance):
    config = MMGCNConfig(dim=8, layers=1, longest=10, latent=6, l2=0)
    plan = TrainingPlan(batch_size=128, epochs=10, learning_rate=0.02, negatives=3)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: MMGCNConfig, source: Planted) -> MMGCN:
    model = MMGCN(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batches_of(source: Planted, model: MMGCN, **changes: object) -> list[TripletBatch]:
    plan = TrainingPlan.model_validate({"batch_size": 40, "negatives": 2, **changes})
    return list(Batches(source.data, plan, 0, model.wants_catalog).epoch(1))


def everything(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(source.data.inputs.n_items))


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def dense_vectors(model: MMGCN, source: Planted) -> tuple[np.ndarray, np.ndarray]:
    """Write the forward pass anew: one matrix of all nodes, in double precision, cold items included."""
    data, s = source.data, {name: t.double().numpy() for name, t in model.state().items()}
    n_users, n_items = data.inputs.n_users, data.inputs.n_items
    adjacent = np.zeros((n_users + n_items, n_users + n_items))
    adjacent[data.pairs.users, n_users + data.pairs.items] = 1.0
    adjacent += adjacent.T
    degrees = adjacent.sum(axis=1)
    mean = adjacent / np.maximum(degrees, 1)[:, None]
    warm = degrees[n_users:] > 0
    ids = np.concatenate([s["users"], s["items"] * warm[:, None]])
    vectors, present = data.features.gather(np.arange(n_items))
    outputs, column = [], 0
    for m, raw in enumerate(vectors):
        content = raw.astype(np.float64)
        content[~present[:, m]] = content[warm & present[:, m]].mean(axis=0)
        if f"nets.{m}.map.weight" in s:
            content = content @ s[f"nets.{m}.map.weight"].T + s[f"nets.{m}.map.bias"]
        width = content.shape[1]
        x = unit(np.concatenate([s["tastes"][:, column : column + width], content]))
        column += width
        for layer in range(model.config.layers):

            def weights(part: str, what: str, m: int = m, layer: int = layer) -> np.ndarray:
                return s[f"nets.{m}.{part}.{layer}.{what}"]

            h = leaky(mean @ (x @ weights("hear", "weight").T))
            r = leaky(x @ weights("keep", "weight").T + weights("keep", "bias")) + ids
            x = leaky(np.concatenate([h, r], axis=1) @ weights("mix", "weight").T + weights("mix", "bias"))
        outputs.append(x)
    assert column == s["tastes"].shape[1]
    found = np.mean(outputs, axis=0)
    found[:n_users][degrees[:n_users] == 0] = 0.0
    return found[:n_users], found[n_users:]


CONFIGS = [
    MMGCNConfig(dim=5),
    MMGCNConfig(dim=5, layers=1, longest=9, latent=7),
    MMGCNConfig(dim=4, layers=2, longest=1, latent=3, frozen=True),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_vectors_are_those_of_dense_matrices(source: Planted, config: MMGCNConfig) -> None:
    model = built(config, source)
    expected_users, expected_items = dense_vectors(model, source)
    with torch.no_grad():
        users = model.user_vectors(torch.arange(source.data.inputs.n_users)).numpy()
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(users, expected_users, atol=1e-5)
    np.testing.assert_allclose(items, expected_items, atol=1e-5)
    assert np.abs(items[source.cold]).max() > 1e-3
    assert not users[-1].any()


@pytest.mark.parametrize("names", [("image", "text"), ("text", "image"), ("image", "audio"), ("text",)])
def test_terms_are_those_of_the_release(names: tuple[str, ...]) -> None:
    source = planted([Modality(name, 5 + place) for place, name in enumerate(names)], n_users=20, n_items=60)
    model = built(MMGCNConfig(dim=5, l2=0.3), source)
    users, items = dense_vectors(model, source)
    user_ids, item_ids, tastes = (
        table.detach().double().numpy() for table in (model.users, model.items, model.tastes)
    )
    blocks = np.split(tastes, np.cumsum([5 + place for place in range(len(names))])[:-1], axis=1)
    counted = [blocks[names.index("image")]] if set(names) == {"image", "text"} else blocks
    of_tastes = np.mean([(block**2).mean() for block in counted])
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
        terms = model.losses(batch)
        assert terms.keys() == {"rank", "l2"}
        assert terms["rank"].item() == pytest.approx(np.mean(rank), rel=1e-4)
        assert terms["l2"].item() == pytest.approx(0.3 * (np.mean(squares) + of_tastes), rel=1e-4)


def test_a_term_without_weight_or_effect_is_left_out(source: Planted) -> None:
    for config in (MMGCNConfig(dim=4, l2=0), MMGCNConfig(dim=4, frozen=True)):
        model = built(config, source)
        assert model.losses(batches_of(source, model)[0]).keys() == {"rank"}


def test_losses_are_the_same_when_asked_again(source: Planted) -> None:
    model = built(MMGCNConfig(dim=6), source).train()
    one, two = batches_of(source, model)[:2]
    before = [t.clone() for t in (one.users, one.items.codes, one.positives, one.negatives)]
    first, _, again = model.losses(one), model.losses(two), model.losses(one)
    assert all(torch.equal(first[name], again[name]) for name in first)
    after = (one.users, one.items.codes, one.positives, one.negatives)
    assert all(torch.equal(was, now) for was, now in zip(before, after, strict=True))


def test_ids_and_tastes_move_unless_they_are_frozen(source: Planted) -> None:
    plan = TrainingPlan(batch_size=128, epochs=1, learning_rate=0.01, row_updates="dense")
    for frozen in (False, True):
        model = MMGCN(MMGCNConfig(dim=6, frozen=frozen), source.data.inputs)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        fit(model, source.data, plan, seed=0)
        still = {name for name, p in model.named_parameters() if torch.equal(p, before[name])}
        assert still == ({"users", "items", "tastes"} if frozen else set())


def test_tables_start_with_the_spread_of_xavier() -> None:
    inputs = ModelInputs(300, 500, (Modality("image", 400), Modality("text", 384)))
    model = MMGCN(MMGCNConfig(), inputs)
    assert model.tastes.shape == (300, 256 + 384)
    image, text = torch.split(model.tastes.detach(), [256, 384], dim=1)
    assert image.std().item() == pytest.approx((2 / (300 + 256)) ** 0.5, rel=0.03)
    assert text.std().item() == pytest.approx((2 / (300 + 384)) ** 0.5, rel=0.03)
    # Users and items are one table, so both counts are its fan.
    for table in (model.users, model.items):
        assert table.std().item() == pytest.approx((2 / (800 + 64)) ** 0.5, rel=0.03)


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_rows_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
    plan = TrainingPlan.model_validate(
        {"batch_size": 128, "epochs": 2, "learning_rate": 0.01, "negative_items": negatives}
    )
    cold = torch.from_numpy(np.setdiff1d(np.arange(source.data.inputs.n_items), source.data.warm))
    models = []
    for noise in (0.0, 100.0):
        torch.manual_seed(3)
        model = MMGCN(MMGCNConfig(dim=6, l2=0.1), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=0)
        assert torch.equal(model.items[cold], before)
        models.append(model)
    with torch.no_grad():
        one, two = (model.item_vectors(everything(source)) for model in models)
    assert torch.equal(one, two)


def test_the_pass_is_kept_until_a_parameter_changes(source: Planted) -> None:
    model = built(MMGCNConfig(dim=6), source)
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
    model = built(MMGCNConfig(dim=6), source).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    torch.stack(list(model.losses(batches_of(source, model)[0]).values())).sum().backward()
    optimizer.step()
    model.eval()
    with torch.no_grad():
        items = model.item_vectors(everything(source)).numpy()
    np.testing.assert_allclose(items, dense_vectors(model, source)[1], atol=1e-5)


def test_cold_negatives_teach_the_networks(source: Planted) -> None:
    model = built(MMGCNConfig(dim=6), source)
    batch = batches_of(source, model, negative_items="all")[0]
    warm = model.features.marks(batch.items)
    assert not warm.all()
    with torch.no_grad():
        expected = model.item_vectors(batch.items)
    found = model._item_vectors(batch.items, model.views())
    assert_close(found, expected)
    weight = model.get_parameter("nets.0.keep.0.weight")
    (gradient,) = torch.autograd.grad(found[~warm].sum(), weight)
    assert gradient.any()


def test_whole_users_are_refused(source: Planted) -> None:
    model = MMGCN(MMGCNConfig(dim=4), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)
