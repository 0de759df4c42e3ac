"""Blocks in threads: every row once, errors come through, torch's threads are as before."""

import threading

import numpy as np
import pytest
import torch

from prismrec.base.blocks import in_blocks
from prismrec.base.exact import ItemMatrix, best, count_above
from prismrec.base.exact_products import Product
from prismrec.base.progress import SILENT


class Counting:
    """A task that adds up."""

    def __init__(self):
        self.steps = []

    def advance(self, steps=1, note=None):
        self.steps.append(steps)


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n", "height"), [(0, 4), (1, 4), (7, 3), (20, 100), (24, 4)])
def test_every_row_is_done_once(threads, n, height):
    done, task, lock = [], Counting(), threading.Lock()

    def work(block):
        assert torch.get_num_threads() == 1 or block == slice(0, n)
        with lock:
            done.extend(range(block.start, block.stop))

    in_blocks(n, height, work, task)
    assert sorted(done) == list(range(n))
    assert sum(task.steps) == n
    assert max(task.steps, default=0) <= height
    assert torch.get_num_threads() == threads
    if n >= threads:
        assert len(task.steps) % threads == 0 or len(task.steps) >= n // 2


def test_an_error_comes_through_and_torch_is_left_as_it_was(threads):
    def work(block):
        raise ValueError(f"at {block.start}")

    with pytest.raises(ValueError, match="at "):
        in_blocks(50, 5, work, Counting())
    assert torch.get_num_threads() == threads
    seen = []
    other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    other.start()
    other.join()
    assert seen == [threads]


@pytest.mark.parametrize("product", list(Product))
def test_the_number_of_threads_makes_no_difference(threads, product):
    random = np.random.default_rng(0)
    users, vectors = (random.normal(size=(n, 24)).astype(np.float32) for n in (37, 300))
    items = ItemMatrix.of(vectors)
    starts, wanted = np.arange(38) * 5, random.integers(0, 300, 37 * 5).astype(np.int32)
    with SILENT.task("test", None) as task:
        above = count_above(users, items, starts, wanted, np.zeros(38, int), wanted[:0], task, product)
        found, _ = best(users, items, 7, np.zeros(38, int), wanted[:0], task, product)
    scores = users.astype(np.float64) @ vectors.T.astype(np.float64)
    place = np.argsort(np.argsort(-scores, axis=1), axis=1)
    assert np.array_equal(above, place[np.repeat(np.arange(37), 5), wanted])
    assert np.array_equal(found, np.argsort(-scores, axis=1)[:, :7])
