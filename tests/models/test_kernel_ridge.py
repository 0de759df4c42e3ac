from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge as Oracle

from prismrec.models import kernel_ridge as kernel_ridge_module
from prismrec.models.kernel_ridge import KernelRidge, KernelRidgeConfig
from prismrec.models.layers.content import item_batch, share_grid
from prismrec.testing import ModelConformance, Planted, fitted, planted


class TestExact(ModelConformance):
    config = KernelRidgeConfig()


class TestCosine(ModelConformance):
    config = KernelRidgeConfig(kernel="cosine")


class TestNystroem(ModelConformance):
    config = KernelRidgeConfig(landmarks=40)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


def kernel_ridge(config: KernelRidgeConfig, source: Planted) -> KernelRidge:
    model = fitted(config, ModelConformance.plan, source)
    assert isinstance(model, KernelRidge)
    return model


def scores(model: KernelRidge, source: Planted) -> np.ndarray:
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    users = model.user_vectors(torch.arange(source.data.inputs.n_users))
    return (users @ model.item_vectors(items).T).numpy()


@pytest.mark.parametrize(
    "config",
    [
        KernelRidgeConfig(gamma=1.5, penalty=0.7, tune=False),
        KernelRidgeConfig(kernel="cosine", power=3, penalty=0.7, tune=False),
    ],
)
def test_scores_are_scikit_learns(source: Planted, config: KernelRidgeConfig) -> None:
    model = kernel_ridge(config, source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    vectors = model.content(items).numpy().astype(np.float64)
    there = items.present.any(dim=1).numpy()
    train = source.data.warm[there[source.data.warm]]
    history = np.zeros((source.data.inputs.n_users, len(vectors)))
    history[source.data.pairs.users, source.data.pairs.items] = 1
    if config.kernel == "rbf":
        gaps = ((vectors[train][:, None] - vectors[train]) ** 2).sum(axis=2)
        oracle = Oracle(alpha=0.7, kernel="rbf", gamma=1.5 / gaps.mean())
    else:
        oracle = Oracle(alpha=0.7, kernel="polynomial", degree=3, gamma=0.5, coef0=0.5)
    oracle.fit(vectors[train], history[:, train].T)
    expected = oracle.predict(vectors[there]).T
    np.testing.assert_allclose(scores(model, source)[:, there], expected, atol=2e-4)
    assert (scores(model, source)[:, ~there] == 0).all()


def test_nystroem_solves_what_it_says(source: Planted) -> None:
    config = KernelRidgeConfig(gamma=1.0, penalty=0.5, tune=False, landmarks=40)
    model = kernel_ridge(config, source)
    assert not model.exact
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    there = items.present.any(dim=1).numpy()
    vectors = model.content(items).numpy().astype(np.float64)
    landmarks = model.landmarks.numpy().astype(np.float64)
    scale = float(model.scale)

    def kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.exp(-scale * ((left[:, None] - right) ** 2).sum(axis=2))

    everything = kernel(vectors, landmarks) * there[:, None]
    train = everything[source.data.warm]
    history = np.zeros((source.data.inputs.n_users, len(vectors)))
    history[source.data.pairs.users, source.data.pairs.items] = 1
    # The subset of regressors: (K_mn K_nm + penalty K_mm)^-1 K_mn Y, without any whitening.
    system = train.T @ train + 0.5 * (kernel(landmarks, landmarks) + 1e-5 * np.eye(40))
    weights = np.linalg.solve(system, train.T @ history[:, source.data.warm].T)
    np.testing.assert_allclose(scores(model, source), (everything @ weights).T, atol=1e-3)


def test_all_items_as_landmarks_is_the_exact_solution(source: Planted) -> None:
    exact = kernel_ridge(KernelRidgeConfig(gamma=1.0, penalty=0.5, tune=False), source)
    seen = len(exact.landmarks)
    # One landmark fewer than items with content is no longer exact, and nearly the same.
    nearly = kernel_ridge(KernelRidgeConfig(gamma=1.0, penalty=0.5, tune=False, landmarks=seen - 1), source)
    assert exact.exact
    assert not nearly.exact
    difference = scores(exact, source) - scores(nearly, source)
    assert np.abs(difference).mean() < 0.02 * np.abs(scores(exact, source)).mean()


@pytest.mark.parametrize("landmarks", [4096, 40])
def test_folding_in_a_history_gives_the_trained_user(source: Planted, landmarks: int) -> None:
    config = KernelRidgeConfig(gamma=1.0, penalty=0.5, tune=False, landmarks=landmarks)
    model = kernel_ridge(config, source)
    starts, touched = source.data.pairs.by_user(source.data.inputs.n_users)
    codes = touched[starts[7] : starts[8]]
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    places = torch.from_numpy(np.searchsorted(source.data.warm, codes))
    folded = model.fold_in(catalog[places], catalog, places)
    torch.testing.assert_close(folded, model.user_vectors(torch.tensor([7]))[0], rtol=1e-4, atol=1e-4)


def test_a_later_item_counts_as_the_training_items_that_predict_it(source: Planted) -> None:
    config = KernelRidgeConfig(gamma=1.0, penalty=1e-3, tune=False, landmarks=60)
    model = kernel_ridge(config, source)
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    # f(c) = a' x with a = Phi A^-1 phi(c): the user who touched the mixture a has the vector a' Phi.
    later = model.item_vectors(item_batch(source.data.features, source.cold[:1]))
    mixture = later @ model.phi.T
    folded = model.fold_in(later, catalog, torch.tensor([-1]))
    torch.testing.assert_close(folded, (mixture @ model.phi)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", ["rbf", "cosine"])
@pytest.mark.parametrize("rough", [0.0, 1e9], ids=["single", "double"])
def test_search_finds_what_solving_every_setting_anew_finds(
    source: Planted, kernel: Literal["rbf", "cosine"], rough: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_ridge_module, "_ROUGH_PENALTY", rough)
    data = source.data
    cold = item_batch(data.features, np.unique(source.valid.items))
    liked = np.zeros((data.inputs.n_users, data.inputs.n_items))
    liked[source.valid.users, source.valid.items] = 1
    wanted = liked[:, cold.codes.numpy()]
    model = KernelRidgeConfig(kernel=kernel).build(data.inputs)
    asked: list[float] = []

    def score() -> float:
        found = (model.user_vectors(torch.arange(data.inputs.n_users)) @ model.item_vectors(cold).T).numpy()
        asked.append(-float(((found - wanted) ** 2).sum()))
        return asked[-1]

    chosen = model.fit(data, score)

    def slow(shares: torch.Tensor, scale: float, penalty: float) -> float:
        model.content.shares = shares
        train = item_batch(data.features, data.warm)
        there = train.present.any(dim=1)
        marks, new = model.content(train)[there].double(), model.content(cold).double()
        history = np.zeros((data.inputs.n_users, data.inputs.n_items))
        history[data.pairs.users, data.pairs.items] = 1
        x = torch.from_numpy(history[:, data.warm[there.numpy()]])
        if kernel == "rbf":
            gamma = scale / float(torch.cdist(marks, marks).square().mean())
            among, across = (torch.exp(-gamma * torch.cdist(v, marks).square()) for v in (marks, new))
        else:
            among, across = (((1 + v @ marks.T) / 2) ** scale for v in (marks, new))
        across = across * cold.present.any(dim=1, keepdim=True)
        found = x @ torch.linalg.solve(among + penalty * torch.eye(len(marks)), across.T)
        return -float(((found.numpy() - wanted) ** 2).sum())

    scales = kernel_ridge_module._GAMMAS if kernel == "rbf" else kernel_ridge_module._POWERS
    penalties = kernel_ridge_module._PENALTIES
    kept = max(share_grid(2), key=lambda s: slow(s, scales[0], penalties[0]))
    scale = max(scales, key=lambda s: slow(kept, s, penalties[0]))
    penalty = max(penalties, key=lambda p: slow(kept, scale, p))
    assert chosen["gamma" if kernel == "rbf" else "power"] == scale
    assert chosen["penalty"] == penalty
    assert [chosen["share image"], chosen["share text"]] == pytest.approx(kept.tolist())
    assert max(asked) == pytest.approx(slow(kept, scale, penalty), rel=1e-4)
    # Each setting once: the first of a stage is the best of the stage before.
    assert len(asked) == 5 + len(scales) - 1 + len(penalties) - 1
    model.content.shares = kept
    assert score() == pytest.approx(slow(kept, scale, penalty), rel=1e-5)
