"""An epoch of BPR-MF with 64 factors: ours against implicit's, and against torch with dense Adam.

Each side runs in a process of its own and is told when to start, because two OpenMP pools in one process
slow each other down many times; the processes take turns. Threads that wait do so asleep
(OMP_WAIT_POLICY=passive), for all sides alike: idle ones that spin would take the processor from whoever's
turn it is.

An epoch is every training pair once. Ours draws the order and the negatives, and takes its steps in
mini-batches with lazy Adam; implicit's is plain SGD without locks, one pair after the other. Dense Adam is
timed for some steps, and scaled to an epoch.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import ELECTRONICS, Row, Size, generated_pairs, in_turn, options, report, set_threads

_BATCH = 2048
_DIM = 64
_STEPS = 12
_RATE = 1e-3
_QUICK = Size("small", 2_000, 900, 12_000)


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        _serve(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "quick")
        return
    args = options(__doc__)
    size = _QUICK if args.quick else ELECTRONICS
    sides = {
        name: _Side(name, args.threads, args.quick)
        for name in ("ours", "ours batch by batch", "implicit", "dense")
    }
    rows = [_epoch_row(size, sides, args.repeats), *_torch_rows(size, sides, args.repeats)]
    for side in sides.values():
        side.close()
    report("bench_bpr.py", rows, args)


def _epoch_row(size: Size, sides: "dict[str, _Side]", repeats: int) -> Row:
    name = f"BPR-MF, {_DIM} factors, {size.name} size: an epoch"
    against = "implicit's SGD without locks; at most 1.5 times its time"
    if not sides["implicit"].there:
        return Row(name, against, None, None, 1 / 1.5, "not measured: implicit is not installed")
    ours, theirs = in_turn(repeats, sides["ours"], sides["implicit"])
    # Both have now seen the same number of epochs, and must have learnt.
    learnt = sides["ours"].ask("check"), sides["implicit"].ask("check")
    if min(learnt) <= 0.5:
        raise SystemExit(f"one side has not learnt: {learnt}")
    moved = 3 * 6 * 4 * _DIM * size.pairs / 1e9
    detail = (
        f"{size.pairs / ours / 1e6:.1f} against {size.pairs / theirs / 1e6:.1f} million triplets a second; "
        f"ours with Adam, synchronous batches of {_BATCH:,}, the same for any number of threads, moves up to "
        f"{moved / ours:.1f} GB/s of rows and moments; training pairs above a random item: {learnt[0]:.3f} "
        f"against {learnt[1]:.3f} after the same epochs"
    )
    return Row(name, against, ours, theirs, 1 / 1.5, detail)


def _torch_rows(size: Size, sides: "dict[str, _Side]", repeats: int) -> list[Row]:
    batches = -(-size.pairs // _BATCH)
    ours, slow, dense = in_turn(min(3, repeats), sides["ours"], sides["ours batch by batch"], sides["dense"])
    scale = batches / _STEPS
    bytes_a_step = 7 * 4 * _DIM * (size.users + size.items) / 1e6
    return [
        Row(
            f"BPR-MF, {_DIM} factors, {size.name} size: an epoch, dense Adam",
            "torch.optim.Adam on whole tables, as most frameworks have it; at least 15 times as fast",
            ours,
            dense * scale,
            15.0,
            f"theirs: {_STEPS} steps of {batches}, scaled; each moves {bytes_a_step:.0f} MB of tables and "
            "moments",
        ),
        Row(
            f"BPR-MF, {_DIM} factors, {size.name} size: losses() and RowAdam step by step, dense Adam",
            "the same",
            slow * scale,
            dense * scale,
            None,
            f"{_STEPS} steps of {batches} of both, scaled: what a model without an epoch of its own gains",
        ),
    ]


class _Side:
    """A process that runs one side when it is called."""

    def __init__(self, name: str, threads: int, quick: bool) -> None:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
        environment |= {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--side", name, str(threads), "quick" if quick else "full"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.there = bool(self._read())

    def __call__(self) -> None:
        self.ask("run")

    def ask(self, what: str) -> Any:
        assert self._process.stdin is not None
        print(what, file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a side has ended; its message stands above")
        return json.loads(line)


def _serve(name: str, threads: int, quick: bool) -> None:
    set_threads(threads)
    size = _QUICK if quick else ELECTRONICS
    makers = {"ours": _ours, "ours batch by batch": _ours_by_batch, "implicit": _implicit, "dense": _dense}
    made = makers[name](size, threads)
    print(json.dumps(made is not None), flush=True)
    for line in sys.stdin:
        assert made is not None
        print(json.dumps(made[line.strip()]()), flush=True)


def _data(size: Size) -> Any:
    from prismrec.features.store import ItemFeatures
    from prismrec.models.base import ModelInputs, TrainingData

    pairs = generated_pairs(size)
    warm = np.unique(pairs.items).astype(np.int32)
    features = ItemFeatures((), [str(code) for code in range(size.items)])
    return TrainingData(pairs, ModelInputs(size.users, size.items, ()), features, warm, 0)


def _above(users: Any, items: Any, size: Size) -> float:
    """Share of training pairs whose item scores above a random one."""
    rng = np.random.default_rng(5)
    pairs = generated_pairs(size)
    chosen = rng.integers(0, len(pairs), 20_000)
    who, best, other = (
        users[pairs.users[chosen]],
        items[pairs.items[chosen]],
        items[rng.integers(0, size.items, 20_000)],
    )
    return float(((who * (best - other)).sum(axis=1) > 0).mean())


def _ours(size: Size, threads: int) -> dict[str, Callable[[], Any]]:
    import torch

    from prismrec.models.base import TableEpoch
    from prismrec.models.bpr_mf import BPRMFConfig
    from prismrec.models.plan import TrainingPlan
    from prismrec.training.batches import Batches

    data = _data(size)
    torch.manual_seed(0)
    model: Any = BPRMFConfig(dim=_DIM).build(data.inputs)
    model.prepare(data, None)
    batches = Batches(data, TrainingPlan(batch_size=_BATCH), 0, False)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    rates, done = np.full(len(batches), _RATE), [0]

    def run() -> None:
        done[0] += 1
        step = (done[0] - 1) * len(batches)
        model.train_epoch(TableEpoch(*batches.triplets(done[0]), _BATCH, rates, step, moments))

    def check() -> float:
        users = model.user_vectors(torch.arange(size.users)).detach().numpy()
        return _above(users, model.items.detach().numpy(), size)

    return {"run": run, "check": check}


def _stepwise(size: Size, lazy: bool) -> dict[str, Callable[[], Any]]:
    import itertools

    import torch

    from prismrec.models.bpr_mf import BPRMFConfig
    from prismrec.models.plan import TrainingPlan
    from prismrec.training.batches import Batches
    from prismrec.training.row_adam import RowAdam

    data = _data(size)
    model: Any = BPRMFConfig(dim=_DIM).build(data.inputs)
    model.lazy_rows = lazy
    kind: Any = RowAdam if lazy else torch.optim.Adam
    optimizer = kind(list(model.parameters()), lr=_RATE)
    batches = Batches(data, TrainingPlan(batch_size=_BATCH), 0, False)
    ready = itertools.cycle(list(itertools.islice(batches.epoch(1), _STEPS)))

    def run() -> None:
        for batch in itertools.islice(ready, _STEPS):
            loss = sum(model.losses(batch).values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return {"run": run}


def _ours_by_batch(size: Size, threads: int) -> dict[str, Callable[[], Any]]:
    return _stepwise(size, lazy=True)


def _dense(size: Size, threads: int) -> dict[str, Callable[[], Any]]:
    return _stepwise(size, lazy=False)


def _implicit(size: Size, threads: int) -> dict[str, Callable[[], Any]] | None:
    try:
        from implicit.cpu.bpr import BayesianPersonalizedRanking
    except ImportError:
        return None
    from scipy.sparse import csr_matrix

    pairs = generated_pairs(size)
    values = np.ones(len(pairs), dtype=np.float32)
    matrix = csr_matrix((values, (pairs.users, pairs.items)), (size.users, size.items))
    # Fitting again goes on from the factors that are there.
    model = BayesianPersonalizedRanking(factors=_DIM, iterations=1, num_threads=threads, random_state=0)

    def run() -> None:
        model.fit(matrix, show_progress=False)

    return {"run": run, "check": lambda: _above(model.user_factors, model.item_factors, size)}


if __name__ == "__main__":
    main()
