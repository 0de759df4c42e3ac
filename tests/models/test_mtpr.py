from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.batches import ItemBatch, Modality, ModelInputs, TripletBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.mtpr import MTPR, MTPRConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance, Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit


class TestConformance(ModelConformance):
    config = MTPRConfig(dim=16)


class TestAsPublished(ModelConformance):
    config = MTPRConfig.presets()["as_published"].model


class TestManyNegatives(ModelConformance):
    config = MTPRConfig(dim=8, init=0.03, l2_ids=0.001, l2_content=0.0, l2_item_map=0.0)
    plan = TrainingPlan(batch_size=128, epochs=25, learning_rate=0.02, negatives=3)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        yield


def built(config: MTPRConfig, source: Planted) -> MTPR:
    model = MTPR(config, source.data.inputs)
    model.prepare(source.data, None)
    return model.eval()


def batch_of(source: Planted, model: MTPR, **changes: object) -> TripletBatch:
    plan = TrainingPlan.model_validate({"batch_size": 16, "negatives": 2, **changes})
    batch = next(iter(Batches(source.data, plan, 0, model.wants_catalog).epoch(1)))
    assert isinstance(batch, TripletBatch)
    return batch


def softplus(x: float) -> float:
    return float(np.log1p(np.exp(-abs(x))) + max(x, 0.0))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_terms_are_those_of_the_paper_triple_by_triple(source: Planted, reduction: str) -> None:
    weights = {"l2_ids": 0.3, "l2_content": 0.2, "l2_item_map": 0.1}
    model = built(
        MTPRConfig.model_validate({"dim": 5, "init": 0.5, "reduction": reduction, **weights}), source
    )
    batch = batch_of(source, model)
    s = {name: value.double().numpy() for name, value in model.state().items()}
    content = model.content(batch.items).double().numpy()
    codes = batch.items.codes.numpy()
    sums = dict.fromkeys(("warm", "cold", "warm_over_cold", "cold_over_warm", "l2_ids"), 0.0)
    count, per_pair = batch.negatives.numel(), batch.negatives.shape[1]
    for row, user in enumerate(batch.users.tolist()):
        p = s["users"][user] @ s["user_map"]

        def n(place: int, p: np.ndarray = p) -> float:
            joined = np.concatenate([s["items"][codes[place]], content[place] @ s["content_map"]])
            return float(joined @ s["item_map"] @ p)

        def k(place: int, p: np.ndarray = p) -> float:
            joined = np.concatenate([np.zeros(5), content[place] @ s["content_map"]])
            return float(joined @ s["item_map"] @ p)

        i = int(batch.positives[row])
        sums["l2_ids"] += (s["users"][user] ** 2).sum() + (s["items"][codes[i]] ** 2).sum()
        for j in batch.negatives[row].tolist():
            sums["warm"] += softplus(n(j) - n(i))
            sums["cold"] += softplus(k(j) - k(i))
            sums["warm_over_cold"] += softplus(k(j) - n(i))
            sums["cold_over_warm"] += softplus(n(j) - k(i))
            sums["l2_ids"] += (s["items"][codes[j]] ** 2).sum() / per_pair
    expected = {name: total / (count if reduction == "mean" else 1) for name, total in sums.items()}
    expected["l2_ids"] = 0.3 * sums["l2_ids"] / (len(batch.users) if reduction == "mean" else 1)
    maps = 0.2 * ((s["content_map"] ** 2).sum() + (s["user_map"] ** 2).sum())
    expected["l2_maps"] = maps + 0.1 * (s["item_map"] ** 2).sum()
    terms = {name: value.item() for name, value in model.losses(batch).items()}
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-4), name


def test_training_items_keep_their_identity_and_others_have_none(source: Planted) -> None:
    model = built(MTPRConfig(dim=5, init=0.5), source)
    everything = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    with torch.no_grad():
        content = model.content(everything) @ model.content_map
        nothing = torch.zeros_like(model.items)
        with_identity = torch.cat([model.items, content], dim=1) @ model.item_map
        without = torch.cat([nothing, content], dim=1) @ model.item_map
        vectors = model.item_vectors(everything)
        later = model.item_vectors(
            ItemBatch(torch.full_like(everything.codes, -1), everything.vectors, everything.present)
        )
    warm = source.data.warm
    cold = np.setdiff1d(np.arange(source.data.inputs.n_items), warm)
    assert len(warm)
    assert len(cold)
    assert_close(vectors[warm], with_identity[warm])
    assert_close(vectors[cold], without[cold])
    assert_close(later, without)
    assert not torch.allclose(with_identity[warm], without[warm], atol=1e-3)


@pytest.mark.parametrize("negatives", ["warm", "all"])
def test_identities_of_cold_items_are_never_read_and_never_move(source: Planted, negatives: str) -> None:
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
        model = MTPR(MTPRConfig(dim=6, l2_ids=0.01), source.data.inputs)
        with torch.no_grad():
            model.items[cold] += noise
        before = model.items[cold].clone()
        fit(model, source.data, plan, seed=1)
        assert torch.equal(model.items[cold], before)
        models.append(model)
    everything = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    with torch.no_grad():
        first, second = (model.item_vectors(everything) for model in models)
    assert torch.equal(first, second)


def test_weights_do_not_depend_on_the_batch_size_unless_sums_are_asked_for(source: Planted) -> None:
    settings = {"dim": 5, "init": 0.5, "l2_ids": 0.1, "l2_content": 0.1}
    for reduction, factor in (("mean", 1.0), ("sum", 2.0)):
        model = built(MTPRConfig.model_validate({**settings, "reduction": reduction}), source)
        batch = batch_of(source, model)
        twice = TripletBatch(
            batch.users.repeat(2), batch.items, batch.positives.repeat(2), batch.negatives.repeat(2, 1)
        )
        once, doubled = model.losses(batch), model.losses(twice)
        for name, value in once.items():
            assert_close(doubled[name], value * (1.0 if name == "l2_maps" else factor))


def test_what_has_no_weight_has_no_term(source: Planted) -> None:
    model = built(MTPRConfig(dim=5, l2_ids=0.0, l2_content=0.0, l2_item_map=0.0), source)
    terms = model.losses(batch_of(source, model))
    assert set(terms) == {"warm", "cold", "warm_over_cold", "cold_over_warm"}


def test_users_without_pairs_and_strangers_have_nothing(source: Planted) -> None:
    model = built(MTPRConfig(dim=5), source)
    absent = source.data.inputs.n_users - 1
    assert absent not in source.data.pairs.users
    assert not model.user_vectors(torch.tensor([absent, -1])).any()
    assert model.user_vectors(torch.tensor([0])).all()


def test_item_without_content_is_its_identity_alone(source: Planted) -> None:
    model = built(MTPRConfig(dim=5, init=0.5), source)
    bare = np.flatnonzero(~source.data.features.present.any(axis=1))
    items = item_batch(source.data.features, bare)
    with torch.no_grad():
        vectors = model.item_vectors(items)
    for code, vector in zip(bare, vectors, strict=True):
        if code in source.data.warm:
            assert_close(vector, (model.items[code] @ model.item_map[:5]).detach())
        else:
            assert not vector.any()


def test_centring_can_be_left_out(source: Planted) -> None:
    assert built(MTPRConfig(dim=5), source).content.centre.any()
    assert not built(MTPRConfig(dim=5, centre=False), source).content.centre.any()


def test_whole_users_are_refused(source: Planted) -> None:
    model = MTPR(MTPRConfig(dim=5), source.data.inputs)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, source.data, TrainingPlan(sampling="users"), seed=0)


def test_released_sizes() -> None:
    config = MTPRConfig.presets()["as_published"].model
    model = config.build(ModelInputs(4, 6, (Modality("image", 7), Modality("text", 3))))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "users": (4, 64),
        "items": (6, 32),
        "content_map": (10, 32),
        "user_map": (64, 32),
        "item_map": (64, 32),
    }
