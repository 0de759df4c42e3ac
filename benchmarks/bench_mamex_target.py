"""MAMEX to a given validation NDCG on movielens-1m, against the plain step with the released settings.

    python benchmarks/bench_mamex_target.py --data FOLDER [--text-model FOLDER]

The target is the best NDCG@10 (strict candidates of the validation part) that the reference reaches in its
first epochs (``--epochs``); its time is that up to there. Ours are the preset `tuned`, preparation included,
and MAMEX with the released losses on the batch's items, full softmax over users instead of one negative. Time
of validation is not counted for either. Nothing here looks at the test part.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from harness import Row, report, set_threads
from movielens import shop
from reference_mamex import ReferenceMAMEX, same_losses

import prismrec as pr
from prismrec.data.splits import Split
from prismrec.features.store import ItemFeatures
from prismrec.models.base import Model
from prismrec.models.batches import Modality, ModelInputs, TrainingData, TripletBatch
from prismrec.models.mamex import MAMEX, MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.train import open_features, validation_of
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

METRIC = "ndcg@10"


class Reached(Exception):  # noqa: N818
    """The target was reached."""


class Until:
    """A validation that ends training at a target, and knows what it cost itself."""

    def __init__(self, split: Split, features: ItemFeatures, target: float) -> None:
        self._validate = validation_of(split, features, TrainingPlan())
        self._target = target
        self.seconds = 0.0
        self.best = 0.0

    def __call__(self, model: Model) -> dict[str, float]:
        assert self._validate is not None
        began = time.perf_counter()
        model.eval()
        with torch.no_grad():
            metrics = self._validate(model)
        self.seconds += time.perf_counter() - began
        self.best = max(self.best, metrics[METRIC])
        if metrics[METRIC] >= self._target:
            raise Reached
        return metrics


def training_data(split: Split) -> tuple[TrainingData, ItemFeatures]:
    """Lay out a split as models see it."""
    assert split.dataset is not None
    features = ItemFeatures(open_features(split.dataset), split.items.ids)
    named = tuple(Modality(n, d) for n, d in zip(features.names, features.dims, strict=True))
    inputs = ModelInputs(len(split.users), len(split.items), named)
    return TrainingData(
        split.train, inputs, features, np.flatnonzero(split.warm_items).astype(np.int32), 0
    ), features


def reference(split: Split, epochs: int) -> tuple[float, float, str]:
    """Return the best validation metric of the first epochs, and the seconds of training up to it."""
    data, features = training_data(split)
    preset = MAMEXConfig.presets()["as_released"]
    config = preset.model
    assert isinstance(config, MAMEXConfig)
    torch.manual_seed(0)
    mirror = config.build(data.inputs)
    assert isinstance(mirror, MAMEX)
    vectors, _ = features.gather(np.arange(data.inputs.n_items))
    plain = ReferenceMAMEX(
        data.inputs.n_users, [torch.from_numpy(v) for v in vectors], config.dim, config.experts, config.top_k
    )
    batches = Batches(data, preset.training, 0, whole_catalog=True)
    first = next(iter(batches.epoch(1)))
    assert isinstance(first, TripletBatch)
    if bool(first.items.present.all()):
        same_losses(plain, mirror, first)
    optimizer = torch.optim.Adam(plain.parameters(), lr=preset.training.learning_rate)
    watch = Until(split, features, float("inf"))
    seconds, best, reached = 0.0, 0.0, ""
    for epoch in range(1, epochs + 1):
        plain.train()
        for batch in batches.epoch(epoch):
            assert isinstance(batch, TripletBatch)
            codes = batch.items.codes
            negatives = codes[batch.negatives[:, 0]]
            began = time.perf_counter()
            optimizer.zero_grad()
            plain.losses(batch.users, codes[batch.positives], negatives).backward()
            optimizer.step()
            seconds += time.perf_counter() - began
        plain.eval()
        plain.copy_into(mirror)
        found = watch(mirror)[METRIC]
        print(f"reference, epoch {epoch}: {found:.4f} after {seconds:.1f} s", flush=True)
        if found > best:
            best, reached = found, f"{seconds}|{epoch}"
    taken, _, at = reached.partition("|")
    return best, float(taken), f"epoch {at} of {epochs}"


def ours(split: Split, config: MAMEXConfig, plan: TrainingPlan, target: float) -> tuple[float | None, float]:
    """Return the seconds until the target was reached (None: never), and the best metric."""
    data, features = training_data(split)
    torch.manual_seed(0)
    model = config.build(data.inputs)
    watch = Until(split, features, target)
    began = time.perf_counter()
    try:
        fit(model, data, plan, seed=0, validate=watch)
    except Reached:
        # The start by kernels chooses by validation, so there its time counts.
        spent = 0.0 if config.start == "kernel" else watch.seconds
        return time.perf_counter() - began - spent, watch.best
    return None, watch.best


def _shown(text_model: str) -> str:
    """Name of a text model without the folder that it lies in on this machine."""
    return text_model if text_model == "default" else "FOLDER_OF_THE_TEXT_MODEL"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("PRISMREC_DATA"))
    parser.add_argument("--work", type=Path, default=Path("runs/movielens"))
    parser.add_argument("--text-model", default="default")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of the reference")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=1, help="has no effect here")
    parser.add_argument("--quick", action="store_true", help="one epoch of the reference; writes nothing")
    args = parser.parse_args()
    name, against = (
        "MAMEX to the reference's best validation NDCG@10, movielens-1m",
        "whole catalogue, dense Adam",
    )
    if args.data is None:
        report(
            "bench_mamex_target.py", [Row(name, against, None, None, 20.0, "not measured: no --data")], args
        )
        return
    set_threads(args.threads)
    dataset = shop(Path(args.data) / "movielens-1m", args.work / "movielens-1m", args.text_model)
    split = dataset.split(pr.ItemColdStart(valid=0.1, test=0.1, seed=0))
    best, seconds, when = reference(split, 1 if args.quick else args.epochs)
    presets = MAMEXConfig.presets()
    released, tuned = presets["as_released"].model, presets["tuned"].model
    assert isinstance(released, MAMEXConfig)
    assert isinstance(tuned, MAMEXConfig)
    softmax = released.model_copy(update={"scope": "batch", "loss": "softmax"})
    sides = [
        (
            "full softmax",
            softmax,
            TrainingPlan(sampling="users", batch_size=512, epochs=100, precision="auto"),
        ),
        (
            "released sampling",
            released.model_copy(update={"scope": "batch"}),
            TrainingPlan(negative_items="all", epochs=20, precision="auto"),
        ),
        ("preset tuned", tuned, presets["tuned"].training),
    ]
    rows = []
    for label, config, plan in sides:
        taken, reached = ours(split, config, plan, best)
        detail = f"target {best:.4f} ({when}, {seconds:.0f} s); ours reached {reached:.4f}"
        goal = 20.0 if label in ("full softmax", "preset tuned") else None
        rows.append(Row(f"{name}, {label}", against, taken, seconds, goal, detail))
    needs = f"--data FOLDER --text-model {_shown(args.text_model)} --epochs {args.epochs}"
    report("bench_mamex_target.py", rows, args, needs)


if __name__ == "__main__":
    main()
