from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge
from torch.nn import functional

from prismrec.models.layers import kernel_map
from prismrec.models.layers.kernel_map import KernelMap


def content(n, dims=(5, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [functional.normalize(torch.randn(n, dim, generator=generator), dim=1) for dim in dims]


def factors(n, d=4, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def gaussian(left, right, scale):
    return torch.exp(-scale * torch.cdist(left, right).square())


def whole_kernel(fitted, left, right):
    addends = zip(fitted.shares, fitted.scales, left, right, strict=True)
    return sum(share * gaussian(a, b, scale) for share, scale, a, b in addends)


def test_exact_prediction_is_kernel_ridge_regression():
    inputs, targets, new = content(30), factors(30), content(7, seed=9)
    fitted = KernelMap((5, 3), 4, landmarks=40)
    choice = fitted.fit(inputs, targets, torch.ones(4), 0, None)
    peer = KernelRidge(alpha=choice.penalty, kernel="precomputed")
    peer.fit(whole_kernel(fitted, inputs, inputs).numpy(), targets.numpy())
    expected = peer.predict(whole_kernel(fitted, new, inputs).numpy())
    np.testing.assert_allclose(sum(fitted(new)).numpy(), expected, atol=2e-4)


def test_leave_one_out_error_is_that_of_leaving_each_one_out():
    inputs, targets = content(25), factors(25)
    error, choice = kernel_map._left_out(inputs, targets, (0.3, 0.7), 2.0)
    scales = kernel_map._scales(inputs, 2.0)
    kernel = sum(
        share * gaussian(c, c, scale) for share, c, scale in zip((0.3, 0.7), inputs, scales, strict=True)
    ).double()
    total = 0.0
    for left_out in range(25):
        kept = [i for i in range(25) if i != left_out]
        system = kernel[kept][:, kept] + choice.penalty * torch.eye(24, dtype=torch.float64)
        predicted = kernel[left_out, kept] @ torch.linalg.solve(system, targets[kept].double())
        total += float((targets[left_out] - predicted).square().sum())
    assert error == pytest.approx(total, rel=1e-4)


def test_with_few_landmarks_all_training_items_are_fitted():
    inputs, targets = content(60), factors(60)
    fitted = KernelMap((5, 3), 4, landmarks=10)
    choice = fitted.fit(inputs, targets, torch.ones(4), 0, None)
    landmarks = torch.split(fitted.landmarks, [5, 3], dim=1)
    across = whole_kernel(fitted, inputs, landmarks).double()
    among = whole_kernel(fitted, landmarks, landmarks).double()
    expected = torch.linalg.solve(across.T @ across + choice.penalty * among, across.T @ targets.double())
    torch.testing.assert_close(fitted.dual.double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spread", [True, False])
def test_an_item_that_lacks_a_modality(spread):
    inputs, targets = content(30), factors(30)
    fitted = KernelMap((5, 3), 4, landmarks=30)
    fitted.fit(inputs, targets, torch.ones(4), 0, None)
    fitted.spread.fill_(float(spread))
    both = content(6, seed=9)
    text_only = [torch.zeros_like(both[0]), both[1]]
    whole, part = fitted(both), fitted(text_only)
    assert not part[0].any()
    expected = whole[1] / (fitted.shares[1] if spread else 1.0)
    torch.testing.assert_close(part[1], expected)


def test_validation_chooses_and_leaves_its_choice_in_place():
    inputs, targets, new = content(40), factors(40), content(8, seed=9)
    fitted = KernelMap((5, 3), 4, landmarks=40)

    def prefers_the_second_modality_and_little_penalty():
        return float(fitted.shares[1]) + float(fitted.dual.abs().sum()) * 1e-6 - float(fitted.spread)

    choice = fitted.fit(inputs, targets, torch.ones(4), 0, prefers_the_second_modality_and_little_penalty)
    assert choice.shares[1] == pytest.approx(0.95)
    assert choice.penalty == min(kernel_map._PENALTIES)
    assert not choice.spread
    again = KernelMap((5, 3), 4, landmarks=40)
    queue = torch.from_numpy(np.random.default_rng(0).permutation(40))
    again._use(kernel_map._Regression(inputs, targets, queue, 40), choice)
    for one, two in zip(fitted(new), again(new), strict=True):
        torch.testing.assert_close(one, two)


def test_items_without_content_carry_nothing():
    inputs, targets = content(20), factors(20)
    for part in inputs:
        part[3] = 0.0
    fitted = KernelMap((5, 3), 4, landmarks=20)
    fitted.fit(inputs, targets, torch.ones(4), 0, None)
    assert torch.isfinite(fitted.dual).all()
    nothing = fitted([torch.zeros(1, 5), torch.zeros(1, 3)])
    assert not sum(nothing).any()


def slow_solution(inputs, targets, queue, choice, landmarks):
    """The regression from scratch, without any block, in double precision."""
    chosen = queue[:landmarks]
    marks = [c[chosen].double() for c in inputs]
    scales = kernel_map._scales([c[chosen] for c in inputs], choice.gamma).double()

    def kernel(left):
        parts = zip(choice.shares, scales, left, marks, strict=True)
        return sum(share * gaussian(a.double(), b, scale) for share, scale, a, b in parts)

    among, across = kernel(marks), kernel(inputs)
    if len(chosen) == len(targets) or landmarks == kernel_map._SCOUTS:
        return kernel, torch.linalg.solve(
            among + choice.penalty * torch.eye(len(chosen)), targets[chosen].double()
        )
    return kernel, torch.linalg.solve(across.T @ across + choice.penalty * among, across.T @ targets.double())


@pytest.mark.parametrize("landmarks", [60, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_search_finds_what_solving_every_setting_anew_finds(landmarks, seed, monkeypatch):
    monkeypatch.setattr(kernel_map, "_SCOUTS", 20)
    inputs, new = content(60, seed=seed), content(15, seed=seed + 9)
    teacher = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
    targets, expected = (torch.tanh(torch.cat(c, dim=1) @ teacher) for c in (inputs, new))
    fitted = KernelMap((5, 3), 4, landmarks)
    asked = []

    def score():
        asked.append(-float((sum(fitted(new)) - expected).square().sum()))
        return asked[-1]

    choice = fitted.fit(inputs, targets, torch.ones(4), seed, score)

    queue = torch.from_numpy(np.random.default_rng(seed).permutation(60))

    def slow_score(choice, count):
        kernel, dual = slow_solution(inputs, targets, queue, choice, count)
        return -float((kernel(new) @ dual - expected).square().sum())

    scores = []

    def slow_best(options, count):
        found = [slow_score(option, count) for option in options]
        # The first of a later stage is the best of the one before, which is not asked for again.
        scores.extend(found[1:] if scores and count == 20 else found)
        return options[int(np.argmax(found))]

    shares = [tuple(s.tolist()) for s in kernel_map.share_grid(2)]
    best = kernel_map.KernelChoice(shares[0], kernel_map._GAMMAS[0], kernel_map._PENALTIES[0])
    best = slow_best([replace(best, shares=s) for s in shares], 20)
    best = slow_best([replace(best, gamma=gamma) for gamma in kernel_map._GAMMAS], 20)
    best = slow_best([replace(best, penalty=penalty) for penalty in kernel_map._PENALTIES], landmarks)
    # All new items have all their content, so that spreading changes nothing and the default stays.
    assert choice == best
    assert asked[:-1] == pytest.approx(scores, rel=1e-3)
    kernel, dual = slow_solution(inputs, targets, queue, best, landmarks)
    torch.testing.assert_close(sum(fitted(new)).double(), kernel(new) @ dual, atol=1e-3, rtol=1e-3)


def test_fewer_landmarks_than_scouts_can_be_validated():
    inputs, targets, new = content(60), factors(60), content(8, seed=9)
    fitted = KernelMap((5, 3), 4, landmarks=10)
    fitted.fit(inputs, targets, torch.ones(4), 0, lambda: float(sum(fitted(new)).sum()))
    assert fitted.landmarks.any(dim=1).all()
