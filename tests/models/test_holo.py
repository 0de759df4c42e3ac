"""Tests of HOLO."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from prismrec.base.errors import InputError
from prismrec.models.base import ModelConfig
from prismrec.models.batches import UserBatch
from prismrec.models.holo import HOLO, HOLOConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.kernels import kernel_matrix
from prismrec.models.plan import TrainingPlan
from prismrec.testing.conformance import ModelConformance
from prismrec.testing.planted import cold_auc, fitted, planted
from prismrec.training.batches import Batches

PLAN = TrainingPlan(sampling="users", batch_size=32, epochs=6, learning_rate=0.003, row_updates="dense")
START = PLAN.model_copy(update={"epochs": 1, "learning_rate": 1e-12})


class TestConformance(ModelConformance):
    config: ClassVar[ModelConfig] = HOLOConfig(dim=12)
    plan: ClassVar[TrainingPlan] = PLAN


class TestLandmarks(ModelConformance):
    config: ClassVar[ModelConfig] = HOLOConfig(dim=6, landmarks=40, taste="shrunken", popularity=0.0)
    plan: ClassVar[TrainingPlan] = PLAN


class TestInSample(ModelConformance):
    config: ClassVar[ModelConfig] = HOLOConfig(dim=6, left_out=False, noise=0.0, taste="fitted", rank=4)
    plan: ClassVar[TrainingPlan] = PLAN


def started(**settings: object) -> tuple[HOLO, object]:
    source = planted()
    model = fitted(HOLOConfig.parse({"dim": 8, **settings}), START, source)
    assert isinstance(model, HOLO)
    return model, source


def test_a_training_item_is_what_the_others_say_of_it() -> None:
    source = planted(n_users=30, n_items=50)
    config = HOLOConfig(dim=5, penalty=0.7, popularity=1.0, taste="factors", noise=2.0)
    model = config.build(source.data.inputs)
    assert isinstance(model, HOLO)
    model.prepare(source.data, None)
    warm = torch.from_numpy(source.data.warm.astype(np.int64))
    content = model.content(item_batch(source.data.features, source.data.warm)).double()
    counts = np.bincount(source.data.pairs.items, minlength=50)[source.data.warm]
    # The targets come back from the regression itself: y = (K + R) dual + mean.
    kernel = kernel_matrix("rbf", content, content, model.scale.double())
    ridge = torch.from_numpy(0.7 * (0.1 + 0.9 * 2.0 / (counts + 2.0)))
    dual = model.dual[: len(warm)].double()
    targets = kernel @ dual + ridge.unsqueeze(1) * dual
    popularity = np.log1p(counts)
    assert targets[:, -1].numpy() == pytest.approx(popularity - popularity.mean(), abs=1e-3)
    for i in (0, 7, 20):
        others = torch.tensor([j for j in range(len(warm)) if j != i])
        system = kernel[others][:, others] + torch.diag(ridge[others])
        expected = kernel[i, others] @ torch.linalg.solve(system, targets[others])
        expected = (expected + model.offset.double()).clamp(
            (targets + model.offset).amin(dim=0), (targets + model.offset).amax(dim=0)
        )
        assert model.known[warm[i]].double().numpy() == pytest.approx(expected.numpy(), abs=2e-3)


def test_left_out_and_in_sample_differ_for_training_items_alone() -> None:
    one, source = started(popularity=0.5, taste="factors", penalty=1.0, tune=False, rank=8)
    other, _ = started(popularity=0.5, taste="factors", penalty=1.0, tune=False, rank=8, left_out=False)
    data = source.data  # type: ignore[attr-defined]
    items = item_batch(data.features, np.arange(data.inputs.n_items))
    cold = torch.from_numpy(source.cold.astype(np.int64))  # type: ignore[attr-defined]
    with torch.no_grad():
        a, b = one.item_vectors(items), other.item_vectors(items)
    assert torch.allclose(a[cold], b[cold], atol=2e-3)
    warm = torch.from_numpy(data.warm.astype(np.int64))
    assert (a[warm] - b[warm]).abs().max() > 0.05


def test_scores_spread_as_asked() -> None:
    model, source = started(popularity=2.0, taste="factors", sharpness=3.0)
    data = source.data  # type: ignore[attr-defined]
    known = model.known[torch.from_numpy(data.warm.astype(np.int64))]
    active = np.unique(data.pairs.users)
    taste = model.users.detach()[torch.from_numpy(active.astype(np.int64))][:, :8] @ known[:, :8].T
    popularity = model.users.detach()[0, 8] * known[:, 8]
    expected = 3.0 / 5.0**0.5
    assert taste.std(dim=1, unbiased=False).numpy() == pytest.approx(expected, rel=1e-3)
    assert float(popularity.std(unbiased=False)) == pytest.approx(2.0 * expected, rel=1e-3)


def test_a_stranger_gets_what_is_predicted_to_be_popular() -> None:
    model, source = started(popularity=0.0)
    data = source.data  # type: ignore[attr-defined]
    items = item_batch(data.features, source.cold)  # type: ignore[attr-defined]
    with torch.no_grad():
        scores = model.user_vectors(torch.tensor([-1])) @ model.item_vectors(items).T
        popularity = model._outlook(items)[:, -1]
    assert torch.equal(scores[0].argsort(), popularity.argsort())


def test_loss_by_hand() -> None:
    model, source = started()
    data = source.data  # type: ignore[attr-defined]
    batch = next(iter(Batches(data, PLAN, 0, False).epoch(1)))
    assert isinstance(batch, UserBatch)
    with torch.no_grad():
        found = float(model.losses(batch)["rank"])
        scores = model.user_vectors(batch.users) @ model.item_vectors(batch.items).T
    total = weight = 0.0
    for row in range(len(batch.users)):
        liked = batch.columns[batch.rows == row]
        for column in liked:
            share = len(liked) ** -0.5
            total += share * float(scores[row].logsumexp(0) - scores[row, column])
            weight += share
    assert found == pytest.approx(total / weight, rel=1e-4)


def test_triplets_are_refused() -> None:
    source = planted()
    model = HOLOConfig(dim=4).build(source.data.inputs)
    batch = next(iter(Batches(source.data, TrainingPlan(), 0, False).epoch(1)))
    with pytest.raises(InputError, match="all training items"):
        model.losses(batch)  # type: ignore[attr-defined]


def test_what_was_chosen_is_said() -> None:
    source = planted()
    model = HOLOConfig(dim=4).build(source.data.inputs)
    assert isinstance(model, HOLO)
    chosen = model.prepare(source.data, lambda: cold_auc(model.eval(), source.data, source.valid))
    assert {"share image", "share text", "penalty", "taste", "popularity", "rank"} <= set(chosen)
