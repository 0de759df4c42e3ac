import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models.dropoutnet import DropoutNetConfig
from prismrec.models.layers.backbone import backbone_of
from prismrec.models.layers.content import item_batch
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance
from prismrec.testing.planted import planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

PLAN = TrainingPlan(batch_size=128, epochs=6, learning_rate=0.01)


class TestConformance(ModelConformance):
    config = DropoutNetConfig(dim=16, hidden=(32,), top_items=30)
    plan = PLAN


class TestConformanceOnSingularVectors(ModelConformance):
    config = DropoutNetConfig(dim=12, hidden=(24, 16), backbone="svd", item_dropout=0.7, top_items=20)
    plan = PLAN.model_copy(update={"negatives": 2, "epochs": 10})


def built(config, inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return config.build(inputs)


def prepared(data, **settings):
    config = DropoutNetConfig(dim=8, hidden=(11, 7), **settings)
    model = built(config, data.inputs)
    model.prepare(data, None)
    return model, backbone_of(data, config.backbone, 8, penalty=config.als_penalty)


@pytest.fixture(scope="module")
def source():
    return planted()


@pytest.fixture(scope="module")
def data(source):
    return source.data


@pytest.mark.parametrize("top", [1, 10, 10_000])
def test_targets_are_the_backbone_s_highest(data, top):
    model, found = prepared(data, top_items=top)
    known = np.unique(data.pairs.users)
    assert len(known) == 59
    scores = (found.users @ found.items.T).numpy()
    expected = {
        (user, int(item)) for user in known for item in data.warm[np.argsort(-scores[user, data.warm])[:top]]
    }
    got = list(zip(model.targets.users.tolist(), model.targets.items.tolist(), strict=True))
    assert len(got) == len(set(got))
    assert set(got) == expected


def scaled(table, rows):
    """Standardised rows of a table by another way; others are zeros."""
    values = table.numpy().astype(np.float64)
    inputs = np.zeros_like(values)
    inputs[rows] = np.clip((values[rows] - values[rows].mean(0)) / values[rows].std(0), -5, 5)
    return inputs


def test_inputs_are_standardised_clipped_and_zero_for_strangers(data):
    model, found = prepared(data)
    with torch.no_grad():
        table = found.items.clone()
        table[int(data.warm[0])] *= 100.0
        model.items.fit(table, data.warm)
    rows = model.items.standardised(torch.arange(data.inputs.n_items))
    assert_close(rows.numpy(), scaled(table, data.warm).astype(np.float32), rtol=1e-4, atol=1e-4)
    assert float(rows.abs().max()) == 5.0
    assert not model.items.standardised(torch.tensor([-1])).any()
    cold = np.setdiff1d(np.arange(data.inputs.n_items), data.warm)
    assert not rows[torch.from_numpy(cold)].any()


def test_columns_without_variance_stay_zero(data):
    model = built(DropoutNetConfig(dim=80, backbone="svd"), data.inputs)
    model.prepare(data, None)
    rows = model.users.standardised(torch.arange(60))
    # 59 users span 59 dimensions at most.
    assert not rows[:, 60:].any()
    assert rows.isfinite().all()


def tower(model, weights, inputs):
    """The tower on its whole input, in double precision, with the batch's own statistics."""
    values = inputs
    for weight, norm in zip(weights, model.norms, strict=True):
        values = values @ weight.detach().double().numpy().T
        values = (values - values.mean(0)) / np.sqrt(values.var(0) + norm.eps)
        values = np.tanh(values * norm.weight.detach().numpy() + norm.bias.detach().numpy())
    return values @ model.output.weight.detach().numpy().T + model.output.bias.detach().numpy()


@pytest.mark.parametrize("dropout", [0.0, 1.0], ids=["kept", "dropped"])
def test_loss_is_that_of_towers_on_factors_beside_content(data, dropout):
    model, found = prepared(data, item_dropout=dropout)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
    plan = TrainingPlan(batch_size=50, negatives=3)
    batch = next(iter(Batches(data, plan, 0, False, model.targets).epoch(1)))
    loss = model.train().losses(batch)["scores"]

    codes = torch.cat([batch.positives[:, None], batch.negatives], dim=1)
    codes = batch.items.codes[codes].flatten().numpy()
    content = model.content(item_batch(data.features, data.warm)).double().numpy()
    content_of = np.zeros((data.inputs.n_items, content.shape[1]))
    content_of[data.warm] = content / np.sqrt(np.square(content).mean())
    users, items = np.unique(data.pairs.users), data.warm
    factors = scaled(found.items, items)[codes] * (1.0 - dropout)
    beside = np.concatenate([factors, content_of[codes]], axis=1)
    first, *rest = (layer.weight for layer in model.item_tower.layers)
    item_rows = tower(model.item_tower, [torch.cat([first, model.from_content.weight], dim=1), *rest], beside)
    user_rows = tower(
        model.user_tower,
        [layer.weight for layer in model.user_tower.layers],
        scaled(found.users, users)[batch.users.numpy()],
    )
    repeated = np.repeat(batch.users.numpy(), 4)
    targets = (found.users.numpy()[repeated] * found.items.numpy()[codes]).sum(1)
    scores = (np.repeat(user_rows, 4, axis=0) * item_rows).sum(1)
    assert float(loss.detach()) == pytest.approx(np.square(scores - targets).mean(), rel=1e-3)


@pytest.mark.parametrize(("share", "n", "dropped"), [(0.5, 100, 50), (0.8, 10, 8), (0.0, 9, 0), (1.0, 9, 9)])
def test_exactly_a_share_of_the_items_is_dropped(data, share, n, dropped):
    model = built(DropoutNetConfig(dim=8, item_dropout=share), data.inputs)
    kept = model._kept(n, torch.device("cpu"))
    assert int((kept == 0).sum()) == dropped
    assert int((kept == 1).sum()) == n - dropped


def test_the_backbone_stays_as_it_is(data):
    model, found = prepared(data)
    fit(model, data, PLAN.model_copy(update={"epochs": 2}), seed=0)
    assert_close(model.users.table, found.users)
    assert_close(model.items.table, found.items)
    assert not any(name.endswith("table") for name, _ in model.named_parameters())


def test_a_warm_item_goes_by_both_and_a_cold_one_by_content_alone(source, data):
    model, _ = prepared(data)
    fit(model, data, PLAN.model_copy(update={"epochs": 2}), seed=0)
    items = item_batch(data.features, np.concatenate([data.warm[:5], source.cold[:5]]))
    with torch.no_grad():
        before = model.item_vectors(items)
        # Rows of cold items are not read.
        model.items.table[torch.from_numpy(source.cold.astype(np.int64))] = 7.0
        assert torch.equal(model.item_vectors(items), before)
        model.items.table[items.codes[:5]] += 1.0
        assert (model.item_vectors(items)[:5] != before[:5]).any(dim=1).all()


def test_scores_come_near_the_backbone_s(data):
    model, found = prepared(data, top_items=60)
    fit(model, data, PLAN.model_copy(update={"epochs": 40}), seed=0)
    warm = torch.from_numpy(data.warm.astype(np.int64))
    with torch.no_grad():
        users = model.user_vectors(torch.arange(59))
        scores = users @ model.item_vectors(item_batch(data.features, data.warm)).T
    targets = found.users[:59] @ found.items[warm].T
    assert float((scores - targets).square().mean()) < 0.3 * float(targets.var())


def test_evaluation_uses_what_training_has_found_of_batches(data):
    model, _ = prepared(data)
    fit(model, data, PLAN.model_copy(update={"epochs": 1}), seed=0)
    norm = model.item_tower.norms[0]
    assert not model.training
    before = norm.running_mean.clone()
    assert before.any()
    model.item_vectors(item_batch(data.features, data.warm))
    assert torch.equal(norm.running_mean, before)


def test_a_batch_of_one_pair_is_no_error(data):
    model, _ = prepared(data, top_items=1)
    plan = TrainingPlan(batch_size=len(model.targets) - 1, epochs=1)
    fit(model, data, plan, seed=0)
    assert all(math.isfinite(float(p.detach().abs().sum())) for p in model.parameters())


def test_cold_items_are_no_lesson(data):
    model, _ = prepared(data)
    with pytest.raises(InputError, match="negative_items='warm'"):
        fit(model, data, PLAN.model_copy(update={"negative_items": "all"}), seed=0)


def test_whole_users_are_refused(data):
    model, _ = prepared(data)
    with pytest.raises(InputError, match="trained on triplets"):
        fit(model, data, TrainingPlan(sampling="users"), seed=0)
