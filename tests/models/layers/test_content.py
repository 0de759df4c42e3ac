import numpy as np
import pytest
import torch

from prismrec.models.batches import ItemBatch, Modality
from prismrec.models.layers.content import Content, ContentTable, item_batch, share_grid
from prismrec.testing import planted


def fitted_content() -> tuple[Content, object]:
    source = planted()
    content = Content(source.data.inputs.modalities)
    content.fit(source.data.features, source.data.warm)
    return content, source


def test_centre_is_the_mean_of_the_training_items_that_have_the_modality() -> None:
    content, source = fitted_content()
    vectors, present = source.data.features.gather(source.data.warm)
    for place, part in enumerate(torch.split(content.centre, content.dims)):
        seen = vectors[place][present[:, place]].astype(np.float64)
        seen /= np.linalg.norm(seen, axis=1, keepdims=True)
        np.testing.assert_allclose(part, seen.mean(axis=0), atol=1e-6)


def test_products_are_weighted_means_of_cosines_over_what_both_have() -> None:
    content, source = fitted_content()
    content.shares = torch.tensor([0.25, 0.75])
    items = item_batch(source.data.features, np.arange(source.data.inputs.n_items))
    vectors = content(items)
    parts = torch.split(content.parts(items), content.dims, dim=1)
    full = torch.nonzero(items.present.all(dim=1))[:2, 0]
    cosines = [part[full[0]] @ part[full[1]] for part in parts]
    torch.testing.assert_close(vectors[full[0]] @ vectors[full[1]], 0.25 * cosines[0] + 0.75 * cosines[1])
    lengths = vectors.norm(dim=1)
    some = items.present.any(dim=1)
    torch.testing.assert_close(lengths[some], torch.ones_like(lengths[some]))
    assert (lengths[~some] == 0).all()


def test_table_is_the_forward_pass() -> None:
    content, source = fitted_content()
    table = ContentTable(content, source.data.features, source.data.warm)
    content.shares = torch.tensor([0.1, 0.9])
    torch.testing.assert_close(table.weighed(), content(item_batch(source.data.features, source.data.warm)))


def test_rounding_error_is_not_content() -> None:
    content = Content([Modality("image", 3)])
    same = torch.tensor([[1.0, 2.0, 3.0]]).expand(4, 3)
    content.centre = torch.nn.functional.normalize(same, dim=1).mean(dim=0) + 3e-8
    items = ItemBatch(torch.arange(4), (same,), torch.ones(4, 1, dtype=torch.bool))
    assert content(items).abs().max() < 0.1


@pytest.mark.parametrize(("modalities", "size"), [(1, 1), (2, 5), (3, 10), (4, 1)])
def test_shares_to_choose_from(modalities: int, size: int) -> None:
    grid = torch.stack(share_grid(modalities))
    assert len(grid) == size
    torch.testing.assert_close(grid.sum(dim=1), torch.ones(size))
    assert (grid > 0).all()
    torch.testing.assert_close(grid[0], torch.full((modalities,), 1.0 / modalities))
    assert len({tuple(row.tolist()) for row in grid}) == size
