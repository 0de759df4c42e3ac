"""Exact ranking, lists, metrics and single queries, against torch, faiss, ranx, NumPy and hnswlib.

Ranking: 20,000 users and all items of Electronics, about 6 positives and 6 masked training items a user.
Torch multiplies blocks of users with all items, masks, and takes the best 50, as common frameworks do; faiss
(IndexFlatIP) takes the best 50 and masks nothing. Ours counts the exact rank of every positive, or makes
masked lists of 50. Before timing, lists are compared with those of the others, and ranks with lists.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from harness import ELECTRONICS, Row, generated_vectors, in_turn, options, report

from prismrec.base.exact import ItemMatrix
from prismrec.evaluation.metrics import Metric, metric_name, per_user
from prismrec.evaluation.ranking import Ranks, Rows, rank_positives, top_k

_K = 50
_KS = (10, 20)
_BLOCK = 4096
_NAMES = {"faiss": "faiss-cpu", "hnswlib": "hnswlib", "ranx": "ranx"}


def main() -> None:
    args = options(__doc__)
    users, items = (500, 3000) if args.quick else (20_000, ELECTRONICS.items)
    rows: list[Row] = []
    for dim in (64, 128):
        case = Case(users, items, dim)
        rows += ranking(case, args)
    rows += metrics(case.ranks(), args)
    for n in (2_000, 5_000) if args.quick else (20_000, 200_000):
        rows += query(n, args)
    report("bench_ranking.py", rows, args)


class Case:
    """Vectors, positives and training items."""

    def __init__(self, users: int, items: int, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.users = generated_vectors(users, dim, seed=1)
        self.vectors = generated_vectors(items, dim, seed=2)
        self.items = ItemMatrix.of(self.vectors)
        self.dim = dim
        # Twelve different items a user: a random one, and on from there in random steps.
        user = np.repeat(np.arange(users), 12)
        item = np.cumsum(rng.integers(1, items // 12, (users, 12)), axis=1) + rng.integers(
            0, items, (users, 1)
        )
        item %= items
        # Every other one is held out.
        held = np.arange(12) % 2 == 0
        self.positives = Rows.of(user.reshape(-1, 12)[:, held].ravel(), item[:, held].ravel(), users)
        self.masked = Rows.of(user.reshape(-1, 12)[:, ~held].ravel(), item[:, ~held].ravel(), users)
        self.flops = 2 * users * items * dim

    def ranks(self) -> Ranks:
        return rank_positives(self.users, self.items, self.positives, self.masked)

    def lists(self) -> npt.NDArray[np.int32]:
        return top_k(self.users, self.items, _K, self.masked)[0]

    def torch_lists(self) -> npt.NDArray[np.int64]:
        users, items = torch.from_numpy(self.users), torch.from_numpy(self.vectors).T
        starts, hidden = self.masked.starts, torch.from_numpy(self.masked.items).long()
        found = []
        for first in range(0, len(users), _BLOCK):
            scores = users[first : first + _BLOCK] @ items
            last = min(first + _BLOCK, len(users))
            rows = torch.from_numpy(np.repeat(np.arange(last - first), self.masked.sizes[first:last]))
            scores[rows, hidden[starts[first] : starts[last]]] = -torch.inf
            found.append(scores.topk(_K, dim=1).indices)
        return torch.cat(found).numpy()


def ranking(case: Case, args: argparse.Namespace) -> list[Row]:
    lists = case.lists()
    _same_lists(lists, case.torch_lists())
    _same_hits(case.ranks(), lists, case.positives)
    sides: list[Callable[[], object]] = [case.ranks, case.lists, case.torch_lists]
    faiss = _package("faiss")
    if faiss is not None:
        faiss.omp_set_num_threads(args.threads)
        index = faiss.IndexFlatIP(case.dim)
        index.add(case.vectors)
        _same_lists(top_k(case.users, case.items, _K)[0], index.search(case.users, _K)[1])
        sides.append(lambda: index.search(case.users, _K))
    times = in_turn(args.repeats, *sides)
    what = f"{len(case.users):,} users x {len(case.items):,} items, d = {case.dim}"
    bound = f"{case.flops / 1e9:.0f} GFLOP of scores at {{:.0f}} GFLOP/s, counting and re-scoring included"
    against_torch = f"torch: product, mask, topk({_K}), {_BLOCK} users at a time"
    against_faiss = f"faiss IndexFlatIP, top {_K}, no mask"
    rows = []
    for name, ours in (("Exact ranks", times[0]), (f"Exact masked lists of {_K}", times[1])):
        detail = bound.format(case.flops / ours / 1e9)
        goal = 5.0 if ours is times[0] else None
        rows.append(Row(f"{name}, {what}", against_torch, ours, times[2], goal, detail))
        if faiss is None:
            rows.append(_missing(f"{name}, {what}", against_faiss, 1.5, "faiss"))
        else:
            rows.append(Row(f"{name}, {what}", against_faiss, ours, times[3], 1.5, detail))
    return rows


def metrics(ranks: Ranks, args: argparse.Namespace) -> list[Row]:
    """All metrics at all K of all users, from ranks and from ranx's own structures."""
    n = len(ranks.positives)
    name, against = f"{len(Metric) * len(_KS)} metrics of {n:,} users' lists of {_K}", "ranx.evaluate"
    ranx = _package("ranx")
    if ranx is None:
        return [_missing(name, against, 2.0, "ranx")]
    liked, listed = {}, {}
    for user in range(n):
        mine = ranks.ranks[ranks.starts[user] : ranks.starts[user + 1]].tolist()
        liked[f"u{user:05}"] = {f"i{rank}": 1 for rank in mine}
        listed[f"u{user:05}"] = {f"i{place}": float(_K - place) for place in range(1, _K + 1)}
    qrels, run = ranx.Qrels(liked), ranx.Run(listed)
    names = [metric_name(metric, k) for metric in Metric for k in _KS]

    def theirs() -> Any:
        return ranx.evaluate(qrels, run, names, return_mean=True)

    means, expected = per_user(ranks, _KS).means(), theirs()
    for one in names:
        np.testing.assert_allclose(means[one], expected[one], atol=1e-9)
    mine, other = in_turn(args.repeats, lambda: per_user(ranks, _KS).means(), theirs)
    return [Row(name, against, mine, other, 2.0, "both from their own structures, made before")]


def query(n: int, args: argparse.Namespace) -> list[Row]:
    """One user's ten best of n items."""
    dim, k = 128, 10
    # Users are drawn like the items: an index of neighbours is made for such.
    vectors = generated_vectors(n + 1000, dim, seed=3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors, users = vectors[:n].copy(), vectors[n:].copy()
    items = ItemMatrix.of(vectors)
    turn = iter(range(10**9))

    def next_user() -> npt.NDArray[np.float32]:
        at = next(turn) % len(users)
        return users[at : at + 1]

    def numpy_way(user: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
        scores = vectors @ user[0]
        best = np.argpartition(-scores, k)[:k]
        return best[np.argsort(-scores[best])]

    truth = top_k(users, items, k)[0]
    assert all((top_k(users[i : i + 1], items, k)[0] == truth[i]).all() for i in range(50))
    assert np.mean([set(numpy_way(users[i : i + 1])) == set(truth[i].tolist()) for i in range(50)]) > 0.99
    sides: list[Callable[[], object]] = [
        lambda: top_k(next_user(), items, k),
        lambda: numpy_way(next_user()),
    ]
    hnswlib = _package("hnswlib")
    found = ""
    if hnswlib is not None:
        index = hnswlib.Index(space="ip", dim=dim)
        index.init_index(max_elements=n, ef_construction=200, M=16)
        index.add_items(vectors, num_threads=args.threads)
        ef, recall = _tuned(index, users, truth)
        found = f"ef = {ef}, recall@{k} {recall:.3f}, after building an index; ours needs none"
        sides.append(lambda: index.knn_query(next_user(), k, num_threads=1))
    times = in_turn(max(200, args.repeats), *sides)
    name = f"One query, {k} of {n:,} items, d = {dim}"
    rate = f"{n * dim * 4 / times[0] / 1e9:.1f} GB/s of vectors read"
    rows = []
    if n == 20_000 or args.quick:
        rows.append(Row(name, "the goal of 1 ms", times[0], 0.001, 1.0, rate))
    rows.append(Row(name, "NumPy matrix-vector product, argpartition", times[0], times[1], None, rate))
    against = "hnswlib (M = 16), approximate, tuned to a recall@10 of 0.98"
    if hnswlib is None:
        return [*rows, _missing(name, against, None, "hnswlib")]
    return [*rows, Row(name, against, times[0], times[2], None, found)]


def _tuned(index: Any, users: npt.NDArray[np.float32], truth: npt.NDArray[np.int32]) -> tuple[int, float]:
    for ef in (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024):
        index.set_ef(ef)
        found = index.knn_query(users, truth.shape[1])[0]
        recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)]))
        if recall >= 0.98:
            break
    return ef, recall


def _same_lists(ours: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> None:
    """Lists agree but for neighbours whose scores differ by less than float32 can tell."""
    agreed = float((ours == theirs).mean())
    if agreed < 0.999:
        raise AssertionError(f"Only {agreed:.4f} of the places agree.")


def _same_hits(ranks: Ranks, lists: npt.NDArray[np.int32], positives: Rows) -> None:
    """What stands in the lists is what has a rank up to their length."""
    user = np.repeat(np.arange(len(lists)), positives.sizes)
    short = ranks.ranks <= lists.shape[1]
    assert (lists[user[short], ranks.ranks[short] - 1] == ranks.items[short]).all()
    inside = sum(
        int(np.isin(lists[u], positives.items[positives.starts[u] : positives.starts[u + 1]]).sum())
        for u in range(len(lists))
    )
    assert inside == short.sum()


def _package(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        return None


def _missing(name: str, against: str, goal: float | None, package: str) -> Row:
    return Row(name, against, None, None, goal, f"not measured: {_NAMES[package]} is not installed")


if __name__ == "__main__":
    main()
