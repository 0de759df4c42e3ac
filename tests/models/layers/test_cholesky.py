import pytest
import torch

from prismrec.models.layers.cholesky import add_gram_, cholesky_, solve_


def random(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("size", [0, 1, 7, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factor_and_solution_from_the_lower_triangle_alone(size, dtype):
    rows = random(size, size + 3, dtype=dtype)
    matrix = rows @ rows.T + size * torch.eye(size, dtype=dtype)
    given = matrix.tril() + torch.full_like(matrix, 7.0).triu(1)
    memory = given.data_ptr()
    factor = cholesky_(given)
    assert factor.data_ptr() == memory
    torch.testing.assert_close(factor, torch.linalg.cholesky(matrix))
    right = random(5, size, dtype=dtype, seed=1).T
    expected = torch.linalg.solve(matrix, right.contiguous())
    found = solve_(factor, right)
    assert found.data_ptr() == right.data_ptr()
    torch.testing.assert_close(found, expected, check_stride=False)


def test_a_matrix_that_is_not_positive_definite():
    with pytest.raises(torch.linalg.LinAlgError):
        cholesky_(torch.tensor([[1.0, 0.0], [2.0, 1.0]]))


@pytest.mark.parametrize("columns", [1, 5, 700])
def test_gram_matrix_is_added_to_the_lower_triangle(columns):
    first, second = random(4, columns, dtype=torch.float32), random(3, columns, dtype=torch.float32, seed=1)
    total = torch.zeros(columns, columns, dtype=torch.float64)
    add_gram_(total, first)
    add_gram_(total, second)
    rows = torch.cat((first, second)).double()
    torch.testing.assert_close(total.tril(), (rows.T @ rows).tril(), atol=1e-5, rtol=1e-5)
