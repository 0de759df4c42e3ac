import itertools
import math
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

from prismrec.base.errors import ConfigError, InputError, MissingExtraError
from prismrec.models.base import GradientModel, ModelConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.training.loop import fit
from prismrec.training.row_adam import RowAdam

CONFIG = MAMEXConfig(dim=16, start="random", loss="bpr", gate_dropout=0.3)
PLAN = TrainingPlan(sampling="triplets", epochs=8, batch_size=64, learning_rate=0.01, patience=0)


def build(data, config=CONFIG):
    torch.manual_seed(5)
    return config.build(data.inputs)


class Marks:
    """A validation that gives one number after the other, the start's first; stops where it is told to."""

    def __init__(self, values, stop_at=None):
        self.values, self.stop_at, self.calls = list(values), stop_at, 0

    def __call__(self, model):
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return {"ndcg@10": self.values[self.calls - 1]}


def norm(model):
    """A validation that depends on the weights and goes up and down."""
    return {"ndcg@10": float(torch.sin(100 * model.users.detach().square().sum()))}


def same(one, two):
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def without_times(history):
    kept = history.model_dump(exclude={"seconds"})
    for epoch in kept["epochs"]:
        del epoch["seconds"]
    return kept


def test_the_loss_falls_and_terms_are_named(data):
    history = fit(build(data), data, PLAN, seed=0)
    first, last = history.epochs[0].losses, history.epochs[-1].losses
    assert set(first) == {"rank", "align", "balance", "fusion_balance"}
    assert last["rank"] < 0.9 * first["rank"]
    assert history.best_epoch == 8
    assert history.best_metric is None
    assert [e.epoch for e in history.epochs] == list(range(1, 9))


def test_the_same_seed_gives_the_same_weights(data):
    states = []
    for seed in (0, 0, 1):
        model = build(data)
        fit(model, data, PLAN, seed=seed)
        states.append(model.state())
    same(states[0], states[1])
    assert not torch.equal(states[0]["users"], states[2]["users"])


def test_the_best_epoch_is_kept(data):
    marks = Marks([0.0, 0.1, 0.3, 0.2, 0.3, 0.1])
    model = build(data)
    history = fit(model, data, PLAN.model_copy(update={"epochs": 5}), seed=0, validate=marks)
    short = build(data)
    fit(short, data, PLAN.model_copy(update={"epochs": 2}), seed=0)
    assert (history.best_epoch, history.best_metric, history.stopped_early) == (2, 0.3, False)
    same(model.state(), short.state())
    assert not model.training


def test_a_start_that_no_epoch_beats_is_kept(data):
    model = build(data)
    before = model.state()
    before = {name: tensor.clone() for name, tensor in before.items() if not name.startswith("centres")}
    history = fit(model, data, PLAN, seed=0, validate=Marks([0.9] + [0.1] * 8))
    assert (history.best_epoch, history.best_metric, len(history.epochs)) == (0, 0.9, 8)
    same(before, {name: t for name, t in model.state().items() if not name.startswith("centres")})


def test_patience_counts_validations_in_a_row(data):
    plan = PLAN.model_copy(update={"patience": 2})
    marks = Marks([0.0, 0.1, 0.0, 0.2, 0.1, 0.15, 0.9, 0.9, 0.9])
    history = fit(build(data), data, plan, seed=0, validate=marks)
    assert (len(history.epochs), history.best_epoch, history.stopped_early) == (5, 3, True)


def test_validation_comes_every_so_often_and_at_the_end(data):
    marks = Marks([0.1] * 9)
    plan = PLAN.model_copy(update={"evaluate_every": 3})
    history = fit(build(data), data, plan, seed=0, validate=marks)
    assert [e.epoch for e in history.epochs if e.metrics] == [3, 6, 8]


@pytest.mark.parametrize("stop_at", [1, 2, 5, 8])
@pytest.mark.parametrize("sampling", ["triplets", "users"])
@pytest.mark.parametrize(
    "moves", [{}, {"row_updates": "dense"}, {"optimizer": "sgd", "learning_rate": 1.0}], ids=str
)
def test_a_resumed_run_equals_one_that_was_not_stopped(data, tmp_path, stop_at, sampling, moves):
    config = (
        CONFIG
        if sampling == "triplets"
        else MAMEXConfig(dim=16, start="random", loss="softmax", gate_dropout=0.3)
    )
    plan = PLAN.model_copy(
        update={
            "sampling": sampling,
            "schedule": "cosine",
            "warmup_steps": 5,
            "batch_size": 20,
            **moves,
        }
    )
    whole = build(data, config)
    expected = fit(whole, data, plan, seed=3, validate=norm)
    calls = 0

    def stopping(model):
        nonlocal calls
        calls += 1
        if calls == stop_at:
            raise KeyboardInterrupt
        return norm(model)

    path = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(build(data, config), data, plan, seed=3, validate=stopping, checkpoint=path, checkpoint_seconds=0)
    torch.rand(17)  # whatever happened in between to the global generator
    resumed = build(data, config)
    history = fit(resumed, data, plan, seed=3, validate=norm, checkpoint=path, checkpoint_seconds=0)
    same(whole.state(), resumed.state())
    assert without_times(history) == without_times(expected)


def test_a_finished_run_that_stopped_early_is_not_trained_further(data, tmp_path):
    plan = PLAN.model_copy(update={"patience": 1})
    path = tmp_path / "c"
    first = build(data)
    expected = fit(first, data, plan, seed=0, validate=Marks([0.0, 0.1, 0.5, 0.2]), checkpoint=path)
    untouched = Marks([])
    second = build(data)
    history = fit(second, data, plan, seed=0, validate=untouched, checkpoint=path)
    assert untouched.calls == 0
    assert without_times(history) == without_times(expected)
    assert history.stopped_early
    same(first.state(), second.state())


def test_checkpoints_keep_the_distance_asked_for_and_the_last_one_is_written(data, tmp_path):
    path = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        fit(build(data), data, PLAN, seed=0, validate=Marks([0.1] * 9, stop_at=5), checkpoint=path)
    assert not path.exists()  # ten seconds had not passed
    fit(build(data), data, PLAN, seed=0, validate=Marks([0.1] * 9), checkpoint=path)
    assert path.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"plan": PLAN.model_copy(update={"learning_rate": 0.02})},
        {"config": CONFIG.model_copy(update={"align": 0.2})},
        {"data": 1},
    ],
)
def test_a_checkpoint_of_another_run_is_refused(data, make_data, tmp_path, change):
    path = tmp_path / "c"
    fit(build(data), data, PLAN, seed=0, checkpoint=path)
    other = make_data(seed=1) if "data" in change else data
    model = build(other, change.get("config", CONFIG))
    with pytest.raises(InputError, match="other settings, data or seed"):
        fit(model, other, change.get("plan", PLAN), seed=change.get("seed", 0), checkpoint=path)


def test_divergence_is_an_error_that_names_the_epoch(data):
    plan = PLAN.model_copy(update={"learning_rate": 10.0, "epochs": 60})
    config = CONFIG.model_copy(update={"l2": 1e38, "l2_on": "parameters"})
    with pytest.raises(InputError, match=r"diverged in epoch \d+"):
        fit(build(data, config), data, plan, seed=0)


def test_a_metric_that_validation_does_not_give_is_an_error(data):
    plan = PLAN.model_copy(update={"metric": "recall@7"})
    with pytest.raises(ConfigError, match=r"recall@7[\s\S]*ndcg@10"):
        fit(build(data), data, plan, seed=0, validate=norm)


def test_no_such_device(data):
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        fit(build(data), data, PLAN, seed=0, device="tpu")


class _OneConfig(ModelConfig):
    name = "one"

    def build(self, inputs):
        return One(inputs)


class One(GradientModel):
    """A model of one layer whose gradient is always 1, to see what the optimiser does; it notes the rates."""

    def __init__(self, inputs, start=1.0):
        super().__init__(inputs)
        self.config = _OneConfig()
        self.users = nn.Parameter(torch.full((inputs.n_users,), start))
        self.weight = nn.Parameter(torch.full((3,), start))
        self.steps = []

    def user_vectors(self, users):
        return self.users[users, None]

    def item_vectors(self, items):
        return self.weight[None, :1].expand(len(items), 1)

    def losses(self, batch):
        self.steps.append(self.weight.detach().clone()[0].item())
        return {"sum": self.users.sum() + self.weight.sum()}


class Still(One):
    """Its loss does not depend on its values: only weight decay moves it."""

    def losses(self, batch):
        return {"none": 0.0 * (self.users.sum() + self.weight.sum())}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_weight_decay_leaves_users_alone(data, optimizer):
    model = Still(data.inputs)
    plan = PLAN.model_copy(
        update={"weight_decay": 0.5, "learning_rate": 0.1, "epochs": 1, "optimizer": optimizer}
    )
    fit(model, data, plan, seed=0)
    assert torch.equal(model.users, torch.ones(30))
    steps = math.ceil(len(data.pairs) / 64)
    # Decoupled decay: each step multiplies by 1 - rate * decay.
    np.testing.assert_allclose(model.weight.detach(), (1 - 0.1 * 0.5) ** steps, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "warmup", "factors"),
    [
        ("constant", 0, [1, 1, 1, 1, 1, 1]),
        ("constant", 4, [0.25, 0.5, 0.75, 1, 1, 1]),
        ("linear", 0, [1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("linear", 2, [0.5, 1, 1, 0.75, 0.5, 0.25]),
        ("decay", 0, [1, 1, 1, 0.5, 0.5, 0.5]),
        ("cosine", 0, [0.5 * (1 + math.cos(math.pi * n / 6)) for n in range(6)]),
    ],
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_schedules(data, schedule, warmup, factors, optimizer):
    plan = TrainingPlan(
        batch_size=58,
        epochs=2,
        learning_rate=0.1,
        schedule=schedule,
        decay=0.25,
        decay_epochs=2,
        warmup_steps=warmup,
        optimizer=optimizer,
    )
    model = One(data.inputs)
    fit(model, data, plan, seed=0)
    # Adam's step under a constant gradient is the rate itself, and SGD's under a gradient of 1.
    values = [*model.steps, model.weight.detach()[0].item()]
    np.testing.assert_allclose(-np.diff(values) / 0.1, factors, rtol=1e-4)


def test_clipping_bounds_the_gradient(data, monkeypatch):
    norms = []
    original = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        norms.append(float(torch.cat([g.ravel() for g in grads]).norm()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    fit(One(data.inputs), data, PLAN.model_copy(update={"clip_norm": 0.25, "epochs": 1}), seed=0)
    fit(One(data.inputs), data, PLAN.model_copy(update={"epochs": 1}), seed=0)
    assert norms[0] == pytest.approx(0.25, rel=1e-4)
    assert norms[-1] == pytest.approx(math.sqrt(33), rel=1e-4)


def test_a_step_of_sgd_is_the_rate_times_the_gradient(data):
    model = One(data.inputs)
    losses = model.losses
    model.losses = lambda batch: {name: 3.0 * value for name, value in losses(batch).items()}
    plan = PLAN.model_copy(
        update={"batch_size": 200, "epochs": 2, "optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.1}
    )
    fit(model, data, plan, seed=0)
    decayed, free = 1.0, 1.0
    for _ in range(2):
        # Decay shrinks what there was before the step.
        decayed, free = (1 - 0.5 * 0.1) * decayed - 0.5 * 3.0, free - 0.5 * 3.0
    np.testing.assert_allclose(model.weight.detach(), decayed, rtol=1e-6)
    np.testing.assert_allclose(model.users.detach(), free, rtol=1e-6)


def test_sgd_by_rows_and_on_whole_tables_is_the_same(data):
    states = []
    for row_updates in ("lazy", "dense"):
        model = build(data)
        how = {"optimizer": "sgd", "learning_rate": 1.0, "row_updates": row_updates, "clip_norm": 5.0}
        fit(model, data, PLAN.model_copy(update={**how, "epochs": 3}), seed=0)
        states.append(model.state())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-4, atol=1e-5)
    assert not torch.equal(states[0]["users"], build(data).state()["users"])


def users_moved(data, row_updates):
    """How far each user's vector is moved by the second of two steps, the first of which touches them all."""
    model = build(data)
    plan = PLAN.model_copy(
        update={"batch_size": 10, "epochs": 2, "row_updates": row_updates, "clip_norm": 0.5}
    )
    tables = []
    losses = model.losses

    def watched(batch):
        tables.append((model.users.detach().clone(), batch.users))
        return losses(batch)

    model.losses = watched
    fit(model, data, plan, seed=0)
    moved = [(after != before).any(dim=1) for (before, _), (after, _) in itertools.pairwise(tables)]
    touched = [torch.zeros(30, dtype=torch.bool).index_fill(0, users, True) for _, users in tables[:-1]]
    return torch.stack(moved), torch.stack(touched)


def test_lazy_updates_move_the_users_of_the_batch_alone(data):
    moved, touched = users_moved(data, "lazy")
    assert torch.equal(moved, touched)


def test_dense_updates_move_every_user_that_was_ever_touched(data):
    moved, touched = users_moved(data, "dense")
    assert torch.equal(moved[-1], torch.arange(30) > 0)
    assert not touched[-1][1:].all()


def test_clipping_counts_rows_that_repeat_once(data, monkeypatch):
    norms = []
    original = RowAdam.step

    def step(self, *args, **kwargs):
        gradient = self.param_groups[0]["params"][0].grad
        norms.append(float(gradient.to_dense().norm()))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(RowAdam, "step", step)
    model = build(data, CONFIG.model_copy(update={"align": 0.0, "balance": 0.0, "fusion_balance": 0.0}))
    for parameter in model.parameters():
        parameter.requires_grad_(parameter is model.users)
    plan = PLAN.model_copy(update={"epochs": 1, "clip_norm": 1e-3})
    fit(model, data, plan, seed=0)
    np.testing.assert_allclose(norms, 1e-3, rtol=2e-2)


def test_an_error_in_a_step_leaves_no_thread_behind(data):
    model = build(data)

    def broken(batch):
        raise RuntimeError("no loss")

    model.losses = broken
    before = threading.active_count()
    # Held on to, the error keeps the frames of the loop alive.
    with pytest.raises(RuntimeError, match="no loss") as held:
        fit(model, data, PLAN.model_copy(update={"batch_size": 5}), seed=0)
    assert threading.active_count() == before
    assert held.traceback


@pytest.mark.parametrize("able", [False, True])
def test_automatic_precision_asks_the_processor(data, monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    weights = []
    for precision in ("auto", "fp32"):
        model = build(data)
        fit(model, data, PLAN.model_copy(update={"precision": precision, "epochs": 1}), seed=0)
        weights.append(model.state()["experts.0.maps.weight"])
    assert torch.equal(*weights) is not able


@pytest.mark.parametrize("sampling", ["triplets", "users"])
def test_bfloat16_learns_too_and_keeps_weights_in_full(data, sampling):
    config = CONFIG if sampling == "triplets" else MAMEXConfig(dim=16, loss="softmax")
    model = build(data, config)
    history = fit(model, data, PLAN.model_copy(update={"precision": "bf16", "sampling": sampling}), seed=0)
    assert history.epochs[-1].losses["rank"] < history.epochs[0].losses["rank"]
    assert {t.dtype for t in model.state().values() if t.is_floating_point()} == {torch.float32}


def test_half_precision_stores_train_nearly_alike(make_data):
    losses = [
        fit(build(make_data(dtype)), make_data(dtype), PLAN, seed=0).epochs[-1].losses["rank"]
        for dtype in (np.float32, np.float16)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert losses[0] != losses[1]


def test_a_log_for_tensorboard(data, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    fit(build(data), data, PLAN.model_copy(update={"epochs": 2}), seed=0, validate=norm, log_dir=tmp_path)
    assert list(tmp_path.glob("events.*"))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="tensorboard"):
        fit(build(data), data, PLAN, seed=0, log_dir=tmp_path)
