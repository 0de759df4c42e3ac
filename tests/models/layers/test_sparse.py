import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from prismrec.models.layers.sparse import SparseMatrix


def filled(n_rows, n_columns, entries, seed=0, dtype=torch.float64):
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, n_rows, entries), rng.integers(0, n_columns, entries)
    values = rng.normal(size=entries)
    dense = np.zeros((n_rows, n_columns))
    np.add.at(dense, (rows, columns), values)
    matrix = SparseMatrix(n_rows, n_columns).to(dtype)
    matrix.fill(torch.from_numpy(rows), torch.from_numpy(columns), torch.from_numpy(values))
    return matrix, torch.from_numpy(dense).to(dtype)


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 30), st.integers(1, 5), st.integers(0, 99))
def test_products_and_gradients_are_those_of_the_dense_matrix(n_rows, n_columns, entries, d, seed):
    # Entries at the same place, empty rows and empty matrices occur.
    matrix, dense = filled(n_rows, n_columns, entries, seed)
    generator = torch.Generator().manual_seed(seed)
    for product, whole in ((matrix, dense), (matrix.transposed, dense.T)):
        x = torch.randn(whole.shape[1], d, generator=generator, dtype=torch.float64, requires_grad=True)
        weights = torch.randn(whole.shape[0], d, generator=generator, dtype=torch.float64)
        found = product(x)
        assert_close(found, whole @ x)
        (gradient,) = torch.autograd.grad((found * weights).sum(), x)
        assert_close(gradient, whole.T @ weights)


def test_torch_finds_the_same_gradient_by_differences():
    matrix, _ = filled(5, 7, 12)
    x = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(matrix, (x,))


def test_it_computes_in_its_own_precision_and_takes_no_gradient_of_its_entries():
    matrix = SparseMatrix(2, 2)
    values = torch.ones(2, dtype=torch.float64, requires_grad=True)
    matrix.fill(torch.tensor([0, 1]), torch.tensor([1, 0]), values)
    found = matrix(torch.eye(2, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    assert not matrix.values.requires_grad


def test_it_is_loaded_with_as_many_entries_as_were_saved():
    matrix, dense = filled(6, 5, 14)
    again, _ = filled(6, 5, 3, seed=1)
    again.load_state_dict(matrix.state_dict())
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    assert_close(again(x), dense @ x)
    assert_close(again.transposed(y), dense.T @ y)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("columns", lambda t: t + 5),
        ("columns", lambda t: t[:-1]),
        ("columns", lambda t: t - 6),
        ("values", lambda t: t[1:]),
        ("values", lambda t: t[:, None]),
        ("starts", lambda t: t.flip(0)),
        ("starts", lambda t: t.clamp_max(7)),
        ("starts", lambda t: t[:-1]),
    ],
)
def test_what_is_no_matrix_is_refused(name, change):
    state = filled(6, 5, 14)[0].state_dict()
    state[name] = change(state[name])
    with pytest.raises(RuntimeError, match=r"not those of one matrix|size mismatch"):
        SparseMatrix(6, 5).double().load_state_dict(state)


def test_a_missing_part_is_named():
    state = filled(6, 5, 14)[0].state_dict()
    del state["columns"]
    with pytest.raises(RuntimeError, match="columns"):
        SparseMatrix(6, 5).double().load_state_dict(state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_computes_the_same_and_always_the_same():
    matrix, dense = filled(40, 30, 300, dtype=torch.float32)
    x = torch.randn(30, 8)
    there = matrix.to("cuda")
    on_gpu = x.cuda().requires_grad_()
    first = there(on_gpu)
    first.square().sum().backward()
    assert_close(first.detach().cpu(), dense @ x)
    assert_close(on_gpu.grad.cpu(), 2 * dense.T @ (dense @ x), rtol=1e-4, atol=1e-4)
    assert torch.equal(first, there(on_gpu))
