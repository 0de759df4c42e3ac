"""What preference optimisation adds to supervision, on movielens-small with posters, on a CPU.

    python benchmarks/hanorec_study.py --data FOLDER --work FOLDER [--seeds 0-4] [--table]

FOLDER of --data holds ``movielens-small`` (``items.parquet``, ``interactions.parquet``). A small Qwen2.5-VL
is made with random weights and learns from titles and posters: supervision once, then each kind of alignment
from the same supervised model, with its own seeds. Each is measured once on the test questions. Runs that are
finished in --work are not made again; figures are kept in ``benchmarks/results/hanorec-study.jsonl``.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

import prismrec as pr
from prismrec.base.machine import machine
from prismrec.base.progress import SILENT
from prismrec.data.ingest import ingest
from prismrec.experiments.compare import Measured, compare_table
from prismrec.sequential.backbone import Origin
from prismrec.sequential.baselines import first_stage_scores, popularity_scores
from prismrec.sequential.evaluate import evaluate_run
from prismrec.sequential.examples import Example
from prismrec.sequential.histories import sequences
from prismrec.sequential.measures import Scored, measure, random_expectation
from prismrec.sequential.prepare import PrepareConfig
from prismrec.sequential.prepared import Prepared, prepare, read_prepared
from prismrec.sequential.runs import align_config
from prismrec.sequential.settings import tuning_of
from prismrec.sequential.steps import align, supervise
from prismrec.testing.tiny_models import tiny_model

RESULTS = Path(__file__).parent / "results" / "hanorec-study.jsonl"
METRIC = "ndcg@3"
MODEL = {"vocabulary": 1500, "dim": 64, "layers": 2, "context": 1024}
SUPERVISED = {"batch_size": 32, "learning_rate": 3e-3, "epochs": 4.0}
# Of 2e-4, 1e-3 and 5e-3 the best for DPO on the validation questions (a supervised model of 3 epochs, 1,600
# examples, seed 0); the same for all kinds.
ALIGNED = {
    "tuning.adapter.rank": 8,
    "tuning.adapter.dropout": 0.0,
    "tuning.batch_size": 16,
    "tuning.epochs": 1.0,
    "tuning.learning_rate": 1e-3,
    "tuning.warmup": 0.1,
    "tuning.prompt_loss": 0.0,
    "pairs.source": "uniform",
}
EXAMPLES = 1000
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "dpo": ("dpo", {}),
    "s-dpo, 3 wrong answers": ("s-dpo", {"pairs.rejected": 3}),
    "hanorec": ("hanorec", {"noise.sigma": 0.05}),
    "hanorec, noise 5 % of the layer's output": ("hanorec", {"noise.sigma_relative": 0.05}),
    "hanorec, without NoDO": ("hanorec", {"noise.where": "none"}),
    "hanorec, without HaRS": ("hanorec", {"noise.sigma": 0.05, "preference.hars": False}),
    "hanorec, temperature 0.02, harder is heavier": (
        "hanorec",
        {
            "noise.sigma": 0.05,
            "preference.temperature": 0.02,
            "preference.direction": "harder_is_heavier",
        },
    ),
}
MORE = "sft, more steps"
# The published loss: a softmax over 9,700 items costs a hundred times as much for 600 users.
SASREC = pr.TrainingPlan(sampling="users", batch_size=64, epochs=300, patience=30, learning_rate=2e-3)


def questions(raw: Path, work: Path) -> Prepared:
    """Ingest and prepare, once."""
    shop = work / "movielens-small"
    if not (shop / "dataset.json").exists():
        ingest(raw / "interactions.parquet", raw / "items.parquet", shop)
    folder = work / "questions"
    if (folder / "sequential.json").is_file():
        return read_prepared(folder, shop)
    config = PrepareConfig(task="top3", windows=10, noun="movie", plural="movies")
    return prepare(pr.Dataset.read(shop), folder, config)


def supervised(prepared: Prepared, work: Path) -> Path:
    """Make the model and tune it on right answers; return the run."""
    model = work / "model"
    if not (model / "config.json").is_file():
        tiny_model(model, "qwen2.5-vl", prepared.titles, **MODEL)
    tuning = tuning_of("small", SUPERVISED)
    out = work / "sft"
    outcome = supervise(prepared, Origin(str(model.absolute())), out, tuning)
    print(f"sft: {outcome.manifest.parameters:,} weights, {outcome.manifest.seconds:.0f} s", flush=True)
    return out


def tuned(kind: str, prepared: Prepared, sft: Path, out: Path, seed: int) -> tuple[Path, float, list[str]]:
    """Tune further; return the run, its seconds and its notes."""
    if kind == MORE:
        wanted = {k.removeprefix("tuning."): v for k, v in ALIGNED.items() if k.startswith("tuning.")}
        origin = Origin(str((sft / "model").absolute()))
        outcome = supervise(
            prepared, origin, out, tuning_of("small", wanted), most=EXAMPLES, seed=seed, progress=SILENT
        )
    else:
        loss, changes = KINDS[kind]
        config = align_config(loss, "small", {**ALIGNED, **changes, "pairs.seed": seed})
        outcome = align(sft, out, config, most=EXAMPLES, seed=seed)
    return out, outcome.manifest.seconds, list(outcome.manifest.notes)


def sasrec(prepared: Prepared, work: Path, seed: int) -> pr.Recommender:
    """Train SASRec on what precedes the held-out items."""
    folder = work / "sasrec" / str(seed)
    if (folder / "manifest.json").is_file():
        return pr.Recommender.load(folder)
    split = prepared.dataset.split(pr.LeaveLast(n=3))
    recommender = pr.train(pr.SASRecConfig(loss="bce"), split, plan=SASREC, seed=seed)
    recommender.save(folder)
    return recommender


def with_whole_histories(
    examples: list[Example], recommender: pr.Recommender, prepared: Prepared
) -> list[Scored]:
    """Score by SASRec, which reads all that a user took before the test items, as is usual for it."""
    # Raises if the run was trained on what is asked.
    first_stage_scores(examples, recommender, prepared.ids)
    took = {one.user: [prepared.ids[i] for i in one.items] for one in sequences(prepared.dataset)}
    rows = recommender.item_ids.codes(prepared.ids)
    scored = []
    for example in examples:
        held = {prepared.ids[i] for i in example.positives}
        vector = recommender.fold_in([name for name in took[example.user] if name not in held])
        scored.append(Scored(example, recommender.items.vectors[rows[list(example.candidates)]] @ vector))
    return scored


def known() -> list[dict[str, Any]]:
    """Lines that are there."""
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def keep(kind: str, seed: int, figures: dict[str, float], users: pl.DataFrame, **more: Any) -> None:
    """Write a line."""
    line = {
        "kind": kind,
        "seed": seed,
        "figures": figures,
        "users": {METRIC: [round(v, 5) for v in users.sort("user")[METRIC].to_list()]},
        **more,
        "machine": machine(),
        "threads": torch.get_num_threads(),
    }
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{kind}, seed {seed}: {METRIC} {figures[METRIC]:.4f}", flush=True)


def study(data: Path, work: Path, seeds: list[int], only: list[str] | None) -> None:
    """Make what is missing."""
    prepared = questions(data / "movielens-small", work)
    there = {(line["kind"], line["seed"]) for line in known()}
    examples = prepared.part("test")
    if ("popularity", 0) not in there:
        found = measure("popularity", prepared.task, popularity_scores(examples, prepared.counts()))
        keep("popularity", 0, means(found.metrics), found.per_user)
    sft = supervised(prepared, work)
    if ("sft", 0) not in there:
        measured("sft", 0, sft, json.loads((sft / "run.json").read_text())["seconds"], [])
    for seed in seeds:
        for kind in only or [MORE, *KINDS]:
            if (kind, seed) not in there:
                out = work / "aligned" / "".join(c if c.isalnum() else "-" for c in kind) / str(seed)
                run, seconds, notes = tuned(kind, prepared, sft, out, seed)
                measured(kind, seed, run, seconds, notes)
    for seed in seeds:
        if ("sasrec", seed) not in there:
            begun = time.perf_counter()
            scored = with_whole_histories(examples, sasrec(prepared, work, seed), prepared)
            found = measure("sasrec", prepared.task, scored)
            keep("sasrec", seed, means(found.metrics), found.per_user, seconds=time.perf_counter() - begun)


def measured(kind: str, seed: int, run: Path, seconds: float, notes: list[str]) -> None:
    """Measure a run once on the test questions."""
    result = evaluate_run(run, part="test")
    log = run / "log.jsonl"
    last = json.loads(log.read_text().splitlines()[-1]) if log.is_file() else {}
    keep(
        kind,
        seed,
        means(result.ours.metrics),
        result.ours.per_user,
        seconds=seconds,
        notes=notes,
        log={k: last[k] for k in ("loss", "margin", "accuracy", "beta", "eta", "noise") if k in last},
        costs={
            "seconds_per_request": result.costs.seconds_per_request,
            "tokens_per_prompt": result.costs.tokens_per_prompt,
            "tokens_per_candidate": result.costs.tokens_per_candidate,
        },
    )


def means(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the means alone."""
    return {name: round(interval.mean, 5) for name, interval in metrics.items()}


def table(work: Path) -> list[str]:
    """Return the study as Markdown."""
    found: dict[str, dict[int, Measured]] = {}
    lines = known()
    for line in lines:
        values = np.array(line["users"][METRIC])
        found.setdefault(line["kind"], {})[line["seed"]] = Measured(
            np.arange(len(values), dtype=np.int32), values
        )
    for fixed in ("sft", "popularity"):
        # One model: the same beside every seed.
        found[fixed] = dict.fromkeys(range(5), found[fixed][0])
    pairs = [(kind, "sft") for kind in found if kind != "sft"]
    pairs += [(kind, "dpo") for kind in found if kind.startswith(("hanorec", "s-dpo"))]
    versus = compare_table(found, pairs)
    rows = [
        "| | seeds | HR@1 | HR@3 | NDCG@3 | against sft | against dpo | s |",
        "|---|---:|---:|---:|---:|---|---|---:|",
    ]
    prepared = read_prepared(work / "questions", work / "movielens-small")
    random = random_expectation(prepared.task, prepared.part("test"))
    floor = " | ".join(f"{random[name]:.4f}" for name in ("hit_rate@1", "hit_rate@3", METRIC))
    rows.append(f"| random (expected) | | {floor} | | | |")
    for kind in found:
        some = [line for line in lines if line["kind"] == kind]
        shown = [
            f"{np.mean([x['figures'][m] for x in some]):.4f}" for m in ("hit_rate@1", "hit_rate@3", METRIC)
        ]
        against = []
        for other in ("sft", "dpo"):
            one = versus.get((kind, other))
            if one is None:
                against.append("")
                continue
            seeds = one.difference
            bounds = "" if seeds.low is None else f" [{seeds.low:+.4f}, {seeds.high:+.4f}]"
            against.append(f"{one.verdict} {seeds.mean:+.4f}{bounds} (p {one.p:.2g})")
        seconds = np.mean([line.get("seconds", np.nan) for line in some])
        rows.append(
            f"| {kind} | {len(some)} | {' | '.join(shown)} | {' | '.join(against)} | "
            f"{'' if np.isnan(seconds) else f'{seconds:.0f}'} |"
        )
    return rows


def main() -> None:
    """Make the study, or print its table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", action="append")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    first, _, last = arguments.seeds.partition("-")
    if not arguments.table:
        study(arguments.data, arguments.work, list(range(int(first), int(last or first) + 1)), arguments.only)
    print("\n".join(table(arguments.work)))


if __name__ == "__main__":
    main()
