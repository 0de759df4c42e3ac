import pytest
import torch
from torch.testing import assert_close

from prismrec.models.layers.unit import unit_rows


@pytest.mark.parametrize("centred", [False, True])
def test_rows_are_normalised_and_missing_ones_are_zero(centred: bool) -> None:
    torch.manual_seed(0)
    vectors, present = torch.randn(20, 7) * 5, torch.rand(20) < 0.7
    vectors[3], present[3] = 0.0, True
    vectors[4], present[4] = float("nan"), False
    centre = torch.randn(7) * 0.1 if centred else None
    found = unit_rows(vectors, present, centre)
    for row in range(20):
        expected = torch.zeros(7)
        if present[row]:
            expected = vectors[row] / max(float(vectors[row].norm()), 1e-12)
            if centre is not None:
                expected = (expected - centre) / (expected - centre).norm()
        assert_close(found[row], expected)


@pytest.mark.parametrize("centred", [False, True])
def test_a_gradient_passes_where_content_is_trained(centred: bool) -> None:
    vectors = torch.randn(6, 4, requires_grad=True)
    present = torch.tensor([True, True, False, True, True, True])
    centre = torch.full((4,), 0.1) if centred else None
    found = unit_rows(vectors, present, centre)
    assert_close(found, unit_rows(vectors.detach(), present, centre))
    found[:, 0].sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[2].abs().sum() == 0
    assert vectors.grad[0].abs().sum() > 0


def test_the_input_is_left_as_it_is_and_half_precision_is_read() -> None:
    vectors = torch.randn(5, 3)
    kept = vectors.clone()
    everything = torch.ones(5, dtype=torch.bool)
    found = unit_rows(vectors, everything)
    assert_close(vectors, kept)
    assert found.dtype == unit_rows(vectors.half(), everything).dtype == torch.float32
