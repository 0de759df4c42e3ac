import numpy as np
import pytest
import torch

from prismrec.models import kernel_blend as module
from prismrec.models.cooccurrence import CooccurrenceConfig
from prismrec.models.kernel_blend import KernelBlend, KernelBlendConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.local_kernel import LocalKernelConfig
from prismrec.testing import ModelConformance, Planted, fitted, planted

BROAD = CooccurrenceConfig(gamma=1.0, penalty=0.5, smoothing=1.0, tune=False)
LOCAL = LocalKernelConfig(power=2, neighbours=0, penalty=0.0, only_smoothed=True, tune=False)


class TestChosen(ModelConformance):
    config = KernelBlendConfig()


class TestGiven(ModelConformance):
    config = KernelBlendConfig(weight=0.3, broad=BROAD, local=LOCAL)


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted()


def fit(config: KernelBlendConfig, source: Planted) -> KernelBlend:
    model = fitted(config, ModelConformance.plan, source)
    assert isinstance(model, KernelBlend)
    return model


def test_scores_are_standardised_and_summed(source: Planted) -> None:
    model = fit(KernelBlendConfig(weight=0.3, broad=BROAD, local=LOCAL), source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    users = torch.arange(source.data.inputs.n_users)
    expected = np.zeros((len(users), len(items)))
    for config, share in ((BROAD, 0.3), (LOCAL, 0.7)):
        part = fitted(config, ModelConformance.plan, source)
        scores = (part.user_vectors(users) @ part.item_vectors(items).T).double().numpy()
        width = scores[:, source.data.warm].std(axis=1, keepdims=True)
        expected += share * np.divide(scores, width, out=np.zeros_like(scores), where=width > 0)
    found = (model.user_vectors(users) @ model.item_vectors(items).T).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert (found[-1] == 0).all()  # The user without history.
    assert not (found[:-1] == 0).all(axis=1).any()


def test_of_many_items_some_are_measured(source: Planted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MEASURED", 30)
    model = fit(KernelBlendConfig(weight=0.3, broad=BROAD, local=LOCAL), source)
    assert len(model.measured) == len(model.measured.unique()) == 30
    items = item_batch(source.data.features, source.data.warm[model.measured.numpy()])
    scores = model.broad.user_vectors(torch.arange(5)) @ model.broad.item_vectors(items).T
    np.testing.assert_allclose(model.widths[0, :5], scores.numpy().std(axis=1), rtol=1e-4)


def test_folding_in_a_history_gives_the_trained_user(source: Planted) -> None:
    model = fit(KernelBlendConfig(weight=0.3, broad=BROAD, local=LOCAL), source)
    starts, touched = source.data.pairs.by_user(source.data.inputs.n_users)
    catalog = model.item_vectors(item_batch(source.data.features, source.data.warm))
    places = torch.from_numpy(np.searchsorted(source.data.warm, touched[starts[7] : starts[8]]))
    folded = model.fold_in(catalog[places], catalog, places)
    torch.testing.assert_close(folded, model.user_vectors(torch.tensor([7]))[0], rtol=1e-4, atol=1e-5)


def test_parts_are_validated_alone_and_the_best_weight_stays(source: Planted) -> None:
    model = KernelBlendConfig(
        broad=BROAD.model_copy(update={"penalty": None}), local=LOCAL.model_copy(update={"power": None})
    ).build(source.data.inputs)
    everything = item_batch(source.data.features, source.data.warm)
    sizes = []

    def score() -> float:
        sizes.append(model.item_vectors(everything).shape[1])
        assert model.user_vectors(torch.tensor([0])).shape[1] == sizes[-1]
        return 1.0 if len(sizes) == 6 + 4 + 3 else 0.0

    found = model.fit(source.data, score)
    one = len(model.broad.landmarks)
    assert sizes == [one] * 10 + [2 * one] * len(module._WEIGHTS)
    assert found["weight"] == module._WEIGHTS[2]
    assert float(model.weight) == pytest.approx(module._WEIGHTS[2])


def test_an_extreme_weight_is_one_of_the_models_alone(source: Planted) -> None:
    model = fit(KernelBlendConfig(weight=1.0, broad=BROAD, local=LOCAL), source)
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    users = torch.arange(10)
    blended = model.user_vectors(users) @ model.item_vectors(items).T
    alone = model.broad.user_vectors(users) @ model.broad.item_vectors(items).T
    torch.testing.assert_close(blended * model.widths[0, :10, None], alone, rtol=1e-3, atol=1e-4)
