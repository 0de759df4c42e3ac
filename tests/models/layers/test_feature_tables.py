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


def test_what_lies_over_constant_tables_is_read_in_training_only(source: Planted) -> None:
    tables = fitted(source)
    before = [table.clone() for table in tables.tables]
    above = [torch.full_like(table, place + 1.0) for place, table in enumerate(before)]
    names = set(tables.state_dict())
    tables.overlay(above)
    assert all(torch.equal(*pair) for pair in zip(tables.tables, above, strict=True))
    warm = torch.from_numpy(source.data.warm.astype(np.int64))
    cold = torch.from_numpy(source.cold.astype(np.int64))
    items = every(source)
    assert (tables.of(items)[1][warm] == 2.0).all()
    assert torch.equal(tables.of(items)[0][cold], tables.filled(items)[0][cold])
    assert set(tables.state_dict()) == names
    tables.eval()
    assert all(torch.equal(*pair) for pair in zip(tables.tables, before, strict=True))
    tables.train().restore()
    assert all(torch.equal(*pair) for pair in zip(tables.tables, before, strict=True))


def test_what_lies_over_trained_tables_is_added_and_passes_gradients_on(source: Planted) -> None:
    tables = fitted(source, trained=True)
    before = [table.detach().clone() for table in tables.tables]
    tables.overlay([torch.ones_like(table) for table in before])
    read = tables.tables
    assert all(torch.equal(got, own + 1.0) for got, own in zip(read, before, strict=True))
    (3.0 * read[1]).sum().backward()
    (own,) = (p for name, p in tables.named_parameters() if name == "table_1")
    assert own.grad is not None
    assert (own.grad == 3.0).all()
    assert torch.equal(own, before[1])
    assert torch.equal(tables.eval().tables[1], before[1])


def test_another_fit_writes_under_what_lies_over_the_tables(source: Planted) -> None:
    tables = fitted(source)
    before = [table.clone() for table in tables.tables]
    for table in tables.tables:
        table.zero_()
    tables.overlay([torch.ones_like(table) for table in before])
    tables.fit(source.data.features, source.data.warm)
    for training in (True, False):
        found = tables.train(training).tables
        assert all(torch.equal(*pair) for pair in zip(found, before, strict=True))
