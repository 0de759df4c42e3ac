"""Item graphs: the 10 nearest neighbours of every item, at Electronics' size, against torch and faiss.

Torch multiplies blocks of items with all items and takes the best 11; faiss (IndexFlatIP) takes the best 11.
The dense way of multimodal frameworks, the whole matrix of items by items and its topk, is measured at a
size where it fits. Vectors have 512 dimensions. Before timing, the neighbours are compared.
"""

import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import ELECTRONICS, Row, generated_vectors, in_turn, options, report

from prismrec.features.neighbours import nearest_neighbours
from prismrec.features.store import FeatureStore

_K = 10
_DIM = 512
_BLOCK = 2048


def main() -> None:
    args = options(__doc__)
    n, dense = (2000, 1000) if args.quick else (ELECTRONICS.items, 15_000)
    store = made_store(n)
    unit = torch.from_numpy(unit_vectors(store))
    before = _peak()
    made = nearest_neighbours(store, store.ids, _K).indices
    ours_peak = _peak() - before
    _same(made, torch_blocks(unit))
    sides: list[Callable[[], object]] = [
        lambda: nearest_neighbours(store, store.ids, _K),
        lambda: torch_blocks(unit),
    ]
    faiss = _package("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(args.threads)
        index = faiss.IndexFlatIP(_DIM)
        index.add(unit.numpy())
        sides.append(lambda: index.search(unit.numpy(), _K + 1))
    times = in_turn(max(1, args.repeats // 2), *sides)
    name = f"{_K} neighbours of {n:,} items, d = {_DIM}"
    flops = 2 * n * n * _DIM
    detail = (
        f"{flops / 1e9:,.0f} GFLOP of scores at {flops / times[0] / 1e9:.0f} GFLOP/s; at most "
        f"{ours_peak / 2**20:.0f} MiB more memory than before"
    )
    rows = [Row(name, f"torch: product and topk, {_BLOCK:,} items at a time", *times[:2], None, detail)]
    against = f"faiss IndexFlatIP, top {_K + 1}"
    if faiss is None:
        rows.append(Row(name, against, None, None, None, "not measured: faiss-cpu is not installed"))
    else:
        rows.append(Row(name, against, times[0], times[2], None, detail))
    rows.append(_dense(dense, args.repeats))
    report("bench_neighbours.py", rows, args)


def made_store(n: int) -> FeatureStore:
    ids = tuple(f"i{i}" for i in range(n))
    return FeatureStore("image", generated_vectors(n, _DIM, seed=5), ids, ("",) * n, {})


def unit_vectors(store: FeatureStore) -> npt.NDArray[np.float32]:
    lengths = np.sqrt(np.einsum("nd,nd->n", store.vectors, store.vectors, dtype=np.float64))
    unit: npt.NDArray[np.float32] = (store.vectors / lengths[:, None]).astype(np.float32)
    return unit


def torch_blocks(unit: torch.Tensor) -> npt.NDArray[np.int64]:
    found = []
    for first in range(0, len(unit), _BLOCK):
        scores = unit[first : first + _BLOCK] @ unit.T
        own = torch.arange(len(scores))
        scores[own, own + first] = -torch.inf
        found.append(scores.topk(_K, dim=1).indices)
    return torch.cat(found).numpy()


def dense_way(unit: torch.Tensor) -> npt.NDArray[np.int64]:
    scores = unit @ unit.T
    scores.fill_diagonal_(-torch.inf)
    return scores.topk(_K, dim=1).indices.numpy()


def _dense(n: int, repeats: int) -> Row:
    store = made_store(n)
    unit = torch.from_numpy(unit_vectors(store))
    _same(nearest_neighbours(store, store.ids, _K).indices, dense_way(unit))
    ours, theirs = in_turn(
        max(1, repeats // 2), lambda: nearest_neighbours(store, store.ids, _K), lambda: dense_way(unit)
    )
    detail = f"their matrix takes {n * n * 4 / 2**20:,.0f} MiB, at Electronics' size 15,141 MiB"
    return Row(
        f"{_K} neighbours of {n:,} items, d = {_DIM}", "torch: the whole matrix", ours, theirs, None, detail
    )


def _same(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> None:
    agreed = float((ours == theirs).mean())
    if agreed < 0.999:
        raise AssertionError(f"Only {agreed:.4f} of the neighbours agree.")


def _peak() -> int:
    """Most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _package(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


if __name__ == "__main__":
    main()
