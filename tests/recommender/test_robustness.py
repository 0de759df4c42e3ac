import json

import numpy as np
import pytest
import torch

from prismrec.base.errors import ConfigError, InputError
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.evaluation.robustness_result import Protocol, RobustnessResult
from prismrec.features.store import ItemFeatures
from prismrec.models.popularity import PopularityConfig
from prismrec.recommender.evaluate import evaluate
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.robustness import robustness, robustness_run
from prismrec.recommender.train import train


def openings(split):
    book = split.ledger / f"{split.hash}.json"
    return len(json.loads(book.read_text())["openings"]) if book.exists() else 0


def test_a_run_is_measured_and_left_alone(home, split):
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    opened = openings(split)
    result = robustness_run(home, protocols=["swap", "degree", "flatness"], repeats=2, metric="ndcg@5")
    for path, content in before.items():
        assert path.read_bytes() == content
    assert openings(split) == opened
    new = {path.name for path in home.iterdir()} - {path.name for path in before}
    assert {"robustness.json", "robustness.md", "robustness.html"} <= new
    assert RobustnessResult.model_validate(json.loads((home / "robustness.json").read_text())) == result
    expected = evaluate(Recommender.load(home), part="valid", candidates=["strict"], ks=[5]).parts[0]
    assert result.clean == expected.metrics["ndcg@5"]
    assert result.users == expected.users_counted
    assert result.charts[0].curves[0].points[0].value == result.clean
    assert [chart.protocol for chart in result.charts] == ["swap", "degree"]
    assert result.flatness is not None
    assert len(result.flatness.surface) == 11
    assert result.test_openings_before is None


def test_the_model_is_bit_identical_and_draws_are_the_same(recommender):
    state = {name: tensor.clone() for name, tensor in recommender.model.state().items()}
    users, items = recommender.users.copy(), recommender.items.vectors.copy()
    settings = {"protocols": ["noise", "missing", "adversarial"], "repeats": 1, "metric": "ndcg@5"}
    first, second = (robustness(recommender, **settings) for _ in range(2))
    assert first == second
    assert robustness(recommender, **settings, seed=1).charts != first.charts
    for name, tensor in recommender.model.state().items():
        assert torch.equal(tensor, state[name])
    np.testing.assert_array_equal(recommender.users, users)
    np.testing.assert_array_equal(recommender.items.vectors, items)
    assert not recommender.model.training


def test_the_test_part_is_opened_as_by_evaluate(shop, config, plan, tmp_path):
    own = make_split(shop, ItemColdStart(valid=0.15, test=0.15, seed=41))
    train(config, own, plan=plan, out=tmp_path / "run")
    with pytest.raises(InputError, match="K = 5000"):
        robustness_run(tmp_path / "run", protocols=["swap"], part="test", metric="ndcg@5000")
    assert openings(own) == 0
    result = robustness_run(
        tmp_path / "run", protocols=["degree"], part="test", repeats=1, metric="ndcg@5", out=tmp_path / "o"
    )
    assert openings(own) == 1
    assert result.test_openings_before == 0
    assert len(Recommender.load(tmp_path / "run").manifest.test_openings) == 1
    assert "had not been opened" in (tmp_path / "o" / "robustness.md").read_text()


def test_what_is_wrong_is_said_before_anything_is_done(recommender):
    for words, match in (
        ({"protocols": ["swapp"]}, "no protocol"),
        ({"protocols": ["data-share"]}, "--retrain"),
        ({"repeats": 0}, "repeats"),
        ({"metric": "ndgc@5"}, "no metric"),
        ({"part": "tset"}, "no part"),
    ):
        with pytest.raises(InputError, match=match):
            robustness(recommender, **words)
    with pytest.raises(ConfigError, match="no device"):
        robustness(recommender, device="tpu")
    recommender.manifest.dataset_path = None
    with pytest.raises(InputError, match="not there any more"):
        robustness(recommender, protocols=["swap"])


def test_a_model_without_content(planted):
    made = train(PopularityConfig(), planted.split, features=[])
    result = robustness(made, repeats=1, metric="ndcg@5", candidates="all_items")
    skipped = {chart.protocol for chart in result.charts if chart.skipped}
    assert skipped == {
        Protocol.NOISE,
        Protocol.SWAP,
        Protocol.MISSING,
        Protocol.ADVERSARIAL,
        Protocol.FLATNESS,
    }
    assert result.flatness is None
    assert result.notes


def test_features_may_be_handed_in(planted, config, plan):
    made = train(config, planted.split, plan=plan, features=planted.features)
    with pytest.raises(InputError, match="features"):
        robustness(made, protocols=["swap"])
    features = ItemFeatures(planted.features, planted.split.items.ids)
    result = robustness(made, protocols=["swap", "missing"], repeats=1, features=features, metric="ndcg@5")
    assert [chart.title for chart in result.charts] == ["Swapped content", "Missing own"]
