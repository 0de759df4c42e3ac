import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.training.row_sgd import RowSGD


def trained(start, batches, kind, sparse):
    """Some steps down a loss that reads rows of a table, some of them several times."""
    table = torch.nn.Parameter(start.clone())
    optimizer = kind([table], lr=0.5)
    for codes in batches:
        optimizer.zero_grad()
        rows = functional.embedding(codes, table, sparse=sparse)
        (rows.sigmoid() * torch.arange(1, len(codes) + 1)[:, None]).sum().backward()
        optimizer.step()
    return table.detach(), optimizer


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=9), min_size=1, max_size=4))
def test_the_steps_of_torchs_sgd_on_the_whole_table(batches):
    start = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    codes = [torch.tensor(batch) for batch in batches]
    rows, optimizer = trained(start, codes, RowSGD, sparse=True)
    whole, _ = trained(start, codes, torch.optim.SGD, sparse=False)
    assert_close(rows, whole, rtol=1e-5, atol=1e-5)
    untouched = [row for row in range(7) if not any(row in batch for batch in batches)]
    assert torch.equal(rows[untouched], start[untouched])
    assert not optimizer.state


def test_dense_gradients_and_parameters_without_one():
    one, idle = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2))
    optimizer = RowSGD([one, idle], lr=0.1)
    assert optimizer.step(lambda: (2 * one).sum().backward() or 6.0) == 6.0
    assert_close(one.detach(), torch.full((3,), 0.8))
    assert torch.equal(idle.detach(), torch.ones(2))


def test_a_rate_below_nothing_is_refused():
    with pytest.raises(InputError, match="cannot run with lr=-1"):
        RowSGD([torch.nn.Parameter(torch.ones(2, 2))], lr=-1)


_ON_THREADS = """
import torch
from torch.nn import functional
from prismrec.training.row_sgd import RowSGD
found = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    random = torch.Generator().manual_seed(0)
    table = torch.nn.Parameter(torch.randn(500, 64, generator=random))
    codes = torch.randint(0, 500, (20_000,), generator=random)
    weights = torch.randn(20_000, 64, generator=random)
    (functional.embedding(codes, table, sparse=True) * weights).sum().backward()
    RowSGD([table], lr=0.1).step()
    found.append(table.detach())
assert torch.equal(*found)
"""


def test_any_number_of_threads_gives_the_same():
    child = subprocess.run(
        [sys.executable, "-c", _ON_THREADS], env=os.environ, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
