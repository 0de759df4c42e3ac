import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.models.batches import ItemBatch, ModelInputs, TableEpoch, TrainingData
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import ModelConformance
from prismrec.testing.planted import planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit
from prismrec.training.row_adam import RowAdam


class TestConformance(ModelConformance):
    config = BPRMFConfig()


class TestConformanceWithSGD(ModelConformance):
    config = BPRMFConfig(dim=8)
    plan = TrainingPlan(batch_size=64, epochs=5, optimizer="sgd", learning_rate=5.0)


class TestConformanceWithoutBias(ModelConformance):
    config = BPRMFConfig(dim=7, item_bias=False, l2=0.01)
    plan = TrainingPlan(batch_size=100, epochs=5, learning_rate=0.02, negatives=3)


def built(config, inputs, seed=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return config.build(inputs)


@pytest.fixture(scope="module")
def source():
    return planted()


@pytest.mark.parametrize("l2", [0.0, 0.02])
@pytest.mark.parametrize("negatives", [1, 4])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_an_epoch_in_one_go_takes_the_steps_of_losses_and_row_adam(source, bias, negatives, l2):
    config = BPRMFConfig(dim=9, item_bias=bias, l2=l2)
    plan = TrainingPlan(batch_size=64, negatives=negatives)
    batches = Batches(source.data, plan, 0, False)
    slow, fast = (built(config, source.data.inputs) for _ in range(2))
    slow.lazy_rows = True
    optimizer = RowAdam([slow.users, slow.items])
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in fast.named_parameters()}
    step = 0
    for number in (1, 2):
        rates = np.linspace(1e-2, 1e-3, len(batches))
        sums = {}
        for rate, batch in zip(rates, batches.epoch(number), strict=True):
            optimizer.param_groups[0]["lr"] = rate
            terms = slow.losses(batch)
            optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
        losses = fast.train_epoch(TableEpoch(*batches.triplets(number), 64, rates, step, moments))
        step += len(batches)
        assert losses.keys() == sums.keys()
        for name, value in losses.items():
            assert value == pytest.approx(sums[name], rel=1e-4)
    for name in ("users", "items"):
        state = optimizer.state[getattr(slow, name)]
        assert_close(getattr(fast, name), getattr(slow, name), rtol=1e-3, atol=1e-4)
        assert_close(moments[name][0], state["exp_avg"], rtol=1e-3, atol=1e-6)
        assert_close(moments[name][1], state["exp_avg_sq"], rtol=1e-3, atol=1e-8)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_an_epoch_without_moments_takes_the_steps_of_losses_and_torchs_sgd(source, bias):
    config = BPRMFConfig(dim=9, item_bias=bias, l2=0.02)
    batches = Batches(source.data, TrainingPlan(batch_size=64, negatives=3), 0, False)
    slow, fast = (built(config, source.data.inputs) for _ in range(2))
    # On whole tables.
    optimizer = torch.optim.SGD(slow.parameters(), lr=1.0)
    rates, sums = np.linspace(40.0, 10.0, len(batches)), {}
    for rate, batch in zip(rates, batches.epoch(1), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        terms = slow.losses(batch)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(batches)
    before = fast.users.detach().clone()
    losses = fast.train_epoch(TableEpoch(*batches.triplets(1), 64, rates, 0, {}))
    assert losses == pytest.approx(sums, rel=1e-5)
    assert (fast.users - before).abs().max() > 0.1
    assert_close(fast.users, slow.users, rtol=1e-4, atol=1e-5)
    assert_close(fast.items, slow.items, rtol=1e-4, atol=1e-5)


SGD = {"optimizer": "sgd", "learning_rate": 5.0}


@pytest.mark.parametrize("how", [{"learning_rate": 0.02, "batch_size": 128}, SGD], ids=["adam", "sgd"])
def test_it_learns_who_likes_what(how):
    rng = np.random.default_rng(0)
    taste, kind = rng.normal(size=(50, 3)), rng.normal(size=(60, 3))
    ranked = np.argsort(-(taste @ kind.T), axis=1)[:, :20]
    order = rng.permuted(ranked, axis=1)
    users = np.repeat(np.arange(50, dtype=np.int32), 15)
    pairs = Pairs(users, order[:, :15].ravel().astype(np.int32))
    base = planted(n_users=50, n_items=60).data
    data = TrainingData(
        pairs, ModelInputs(50, 60, base.inputs.modalities), base.features, np.unique(pairs.items), 0
    )
    model = built(BPRMFConfig(dim=8), data.inputs)
    fit(model, data, TrainingPlan(**{"epochs": 60, "batch_size": 64, **how}), seed=0)
    vectors = model.user_vectors(torch.arange(50)) @ all_items(model, 60).T
    scores = vectors.detach().numpy()
    # Liked items that training did not show, against those that the user does not like.
    better = [
        (scores[user, order[user, 15:], None] > np.delete(scores[user], order[user])).mean()
        for user in range(50)
    ]
    assert np.mean(better) > 0.85


def all_items(model, n):
    nothing = torch.empty(n, 0, dtype=torch.bool)
    return model.item_vectors(ItemBatch(torch.arange(n), (), nothing))


def test_scores_are_products_plus_the_bias():
    model = built(BPRMFConfig(dim=5), ModelInputs(4, 6, ()))
    with torch.no_grad():
        model.items[:, -1] = torch.arange(6.0)
    scores = model.user_vectors(torch.arange(4)) @ all_items(model, 6).T
    assert_close(scores, model.users @ model.items[:, :5].T + torch.arange(6.0))


def test_a_stranger_gets_items_by_their_bias_and_a_later_item_nothing():
    model = built(BPRMFConfig(dim=5), ModelInputs(4, 6, ()))
    with torch.no_grad():
        model.items[:, -1] = torch.arange(6.0)
    stranger = model.user_vectors(torch.tensor([-1]))
    assert_close(stranger @ all_items(model, 6).T, torch.arange(6.0)[None])
    later = ItemBatch(torch.tensor([-1, 2]), (), torch.empty(2, 0, dtype=torch.bool))
    assert not model.item_vectors(later)[0].any()
    assert model.item_vectors(later)[1].any()


def test_users_and_items_without_interactions_begin_and_stay_at_nothing(source):
    model = built(BPRMFConfig(), source.data.inputs)
    fit(model, source.data, TrainingPlan(epochs=2, batch_size=64), seed=0)
    absent = np.setdiff1d(np.arange(160), source.data.warm)
    assert len(absent)
    assert not model.items[absent].any()
    assert not model.users[-1].any()
    assert model.items[source.data.warm].any(dim=1).all()


def test_whole_users_are_refused(source):
    with pytest.raises(InputError, match="trained on triplets"):
        fit(built(BPRMFConfig(), source.data.inputs), source.data, TrainingPlan(sampling="users"), seed=0)


PLAN = TrainingPlan(
    batch_size=64, epochs=4, learning_rate=0.01, schedule="cosine", warmup_steps=5, negatives=2
)


@pytest.mark.parametrize("how", [{}, SGD, {**SGD, "row_updates": "dense"}], ids=["adam", "sgd", "sgd-dense"])
def test_training_is_the_same_whichever_way_the_loop_takes(source, how):
    # A limit that no gradient reaches takes the general way, and so do dense updates.
    models = []
    for changed in ({"row_updates": "lazy", "clip_norm": None}, {"clip_norm": 1e9}):
        model = built(BPRMFConfig(dim=8, l2=0.01), source.data.inputs)
        plan = PLAN.model_copy(update={**how, **changed})
        history = fit(model, source.data, plan, seed=2)
        models.append((model, [epoch.losses for epoch in history.epochs]))
    (one, its_losses), (two, other_losses) = models
    for first, second in zip(its_losses, other_losses, strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    assert_close(one.items, two.items, rtol=1e-3, atol=1e-4)
    assert_close(one.users, two.users, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("how", [{}, SGD], ids=["adam", "sgd"])
def test_a_resumed_run_equals_one_that_was_not_stopped(source, tmp_path, how):
    def validate(model, stop=False):
        if stop and next(calls) == 3:
            raise KeyboardInterrupt
        return {"ndcg@10": float(model.items.detach().abs().sum())}

    calls = iter(range(1, 100))
    whole, first, resumed = (built(BPRMFConfig(dim=8), source.data.inputs) for _ in range(3))
    plan = PLAN.model_copy(update=how)
    fit(whole, source.data, plan, seed=1, validate=validate)
    path = tmp_path / "checkpoint"
    kept = {"seed": 1, "checkpoint": path, "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        fit(first, source.data, plan, validate=lambda model: validate(model, stop=True), **kept)
    fit(resumed, source.data, plan, validate=validate, **kept)
    assert torch.equal(whole.items, resumed.items)
    assert torch.equal(whole.users, resumed.users)


def test_divergence_is_an_error_that_names_the_epoch(source):
    model = built(BPRMFConfig(dim=8, l2=1.0), source.data.inputs)
    with torch.no_grad():
        model.users.fill_(1e38)
    with pytest.raises(InputError, match="diverged in epoch 1"):
        fit(model, source.data, PLAN, seed=0)
