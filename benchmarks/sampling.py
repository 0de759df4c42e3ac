"""What the settings that change sampling or precision cost in accuracy: MAMEX on movielens-small.

    python benchmarks/sampling.py --data FOLDER [--text-model FOLDER] [--seeds 0-2]

Each setting trains MAMEX from a random start with the released losses on the batch's items and differs from
the first row in what its name says. Figures are the best validation NDCG@10 (strict) of `--epochs` epochs,
mean over seeds with the 95 % interval, and the seconds of an epoch without validation. The test part stays
sealed. Writes ``results/sampling.json``.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_mamex_target import METRIC, Until, training_data
from harness import set_threads
from movielens import shop

import prismrec as pr
from prismrec.base.machine import machine
from prismrec.evaluation.significance import seed_interval
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.training.loop import fit

RESULTS = Path(__file__).parent / "results" / "sampling.json"
SETTINGS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("one uniform negative", {}, {}),
    ("bfloat16 products", {}, {"precision": "bf16"}),
    ("dense Adam for users", {}, {"row_updates": "dense"}),
    ("cold items may be negatives", {}, {"negative_items": "all"}),
    ("8 uniform negatives", {}, {"negatives": 8}),
    ("one negative by popularity", {}, {"negative_sampling": "popularity"}),
    ("8 in-batch negatives", {}, {"negatives": 8, "negative_sampling": "in-batch"}),
    ("batches grouped by item", {}, {"grouping": "items"}),
    ("sampled softmax, 64 uniform", {"loss": "softmax"}, {"negatives": 64}),
    (
        "sampled softmax, 64 in-batch",
        {"loss": "softmax"},
        {"negatives": 64, "negative_sampling": "in-batch"},
    ),
    ("full softmax over users", {"loss": "softmax"}, {"sampling": "users", "batch_size": 128}),
]


def measure(data: Path, work: Path, text_model: str, seeds: range, epochs: int) -> list[dict[str, Any]]:
    """Train every setting on every seed."""
    dataset = shop(data / "movielens-small", work / "movielens-small", text_model)
    released = MAMEXConfig.presets()["as_released"].model
    found = []
    for name, model_changes, plan_changes in SETTINGS:
        values, seconds = [], []
        for seed in seeds:
            split = dataset.split(pr.ItemColdStart(valid=0.1, test=0.1, seed=seed))
            inputs, features = training_data(split)
            config = released.model_copy(update={"scope": "batch", **model_changes})
            plan = TrainingPlan(epochs=epochs, patience=0).model_copy(update=plan_changes)
            torch.manual_seed(seed)
            history = fit(
                config.build(inputs.inputs),
                inputs,
                plan,
                seed=seed,
                validate=Until(split, features, float("inf")),
            )
            values.append(max(epoch.metrics[METRIC] for epoch in history.epochs))
            spent = [epoch.seconds for epoch in history.epochs]
            seconds.append((sum(spent) - history.seconds["validate"]) / len(spent))
        interval = seed_interval(values)
        found.append({"setting": name, "values": values, "seconds": float(np.median(seconds))})
        print(
            f"{name:32} {interval.mean:.4f} [{interval.low}, {interval.high}] {np.median(seconds):.2f} s",
            flush=True,
        )
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Return a Markdown table; a difference to the first row is paired by seed."""
    lines = ["| setting | valid NDCG@10 | against the first row | s / epoch |", "|---|---:|---:|---:|"]
    first = found[0]["values"]
    for row in found:
        mean = seed_interval(row["values"])
        gap = seed_interval([a - b for a, b in zip(row["values"], first, strict=True)])
        shown = "" if row is found[0] else f"{gap.mean:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]"
        lines.append(f"| {row['setting']} | {mean.mean:.4f} | {shown} | {row['seconds']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("PRISMREC_DATA"), required=False)
    parser.add_argument("--work", type=Path, default=Path("runs/movielens"))
    parser.add_argument("--text-model", default="default")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what the last run found")
    args = parser.parse_args()
    if args.table:
        print(table(json.loads(RESULTS.read_text())["rows"]))
        return
    set_threads(args.threads)
    low, _, high = args.seeds.partition("-")
    seeds = range(int(low), int(high or low) + 1)
    found = measure(Path(args.data), args.work, args.text_model, seeds, args.epochs)
    RESULTS.write_text(
        json.dumps({"rows": found, "epochs": args.epochs, "machine": machine()}, indent=1) + "\n"
    )
    print(table(found))


if __name__ == "__main__":
    main()
