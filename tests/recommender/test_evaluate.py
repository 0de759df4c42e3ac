import json

import numpy as np
import pytest
import torch

from prismrec.base.errors import ConfigError, InputError, SealedError
from prismrec.data.splits import Candidates, ItemColdStart, Part, RandomHoldout, TrainOnAll, make_split
from prismrec.models.popularity import PopularityConfig
from prismrec.recommender.evaluate import evaluate
from prismrec.recommender.part_ranking import Ranking, default_candidates
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train


def by_hand(recommender, split, pairs, candidates, masked, k=10):
    """NDCG@k with sorted lists and dictionaries."""
    users = recommender.all_user_vectors()
    liked, seen = {}, {}
    for store, source in ((liked, pairs), (seen, split.train)):
        for user, item in zip(source.users.tolist(), source.items.tolist(), strict=True):
            store.setdefault(user, set()).add(item)
    values = []
    for user in sorted(liked):
        wanted = liked[user] & set(candidates)
        if not wanted:
            continue
        rest = [i for i in candidates if not (masked and i in seen.get(user, set()))]
        scores = {i: float(recommender.items.vectors[i] @ users[user]) for i in rest}
        ranked = sorted(rest, key=lambda i: (-scores[i], split.items.ids[i]))[:k]
        gain = sum(1 / np.log2(rank + 2) for rank, i in enumerate(ranked) if i in wanted)
        values.append(gain / sum(1 / np.log2(rank + 2) for rank in range(min(k, len(wanted)))))
    return values


@pytest.mark.parametrize("mode", ["strict", "as_released", "all_items"])
def test_metrics_are_those_of_sorted_lists(recommender, split, mode):
    (part,) = evaluate(recommender, part="valid", candidates=[mode]).parts
    candidates = split.candidates(Candidates(mode), Part.VALID).tolist()
    expected = by_hand(recommender, split, split.valid, candidates, masked=mode == "all_items")
    assert part.users_counted == len(expected)
    assert part.metrics["ndcg@10"].mean == pytest.approx(np.mean(expected), abs=1e-6)
    assert part.n_candidates == len(candidates)


def test_training_items_are_masked_where_they_are_candidates(shop):
    split = make_split(shop, RandomHoldout(seed=2))
    recommender = train(PopularityConfig(), split)
    (part,) = evaluate(recommender, part="valid", candidates=["warm"]).parts
    candidates = split.candidates(Candidates.WARM, Part.VALID).tolist()
    masked = np.mean(by_hand(recommender, split, split.valid, candidates, masked=True))
    unmasked = np.mean(by_hand(recommender, split, split.valid, candidates, masked=False))
    assert part.metrics["ndcg@10"].mean == pytest.approx(masked, abs=1e-6)
    assert masked != pytest.approx(unmasked, abs=1e-3)


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_device_changes_nothing(recommender, ranked_by_torch, device):
    modes = ["strict", "all_items"]
    here = evaluate(recommender, part="valid", candidates=modes)
    assert not ranked_by_torch
    there = evaluate(recommender, part="valid", candidates=modes, device=device)
    assert ranked_by_torch == ["count_above", "best"] * 2
    without_time = {"parts": {"__all__": {"seconds"}}}
    assert there.model_dump(exclude=without_time) == here.model_dump(exclude=without_time)


def test_apples_gpus_rank_on_the_processor(recommender, ranked_by_torch, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert evaluate(recommender, part="valid", device="mps").parts
    assert not ranked_by_torch


def test_the_defaults_fit_the_split(shop, split):
    assert default_candidates(split) is Candidates.STRICT
    assert default_candidates(make_split(shop, RandomHoldout())) is Candidates.WARM


@pytest.fixture
def sealed(shop, config, plan, tmp_path, request):
    """A recommender of a split that no other test opens."""
    seed = 100 + sum(map(ord, request.node.name))
    split = make_split(shop, ItemColdStart(valid=0.15, test=0.15, seed=seed))
    return train(config, split, plan=plan, out=tmp_path / "sealed")


def test_the_test_part_is_sealed_and_every_opening_counts(sealed, shop, config, plan, tmp_path):
    with pytest.raises(SealedError):
        _ = sealed.split.test
    evaluate(sealed, part="valid")
    book = shop.path / "splits" / f"{sealed.split.hash}.json"
    assert not book.exists()
    first = evaluate(sealed)
    assert first.test_openings_before == 0
    # Another run of the same split, in another process, say: the count lies beside the data.
    other = train(config, make_split(shop, sealed.split.plan), plan=plan, seed=7)
    assert evaluate(other, candidates=["strict", "all_items"]).test_openings_before == 1
    assert evaluate(Recommender.load(sealed.path)).test_openings_before == 2
    openings = json.loads(book.read_text())["openings"]
    assert [(o["run"], o["seed"]) for o in openings] == [("sealed", 0), ("in memory", 7), ("sealed", 0)]
    assert openings[1]["candidates"] == ["strict", "all_items"]
    assert other.manifest.test_openings[0]["openings_before"] == 1


def test_what_is_refused_does_not_open_the_test_part(sealed, shop):
    wrongs = ({"candidates": ["warmish"]}, {"ks": [10, 5000]}, {"ks": []}, {"ks": [0]}, {"device": "tpu"})
    for wrong in wrongs:
        with pytest.raises((InputError, ConfigError)):
            evaluate(sealed, **wrong)
    assert not (shop.path / "splits" / f"{sealed.split.hash}.json").exists()
    assert sealed.manifest.test_openings == []


def test_k_beyond_the_candidates_is_an_error(recommender):
    with pytest.raises(InputError, match=r"K = 31 is not between 1 and \d+"):
        evaluate(recommender, part="valid", ks=[10, 31])


def test_a_foreign_split_is_refused(recommender, shop, split):
    other = make_split(shop, ItemColdStart(valid=0.15, test=0.15, seed=1))
    with pytest.raises(InputError, match="another split"):
        evaluate(recommender, other, part="valid")
    again = make_split(shop, split.plan)
    assert evaluate(recommender, again, part="valid").parts[0].users_counted > 0


def test_there_is_nothing_to_evaluate_after_training_on_all(shop, config, plan):
    recommender = train(config, make_split(shop, TrainOnAll()), plan=plan)
    with pytest.raises(InputError, match="nothing was held out"):
        evaluate(recommender)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"part": "train"}, "no part 'train'"), ({"candidates": ["cold"]}, "no candidates 'cold'")],
)
def test_unknown_names(recommender, wrong, message):
    with pytest.raises(InputError, match=message):
        evaluate(recommender, **{"part": "valid", **wrong})


def test_no_positive_among_the_candidates(recommender, split):
    with pytest.raises(InputError, match="No user has a positive"):
        Ranking.of(split, split.valid, Candidates.WARM, Part.VALID)


def test_slices_and_measures_beside_accuracy(recommender):
    result = evaluate(recommender, part="valid", candidates=["strict", "all_items"])
    strict, everything = result.parts
    kinds = {row.kind for row in strict.slices}
    assert kinds == {"user's training interactions", "item's contents"}
    assert {"cold or warm item", "item popularity, tenths"} <= {row.kind for row in everything.slices}
    by_degree = [row for row in strict.slices if row.kind == "user's training interactions"]
    assert sum(row.users for row in by_degree) == strict.users_counted
    assert strict.beyond.diversity is not None
    assert strict.random_floor["recall@10"] == pytest.approx(10 / strict.n_candidates)


def test_models_that_know_no_cold_items_say_so(planted):
    recommender = train(PopularityConfig(), planted.split)
    result = evaluate(recommender, part="valid", ks=[5])
    assert any("figures among cold items mean nothing" in note for note in result.notes)
    assert not any("have no content" in note for note in result.notes)


def test_users_without_history_are_counted_with_the_average(recommender, split):
    degrees = np.bincount(split.train.users, minlength=len(split.users))
    expected = np.unique(split.valid.users[degrees[split.valid.users] == 0])
    (part,) = evaluate(recommender, part="valid").parts
    assert part.users_without_history == len(expected)
    vectors = recommender.all_user_vectors()
    for user in np.flatnonzero(degrees == 0):
        np.testing.assert_allclose(vectors[user], recommender.users[degrees > 0].mean(axis=0), atol=1e-6)
