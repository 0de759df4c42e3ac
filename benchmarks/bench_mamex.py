"""MAMEX: an epoch of training against the plain step of reference_mamex.py, at published sizes.

Both have the same losses (checked first) except for one setting: the reference's balance and alignment terms
see the whole catalogue, as released, ours the items of the batch, as the equations read. Ours: unique items,
chosen experts only, lazy updates of users, bfloat16 products where the processor has them; sampling of
batches and negatives included. The reference gets its negatives for nothing. Its epoch is the median step
times the number of steps.
"""

import time

import numpy as np
import torch
from harness import (
    BABY,
    CLOTHING,
    ELECTRONICS,
    Row,
    Size,
    generated_pairs,
    generated_vectors,
    options,
    report,
)
from reference_mamex import ReferenceMAMEX, same_losses

from prismrec.features.store import FeatureStore, ItemFeatures
from prismrec.models.batches import Modality, ModelInputs, TrainingData, TripletBatch
from prismrec.models.layers.moe import Experts, sparse_softmax
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.training.batches import Batches
from prismrec.training.loop import fit

DIM = 512
GOALS = {"Baby": 10.0, "Clothing": None, "Electronics": 30.0}


def shop(size: Size) -> TrainingData:
    """Draw a catalogue with two modalities of 512 numbers, and a log."""
    pairs = generated_pairs(size)
    ids = tuple(f"i{n}" for n in range(size.items))
    stores = [
        FeatureStore(name, generated_vectors(size.items, DIM, seed), ids, ("",) * size.items, {})
        for seed, name in enumerate(("image", "text"))
    ]
    inputs = ModelInputs(size.users, size.items, (Modality("image", DIM), Modality("text", DIM)))
    return TrainingData(pairs, inputs, ItemFeatures(stores, ids), np.unique(pairs.items), 0)


def reference_step(data: TrainingData) -> tuple[float, int]:
    """Return the median seconds of a reference step, and the steps of an epoch."""
    preset = MAMEXConfig.presets()["as_released"]
    config = preset.model
    assert isinstance(config, MAMEXConfig)
    batches = Batches(data, preset.training, 0, whole_catalog=True)
    several = [batch for _, batch in zip(range(7), batches.epoch(1), strict=False)]
    features = [torch.from_numpy(np.asarray(s.vectors, dtype=np.float32)) for s in data.features.stores]
    reference = ReferenceMAMEX(data.inputs.n_users, features, config.dim, config.experts, config.top_k)
    assert isinstance(several[0], TripletBatch)
    same_losses(reference, config.build(data.inputs), several[0])
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    times = []
    for batch in several:
        assert isinstance(batch, TripletBatch)
        codes = batch.items.codes
        negatives = codes[batch.negatives[:, 0]]
        began = time.perf_counter()
        optimizer.zero_grad()
        reference.losses(batch.users, codes[batch.positives], negatives).backward()
        optimizer.step()
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:])), len(batches)


def our_epoch(data: TrainingData, precision: str, epochs: int) -> float:
    """Return the median seconds of an epoch of ours, the first of them left out."""
    config = MAMEXConfig.presets()["as_released"].model
    ours = config.model_copy(update={"scope": "batch"})
    plan = TrainingPlan(epochs=epochs + 1, negative_items="all", precision=precision)
    model = ours.build(data.inputs)
    history = fit(model, data, plan, seed=0)
    return float(np.median([epoch.seconds for epoch in history.epochs[1:]]))


def epochs(size: Size, repeats: int) -> list[Row]:
    """Measure one size."""
    data = shop(size)
    before, steps = reference_step(data)
    rows = []
    for precision in ("auto", "fp32"):
        ours = our_epoch(data, precision, repeats)
        after, _ = reference_step(data)
        theirs = (before + after) / 2 * steps
        kind = "bfloat16 products" if precision == "auto" else "full precision"
        rows.append(
            Row(
                f"MAMEX epoch, {size.name} size, {kind}",
                "whole catalogue, every expert, dense Adam",
                ours,
                theirs,
                GOALS.get(size.name) if precision == "auto" else None,
                f"{steps} steps, {ours / steps * 1000:.0f} ms against {theirs / steps * 1000:.0f} ms each; "
                "bound by passes over the batch's vectors and calls of autograd, not by products",
            )
        )
        before = after
    return rows


def crossover(repeats: int) -> list[Row]:
    """Measure the experts' layer with all products and with the chosen ones only."""
    rows = []
    inputs, gradient = torch.randn(2824, DIM), torch.randn(2824, 128)
    for experts, top_k in ((4, 3), (4, 2), (8, 2), (16, 2)):
        logits = torch.randn(2824, experts)
        times: list[list[float]] = [[], []]
        sides = [Experts(DIM, 128, experts, chosen) for chosen in (top_k, experts)]
        for _ in range(repeats + 2):
            for place, layer in enumerate(sides):
                weights = sparse_softmax(logits, top_k).requires_grad_()
                began = time.perf_counter()
                layer(inputs, weights).backward(gradient)
                times[place].append(time.perf_counter() - began)
        routed, dense = (float(np.median(some[2:])) for some in times)
        rows.append(
            Row(
                f"experts' layer, {top_k} of {experts} chosen, forward and backward",
                "all experts in one product",
                routed,
                dense,
                None,
                "2,824 items, 512 to 128, full precision",
            )
        )
    return rows


def main() -> None:
    args = options(__doc__)
    sizes = [Size("quick", 500, 300, 5_000)] if args.quick else [BABY, CLOTHING, ELECTRONICS]
    rows = [row for size in sizes for row in epochs(size, 1 if size is ELECTRONICS else min(3, args.repeats))]
    report("bench_mamex.py", [*rows, *crossover(args.repeats)], args)


if __name__ == "__main__":
    main()
