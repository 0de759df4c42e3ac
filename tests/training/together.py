"""One of several processes that train together; `test_processes` starts them. Not a test itself.

It reads one JSON object: ``cases`` (names of `CASES`), ``out`` (a folder), ``checkpoint`` (whether to write
one), ``apart`` (whether each process sees a folder of its own there), ``dies`` (the epoch at whose start the
last process ends itself; 0: it does not).
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from prismrec.base.errors import ProcessLostError
from prismrec.models.base import GradientModel, ModelConfig
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.lightgcn import LightGCNConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.models.strategies import BSAMPlus, LookSAM
from prismrec.models.vbpr import VBPRConfig
from prismrec.testing.planted import cold_auc, planted
from prismrec.training.loop import fit

LOST = 8


@dataclass(frozen=True)
class Case:
    """What is trained."""

    config: ModelConfig
    plan: TrainingPlan


def plan(**changes: object) -> TrainingPlan:
    """Return a short plan; 61 pairs a batch, so that shares and the last batch are uneven."""
    return TrainingPlan.model_validate({"batch_size": 61, "epochs": 3, "learning_rate": 0.01, **changes})


_EXACT = MAMEXConfig(dim=16, gate_dropout=0.0, feature_dropout=0.0)
_PAPER = MAMEXConfig.presets()["paper"].model.model_copy(
    update={"dim": 16, "gate_dropout": 0.0, "feature_dropout": 0.0}
)

CASES = {
    "mamex users": Case(_EXACT, plan(sampling="users", batch_size=17)),
    "mamex triplets": Case(_PAPER, plan(sampling="triplets")),
    "mamex dense rows": Case(_PAPER, plan(sampling="triplets", row_updates="dense", clip_norm=0.5)),
    "mamex dropout": Case(_EXACT.model_copy(update={"feature_dropout": 0.3}), plan(sampling="users")),
    "bpr-mf": Case(BPRMFConfig(dim=16, l2=1e-3), plan(negatives=2, batch_size=5)),
    "bpr-mf in batch": Case(BPRMFConfig(dim=16), plan(negative_sampling="in-batch")),
    "lightgcn": Case(LightGCNConfig(dim=16, penalty="squares", reg=1e-3), plan()),
    "vbpr whole": Case(VBPRConfig(dim=16), plan()),
    "lightgcn bsam+": Case(
        LightGCNConfig(dim=16, penalty="squares", reg=1e-3), plan(strategy=BSAMPlus(), epochs=2)
    ),
    "mamex looksam": Case(_PAPER, plan(strategy=LookSAM(), epochs=2, row_updates="dense")),
}


def trained(case: Case, checkpoint: Path | None = None, dies: int = 0) -> tuple[GradientModel, list[dict]]:
    """Train; return the model, and losses and metrics of each epoch."""
    source = planted()
    torch.manual_seed(3)
    model = case.config.build(source.data.inputs)
    assert isinstance(model, GradientModel)
    if dies:
        begin = model.start_epoch

        def start_epoch(number: int) -> None:
            if number == dies and model.team.rank == model.team.size - 1:
                os.kill(os.getpid(), signal.SIGKILL)
            begin(number)

        model.start_epoch = start_epoch  # type: ignore[method-assign]
    history = fit(
        model,
        source.data,
        case.plan.model_copy(update={"metric": "ndcg@10"}),
        seed=3,
        validate=lambda one: {"ndcg@10": cold_auc(one, source.data, source.valid)},
        checkpoint=checkpoint,
        checkpoint_seconds=0.0,
    )
    return model, [{**epoch.losses, **epoch.metrics} for epoch in history.epochs]


def main() -> int:
    """Train all cases and write what came of them."""
    order = json.loads(sys.argv[1])
    out = Path(order["out"])
    rank = os.environ["RANK"]
    for number, name in enumerate(order["cases"]):
        # Where each sees a folder of its own, as on machines that share none.
        seen = out / rank if order["apart"] else out
        file = seen / f"checkpoint-{number}" if order["checkpoint"] else None
        try:
            model, epochs = trained(CASES[name], file, order["dies"])
        except ProcessLostError as error:
            sys.stderr.write(error.problem)
            return LOST
        save_file(model.state(), out / f"{number}-{rank}.safetensors")
        (out / f"{number}-{rank}.json").write_text(json.dumps(epochs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
