import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.models.batches import ItemBatch
from prismrec.models.layers.content import item_batch
from prismrec.models.layers.feature_tables import FeatureTables
from prismrec.testing import Planted, planted


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(n_users=20, n_items=60)


def every(source: Planted) -> ItemBatch:
    return item_batch(source.data.features, np.arange(60))


def fitted(source: Planted, *, trained: bool = False, normalise: bool = False) -> FeatureTables:
    inputs = source.data.inputs
    tables = FeatureTables(inputs.modalities, inputs.n_items, trained=trained, normalise=normalise)
    tables.fit(source.data.features, source.data.warm)
    return tables


@pytest.mark.parametrize("normalise", [False, True])
def test_training_items_have_their_vectors_or_the_mean(source: Planted, normalise: bool) -> None:
    tables, warm = fitted(source, normalise=normalise), source.data.warm
    vectors, present = source.data.features.gather(np.arange(60))
    for place, table in enumerate(tables.tables):
        own = vectors[place].astype(np.float64)
        if normalise:
            own = own / np.maximum(np.linalg.norm(own, axis=1, keepdims=True), 1e-12)
        mean = own[[code for code in warm if present[code, place]]].mean(axis=0)
        expected = np.zeros_like(own)
        for code in warm:
            expected[code] = own[code] if present[code, place] else mean
        np.testing.assert_allclose(table.numpy(), expected, atol=1e-6)
    assert not present[warm].all()


def test_rows_of_training_items_and_content_of_the_others(source: Planted) -> None:
    tables = fitted(source, trained=True)
    with torch.no_grad():
        tables.tables[0].add_(1.0)
    got, items = tables.of(every(source)), every(source)
    warm = torch.from_numpy(source.data.warm.astype(np.int64))
    cold = torch.from_numpy(source.cold.astype(np.int64))
    assert_close(got[0][warm], tables.tables[0][warm])
    assert_close(got[0][cold], tables.filled(items)[0][cold])
    later = ItemBatch(torch.full_like(items.codes, -1), items.vectors, items.present)
    assert_close(tables.of(later)[0], tables.filled(items)[0])


def test_tables_are_parameters_only_if_trained(source: Planted) -> None:
    assert not list(fitted(source).parameters())
    assert len(list(fitted(source, trained=True).parameters())) == len(source.data.inputs.modalities)
    tables = fitted(source, trained=True)
    torch.stack([t.sum() for t in tables.of(every(source))]).sum().backward()
    gradient = tables.tables[0].grad
    assert gradient is not None
    assert (gradient[tables.warm] == 1).all()
    assert not gradient[~tables.warm].any()


def test_cold_content_is_never_read(source: Planted) -> None:
    features = source.data.features
    tables = fitted(source)
    assert not any(table[torch.from_numpy(source.cold.astype(np.int64))].any() for table in tables.tables)
    assert features.present[source.cold].any()
