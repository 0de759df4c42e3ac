"""Which optimiser moves what."""

import pytest
import torch

from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing.planted import planted
from prismrec.training.optimizers import make_optimizers


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("row_updates", ["lazy", "dense"])
@pytest.mark.parametrize("config", [MAMEXConfig(dim=8), BPRMFConfig(dim=8)], ids=["mamex", "bpr-mf"])
def test_steps_raise_the_counters_of_what_they_move(config, row_updates: str, optimizer: str) -> None:
    source = planted(n_users=20, n_items=60)
    model = config.build(source.data.inputs)
    model.lazy_rows = row_updates == "lazy"
    plan = TrainingPlan(row_updates=row_updates, optimizer=optimizer)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    before = {name: (p._version, p.detach().clone()) for name, p in trained.items()}
    for name, parameter in trained.items():
        rows = model.lazy_rows and name in model.row_tables
        gradient = torch.ones_like(parameter)
        parameter.grad = gradient.to_sparse(1) if rows else gradient
    for one in make_optimizers(model, plan):
        one.step()
    for name, parameter in trained.items():
        version, values = before[name]
        assert not torch.equal(parameter, values), name
        assert parameter._version > version, name
