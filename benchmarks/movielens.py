"""Item cold start on MovieLens with posters and plots: baselines and MAMEX, several seeds, intervals.

    python benchmarks/movielens.py --data FOLDER [--text-model FOLDER] [--only movielens-1m] [--seeds 0-4]

FOLDER holds ``movielens-1m`` and ``movielens-small``, each with ``items.parquet`` and
``interactions.parquet``. Each run is evaluated once on its sealed test part, and its figures are kept as
one line of ``benchmarks/results/movielens.jsonl``; lines that are there are not computed again. The seed
divides the items and draws the initial weights. ``--table`` prints the table of what is there.
"""

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import prismrec as pr
from prismrec.base.machine import machine
from prismrec.base.progress import Bars
from prismrec.data.ingest import ingest
from prismrec.data.splits import TEST, VALID, Split
from prismrec.evaluation.significance import seed_interval
from prismrec.features.encode import EncodePlan, encode_catalog
from prismrec.models.catalogue import config_of

RESULTS = Path(__file__).parent / "results" / "movielens.jsonl"
# Model, preset, and the most epochs: what the presets ask for would take days on two cores.
RUNS = [
    ("random", "default", None),
    ("popularity", "oracle", None),
    ("content-profile", "default", None),
    ("linear-map", "default", None),
    ("kernel-ridge", "default", None),
    ("holo", "default", None),
    ("mamex", "tuned", None),
    ("mamex", "as_released", 12),
    ("mamex", "paper", 12),
]
METRICS = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")


def shop(raw: Path, work: Path, text_model: str) -> pr.Dataset:
    """Ingest and encode, once."""
    if not (work / "dataset.json").exists():
        ingest(raw / "interactions.parquet", raw / "items.parquet", work)
    dataset = pr.Dataset.read(work)
    encode_catalog(dataset, EncodePlan({"text": text_model}), Bars())
    return dataset


def run(dataset: pr.Dataset, name: str, preset: str, epochs: int | None, seed: int) -> dict[str, Any]:
    """Train and evaluate one model on one seed."""
    split = dataset.split(pr.ItemColdStart(valid=0.1, test=0.1, seed=seed))
    chosen = config_of(name).presets()["default" if preset == "oracle" else preset]
    plan = chosen.training
    if epochs is not None and name == "mamex":
        plan = plan.model_copy(update={"epochs": min(epochs, plan.epochs), "evaluate_every": 1})
    began = time.perf_counter()
    rec = pr.train(chosen.model, split, plan=plan, seed=seed, preset=preset, progress=Bars())
    seconds = time.perf_counter() - began
    metrics = {}
    for part in ("valid", "test"):
        if preset == "oracle":
            show_answers(rec, split, part)
        result = pr.evaluate(rec, split, part=part, candidates=["strict", "as_released"])
        for row in result.parts:
            metrics[f"{part}/{row.candidates}"] = {m: round(row.metrics[m].mean, 6) for m in METRICS}
    history = rec.manifest.history
    return {
        "dataset": dataset.path.name if dataset.path else "",
        "model": label_of(name, preset),
        "seed": seed,
        "metrics": metrics,
        "train_seconds": round(seconds, 1),
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "most_epochs": plan.epochs if name == "mamex" else None,
        "chosen": history.chosen,
        "text": rec.manifest.features[-1].encoder["name"],
        "threads": torch.get_num_threads(),
        "machine": machine(),
    }


def label_of(name: str, preset: str) -> str:
    """Return what a row is called."""
    return name if preset == "default" else f"{name} ({preset})"


def show_answers(rec: pr.Recommender, split: Split, part: str) -> None:
    """Let the popularity baseline rank by the counts of the part that is evaluated: an oracle."""
    code = {"valid": VALID, "test": TEST}[part]
    counts = np.bincount(split.pairs.items[split.parts == code], minlength=len(split.items))
    rec.items = dataclasses.replace(rec.items, vectors=counts[:, None].astype(np.float32))
    rec.users = np.ones((len(split.users), 1), dtype=np.float32)


COLUMNS = (("strict", "ndcg@10"), ("strict", "recall@10"), ("as_released", "ndcg@10"))


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table of test figures: mean over seeds with the 95 % interval (Student t)."""
    lines = []
    for dataset in sorted({row["dataset"] for row in rows}):
        lines += [
            f"**{dataset}**",
            "",
            "| model | " + " | ".join(" ".join(c) for c in COLUMNS) + " | seeds |",
        ]
        lines += ["|---|---:|---:|---:|---:|"]
        for name, preset, _ in RUNS:
            some = _of(rows, dataset, label_of(name, preset))
            if some:
                cells = [_cell([_figure(row, *column) for row in some.values()]) for column in COLUMNS]
                most = (
                    next(iter(some.values()))["most_epochs"] if preset in ("paper", "as_released") else None
                )
                shown = label_of(name, preset) + ("" if most is None else f", at most {most} epochs")
                lines.append(f"| {shown} | {' | '.join(cells)} | {len(some)} |")
        lines += ["", *_paired(rows, dataset), ""]
    return "\n".join(lines)


def _paired(rows: list[dict[str, Any]], dataset: str) -> list[str]:
    """Say how MAMEX compares with the strongest baseline on the seeds that both have."""
    ours, theirs = _of(rows, dataset, "mamex (tuned)"), _of(rows, dataset, "kernel-ridge")
    seeds = sorted(set(ours) & set(theirs))
    said = []
    for column in COLUMNS:
        gaps = [_figure(ours[seed], *column) - _figure(theirs[seed], *column) for seed in seeds]
        if len(gaps) > 1:
            found = seed_interval(gaps)
            better = sum(gap > 0 for gap in gaps)
            tie = "a tie" if found.low <= 0 <= found.high else "a difference"  # type: ignore[operator]
            said.append(
                f"{' '.join(column)} {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}], "
                f"better on {better} of {len(gaps)} seeds: {tie}"
            )
    return [f"`mamex (tuned)` minus `kernel-ridge`, paired by seed: {'; '.join(said)}."] if said else []


def _of(rows: list[dict[str, Any]], dataset: str, label: str) -> dict[int, dict[str, Any]]:
    return {row["seed"]: row for row in rows if row["dataset"] == dataset and row["model"] == label}


def _figure(row: dict[str, Any], candidates: str, metric: str) -> float:
    return float(row["metrics"][f"test/{candidates}"][metric])


def _cell(values: list[float]) -> str:
    found = seed_interval(values)
    if found.low is None or found.high is None:
        return f"{found.mean:.4f}"
    return f"{found.mean:.4f} ± {found.mean - found.low:.4f}"


def _read() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("PRISMREC_DATA"))
    parser.add_argument(
        "--work", type=Path, default=Path("runs/movielens"), help="where data sets are written"
    )
    parser.add_argument("--text-model", default="default", help="sentence-transformers folder or 'default'")
    parser.add_argument("--only", choices=("movielens-1m", "movielens-small"))
    parser.add_argument("--models", help="e.g. 'kernel-ridge,mamex/tuned'")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--epochs", type=int, help="most epochs of 'paper' and 'as_released'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.table:
        print(table(_read()))
        return
    torch.set_num_threads(args.threads)
    first, _, last = args.seeds.partition("-")
    wanted = args.models.split(",") if args.models else None
    for name in [args.only] if args.only else ["movielens-1m", "movielens-small"]:
        dataset = shop(args.data / name, args.work / name, args.text_model)
        for model, preset, epochs in RUNS:
            if wanted is not None and model not in wanted and f"{model}/{preset}" not in wanted:
                continue
            label = label_of(model, preset)
            for seed in range(int(first), int(last or first) + 1):
                done = {(r["dataset"], r["model"], r["seed"]) for r in _read()}
                if (name, label, seed) in done:
                    continue
                row = run(dataset, model, preset, args.epochs or epochs, seed)
                with RESULTS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(name, label, seed, row["metrics"], row["train_seconds"], flush=True)


if __name__ == "__main__":
    main()
