import numpy as np
import pytest
import torch

from prismrec.base.errors import ConfigError
from prismrec.models import local_kernel as module
from prismrec.models.layers.content import item_batch
from prismrec.models.local_kernel import LocalKernel, LocalKernelConfig, local_kernel
from prismrec.testing import ModelConformance, Planted, fitted, planted


class TestChosen(ModelConformance):
    config = LocalKernelConfig()


class TestPlainSum(ModelConformance):
    config = LocalKernelConfig(power=2, neighbours=20, penalty=0.0, smoothing=0.0, tune=False)


class TestRidge(ModelConformance):
    config = LocalKernelConfig(penalty=1.0, only_smoothed=True)


class TestLandmarks(ModelConformance):
    config = LocalKernelConfig(landmarks=40)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


def fit(config: LocalKernelConfig, source: Planted) -> LocalKernel:
    model = fitted(config, ModelConformance.plan, source)
    assert isinstance(model, LocalKernel)
    return model


def scores(model: LocalKernel, source: Planted) -> np.ndarray:
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


def test_kernel_by_hand() -> None:
    marks = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    new = torch.tensor([[0.8, 0.6], [-1.0, 0.0], [0.0, 0.0]])
    full = [[0.64, 0.36, 0.9216], [0, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(local_kernel(new, marks, torch.tensor(2.0), 0), torch.tensor(full))
    full[0][1] = 0
    torch.testing.assert_close(local_kernel(new, marks, torch.tensor(2.0), 2), torch.tensor(full))


@pytest.mark.parametrize(("neighbours", "penalty"), [(0, 0.0), (5, 0.0), (0, 20.0)])
@pytest.mark.parametrize(("smoothing", "only"), [(0.0, False), (2.0, False), (None, True)])
def test_scores_are_those_of_the_formula(
    source: Planted, neighbours: int, penalty: float, smoothing: float | None, only: bool
) -> None:
    model = fit(
        LocalKernelConfig(
            power=3,
            neighbours=neighbours,
            penalty=penalty,
            smoothing=smoothing,
            only_smoothed=only,
            tune=False,
        ),
        source,
    )
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    there = items.present.any(dim=1).numpy()[source.data.warm]
    vectors = model.content(items).numpy().astype(np.float64)
    train = vectors[source.data.warm][there]
    across = np.maximum(vectors @ train.T, 0) ** 3
    targets = smoothed(source, 0.0 if only else 1.0, 1.0 if only else smoothing or 0.0)[:, there]
    if neighbours:
        cut = np.sort(across, axis=1)[:, [-neighbours]]
        across = np.where(across >= cut, across, 0)
    if penalty:
        among = np.maximum(train @ train.T, 0) ** 3 + penalty * np.eye(len(train))
        across = np.linalg.solve(among, across.T).T
    np.testing.assert_allclose(scores(model, source), targets @ across.T, rtol=1e-3, atol=1e-4)


def test_beyond_the_landmarks_each_counts_as_the_most_like(source: Planted) -> None:
    config = LocalKernelConfig(power=2, neighbours=0, penalty=0.0, smoothing=1.0, tune=False, landmarks=40)
    model = fit(config, source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    vectors = model.content(items).numpy().astype(np.float64)
    marks = vectors[source.data.warm[model.anchors.numpy()]]
    assert marks.shape[0] == 40
    expected = np.zeros((source.data.inputs.n_users, len(vectors)))
    history = smoothed(source, 1.0, 1.0)
    for place, code in enumerate(source.data.warm):
        cosines = marks @ vectors[code]
        if cosines.max() > 0:
            weights = np.maximum(vectors @ marks[cosines.argmax()], 0) ** 2
            expected += history[:, [place]] * weights
    np.testing.assert_allclose(scores(model, source), expected, rtol=1e-3, atol=1e-4)


def test_a_system_that_is_not_positive_definite_gets_more_penalty(source: Planted) -> None:
    config = LocalKernelConfig(power=1, penalty=1e-6, smoothing=0.0, tune=False)
    model = config.build(source.data.inputs)
    found = model.fit(source.data, lambda: 0.0)
    kernel = local_kernel(model.landmarks, model.landmarks, model.power, 0).double().numpy()
    least = float(np.linalg.eigvalsh(kernel)[0])
    assert least < -1e-3
    assert -least < found["penalty"] <= -2.01 * least
    assert scores(model, source).any()


@pytest.mark.parametrize("settings", [{"penalty": 0.0}, {"penalty": 50.0}, {"penalty": 0.0, "landmarks": 40}])
def test_folding_in_a_history_gives_the_trained_user(source: Planted, settings: dict[str, float]) -> None:
    config = LocalKernelConfig.parse(
        {"power": 2, "neighbours": 0, "smoothing": 1.0, "tune": False, **settings}
    )
    model = fit(config, source)
    starts, touched = source.data.pairs.by_user(source.data.inputs.n_users)
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    places = torch.from_numpy(np.searchsorted(source.data.warm, touched[starts[7] : starts[8]]))
    folded = model.fold_in(catalog[places], catalog, places)
    torch.testing.assert_close(folded, model.user_vectors(torch.tensor([7]))[0], rtol=1e-4, atol=1e-5)


def test_a_later_item_counts_as_one_item_like_it(source: Planted) -> None:
    config = LocalKernelConfig(power=2, neighbours=1, penalty=0.0, smoothing=1.0, tune=False)
    model = fit(config, source)
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    cold = model.item_vectors(item_batch(source.data.features, source.cold))
    cold = cold[cold.sum(dim=1) > 0][:1]
    likest = model.anchors[cold[0].argmax()].reshape(1)
    torch.testing.assert_close(
        model.fold_in(cold, catalog, torch.tensor([-1])), model.fold_in(cold, catalog, likest)
    )


def test_validation_chooses(source: Planted) -> None:
    model = LocalKernelConfig(tune=False).build(source.data.inputs)
    # Of four powers the last, then of four smoothings the third, of six reaches the fourth, then no other.
    values = [0, 0, 0, 1, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0]
    scores = iter(map(float, values))
    found = model.fit(source.data, lambda: next(scores))
    assert next(scores, None) is None
    assert found["power"] == module._POWERS[-1]
    assert (found["own"], found["passed"]) == (1.0, 3.0)
    assert (found["neighbours"], found["penalty"]) == (10.0, 0.0)


def test_neighbours_and_ridge_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="neighbours and penalty"):
        LocalKernelConfig.parse({"neighbours": 3, "penalty": 0.5})
