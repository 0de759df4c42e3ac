"""Strategies on real models, through the training loop."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from prismrec.base.errors import InputError
from prismrec.models import strategies as settings
from prismrec.models.base import GradientModel, ModelConfig
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.dropoutnet import DropoutNetConfig
from prismrec.models.freedom import FREEDOMConfig
from prismrec.models.gar import GARConfig
from prismrec.models.lightgcn import LightGCNConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.models.slmrec import SLMRecConfig
from prismrec.models.vbpr import VBPRConfig
from prismrec.testing import Planted, planted
from prismrec.training.batches import Batches
from prismrec.training.loop import fit
from prismrec.training.strategies.ascent import climb, each_row, in_scope, named_by_batch
from prismrec.training.strategies.bsam import along_rows
from prismrec.training.strategies.gradients import Gradient, dot, length, mixed, read
from prismrec.training.strategies.make import make_strategy
from prismrec.training.strategies.passes import Content, Passes, halves

MAMEX = MAMEXConfig(dim=8, start="random", loss="bpr", gate_dropout=0.3)
EVERY: list[settings.Strategy] = [
    settings.SAM(),
    settings.ASAM(),
    settings.GSAM(radius="relative"),
    settings.WSAM(radius="global"),
    settings.FriendlySAM(),
    settings.LookSAM(every=2),
    settings.BSAM(),
    settings.BSAM(reading="R1-sum", scope="ids_only"),
    settings.BSAM(reading="R2"),
    settings.BSAM(reading="R3"),
    settings.BSAM(direction="random"),
    settings.BSAMPlus(scope="no_features"),
    settings.BSAMPlus(reading="R2"),
    settings.BSAMPlus(reading="R3"),
    settings.MirrorGradient(every=2),
    settings.MirrorGradient(every=2, as_released=True),
    settings.AdversarialFeatures(),
]


def name_of(strategy: settings.Strategy) -> str:
    return "-".join(
        str(value) for key, value in strategy.model_dump().items() if key in ("name", "reading", "direction")
    )


@pytest.fixture(scope="module")
def source() -> Planted:
    return planted(n_users=40, n_items=60)


def plan(strategy: settings.Strategy, **changes: object) -> TrainingPlan:
    values = {
        "batch_size": 64,
        "epochs": 4,
        "learning_rate": 0.01,
        "row_updates": "dense",
        "strategy": strategy,
    }
    return TrainingPlan.model_validate({**values, **changes})


def built(config: ModelConfig, source: Planted) -> GradientModel:
    torch.manual_seed(5)
    model = config.build(source.data.inputs)
    assert isinstance(model, GradientModel)
    return model


def trained(
    config: ModelConfig, source: Planted, plan: TrainingPlan, **more: object
) -> dict[str, torch.Tensor]:
    model = built(config, source)
    fit(model, source.data, plan, seed=3, **more)
    return model.state()


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(tensor, two[name]) for name, tensor in one.items())


@pytest.mark.parametrize("strategy", EVERY, ids=name_of)
@pytest.mark.parametrize("config", [MAMEX, FREEDOMConfig(dim=8)], ids=["mamex", "freedom"])
def test_resumed_is_as_in_one_go(
    source: Planted, tmp_path, config: ModelConfig, strategy: settings.Strategy
) -> None:
    if isinstance(strategy, settings.AdversarialFeatures) and isinstance(config, FREEDOMConfig):
        # Its tables of content are parameters.
        with pytest.raises(InputError, match="reads no content"):
            trained(config, source, plan(strategy))
        return
    whole = trained(config, source, plan(strategy))
    assert all(tensor.isfinite().all() for tensor in whole.values() if tensor.is_floating_point())
    assert not same(whole, trained(config, source, plan("plain")))
    file = tmp_path / "checkpoint"
    calls = iter(range(100))

    def stops(model: GradientModel) -> dict[str, float]:
        if next(calls) == 3:
            raise KeyboardInterrupt
        return {"ndcg@10": 0.0}

    patient = plan(strategy, patience=0)
    with pytest.raises(KeyboardInterrupt):
        trained(config, source, patient, checkpoint=file, checkpoint_seconds=0, validate=stops)
    model = built(config, source)
    calls = iter(range(10, 100))
    last: dict[str, torch.Tensor] = {}

    def keeps(model: GradientModel) -> dict[str, float]:
        last.update({name: tensor.clone() for name, tensor in model.state().items()})
        return {"ndcg@10": 0.0}

    fit(model, source.data, patient, seed=3, checkpoint=file, validate=keeps)
    assert same(last, whole)


@pytest.mark.parametrize(
    "config",
    [
        BPRMFConfig(dim=8),
        VBPRConfig(dim=8),
        LightGCNConfig(dim=8),
        SLMRecConfig(dim=8),
        GARConfig(dim=8),
        DropoutNetConfig(dim=8),
    ],
    ids=lambda c: c.name,
)
def test_other_models_take_the_steps(source: Planted, config: ModelConfig) -> None:
    for strategy in (settings.BSAMPlus(), settings.BSAM(reading="R2"), settings.MirrorGradient()):
        if config.name == "gar" and strategy == settings.BSAM(reading="R2"):
            # Its adversaries have no embeddings of their own.
            with pytest.raises(InputError, match="has no embeddings"):
                trained(config, source, plan(strategy, epochs=1))
            continue
        # Plain gradient steps of the mirror are too long for squared errors at the usual rate.
        state = trained(config, source, plan(strategy, epochs=1, learning_rate=1e-3))
        assert all(tensor.isfinite().all() for tensor in state.values() if tensor.is_floating_point())


# Friendly SAM's mean also moves rows that have no gradient; those are not among touched rows.
_OTHERWISE = settings.LookSAM | settings.AdversarialFeatures | settings.FriendlySAM
TOUCHED_ROWS = [s for s in EVERY if not isinstance(s, _OTHERWISE)]


@pytest.mark.parametrize("strategy", TOUCHED_ROWS, ids=name_of)
def test_touched_rows_are_as_whole_tables(source: Planted, strategy: settings.Strategy) -> None:
    """Under SGD a row without a gradient stays, so sparse gradients must lead to the same weights."""
    ends = [
        trained(
            BPRMFConfig(dim=6, l2=0.01),
            source,
            plan(strategy, epochs=2, optimizer="sgd", learning_rate=5.0, row_updates=rows),
        )
        for rows in ("dense", "lazy")
    ]
    if isinstance(strategy, settings.BSAM) and strategy.direction == "random":
        # Noise is drawn for what has a gradient.
        assert not same(*ends)
        return
    for name, tensor in ends[0].items():
        assert_close(ends[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_looksam_refuses_touched_rows(source: Planted) -> None:
    with pytest.raises(InputError, match="row_updates='dense'"):
        trained(BPRMFConfig(dim=6), source, plan(settings.LookSAM(), row_updates="lazy"))


def test_adversarial_features_need_content_in_the_loss(source: Planted) -> None:
    with pytest.raises(InputError, match="reads no content"):
        trained(LightGCNConfig(dim=6), source, plan(settings.AdversarialFeatures()))


def first_batch(model: GradientModel, source: Planted) -> Passes:
    model.prepare(source.data, None)
    model.train()
    model.start_epoch(1)
    batch = next(iter(Batches(source.data, plan("plain"), 0, model.wants_catalog, model.targets).epoch(1)))
    model.start_batch(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return Passes(model, batch, None, optimizers=[optimizer], rate=0.1)


@pytest.mark.parametrize(
    "config", [MAMEX, VBPRConfig(dim=8), SLMRecConfig(dim=8), FREEDOMConfig(dim=8)], ids=lambda c: c.name
)
def test_content_is_moved_up_the_loss_and_put_back(source: Planted, config: ModelConfig) -> None:
    passes = first_batch(built(config, source), source)
    content = Content(passes.model, passes.batch)
    before = [leaf.clone() for leaf in content.leaves]
    here = passes.take(content=content)
    if all(gradient is None for gradient in here.content):
        assert isinstance(config, FREEDOMConfig)
        return
    with torch.no_grad():
        for leaf, gradient in zip(content.leaves, here.content, strict=True):
            if gradient is not None:
                step = along_rows(gradient, leaf, 1e-2)
                moved = step.norm(dim=1)
                expected = torch.where(gradient.any(dim=1), 1e-2 * leaf.norm(dim=1), 0.0)
                assert_close(moved, expected, rtol=1e-3, atol=1e-6)
                leaf.add_(step)
    there = passes.take(content=content)
    assert there.loss > here.loss
    vectors = [v.clone() for v in passes.batch.items.vectors]
    tables = [t.clone() for t in content.tables]
    for leaf, old in zip(content.leaves, before, strict=True):
        leaf.copy_(old)
    make_strategy(settings.BSAM(reading="R2", rho=0.5)).step(passes)
    assert all(torch.equal(a, b) for a, b in zip(vectors, passes.batch.items.vectors, strict=True))
    assert not any(
        torch.equal(a, b) for a, b in zip(tables, content.tables, strict=True) if here.content[-1] is not None
    )
    assert not any(table.requires_grad for table in content.tables)


def test_a_step_is_the_gradient_of_the_mixed_loss(source: Planted) -> None:
    """BSAM+ on MAMEX in double precision against gradients taken by torch.autograd alone."""
    model = built(MAMEXConfig(dim=8, start="random", loss="bpr", gate_dropout=0.0), source)
    passes = first_batch(model, source)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}

    def gradients() -> dict[str, torch.Tensor]:
        total = torch.stack(list(model.losses(passes.batch).values())).sum()
        total.backward()
        found = {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters()
        }
        model.zero_grad()
        return found

    plain = gradients()
    size = torch.cat([g.flatten() for g in plain.values()]).norm()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(2.0 * plain[name] / size)
    top = gradients()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(before[name])
    make_strategy(settings.BSAMPlus(rho=2.0, radius="global", mix=0.3)).step(passes)
    for name, p in model.named_parameters():
        assert_close(p, before[name] - 0.1 * (0.3 * plain[name] + 0.7 * top[name]), rtol=1e-4, atol=1e-6)


def test_running_statistics_come_from_the_first_pass(source: Planted) -> None:
    def statistics(strategy: settings.Strategy) -> list[torch.Tensor]:
        model = built(DropoutNetConfig(dim=8), source)
        model.prepare(source.data, None)
        model.train()
        batch = next(
            iter(Batches(source.data, plan("plain"), 0, model.wants_catalog, model.targets).epoch(1))
        )
        torch.manual_seed(0)
        turn = model.turns[0] if model.turns else None
        make_strategy(strategy).step(
            Passes(model, batch, turn, optimizers=[torch.optim.SGD(model.parameters(), lr=0.0)])
        )
        layers = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)]
        assert layers
        return [b.clone() for layer in layers for b in layer.buffers()]

    plain, two = statistics(settings.Plain()), statistics(settings.SAM(rho=5.0))
    assert all(torch.equal(a, b) for a, b in zip(plain, two, strict=True))


def gradient_of(rows: list[list[float]], at: list[list[float]] | None = None) -> Gradient:
    values = torch.tensor(rows)
    return Gradient(torch.nn.Parameter(torch.ones_like(values) if at is None else torch.tensor(at)), values)


def climbed(gradients: list[Gradient], rho: float, radius: settings.Radius) -> list[Gradient]:
    factor = climb(gradients, rho, radius)
    return [gradient.times(factor) for gradient in gradients]


def test_radii_by_hand() -> None:
    g = [gradient_of([[3.0, 4.0], [0.0, 0.0], [0.0, 5.0]], [[2.0, 0.0], [1.0, 1.0], [0.0, 4.0]])]
    assert float(length(climbed(g, 0.1, "global"))) == pytest.approx(0.1)
    # Two rows of equal gradients: sqrt(2) times as far, the third one has none and does not count.
    assert float(length(climbed(g, 0.1, "rows"))) == pytest.approx(0.1 * 2**0.5)
    up = climbed(g, 0.1, "relative")
    assert float(dot(up, g)) == pytest.approx(0.1 * (5 * 2 + 5 * 4), rel=1e-5)
    # To first order both raise the loss as moving each row on its own does.
    alone = [each_row(one, 0.1) for one in g]
    assert float(dot(climbed(g, 0.1, "rows"), g)) == pytest.approx(float(dot(alone, g)), rel=1e-5)
    assert alone[0].values.norm(dim=1).tolist() == pytest.approx([0.1, 0.0, 0.1])


def test_nothing_is_moved_where_there_is_no_gradient() -> None:
    g = [gradient_of([[0.0, 0.0]])]
    for radius in ("global", "rows", "relative"):
        assert not climbed(g, 1.0, radius)[0].values.any()
    assert not each_row(g[0], 1.0).values.any()


def test_rows_that_differ_are_united() -> None:
    parameter = torch.nn.Parameter(torch.zeros(4, 2))
    one = Gradient(parameter, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0, 2]))
    two = Gradient(parameter, torch.tensor([[10.0, 20.0], [30.0, 40.0]]), torch.tensor([2, 3]))
    (sum_,) = mixed([one], 1.0, [two], 0.5)
    assert sum_.rows.tolist() == [0, 2, 3]
    assert sum_.values.tolist() == [[1, 2], [8, 14], [15, 20]]
    whole = Gradient(parameter, torch.ones(4, 2))
    assert mixed([whole], 1.0, [two], 1.0)[0].values.tolist() == [[1, 1], [1, 1], [11, 21], [31, 41]]
    assert float(dot([one], [two])) == 3 * 10 + 4 * 20
    assert float(dot([whole], [two])) == 100
    assert float(dot([one], [one])) == 30


def test_scopes(source: Planted) -> None:
    passes = first_batch(built(FREEDOMConfig(dim=8), source), source)
    gradients = passes.take().gradients
    names = {id(p): name for name, p in passes.model.named_parameters()}

    def kept(scope: settings.Scope) -> set[str]:
        return {names[id(g.parameter)] for g in in_scope(passes, gradients, scope)}

    everything = kept("all")
    tables = {name for name in everything if "table_" in name}
    assert tables
    assert kept("no_features") == everything - tables
    assert kept("ids_only") == set(passes.model.undecayed)


def test_rows_that_a_batch_names(source: Planted) -> None:
    passes = first_batch(built(LightGCNConfig(dim=8), source), source)
    inputs, gradients = passes.model.inputs, passes.take().gradients
    users = set(passes.batch.users.tolist())
    items = set(passes.batch.items.codes.tolist())
    for gradient in gradients:
        named = named_by_batch(passes, gradient)
        expected = users if len(gradient.parameter) == inputs.n_users else items
        assert set(named.rows.tolist()) == expected
        assert_close(named.values, gradient.values[named.rows])


def test_halves_hold_everything_once(source: Planted) -> None:
    for sampling in ("triplets", "users"):
        batches = Batches(source.data, plan("plain", sampling=sampling, batch_size=7), 0, False)
        batch = next(iter(batches.epoch(1)))
        first, second = halves(batch)
        assert torch.equal(torch.cat([first.users, second.users]), batch.users)
        if sampling == "triplets":
            assert torch.equal(torch.cat([first.positives, second.positives]), batch.positives)
            assert torch.equal(torch.cat([first.negatives, second.negatives]), batch.negatives)
        else:
            whole = set(zip(batch.users[batch.rows].tolist(), batch.columns.tolist(), strict=True))
            parts = [
                set(zip(half.users[half.rows].tolist(), half.columns.tolist(), strict=True))
                for half in (first, second)
            ]
            assert parts[0] | parts[1] == whole
            assert not parts[0] & parts[1]
    one = Batches(source.data, plan("plain", batch_size=1), 0, False)
    with pytest.raises(InputError, match="A batch of one"):
        halves(next(iter(one.epoch(1))))


def test_reading_takes_gradients_away() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.ones(2, 2)
    (found,) = read([parameter, torch.nn.Parameter(torch.zeros(1))])
    assert parameter.grad is None
    parameter.sum().backward()
    parameter.grad.zero_()
    assert np.array_equal(found.values.numpy(), np.ones((2, 2)))
