import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.training import row_adam
from prismrec.training.row_adam import RowAdam


def sparse(codes, values, rows):
    """A gradient as embedding() gives it: rows in any order, repeated."""
    return torch.sparse_coo_tensor(
        torch.as_tensor(codes).reshape(1, -1), values, (rows, values.shape[1]), check_invariants=True
    )


def trained(kind, start, gradients, **settings_):
    table = torch.nn.Parameter(start.clone())
    optimizer = kind([table], **settings_)
    for gradient in gradients:
        table.grad = gradient
        optimizer.step()
    return table.detach(), optimizer.state[table]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 33),
    st.lists(st.lists(st.integers(0, 8), max_size=20), min_size=1, max_size=6),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 1000),
)
def test_steps_are_those_of_torchs_sparse_adam(rows, dim, batches, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(rows, dim, generator=generator, dtype=dtype)
    gradients = []
    for batch in batches:
        codes = torch.tensor([code % rows for code in batch], dtype=torch.int64)
        values = torch.randn(len(codes), dim, generator=generator, dtype=dtype)
        gradients.append(sparse(codes, values, rows))
    how = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6}
    ours, our_state = trained(RowAdam, start, gradients, **how)
    theirs, their_state = trained(torch.optim.SparseAdam, start, gradients, **how)
    assert_close(ours, theirs)
    for name in ("exp_avg", "exp_avg_sq"):
        assert_close(our_state[name], their_state[name])
    assert float(our_state["step"]) == their_state["step"] == len(batches)


def test_rows_without_a_gradient_keep_value_and_moments():
    start = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    first, second = sparse([1, 4, 1], torch.ones(3, 4), 6), sparse([4], torch.ones(1, 4), 6)
    after_one, state = trained(RowAdam, start, [first])
    assert torch.equal(after_one[[0, 2, 3, 5]], start[[0, 2, 3, 5]])
    assert (after_one[[1, 4]] < start[[1, 4]]).all()
    after_two, later = trained(RowAdam, start, [first, second])
    assert torch.equal(after_two[1], after_one[1])
    assert torch.equal(later["exp_avg"][1], state["exp_avg"][1])
    assert not torch.equal(after_two[4], after_one[4])


@pytest.mark.parametrize("layout", ["transposed", "other device's way"])
def test_torchs_operations_do_the_same_as_the_compiled_loop(layout, monkeypatch):
    start = torch.randn(5, 7, generator=torch.Generator().manual_seed(2))
    gradients = [sparse([3, 0, 3, n], torch.randn(4, 7), 5) for n in range(5)]
    expected, _ = trained(RowAdam, start, gradients, lr=0.1)
    if layout == "transposed":
        start = start.T.contiguous().T
    else:
        monkeypatch.setattr(
            RowAdam,
            "_update_here",
            lambda self, table, mean, square, codes, values, how, size: row_adam._update_there(
                table, mean, square, sparse(codes, values, 5).coalesce(), how, size
            ),
        )
    found, _ = trained(RowAdam, start, gradients, lr=0.1)
    assert_close(found, expected)


def test_a_dense_gradient_is_adam_on_every_row():
    start = torch.randn(5, 7, generator=torch.Generator().manual_seed(3))
    gradients = [torch.randn(5, 7) for _ in range(4)]
    ours, _ = trained(RowAdam, start, gradients, lr=0.1)
    theirs, _ = trained(torch.optim.Adam, start, gradients, lr=0.1)
    assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_gradients_of_lookups_on_one_table_add_up():
    start = torch.randn(8, 3, generator=torch.Generator().manual_seed(4))
    table, reference = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer = RowAdam([{"params": [table], "lr": 0.2}])
    dense = torch.optim.Adam([reference], lr=0.2)
    for values, kind in ((table, True), (reference, False)):
        one = functional.embedding(torch.tensor([1, 1, 5]), values, sparse=kind)
        two = functional.embedding(torch.tensor([[5, 0]]), values, sparse=kind)
        (one.square().sum() + 3 * two.sum()).backward()
    optimizer.step()
    dense.step()
    assert_close(table, reference, rtol=1e-4, atol=1e-5)


def test_half_precision_lookups_train_a_full_table():
    table = torch.nn.Parameter(torch.ones(4, 8))
    optimizer = RowAdam([table], lr=0.5)
    with torch.autocast("cpu", torch.bfloat16):
        rows = functional.embedding(torch.tensor([2, 2]), table, sparse=True)
        (rows @ torch.ones(8, 3)).float().sum().backward()
    optimizer.step()
    assert table.dtype == torch.float32
    assert_close(table[2], torch.full((8,), 0.5))
    assert torch.equal(table[0], torch.ones(8))


def test_state_goes_through_a_state_dict():
    start = torch.randn(5, 7, generator=torch.Generator().manual_seed(5))
    gradients = [sparse([n % 5, 2], torch.randn(2, 7), 5) for n in range(6)]
    expected, _ = trained(RowAdam, start, gradients)
    table = torch.nn.Parameter(start.clone())
    before = RowAdam([table])
    for gradient in gradients[:3]:
        table.grad = gradient
        before.step()
    after = RowAdam([table])
    after.load_state_dict(before.state_dict())
    for gradient in gradients[3:]:
        table.grad = gradient
        after.step()
    assert torch.equal(table, expected)


def test_a_closure_and_a_table_without_gradient():
    table, idle = torch.nn.Parameter(torch.ones(3, 2)), torch.nn.Parameter(torch.ones(2, 2))
    optimizer = RowAdam([table, idle], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = functional.embedding(torch.tensor([1]), table, sparse=True).sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) == 2.0
    assert_close(table[1], torch.full((2,), 0.9))
    assert torch.equal(idle, torch.ones(2, 2))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1e-8}])
def test_settings_out_of_range(wrong):
    with pytest.raises(InputError, match="RowAdam cannot run with"):
        RowAdam([torch.nn.Parameter(torch.ones(2, 2))], **wrong)


def test_what_is_no_table_or_not_by_rows():
    with pytest.raises(InputError, match=r"shape \(3,\)"):
        RowAdam([torch.nn.Parameter(torch.ones(3))])
    table = torch.nn.Parameter(torch.ones(2, 2))
    table.grad = torch.eye(2).to_sparse()
    with pytest.raises(InputError, match="sparse in its columns"):
        RowAdam([table]).step()


_ON_THREADS = """
import numba, torch
from prismrec.training.row_adam import RowAdam
found = []
for threads in (1, 2):
    numba.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(300, 19, generator=generator))
    optimizer = RowAdam([table], lr=0.1)
    for _ in range(5):
        codes = torch.randint(300, (1, 2000), generator=generator)
        table.grad = torch.sparse_coo_tensor(codes, torch.randn(2000, 19, generator=generator), (300, 19))
        optimizer.step()
    found.append(table.detach())
assert torch.equal(*found)
"""


def test_any_number_of_threads_gives_the_same():
    # The number of threads is fixed when numba starts, so this runs in a process of its own.
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    child = subprocess.run(
        [sys.executable, "-c", _ON_THREADS], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr


def test_scratch_is_left_clean():
    table = torch.nn.Parameter(torch.ones(50, 2))
    optimizer = RowAdam([table])
    table.grad = sparse([7, 7, 49, 0], torch.ones(4, 2), 50)
    optimizer.step()
    (slots,) = optimizer._slots.values()
    assert np.array_equal(slots, np.full(50, -1))
