"""An epoch of BPR-MF with 64 factors: ours against implicit's, and against torch with dense Adam.

Each side runs in a process of its own and is told when to start, because two OpenMP pools in one process
slow each other down many times; the processes take turns. Threads that wait do so asleep
(OMP_WAIT_POLICY=passive), for all sides alike: idle ones that spin would take the processor from whoever's
turn it is.

An epoch is every training pair once. Ours draws the order and the negatives, and takes its steps in
mini-batches, with plain SGD or with lazy Adam; implicit's is plain SGD without locks, one pair after the
other. Like is compared with like in the row of SGD: both move a pair's rows by the same rate and the same
decay, and both draw negatives as often as they occur in pairs, as implicit does (uniformly with Adam). Dense
Adam is timed for some steps, and scaled to an epoch.
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
        for name in ("ours", "ours sgd", "ours batch by batch", "implicit", "dense")
    }
    rows = [*_epoch_rows(size, sides, args.repeats), *_torch_rows(size, sides, args.repeats)]
    for side in sides.values():
        side.close()
    report("bench_bpr.py", rows, args)


def _epoch_rows(size: Size, sides: "dict[str, _Side]", repeats: int) -> list[Row]:
    plain = f"BPR-MF, {_DIM} factors, {size.name} size: an epoch, plain SGD on both sides"
    adam = f"BPR-MF, {_DIM} factors, {size.name} size: an epoch, ours Adam, theirs plain SGD"
    against = "implicit's SGD without locks; at most 1.5 times its time"
    if not sides["implicit"].there:
        nothing = None, None, 1 / 1.5, "not measured: implicit is not installed"
        return [Row(plain, against, *nothing), Row(adam, against, *nothing)]
    ours, moments, theirs = in_turn(repeats, sides["ours sgd"], sides["ours"], sides["implicit"])
    # All have now seen the same number of epochs, and must have learnt.
    learnt = {name: sides[name].ask("check") for name in ("ours sgd", "ours", "implicit")}
    if min(max(shares) for shares in learnt.values()) <= 0.5:
        raise SystemExit(f"one side has not learnt: {learnt}")
    return [
        Row(plain, against, ours, theirs, 1 / 1.5, _told(size, ours, theirs, "ours sgd", learnt)),
        Row(
            adam,
            f"{against}, though Adam moves two moments with each row",
            moments,
            theirs,
            1 / 1.5,
            _told(size, moments, theirs, "ours", learnt),
        ),
    ]


def _told(size: Size, ours: float, theirs: float, side: str, learnt: dict[str, list[float]]) -> str:
    """Return what bounds our epoch, and what each side does and has learnt."""
    plan = _sgd().training
    # Three rows a triplet, each read and written; Adam does so with two moments too.
    passes, how = (2, "plain SGD") if side == "ours sgd" else (6, "Adam")
    batch = plan.batch_size if side == "ours sgd" else _BATCH
    return (
        f"{size.pairs / ours / 1e6:.1f} against {size.pairs / theirs / 1e6:.1f} million triplets a second; "
        f"ours: {how}, synchronous batches of {batch:,}, the same for any number of threads, moves up to "
        f"{3 * passes * 4 * _DIM * size.pairs / 1e9 / ours:.1f} GB/s; theirs: plain SGD, a pair at a time, "
        f"rate {plan.learning_rate / plan.batch_size:.4f} (as ours with SGD has for a pair); training pairs "
        f"above a random item {learnt[side][0]:.3f} against {learnt['implicit'][0]:.3f}, above another "
        f"pair's item {learnt[side][1]:.3f} against {learnt['implicit'][1]:.3f}, after the same epochs from "
        "different starts"
    )


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
    makers = {
        "ours": _ours,
        "ours sgd": _ours_sgd,
        "ours batch by batch": _ours_by_batch,
        "implicit": _implicit,
        "dense": _dense,
    }
    made = makers[name](size, threads)
    print(json.dumps(made is not None), flush=True)
    for line in sys.stdin:
        assert made is not None
        print(json.dumps(made[line.strip()]()), flush=True)


def _data(size: Size) -> Any:
    from prismrec.features.store import ItemFeatures
    from prismrec.models.batches import ModelInputs, TrainingData

    pairs = generated_pairs(size)
    warm = np.unique(pairs.items).astype(np.int32)
    features = ItemFeatures((), [str(code) for code in range(size.items)])
    return TrainingData(pairs, ModelInputs(size.users, size.items, ()), features, warm, 0)


def _above(users: Any, items: Any, size: Size) -> list[float]:
    """Share of training pairs whose item scores above a random one, and above that of another pair."""
    rng = np.random.default_rng(5)
    pairs = generated_pairs(size)
    chosen = rng.integers(0, len(pairs), 20_000)
    who, best = users[pairs.users[chosen]], items[pairs.items[chosen]]
    shares = []
    for others in (rng.integers(0, size.items, 20_000), pairs.items[rng.integers(0, len(pairs), 20_000)]):
        shares.append(float(((who * (best - items[others])).sum(axis=1) > 0).mean()))
    return shares


def _sgd() -> Any:
    """Our preset of plain SGD: both sides take their rate and their decay from it."""
    from prismrec.models.bpr_mf import BPRMFConfig

    return BPRMFConfig.presets()["sgd"]


def _ours(size: Size, threads: int) -> dict[str, Callable[[], Any]]:
    from prismrec.models.bpr_mf import BPRMFConfig
    from prismrec.models.plan import TrainingPlan

    return _epochs(size, BPRMFConfig(dim=_DIM), TrainingPlan(batch_size=_BATCH, learning_rate=_RATE))


def _ours_sgd(size: Size, threads: int) -> dict[str, Callable[[], Any]]:
    preset = _sgd()
    drawn = {"negative_sampling": "popularity", "popularity_power": 1.0}
    return _epochs(
        size, preset.model.model_copy(update={"dim": _DIM}), preset.training.model_copy(update=drawn)
    )


def _epochs(size: Size, config: Any, plan: Any) -> dict[str, Callable[[], Any]]:
    import torch

    from prismrec.models.batches import TableEpoch
    from prismrec.training.batches import Batches

    data = _data(size)
    torch.manual_seed(0)
    model = config.build(data.inputs)
    model.prepare(data, None)
    batches = Batches(data, plan, 0, False)
    moments = {}
    if plan.optimizer == "adam":
        moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.named_parameters()}
    rates, done = np.full(len(batches), plan.learning_rate), [0]

    def run() -> None:
        done[0] += 1
        step = (done[0] - 1) * len(batches)
        model.train_epoch(TableEpoch(*batches.triplets(done[0]), plan.batch_size, rates, step, moments))

    def check() -> list[float]:
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
    preset = _sgd()
    # Fitting again goes on from the factors that are there.
    model = BayesianPersonalizedRanking(
        factors=_DIM,
        learning_rate=preset.training.learning_rate / preset.training.batch_size,
        regularization=2 * preset.model.l2,
        iterations=1,
        num_threads=threads,
        random_state=0,
    )

    def run() -> None:
        model.fit(matrix, show_progress=False)

    return {"run": run, "check": lambda: _above(model.user_factors, model.item_factors, size)}


if __name__ == "__main__":
    main()
