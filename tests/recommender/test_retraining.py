from dataclasses import replace

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.data.splits import TRAIN, VALID
from prismrec.features.store import ItemFeatures
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.retraining import reopen, with_false_edges, with_less
from prismrec.recommender.robustness import robustness, robustness_run
from prismrec.recommender.train import train


def pairs_of(split, part=None):
    mask = np.ones(len(split.parts), dtype=bool) if part is None else split.parts == part
    return set(zip(split.pairs.users[mask].tolist(), split.pairs.items[mask].tolist(), strict=True))


def test_false_edges_are_in_no_part_of_the_log(split):
    false = with_false_edges(split, 0.1, 3)
    added = pairs_of(false) - pairs_of(split)
    assert len(added) == round(0.1 * len(split.train)) == len(false.pairs) - len(split.pairs)
    assert added == pairs_of(false, TRAIN) - pairs_of(split, TRAIN)
    assert pairs_of(false, VALID) == pairs_of(split, VALID)
    np.testing.assert_array_equal(false.warm_items, split.warm_items)
    assert {u for u, _ in added} <= set(split.train.users.tolist())
    assert added <= pairs_of(with_false_edges(split, 0.2, 3)) - pairs_of(split)
    assert false.hash != split.hash
    assert false.ledger is None
    order = np.lexsort((false.pairs.items, false.pairs.users))
    np.testing.assert_array_equal(order, np.arange(len(order)))


def test_what_is_changed_keeps_its_order_and_false_edges_get_one(split):
    def times(split, part=None):
        mask = np.ones(len(split.parts), dtype=bool) if part is None else split.parts == part
        keys = zip(split.pairs.users[mask].tolist(), split.pairs.items[mask].tolist(), strict=True)
        return dict(zip(keys, split.order[mask].tolist(), strict=True))

    true, false, more = (
        times(split),
        times(with_false_edges(split, 0.1, 3)),
        times(with_false_edges(split, 0.2, 3)),
    )
    trained = {}
    for (user, _), at in times(split, TRAIN).items():
        trained.setdefault(user, set()).add(at)
    assert all(false[pair] == at for pair, at in true.items())
    assert all(at in trained[user] for (user, _), at in false.items() if (user, _) not in true)
    assert false.items() <= more.items()
    less = times(with_less(split, 0.2, 1))
    assert less.items() <= true.items()


def test_without_an_order_false_edges_have_none(split):
    bare = replace(split, order=None)
    false, same = with_false_edges(bare, 0.1, 3), with_false_edges(split, 0.1, 3)
    assert false.order is None
    assert pairs_of(false) == pairs_of(same)
    assert false.hash == same.hash


def test_more_false_edges_than_there_are(split):
    with pytest.raises(InputError, match="not in the log"):
        with_false_edges(split, 100.0, 0)


def test_less_takes_from_training_alone(split):
    less, least = with_less(split, 0.2, 1), with_less(split, 0.6, 1)
    assert len(less.train) == len(split.train) - round(0.2 * len(split.train))
    assert pairs_of(least, TRAIN) < pairs_of(less, TRAIN) < pairs_of(split, TRAIN)
    assert pairs_of(least, VALID) == pairs_of(split, VALID)


def test_trained_again_as_the_manifest_says(recommender, split):
    again = reopen(recommender, recommender.training_features())
    assert again.split.hash == split.hash
    same, other = again.trained(0), again.trained(1)
    np.testing.assert_allclose(same.items.vectors, recommender.items.vectors[: len(same.items)], atol=1e-6)
    assert same.manifest.training == recommender.manifest.training
    assert other.manifest.seed == recommender.manifest.seed + 1
    assert not np.allclose(other.items.vectors, same.items.vectors)


def test_a_changed_data_set_is_said(recommender):
    recommender.manifest.split["seed"] = 12
    with pytest.raises(InputError, match="changed"):
        reopen(recommender, None)


def test_curves_of_trainings(planted):
    features = ItemFeatures(planted.features, planted.split.items.ids)
    made = train(ContentProfileConfig(), planted.split, features=planted.features)
    result = robustness(
        made,
        protocols=["train-noise", "false-edges", "data-share", "splits"],
        repeats=2,
        retrain=True,
        features=features,
        metric="recall@5",
    )
    noise, false, less, splits = result.charts
    # A content profile has no seed: the start of every curve is the run itself.
    for chart in (noise, false, less):
        assert chart.curves[0].points[0].value == result.clean
    assert noise.curves[0].points[-1].value.mean < result.clean.mean
    assert [p.label for p in less.curves[0].points] == ["0 %", "20 %", "40 %", "60 %", "80 %"]
    assert less.curves[0].points[-1].value.mean < result.clean.mean
    assert [curve.control for curve in false.curves] == [False, True]
    # The log has neither dates nor an order.
    assert [p.label for p in splits.curves[0].points] == ["random per user (warm)"]
    assert "timestamp" in splits.about
    assert splits.curves[0].points[0].repeats is not None


def test_from_the_folder(home):
    result = robustness_run(home, protocols=["data-share"], repeats=1, retrain=True, metric="ndcg@5")
    assert len(result.charts[0].curves[0].points) == 5
    assert Recommender.load(home)
