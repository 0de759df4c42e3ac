"""Multimodal recommenders: an epoch of each at Baby size, BSAM+ against plain steps, three references.

Our epochs are those of the training loop, negatives included, without validation. The references
(reference_graphs.py) are what one writes at first; they have the same losses but for penalties of weight 0.
"""

import time

import numpy as np
import torch
from bench_mamex import shop
from harness import BABY, Row, Size, options, record, show
from reference_graphs import PlainGraph, PlainVBPR, reference_epoch

from prismrec.models.base import GradientModel, ModelConfig
from prismrec.models.batches import TrainingData
from prismrec.models.bm3 import BM3Config
from prismrec.models.dragon import DRAGONConfig
from prismrec.models.dualgnn import DualGNNConfig
from prismrec.models.freedom import FREEDOMConfig
from prismrec.models.grcn import GRCNConfig
from prismrec.models.lattice import LATTICEConfig
from prismrec.models.lgmrec import LGMRecConfig
from prismrec.models.lightgcn import LightGCNConfig
from prismrec.models.mgcn import MGCNConfig
from prismrec.models.mmgcn import MMGCNConfig
from prismrec.models.plan import TrainingPlan
from prismrec.models.slmrec import SLMRecConfig
from prismrec.models.vbpr import VBPRConfig
from prismrec.training.loop import fit

SMALL = Size("small", 2_000, 1_000, 12_000)
# What an epoch spends most of its time on, by torch's profiler.
BOUND = {
    "vbpr": "projecting the batch's items and their content's gradient",
    "lightgcn": "gathering rows along the edges",
    "mmgcn": "products of all nodes with weights, in three layers a modality",
    "grcn": "gathering and weighing both ends of every edge",
    "dualgnn": "products of all nodes with weights, and gathering rows along the edges",
    "slmrec": "three softmaxes of the batch against itself",
    "lattice": "gathering rows along the edges, and passes over whole tables",
    "bm3": "Adam on trained content",
    "freedom": "Adam on trained content, and its gradient",
    "mgcn": "products of all nodes with weights: gates and attention",
    "dragon": "products of all nodes with weights, and gathering rows along the edges",
    "lgmrec": "a softmax of the batch against all users and all items",
}
CONFIGS: tuple[ModelConfig, ...] = (
    VBPRConfig(),
    LightGCNConfig(),
    MMGCNConfig(),
    GRCNConfig(),
    DualGNNConfig(),
    SLMRecConfig(),
    LATTICEConfig(),
    BM3Config(),
    FREEDOMConfig(),
    MGCNConfig(),
    DRAGONConfig(),
    LGMRecConfig(),
)


def our_epoch(config: ModelConfig, data: TrainingData, strategy: str, epochs: int) -> float:
    """Return the median seconds of an epoch, the first of them left out."""
    start = config.presets()["default"].training
    changes = {"epochs": epochs + 1, "strategy": strategy, "patience": 0}
    plan = TrainingPlan.model_validate({**start.model_dump(), **changes})
    torch.manual_seed(0)
    model = config.build(data.inputs)
    assert isinstance(model, GradientModel)
    history = fit(model, data, plan, seed=0)
    return float(np.median([epoch.seconds for epoch in history.epochs[1:]]))


def reference(name: str, data: TrainingData) -> float | None:
    """Return the seconds of a reference's epoch; None where there is no reference."""
    inputs = data.inputs
    features = [torch.from_numpy(np.asarray(s.vectors, dtype=np.float32)) for s in data.features.stores]
    torch.manual_seed(0)
    model: PlainGraph | PlainVBPR
    if name == "lightgcn":
        model = PlainGraph(inputs.n_users, inputs.n_items, 64, 3, data.pairs, [])
    elif name == "freedom":
        model = PlainGraph(inputs.n_users, inputs.n_items, 64, 2, data.pairs, features)
    elif name == "vbpr":
        model = PlainVBPR(inputs.n_users, inputs.n_items, 64, features)
    else:
        return None
    began = time.perf_counter()
    reference_epoch(model, data.pairs, inputs.n_items, 0)
    return time.perf_counter() - began


def main() -> None:
    """Measure and report."""
    args = options(__doc__, [config.name for config in CONFIGS])
    size = SMALL if args.quick else BABY
    data = shop(size)
    rows: list[Row] = []
    chosen = "" if len(args.only) == len(CONFIGS) else f"--only {' '.join(args.only)}"
    for config in (config for config in CONFIGS if config.name in args.only):
        plain = our_epoch(config, data, "plain", args.repeats)
        theirs = reference(config.name, data)
        twice = our_epoch(config, data, "bsam+", args.repeats)
        again = our_epoch(config, data, "plain", args.repeats)
        ours = (plain + again) / 2
        bound = BOUND[config.name]
        found = []
        if theirs is not None:
            found.append(
                Row(
                    f"{config.name} epoch, {size.name} size",
                    "the same written plainly: whole tables, torch's sparse product, negatives in Python",
                    ours,
                    theirs,
                    3.0,
                    f"bound by {bound}",
                )
            )
        found.append(
            Row(
                f"{config.name} epoch with BSAM+, {size.name} size",
                "2.1 plain epochs",
                twice,
                2.1 * ours,
                1.0,
                f"plain {ours:.2f} s, BSAM+ {twice / ours:.2f} times that; bound by {bound}",
            )
        )
        # One by one: all of them take long, and what is measured shall not be lost.
        rows += found
        show(found)
        record("bench_graphs.py", rows, args, chosen)


if __name__ == "__main__":
    main()
