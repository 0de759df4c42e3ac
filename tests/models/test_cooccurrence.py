from typing import Literal

import numpy as np
import pytest
import torch

from prismrec.models.cooccurrence import Cooccurrence, CooccurrenceConfig
from prismrec.models.kernel_ridge import KernelRidge, KernelRidgeConfig
from prismrec.models.layers.content import item_batch
from prismrec.testing import ModelConformance, Planted, fitted, planted

SETTINGS = {"gamma": 1.5, "penalty": 0.7, "tune": False}


class TestExact(ModelConformance):
    config = CooccurrenceConfig()


class TestCosine(ModelConformance):
    config = CooccurrenceConfig(kernel="cosine", only_smoothed=True)


class TestNystroem(ModelConformance):
    config = CooccurrenceConfig(landmarks=40)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


def fit(config: CooccurrenceConfig, source: Planted) -> Cooccurrence:
    model = fitted(config, ModelConformance.plan, source)
    assert isinstance(model, Cooccurrence)
    return model


def scores(model: Cooccurrence | KernelRidge, source: Planted) -> np.ndarray:
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    return (
        model.user_vectors(torch.arange(source.data.inputs.n_users)) @ model.item_vectors(items).T
    ).numpy()


def smoothed(source: Planted, own: float, passed: float) -> np.ndarray:
    """``own X + passed X C`` over training items, densely."""
    touched = np.zeros((source.data.inputs.n_users, source.data.inputs.n_items))
    touched[source.data.pairs.users, source.data.pairs.items] = 1
    touched = touched[:, source.data.warm]
    counts = touched.T @ touched
    np.fill_diagonal(counts, 0)
    root = np.sqrt(counts.sum(axis=1))
    return own * touched + passed * touched @ (counts / root[:, None] / root)


@pytest.mark.parametrize("kernel", ["rbf", "cosine"])
@pytest.mark.parametrize(("smoothing", "only"), [(0.0, False), (1.0, False), (2.5, False), (None, True)])
def test_scores_are_those_of_the_formula(
    source: Planted, kernel: Literal["rbf", "cosine"], smoothing: float | None, only: bool
) -> None:
    config = CooccurrenceConfig(
        kernel=kernel,
        power=3,
        smoothing=smoothing,
        only_smoothed=only,
        **SETTINGS,
    )
    model = fit(config, source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    there = items.present.any(dim=1).numpy()
    vectors = model.content(items).numpy().astype(np.float64)
    train = vectors[source.data.warm][there[source.data.warm]]
    if kernel == "rbf":
        gamma = 1.5 / ((train[:, None] - train) ** 2).sum(axis=2).mean()
        among, across = (np.exp(-gamma * ((v[:, None] - train) ** 2).sum(axis=2)) for v in (train, vectors))
    else:
        among, across = (((1 + v @ train.T) / 2) ** 3 for v in (train, vectors))
    targets = smoothed(source, 0.0 if only else 1.0, 1.0 if only else smoothing or 0.0)
    weights = np.linalg.solve(among + 0.7 * np.eye(len(train)), targets[:, there[source.data.warm]].T)
    expected = (across @ weights).T * there
    np.testing.assert_allclose(scores(model, source), expected, atol=2e-4)


def test_nystroem_solves_what_it_says(source: Planted) -> None:
    model = fit(CooccurrenceConfig(gamma=1.0, penalty=0.5, smoothing=1.0, tune=False, landmarks=40), source)
    assert not model.exact
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    there = items.present.any(dim=1).numpy()
    vectors = model.content(items).numpy().astype(np.float64)
    marks = model.landmarks.numpy().astype(np.float64)

    def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.exp(-float(model.scale) * ((left[:, None] - right) ** 2).sum(axis=2))

    everything = kernel(vectors, marks) * there[:, None]
    train = everything[source.data.warm]
    # The subset of regressors, without any whitening.
    system = train.T @ train + 0.5 * (kernel(marks, marks) + 1e-5 * np.eye(40))
    weights = np.linalg.solve(system, train.T @ smoothed(source, 1.0, 1.0).T)
    np.testing.assert_allclose(scores(model, source), (everything @ weights).T, atol=2e-3)


@pytest.mark.parametrize("landmarks", [4096, 40])
def test_without_smoothing_it_is_kernel_ridge(source: Planted, landmarks: int) -> None:
    given = {**SETTINGS, "landmarks": landmarks}
    model = fit(CooccurrenceConfig(smoothing=0.0, **given), source)
    oracle = fitted(KernelRidgeConfig(**given), ModelConformance.plan, source)
    assert isinstance(oracle, KernelRidge)
    np.testing.assert_allclose(scores(model, source), scores(oracle, source), atol=1e-4)
    catalog, liked, places = _someone(model, source)
    theirs = oracle.item_vectors(item_batch(source.data.features, source.data.warm))
    cold = oracle.item_vectors(item_batch(source.data.features, source.cold[1:3]))
    expected = oracle.fold_in(torch.cat((theirs[places[:-2]], cold)), theirs, places)
    torch.testing.assert_close(
        catalog @ model.fold_in(liked, catalog, places), theirs @ expected, rtol=1e-2, atol=1e-3
    )


def _someone(model: Cooccurrence, source: Planted) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Vectors of training items, those of user 7's and of two cold items, and their places."""
    starts, touched = source.data.pairs.by_user(source.data.inputs.n_users)
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    places = torch.from_numpy(np.searchsorted(source.data.warm, touched[starts[7] : starts[8]]))
    cold = model.item_vectors(item_batch(source.data.features, source.cold[1:3]))
    return catalog, torch.cat((catalog[places], cold)), torch.cat((places, torch.tensor([-1, -1])))


@pytest.mark.parametrize("landmarks", [4096, 40])
def test_folding_in_a_history_gives_the_trained_user(source: Planted, landmarks: int) -> None:
    model = fit(CooccurrenceConfig(smoothing=1.0, landmarks=landmarks, **SETTINGS), source)
    catalog, liked, places = _someone(model, source)
    folded = model.fold_in(liked[:-2], catalog, places[:-2])
    torch.testing.assert_close(folded, model.user_vectors(torch.tensor([7]))[0], rtol=1e-4, atol=1e-5)


def test_validation_chooses(source: Planted) -> None:
    model = CooccurrenceConfig(gamma=1.0, tune=False).build(source.data.inputs)
    # Four smoothings, of which the third wins; five more penalties, of which the third; three more
    # smoothings, none of them better.
    scores = iter([0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    found = model.fit(source.data, lambda: next(scores))
    assert (found["penalty"], found["own"], found["passed"]) == (3.0, 1.0, 3.0)
    assert next(scores, None) is None
    again = fit(CooccurrenceConfig(gamma=1.0, penalty=3.0, smoothing=3.0, tune=False), source)
    torch.testing.assert_close(model.users.table, again.users.table)
    torch.testing.assert_close(model.factor, again.factor)


def test_without_validation_the_defaults_stay(source: Planted) -> None:
    found = CooccurrenceConfig().build(source.data.inputs).fit(source.data, lambda: float("nan"))
    assert (found["gamma"], found["penalty"], found["own"], found["passed"]) == (2.0, 1.0, 1.0, 1.0)
