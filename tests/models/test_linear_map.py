import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from prismrec.models.layers.content import item_batch
from prismrec.models.linear_map import LinearMap, LinearMapConfig
from prismrec.testing import ModelConformance, Planted, fitted, planted


class TestSVD(ModelConformance):
    config = LinearMapConfig()


class TestALS(ModelConformance):
    config = LinearMapConfig(factors="als", dim=8, als_iterations=3)


class TestPlain(ModelConformance):
    config = LinearMapConfig(dim=8, ridge=1.0, intercept=False, tune=False)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


def linear_map(config: LinearMapConfig, source: Planted) -> LinearMap:
    model = fitted(config, ModelConformance.plan, source)
    assert isinstance(model, LinearMap)
    return model


def dense(source: Planted) -> np.ndarray:
    matrix = np.zeros((source.data.inputs.n_users, source.data.inputs.n_items))
    matrix[source.data.pairs.users, source.data.pairs.items] = 1
    return matrix[:, source.data.warm]


def test_factors_are_the_best_of_their_rank(source: Planted) -> None:
    model = linear_map(LinearMapConfig(dim=6, ridge=1.0, tune=False), source)
    matrix = dense(source)
    singular = np.linalg.svd(matrix, compute_uv=False)
    error = np.linalg.norm(matrix - (model.users @ model.factors.T).numpy()) ** 2
    assert error == pytest.approx((singular[6:] ** 2).sum(), rel=1e-4)
    np.testing.assert_allclose(model.users, matrix @ model.factors.numpy(), atol=1e-4)


@pytest.mark.parametrize("intercept", [False, True])
def test_regression_is_scikit_learns(source: Planted, intercept: bool) -> None:
    config = LinearMapConfig(dim=6, ridge=2.5, tune=False, intercept=intercept)
    model = linear_map(config, source)
    warm, everything = (
        item_batch(source.data.features, codes)
        for codes in (source.data.warm, np.arange(source.data.inputs.n_items))
    )
    seen = warm.present.any(dim=1)
    assert not seen.all()
    oracle = Ridge(alpha=2.5, fit_intercept=intercept)
    oracle.fit(model.content(warm)[seen].numpy(), model.factors[seen].numpy())
    expected = oracle.predict(model.content(everything).numpy())
    np.testing.assert_allclose(model.item_vectors(everything), expected, atol=1e-5)


@pytest.mark.parametrize("factors", ["svd", "als"])
def test_folding_in_a_history_gives_the_trained_user(source: Planted, factors: str) -> None:
    model = linear_map(LinearMapConfig(factors=factors, dim=6, ridge=1.0, als_iterations=3), source)
    starts, touched = source.data.pairs.by_user(source.data.inputs.n_users)
    codes = touched[starts[7] : starts[8]]
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    places = torch.from_numpy(np.searchsorted(source.data.warm, codes))
    folded = model.fold_in(catalog[places], catalog, places)
    torch.testing.assert_close(folded, model.user_vectors(torch.tensor([7]))[0], rtol=1e-3, atol=1e-4)


def test_validation_chooses(source: Planted) -> None:
    model = LinearMapConfig(tune=False).build(source.data.inputs)
    scores = iter(range(100))
    # Every later value scores higher: the last of each grid wins.
    found = model.fit(source.data, lambda: float(next(scores)))
    assert found["ridge"] == 100.0
    assert found["dim"] == min(128, len(source.data.warm), source.data.inputs.n_users)


def test_without_validation_the_defaults_stay(source: Planted) -> None:
    model = LinearMapConfig().build(source.data.inputs)
    found = model.fit(source.data, lambda: float("nan"))
    assert found["ridge"] == 10.0
    assert found["share image"] == found["share text"] == 0.5
