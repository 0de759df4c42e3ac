import pytest
import torch
from torch.testing import assert_close

from prismrec.models.layers.dropout import Dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_and_the_mean_are_kept_in_every_fourth_place(rate: float) -> None:
    torch.manual_seed(0)
    layer, inputs = Dropout(rate).train(), torch.ones(1000, 401)
    found = layer(inputs)
    for place in range(4):
        some = found.flatten()[place::4]
        assert float((some == 0).float().mean()) == pytest.approx(rate, abs=0.006)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.02)
    assert set(found.unique().tolist()) == {0.0, float(torch.tensor(1.0) / (1.0 - rate))}


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    dropped = (Dropout(0.5).train()(torch.ones(400_000)) == 0).float() - 0.5
    for distance in (1, 2, 3, 4):
        agreement = float((dropped[distance:] * dropped[:-distance]).mean())
        assert abs(agreement) < 0.003


def test_the_gradient_passes_where_values_do_and_a_seed_repeats() -> None:
    layer, inputs = Dropout(0.3).train(), torch.randn(7, 5, requires_grad=True)
    torch.manual_seed(2)
    found = layer(inputs)
    found.sum().backward()
    assert inputs.grad is not None
    assert_close(found, inputs * inputs.grad)
    torch.manual_seed(2)
    assert torch.equal(found, layer(inputs))


def test_outside_of_training_nothing_is_dropped() -> None:
    inputs = torch.randn(4, 3)
    assert Dropout(0.9).eval()(inputs) is inputs
    assert Dropout(0.0).train()(inputs) is inputs
