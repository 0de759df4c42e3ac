import numpy as np
import pytest
import scipy.sparse
import torch
from implicit.als import AlternatingLeastSquares

from prismrec.models.layers.als import als_factors, fold, fold_short, solve_rows


def log(n_users: int = 40, n_items: int = 30, seed: int = 0) -> scipy.sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(n_users, 3)) @ rng.normal(size=(3, n_items))
    return scipy.sparse.csr_matrix((taste > 1.0).astype(np.float32))


def loss(matrix: scipy.sparse.csr_matrix, users: np.ndarray, items: np.ndarray, alpha: float, penalty: float):
    liked = matrix.toarray()
    error = ((1 + alpha * liked) * (liked - users @ items.T) ** 2).sum()
    return error + penalty * ((users**2).sum() + (items**2).sum())


def test_reaches_the_loss_of_implicit() -> None:
    matrix, alpha, penalty = log(), 4.0, 0.5
    ours = []
    theirs = []
    for seed in range(3):
        users, items = als_factors(matrix, 4, alpha=alpha, penalty=penalty, iterations=200, seed=seed)
        ours.append(loss(matrix, users.numpy(), items.numpy(), alpha, penalty))
        # There the weight of an interaction is alpha itself, here 1 + alpha.
        oracle = AlternatingLeastSquares(
            factors=4,
            regularization=penalty,
            alpha=1 + alpha,
            iterations=200,
            use_cg=False,
            dtype=np.float64,
            random_state=seed,
        )
        oracle.fit(matrix.astype(np.float64), show_progress=False)
        theirs.append(loss(matrix, oracle.user_factors, oracle.item_factors, alpha, penalty))
    # The loss has several minima: the best of a few starts is compared.
    assert min(ours) == pytest.approx(min(theirs), rel=1e-2)


@pytest.mark.parametrize("dim", [2, 8, 40])
def test_rows_are_solved_exactly(dim: int) -> None:
    # dim = 40 is longer than every row, 2 shorter than most: both ways to solve are taken.
    matrix, alpha, penalty = log(), 3.0, 0.7
    items = np.random.default_rng(1).normal(size=(matrix.shape[1], dim))
    found = solve_rows(matrix, torch.from_numpy(items), alpha, penalty).numpy()
    for row, liked in enumerate(matrix.toarray()):
        weight = np.diag(1 + alpha * liked)
        expected = np.linalg.solve(items.T @ weight @ items + penalty * np.eye(dim), items.T @ weight @ liked)
        np.testing.assert_allclose(found[row], expected, atol=1e-9)


def test_empty_rows_and_columns_are_zero() -> None:
    matrix = scipy.sparse.csr_matrix(np.array([[1, 0, 1], [0, 0, 0]], dtype=np.float32))
    users, items = als_factors(matrix, 2, alpha=1.0, penalty=0.1, iterations=3, seed=0)
    assert (users[1] == 0).all()
    assert (items[1] == 0).all()
    assert users[0].abs().sum() > 0


def test_every_round_lowers_the_loss() -> None:
    matrix = log(seed=2)
    values = []
    for rounds in (1, 2, 4, 8):
        users, items = als_factors(matrix, 4, alpha=2.0, penalty=0.3, iterations=rounds, seed=0)
        values.append(loss(matrix, users.numpy(), items.numpy(), 2.0, 0.3))
    assert values == sorted(values, reverse=True)


def test_padding_counts_for_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    columns = torch.randn(1, 3, 5, generator=rng, dtype=torch.float64)
    padded = torch.cat((columns, torch.zeros(1, 2, 5, dtype=torch.float64)), dim=1)
    base = torch.eye(5, dtype=torch.float64) * 2
    torch.testing.assert_close(fold(columns, base, 3.0), fold(padded, base, 3.0))
    torch.testing.assert_close(fold_short(padded, base.inverse(), 3.0), fold(columns, base, 3.0))
