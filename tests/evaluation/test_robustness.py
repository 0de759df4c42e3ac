import numpy as np
import pytest
import torch

from prismrec.base.errors import InputError
from prismrec.data.interactions import Pairs
from prismrec.evaluation.robustness import (
    Experiment,
    Subject,
    Variant,
    compare_pairs,
    measure_chart,
    measure_degrees,
    require_protocols,
    run_experiments,
)
from prismrec.evaluation.robustness_protocols import experiments
from prismrec.evaluation.robustness_result import Protocol
from prismrec.evaluation.significance import compare_all
from prismrec.models.alignrec import AlignRecConfig
from prismrec.models.bpr_mf import BPRMFConfig
from prismrec.models.layers.content import item_batch
from prismrec.models.mtpr import MTPRConfig
from prismrec.models.plan import TrainingPlan
from prismrec.testing import fitted, planted

PLAN = TrainingPlan(epochs=15, batch_size=512, learning_rate=0.02, row_updates="dense")


def test_a_chart_worked_out_by_hand():
    clean = np.linspace(0.2, 0.8, 40)
    calls = []

    def damage(level, seed):
        calls.append((level, seed))
        return clean - level * (1 if seed == 7000 else 3)

    experiment = Experiment(
        Protocol.NOISE,
        "Noise",
        "%",
        "about",
        (0.01, 0.05),
        (Variant("noise", damage), Variant("none", lambda level, seed: clean, control=True)),
    )
    counted = []
    chart = measure_chart(experiment, clean, 2, 7, lambda: counted.append(1))
    assert calls == [(0.01, 7000), (0.01, 7001), (0.05, 7000), (0.05, 7001)]
    assert len(counted) == experiment.measurements(2) == 8
    noise, control = chart.curves
    assert [p.level for p in noise.points] == [0.0, 0.01, 0.05]
    assert [p.label for p in noise.points] == ["0 %", "1 %", "5 %"]
    assert noise.points[0].value.mean == pytest.approx(0.5)
    assert noise.points[2].value.mean == pytest.approx(0.5 - 0.1)
    assert noise.points[2].kept == pytest.approx(0.8)
    # Over two repeats, -0.05 and -0.15: Student's t with one degree of freedom.
    assert noise.points[2].repeats.mean == pytest.approx(0.4)
    assert noise.points[2].repeats.high - 0.4 == pytest.approx(12.706 * 0.05, rel=1e-3)
    assert not noise.points[1].against_clean.tie
    assert noise.points[1].against_clean.difference.mean == pytest.approx(0.02)
    assert not noise.points[2].against_control.tie
    assert control.points[2].against_clean.tie
    assert control.points[2].against_control is None
    assert control.control


def test_a_chart_may_start_elsewhere():
    experiment = Experiment(
        Protocol.DATA_SHARE,
        "",
        "",
        "",
        (0.5,),
        (Variant("less", lambda level, seed: np.full(5, 0.1)),),
        clean=lambda seed: np.full(5, 0.4 + 0.1 * seed),
    )
    chart = measure_chart(experiment, np.ones(5), 2, 0)
    assert chart.curves[0].points[0].value.mean == pytest.approx(0.45)
    assert chart.curves[0].points[1].kept == pytest.approx(0.1 / 0.45)


def test_pairs_are_adjusted_together():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=60)
    others = {str(n): clean + 0.05 * n * rng.normal(1, 1, size=60) for n in range(4)}
    expected = compare_all(clean, others)
    found = compare_pairs([(clean, values) for values in others.values()])
    assert found == list(expected.values())


def test_names():
    assert require_protocols([], False) == [
        Protocol.NOISE,
        Protocol.SWAP,
        Protocol.MISSING,
        Protocol.ADVERSARIAL,
        Protocol.DEGREE,
        Protocol.FLATNESS,
    ]
    assert require_protocols([], True) == list(Protocol)
    assert require_protocols(["swap", "noise", "swap"], False) == [Protocol.SWAP, Protocol.NOISE]
    with pytest.raises(InputError, match="no protocol 'nois'"):
        require_protocols(["nois"], False)
    with pytest.raises(InputError, match="--retrain"):
        require_protocols(["false-edges"], False)


def subject_of(config, pairs_of="test"):
    """A subject whose metric is how often a held-out item stands above the others, user by user."""
    source = planted()
    pairs: Pairs = getattr(source, pairs_of)
    codes, users = np.unique(pairs.items), np.unique(pairs.users)
    model = fitted(config, PLAN, source)

    @torch.no_grad()
    def measure(changed, features):
        scores = changed.user_vectors(torch.from_numpy(users.astype(np.int64)))
        scores = (scores @ changed.item_vectors(item_batch(features, codes)).T).numpy()
        values = []
        for row, user in zip(scores, users, strict=True):
            liked = np.isin(codes, pairs.items[pairs.users == user])
            values.append((row[liked][:, None] > row[~liked]).mean())
        return np.array(values)

    degrees = np.bincount(source.data.pairs.users, minlength=60)[users]
    return Subject(model, source.data, codes, degrees, measure)


@pytest.mark.parametrize("config", [MTPRConfig(dim=8), AlignRecConfig(dim=8)], ids=lambda c: c.name)
def test_damage_harms_and_leaves_the_model_alone(config):
    subject = subject_of(config)
    kept = {name: tensor.clone() for name, tensor in subject.model.state().items()}
    clean = subject.measure(subject.model, subject.data.features)
    np.testing.assert_array_equal(subject.under(subject.data.features), clean)
    wanted = [Protocol.NOISE, Protocol.SWAP, Protocol.MISSING, Protocol.ADVERSARIAL]
    charts = run_experiments(experiments(subject, wanted), clean, 2, 0)
    for name, tensor in subject.model.state().items():
        assert torch.equal(tensor, kept[name])
    by_title = {chart.title: chart for chart in charts}
    assert list(by_title) == [
        "Noise, image",
        "Noise, text",
        "Noise, all modalities",
        "Swapped content",
        "Missing image",
        "Missing text",
        "Adversarial content",
    ]
    noise, control = by_title["Noise, all modalities"].curves
    means = [point.value.mean for point in noise.points]
    assert means[0] > 0.7
    assert means[-1] < means[0] - 0.02
    assert means[-1] < control.points[-1].value.mean
    swapped, _ = by_title["Swapped content"].curves
    assert swapped.points[-1].value.mean < means[0] - 0.08
    masked, *fillings = by_title["Missing text"].curves
    assert [curve.name for curve in fillings] == ["mean", "zero", "neighbours"]
    assert masked.points[-1].value.mean < means[0]
    assert masked.points[-1].against_control is not None
    attacked = by_title["Adversarial content"]
    if config.name == "alignrec":
        assert "not applicable" in attacked.skipped
        assert attacked.curves == []
    else:
        hurt, chance = attacked.curves
        assert hurt.points[-1].value.mean < chance.points[-1].value.mean - 0.04


def test_users_by_degree():
    subject = subject_of(MTPRConfig(dim=8))
    clean = subject.measure(subject.model, subject.data.features)
    chart = measure_degrees(subject, clean, 2, 0)
    sound, noisy = chart.curves
    assert sum(point.users for point in sound.points) == len(clean)
    for point in sound.points:
        low = int(point.label.split("-")[0].rstrip("+"))
        inside = subject.degrees >= low
        if "-" in point.label:
            inside &= subject.degrees <= int(point.label.split("-")[1])
        assert point.value.mean == pytest.approx(clean[inside].mean())
    assert all(point.against_clean is not None for point in noisy.points)


def test_a_model_without_content_says_so():
    subject = subject_of(BPRMFConfig(dim=8), "valid")
    found = experiments(subject, [Protocol.NOISE, Protocol.MISSING, Protocol.ADVERSARIAL])
    assert [e.protocol for e in found] == [Protocol.NOISE, Protocol.MISSING, Protocol.ADVERSARIAL]
    charts = run_experiments(found, np.ones(3), 2, 0)
    assert all("reads no content" in chart.skipped for chart in charts)
    clean = subject.measure(subject.model, subject.data.features)
    assert len(measure_degrees(subject, clean, 2, 0).curves) == 1
