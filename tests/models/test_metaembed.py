import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.batches import Modality, ModelInputs, TrainingData
from prismrec.models.layers.backbone import backbone_of
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.visitors import Visits
from prismrec.models.metaembed import MetaEmbedConfig, _logistic
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance
from prismrec.testing.planted import planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

PLAN = TrainingPlan(batch_size=25, epochs=8, learning_rate=0.02)


class TestConformance(ModelConformance):
    config = MetaEmbedConfig(dim=16)
    plan = PLAN


class TestConformanceOnSingularVectors(ModelConformance):
    config = MetaEmbedConfig(
        dim=12, backbone="svd", bias=False, weights="even", samples=7, step=1.0, bound=0.5
    )
    plan = PLAN


def built(config, inputs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return config.build(inputs)


def prepared(config, data):
    model = built(config, data.inputs)
    model.prepare(data, None)
    return model


@pytest.fixture(scope="module")
def data():
    return planted().data


def tasks(n, k, n_users, seed):
    generator = torch.Generator().manual_seed(seed)
    users = torch.randint(n_users, (n, k), generator=generator)
    labels = (torch.rand(n, k, generator=generator) < 0.5).double()
    weights = torch.rand(n, k, generator=generator, dtype=torch.float64)
    return Visits(users, labels, weights / weights.sum(dim=1, keepdim=True))


def tiny(step):
    """A model in double precision, with vectors of four items and their two mini-batches."""
    config = MetaEmbedConfig(dim=3, step=step)
    model = built(config, ModelInputs(6, 9, (Modality("image", 5),))).double()
    generator = torch.Generator().manual_seed(0)
    model.users = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    model.slope.fill_(1.7)
    model.offset.fill_(-0.4)
    content = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    return model, content, tasks(4, 6, 6, seed=1), tasks(4, 6, 6, seed=2)


def test_losses_by_hand():
    model, _, _, _ = tiny(step=0.8)
    model.users = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 1.0], [2.0, 0.0, 1.0]], dtype=torch.float64)
    first = Visits(torch.tensor([[0, 1]]), torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.5, 0.5]]))
    second = Visits(torch.tensor([[2, 1]]), torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[0.25, 0.75]]))
    phi = np.array([0.3, -0.2, 0.5])
    at_once, adapted = model.task_losses(torch.from_numpy(phi)[None], first, second)

    users = model.users.numpy()
    chance = 1 / (1 + np.exp(-(1.7 * users @ phi - 0.4)))
    assert float(at_once) == pytest.approx(-0.5 * math.log(chance[0]) - 0.5 * math.log(1 - chance[1]))
    # In the space of log odds, where an item is 1.7 phi.
    moved = 1.7 * phi - 0.8 * (0.5 * (chance[0] - 1) * users[0] + 0.5 * chance[1] * users[1])
    after = 1 / (1 + np.exp(-(users @ moved - 0.4)))
    assert float(adapted) == pytest.approx(-0.25 * math.log(after[2]) - 0.75 * math.log(1 - after[1]))


def total(model, content, first, second, weights):
    model.generator.weight.data = weights
    vectors = model.bound * model.generator(content).tanh()
    at_once, adapted = model.task_losses(vectors, first, second)
    return 0.1 * at_once.sum() + 0.9 * adapted.sum()


def test_meta_gradient_agrees_with_finite_differences():
    model, content, first, second = tiny(step=2.0)
    weights = model.generator.weight.detach().clone()
    total(model, content, first, second, weights).backward()
    for place in np.ndindex(*weights.shape):
        nudge = torch.zeros_like(weights)
        nudge[place] = 1e-5
        with torch.no_grad():
            up, down = (
                float(total(model, content, first, second, weights + sign * nudge)) for sign in (1, -1)
            )
        assert float(model.generator.weight.grad[place]) == pytest.approx((up - down) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("step", [0.0, 0.5, 3.0])
def test_meta_gradient_agrees_with_differentiating_twice(step):
    model, content, first, second = tiny(step)
    vectors = (model.bound * model.generator(content).tanh()).detach().requires_grad_()
    _, adapted = model.task_losses(vectors, first, second)
    (ours,) = torch.autograd.grad(adapted.sum(), vectors)

    def loss(odds, visits):
        # Torch's own loss, on an item's vector in the space of log odds.
        logits = torch.einsum("nkd,nd->nk", model.users[visits.users], odds) + model.offset
        return torch.nn.functional.binary_cross_entropy_with_logits(
            logits, visits.labels, visits.weights, reduction="sum"
        )

    odds = (model.slope * vectors).detach().requires_grad_()
    (inner,) = torch.autograd.grad(loss(odds, first), odds, create_graph=True)
    outer = loss(odds - step * inner, second)
    assert_close(outer, adapted.sum())
    (theirs,) = torch.autograd.grad(outer, odds, retain_graph=True)
    assert_close(ours, theirs * model.slope)
    if step > 0:
        (first_order,) = torch.autograd.grad(loss(odds - step * inner.detach(), second), odds)
        assert not torch.allclose(theirs, first_order, rtol=1e-3)


def test_a_step_helps(data):
    model = prepared(MetaEmbedConfig(dim=8, step=1.0), data)
    tasks = torch.from_numpy(model.targets.items.astype(np.int64))
    torch.manual_seed(0)
    first, second = model.visitors.draw(tasks, 20, model.odds[tasks])
    start = torch.zeros(len(tasks), 8)
    with torch.no_grad():
        _, stayed = model.task_losses(start, first, second)
        model.config = model.config.model_copy(update={"step": 0.0})
        before = model.task_losses(start, first, second)[1]
    assert stayed.mean() < before.mean()


def test_terms_are_weighted_means_over_the_batch_s_positives(data):
    model = prepared(MetaEmbedConfig(dim=8, cold_weight=0.3), data)
    batch = next(iter(Batches(data, PLAN, 0, False, model.targets).epoch(1)))
    torch.manual_seed(6)
    terms = model.losses(batch)
    torch.manual_seed(6)
    codes = batch.items.codes[batch.positives].sort().values
    assert len(codes) == len(codes.unique()) == 25
    visits = model.visitors.draw(codes, 20, model.odds[codes])
    vectors = model.generate(item_batch(data.features, codes.numpy()))
    at_once, adapted = model.task_losses(vectors, *visits)
    assert_close(terms["cold"], 0.3 * at_once.mean())
    assert_close(terms["adapted"], 0.7 * adapted.mean())


def test_an_epoch_takes_each_item_with_two_users_once(data):
    one = np.flatnonzero(data.pairs.items == data.warm[0])
    kept = np.ones(len(data.pairs), dtype=bool)
    kept[one[1:]] = False
    few = TrainingData(data.pairs.take(kept), data.inputs, data.features, data.warm, 0)
    model = prepared(MetaEmbedConfig(dim=8), few)
    assert data.warm[0] not in model.targets.items
    codes, counts = np.unique(few.pairs.items, return_counts=True)
    assert np.array_equal(model.targets.items, codes[counts >= 2])


def test_items_with_a_single_user_are_no_tasks(data):
    order = np.unique(data.pairs.items, return_index=True)[1]
    lonely = TrainingData(
        Pairs(data.pairs.users[order], data.pairs.items[order]), data.inputs, data.features, data.warm, 0
    )
    with pytest.raises(InputError, match="two users or more"):
        prepared(MetaEmbedConfig(dim=8), lonely)


def test_a_backbone_that_tells_nothing_is_refused(data):
    with pytest.raises(InputError, match="does not tell who touched what"):
        prepared(MetaEmbedConfig(dim=8, als_penalty=1e12), data)


def test_natural_weights_follow_an_item_s_users(data):
    codes, counts = np.unique(data.pairs.items, return_counts=True)
    model = prepared(MetaEmbedConfig(dim=8), data)
    assert_close(
        model.odds[torch.from_numpy(codes).long()].numpy(), (counts / counts.mean()).astype(np.float32)
    )
    assert (prepared(MetaEmbedConfig(dim=8, weights="even"), data).odds == 1).all()


def test_warm_items_and_users_are_the_backbone_s_and_stay(data):
    config = MetaEmbedConfig(dim=8)
    found = backbone_of(data, "als", 8, penalty=config.als_penalty)
    model = built(config, data.inputs)
    fit(model, data, PLAN.model_copy(update={"epochs": 2}), seed=0)
    warm = torch.from_numpy(data.warm.astype(np.int64))
    items = item_batch(data.features, np.arange(data.inputs.n_items))
    vectors = model.item_vectors(items).detach()
    assert_close(vectors[warm], found.items[warm])
    assert_close(model.user_vectors(torch.arange(60)), found.users)
    assert {name for name, _ in model.named_parameters()} == {"generator.weight", "generator.bias"}


def test_cold_items_are_generated_within_the_bound_and_their_rows_never_read(data):
    source = planted()
    model = prepared(MetaEmbedConfig(dim=8, spread=1.5), data)
    cold = item_batch(data.features, source.cold)
    before = model.item_vectors(cold)
    expected = model.bound * (model.content(cold) @ model.generator.weight.T + model.generator.bias).tanh()
    assert_close(before, expected)
    model.items[cold.codes] = math.nan
    assert_close(model.item_vectors(cold), before)
    usual = model.items[torch.from_numpy(data.warm.astype(np.int64))].square().mean(dim=0).sqrt()
    assert_close(model.bound, 1.5 * usual)
    assert (prepared(MetaEmbedConfig(dim=8, bound=0.2), data).bound == 0.2).all()


def test_calibration_says_how_often(data):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20_000)
    labels = rng.random(20_000) < 1 / (1 + np.exp(-(3.0 * scores - 1.0)))
    slope, offset = _logistic(scores[labels], scores[~labels])
    assert slope == pytest.approx(3.0, abs=0.15)
    assert offset == pytest.approx(-1.0, abs=0.1)
    # Scores without an error have no best slope; a finite one comes out.
    slope, offset = _logistic(np.array([1.0, 1.1], np.float32), np.array([0.0, 0.1], np.float32))
    assert 0 < slope < 100
    assert math.isfinite(offset)
    assert _logistic(np.ones(3, np.float32), np.ones(0, np.float32)) == (1.0, 0.0)


@pytest.mark.parametrize("backbone", ["als", "svd"])
def test_folding_in_finds_a_training_user_again(data, backbone):
    model = prepared(MetaEmbedConfig(dim=8, backbone=backbone), data)
    catalog = model.items[torch.from_numpy(data.warm.astype(np.int64))]
    rows = np.searchsorted(data.warm, data.pairs.items[data.pairs.users == 5])
    history = torch.from_numpy(rows)
    assert_close(model.fold_in(catalog[history], catalog, history), model.users[5], rtol=1e-3, atol=1e-4)


def test_whole_users_are_refused(data):
    with pytest.raises(InputError, match="trained on triplets"):
        fit(built(MetaEmbedConfig(dim=8), data.inputs), data, TrainingPlan(sampling="users"), seed=0)
