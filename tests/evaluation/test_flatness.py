import math

import numpy as np
import pytest
import torch
from torch import nn

from prismrec.base.errors import InputError
from prismrec.evaluation.flatness import ascent_gaps, curvature, landscape_of, surface
from prismrec.evaluation.landscape import Landscape
from prismrec.models import alignrec, mtpr
from prismrec.models.alignrec import AlignRecConfig
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.gar import GARConfig
from prismrec.models.mtpr import MTPRConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import fitted, planted

PLAN = TrainingPlan(epochs=3, batch_size=256, learning_rate=0.01, row_updates="dense")


def quadratic(eigenvalues, *, at=None, seed=0):
    """A loss theta' H theta / 2 + b' theta over two parameters, one a matrix; returns it with H."""
    n = len(eigenvalues)
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(n, n)))
    H = torch.tensor(basis @ np.diag(eigenvalues) @ basis.T)
    start = torch.tensor(rng.normal(size=n)) if at is None else at
    a = nn.Parameter(start[:2].clone())
    b = nn.Parameter(start[2:].reshape(-1, 2).clone())

    def loss():
        theta = torch.cat([a, b.flatten()])
        return 0.5 * theta @ H @ theta

    return {"a": a, "b": b}, loss, H


def test_curvature_of_a_quadratic():
    parameters, loss, _ = quadratic([5.0, 2.0, 1.0, 0.5, -1.0, 3.0])
    found = curvature(Landscape(parameters, [loss, loss]), probes=400, tolerance=1e-9, iterations=500)
    assert found.largest == pytest.approx(5.0, rel=1e-4)
    assert found.trace == pytest.approx(10.5, abs=4 * found.trace_error)
    assert 0 < found.trace_error < 0.5


def test_largest_is_not_the_most_negative():
    parameters, loss, _ = quadratic([1.0, 0.5, -7.0, 0.1])
    found = curvature(Landscape(parameters, [loss]), tolerance=1e-10, iterations=2000)
    assert found.largest == pytest.approx(1.0, rel=1e-3)


def test_relative_curvature_of_a_quadratic():
    parameters, loss, H = quadratic([5.0, 2.0, 1.0, 0.5, 1.5, 3.0])
    landscape = Landscape(parameters, [loss])
    lengths = torch.cat([part.flatten() for part in landscape.row_lengths()])
    a, b = parameters["a"].detach(), parameters["b"].detach()
    assert torch.allclose(lengths[:2], a.norm())
    assert torch.allclose(lengths[2:4], b[0].norm())
    S = torch.diag(lengths)
    expected = torch.linalg.eigvalsh(S @ H @ S)
    found = curvature(landscape, relative=True, probes=400, tolerance=1e-9, iterations=1000)
    assert found.largest == pytest.approx(float(expected[-1]), rel=1e-4)
    assert found.trace == pytest.approx(float(expected.sum()), abs=4 * found.trace_error)


def test_gaps_of_a_quadratic():
    parameters, loss, H = quadratic([5.0, 2.0, 1.0, 0.5, 1.5, 3.0])
    theta = torch.cat([p.detach().flatten() for p in parameters.values()])
    g = H @ theta
    for gap in ascent_gaps(Landscape(parameters, [loss]), [0.1, 1.0]):
        step = gap.radius * g / g.norm()
        assert gap.gap == pytest.approx(float(g @ step + 0.5 * step @ H @ step), rel=1e-9)
        assert gap.random < gap.gap
    s = torch.cat([part.flatten() for part in Landscape(parameters, [loss]).row_lengths()])
    for gap in ascent_gaps(Landscape(parameters, [loss]), [0.1], relative=True):
        step = gap.radius * s * s * g / (s * g).norm()
        assert float((step / s).norm()) == pytest.approx(0.1)
        assert gap.gap == pytest.approx(float(g @ step + 0.5 * step @ H @ step), rel=1e-9)


class _Own(torch.autograd.Function):
    """x squared, with a backward that torch cannot look into."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = x.detach().numpy().copy()
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.from_numpy(2 * ctx.kept)


class _Once(_Own):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * torch.from_numpy(2 * ctx.kept)


@pytest.mark.parametrize("function", [_Own, _Once])
def test_hidden_derivatives_are_found_by_differences(function):
    weights = torch.tensor([3.0, 1.0, 0.5], dtype=torch.float64)
    x = nn.Parameter(torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64))
    landscape = Landscape({"x": x}, [lambda: weights @ function.apply(x)])
    product = landscape.curved([torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)])
    assert landscape.by_differences
    assert torch.allclose(product[0], 2 * weights * torch.tensor([1.0, 2.0, -1.0]), rtol=1e-6)
    assert curvature(landscape, tolerance=1e-9).largest == pytest.approx(6.0, rel=1e-5)


def test_relative_measures_do_not_change_with_a_scale_that_changes_nothing():
    inputs, wanted = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    first, second = torch.randn(4, 3, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)

    def measured(factor):
        # Rows of the one grow as columns of the other shrink: the product, and so the loss, stays.
        one, other = nn.Parameter(first.T * factor), nn.Parameter(second.T / factor)
        landscape = Landscape(
            {"one": one, "other": other}, [lambda: (inputs @ one.T @ other.T - wanted).square().mean()]
        )
        relative = curvature(landscape, relative=True, tolerance=1e-8, iterations=500)
        plain = curvature(landscape, tolerance=1e-8, iterations=500)
        gap = ascent_gaps(landscape, [0.1], relative=True)[0].gap
        return relative.largest, gap, plain.largest

    small, large = measured(1.0), measured(5.0)
    assert small[:2] == pytest.approx(large[:2], rel=1e-4)
    assert large[2] > 2 * small[2] or small[2] > 2 * large[2]


def test_surface_of_a_quadratic():
    parameters, loss, _ = quadratic([1.0, 1.0, 1.0, 1.0], at=torch.tensor([3.0, 4.0, 0.0, 0.0]).double())
    found = surface(Landscape(parameters, [loss]), reach=0.5, points=5)
    assert found.losses.shape == (5, 5)
    assert found.losses[2, 2] == loss().item()
    # The row of zeros does not move. Along the first direction the other row, of length 5, goes 0.5 * 5 far:
    # |theta + d|^2 + |theta - d|^2 = 2 |theta|^2 + 2 |d|^2.
    assert found.losses[4, 2] + found.losses[0, 2] == pytest.approx(25 + 2.5**2)
    with pytest.raises(InputError, match="middle"):
        surface(Landscape(parameters, [loss]), points=4)


def test_the_same_random_numbers_each_time_and_weights_come_back():
    x = nn.Parameter(torch.tensor([0.1, 0.7, 1e-9]))
    landscape = Landscape({"x": x}, [lambda: x @ torch.rand(3) for _ in range(2)], seed=3)
    before, bits = torch.random.get_rng_state(), x.detach().clone()
    values = {landscape.loss() for _ in range(4)}
    ascent_gaps(landscape, [0.3, 7.0])
    curvature(landscape, probes=2)
    surface(landscape, points=3)
    assert len(values | {landscape.loss()}) == 1
    assert landscape.loss_at([torch.zeros(3)]) in values
    assert torch.equal(x.detach(), bits)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "config", [BPRMFConfig(dim=8), MTPRConfig(dim=8), AlignRecConfig(dim=8)], ids=lambda c: c.name
)
def test_models(config, monkeypatch):
    source = planted(n_users=30, n_items=60)
    model = fitted(config, PLAN, source)
    kept = {name: tensor.clone() for name, tensor in model.state().items()}
    landscape = landscape_of(model, source.data, PLAN, batches=2)
    gaps = ascent_gaps(landscape, [0.01, 0.5])
    assert gaps[0].gap > 0
    assert gaps[1].gap > gaps[0].gap
    # To first order the gap is rho |g|.
    slope = math.sqrt(sum(float(g.square().sum()) for g in landscape.gradient()))
    assert gaps[0].gap == pytest.approx(0.01 * slope, rel=0.2)
    vector = landscape.random_normal(landscape.generator())
    differences = landscape.curved(vector)
    # The compiled scores have no second derivative: torch's own stand in for them.
    for module in (alignrec, mtpr):
        monkeypatch.setattr(module, "pair_scores", plain_scores)
    twice = landscape._by_differentiating(vector)
    assert twice is not None
    for one, other in zip(twice, differences, strict=True):
        assert torch.allclose(one, other, atol=0.02 * float(one.abs().max()) + 1e-7)
    found = curvature(landscape, iterations=5, probes=2)
    assert math.isfinite(found.largest)
    assert np.isfinite(surface(landscape, points=3).losses).all()
    for name, tensor in model.state().items():
        assert torch.equal(tensor, kept[name])
    assert not model.training


def plain_scores(users, items, places):
    return (items[places] * users.unsqueeze(1)).sum(dim=2)


def test_turns_have_no_one_loss():
    source = planted(n_users=20, n_items=60)
    model = GARConfig(dim=8).build(source.data.inputs)
    with pytest.raises(InputError, match="turns"):
        landscape_of(model, source.data, PLAN)
