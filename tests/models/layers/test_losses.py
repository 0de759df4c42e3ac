import math

import pytest
import torch
from torch.testing import assert_close

from prismrec.models.layers.losses import bpr, frobenius, half_squares, kl_divergence, softmax_cross_entropy


def test_bpr_is_minus_log_sigmoid_and_survives_large_gaps() -> None:
    found = bpr(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 3.0], [0.0, 500.0]]))
    expected = [[math.log1p(math.exp(-1)), math.log1p(math.exp(2))], [math.log(2), 500.0]]
    assert_close(found, torch.tensor(expected))


def test_kl_divergence_by_hand() -> None:
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.5, 0.25])
    assert float(kl_divergence(p, q)) == pytest.approx(0.25 * math.log(2), rel=1e-5)
    assert float(kl_divergence(p, p)) == pytest.approx(0, abs=1e-7)
    lopsided, even = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    forward, backward = float(kl_divergence(lopsided, even)), float(kl_divergence(even, lopsided))
    assert forward == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2), rel=1e-5)
    assert backward == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(5), rel=1e-5)


def test_kl_divergence_of_a_starved_expert_has_a_finite_gradient() -> None:
    p = torch.tensor([1.0, 0.0], requires_grad=True)
    assert float(kl_divergence(p.detach(), torch.tensor([0.5, 0.5]))) == pytest.approx(math.log(2), rel=1e-5)
    kl_divergence(torch.tensor([0.5, 0.5]), p).backward()
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_softmax_cross_entropy() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    found = softmax_cross_entropy(logits, torch.tensor([0, 0, 1]), torch.tensor([2, 0, 1]))
    expected = torch.nn.functional.cross_entropy(logits[[0, 0, 1]], torch.tensor([2, 0, 1]), reduction="none")
    assert_close(found, expected)


def test_frobenius_is_not_squared_and_has_no_kink_at_zero() -> None:
    a = torch.tensor([[3.0, 0.0], [0.0, 4.0]], requires_grad=True)
    b = torch.zeros(2, 2, requires_grad=True)
    value = frobenius(a, b)
    assert value.item() == pytest.approx(2.5)
    value.backward()
    assert a.grad is not None
    assert b.grad is not None
    assert torch.allclose(a.grad, a.detach() / 5 / 2)
    assert not b.grad.any()


def test_half_squares_divide_by_rows_or_by_what_is_given() -> None:
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, 0.0]])
    assert half_squares(a, b).item() == pytest.approx(4.5)
    assert half_squares(a, b, batch_size=3).item() == pytest.approx(1.5)
