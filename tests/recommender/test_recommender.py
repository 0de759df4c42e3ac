import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.models.popularity import PopularityConfig
from prismrec.recommender import recommender as module
from prismrec.recommender.train import train


@pytest.fixture(scope="module")
def rec(run):
    from prismrec.recommender.recommender import Recommender

    return Recommender.load(run)


@pytest.fixture
def user(rec):
    """A user with a history."""
    return next(name for name in rec.split.users if len(rec.history(name)) >= 5)


def oracle(rec, user, allowed, exclude_seen=True):
    """Item ids by score, ties by id."""
    vector, _ = rec.user_vector(user)
    seen = set(rec.history(user)) if exclude_seen else set()
    names = [n for n in allowed if n not in seen]
    scores = {n: float(rec.items.vectors[rec.item_ids.code(n)] @ vector) for n in names}
    return sorted(names, key=lambda n: (-scores[n], n))


def usable(rec):
    return [n for n, ok in zip(rec.item_ids, rec.can_recommend(), strict=True) if ok]


def test_lists_are_the_best_scores_without_what_was_seen(rec, user):
    found = rec.recommend([user], k=30)
    assert found["item_id"].to_list() == oracle(rec, user, usable(rec))[:30]
    assert found["rank"].to_list() == list(range(1, 31))
    assert not set(found["item_id"]) & set(rec.history(user))
    with_seen = rec.recommend([user], k=200, exclude_seen=False)
    assert set(rec.history(user)) <= set(with_seen["item_id"])


def test_columns(rec, user):
    found = rec.recommend([user], k=2)
    assert found.schema == {
        "user_id": pl.String, "rank": pl.Int64, "item_id": pl.String, "title": pl.String,
        "score": pl.Float32, "new": pl.Boolean, "fallback": pl.Boolean,
    }  # fmt: skip
    row = rec.item_ids.code(found["item_id"][0])
    assert found["title"][0] == rec.catalog.titles()[row]
    assert found["score"][0] == pytest.approx(
        float(rec.items.vectors[row] @ rec.user_vector(user)[0]), rel=1e-5
    )


def test_only_new_or_only_warm_items(rec, user):
    warm = {n for n, is_warm in zip(rec.item_ids, rec.is_warm(), strict=True) if is_warm}
    new = rec.recommend([user], k=300, choose="new")
    old = rec.recommend([user], k=300, choose="warm")
    assert new["new"].all()
    assert not old["new"].any()
    assert set(new["item_id"]) == set(usable(rec)) - warm
    assert set(old["item_id"]) == (set(usable(rec)) & warm) - set(rec.history(user))


def test_conditions(rec, user):
    category = rec.catalog.items["category"][0]
    found = rec.recommend([user], k=300, where=[f"category={category}", "price<100000"])
    allowed = set(rec.catalog.items.filter(pl.col("category") == category)["item_id"])
    assert found["item_id"].to_list() == oracle(rec, user, sorted(allowed & set(usable(rec))))
    with pytest.raises(InputError, match="No item is left"):
        rec.recommend([user], where=["price<0"])


def test_strangers_get_the_average_and_it_is_said(rec, user):
    starts, _ = rec.split.train.by_user(len(rec.split.users))
    silent = [n for n, size in zip(rec.split.users, np.diff(starts), strict=True) if size == 0]
    found = rec.recommend(["stranger", user, *silent[:1]], k=3)
    by_user = dict(found.group_by("user_id").agg(pl.col("fallback").first()).iter_rows())
    assert by_user == {"stranger": True, user: False, **dict.fromkeys(silent[:1], True)}
    average = rec.users[np.diff(starts) > 0].mean(axis=0)
    scores = rec.items.vectors @ average
    best = max(usable(rec), key=lambda n: scores[rec.item_ids.code(n)])
    assert found.filter(user_id="stranger")["item_id"][0] == best


def test_everyone_is_served_in_blocks_that_do_not_show(rec, monkeypatch):
    whole = rec.recommend(k=4)
    assert whole["user_id"].unique().sort().to_list() == sorted(rec.split.users)
    monkeypatch.setattr(module, "_BLOCK", 7)
    parts = rec.recommend(k=4)
    assert parts.drop("score").equals(whole.drop("score"))
    np.testing.assert_allclose(parts["score"], whole["score"], rtol=1e-5)


def test_lists_shorter_than_k(rec, user):
    left = rec.history(user)[:2]
    name = "category"
    categories = rec.catalog.items[[rec.item_ids.code(n) for n in left]][name].to_list()
    found = rec.recommend([user], k=1000, where=[f"{name}={categories[0]}"])
    assert 0 < found.height < 1000


def test_a_user_who_has_seen_all_that_is_allowed_gets_nothing(planted):
    rec = train(PopularityConfig(), planted.split)
    user = planted.split.users.ids[0]
    seen = rec.history(user)[0]
    assert rec.recommend([user], where=[f"item_id={seen}"], explain=True).is_empty()
    both = rec.recommend([user, "stranger"], where=[f"item_id={seen}"], explain=True)
    assert both["user_id"].to_list() == ["stranger"]


def test_explanations(rec, user):
    found = rec.recommend([user], k=20, explain=True)
    history = rec.history(user)
    unit = rec.items.vectors / np.linalg.norm(rec.items.vectors, axis=1, keepdims=True).clip(1e-12)
    for row in found.iter_rows(named=True):
        code = rec.item_ids.code(row["item_id"])
        assert set(row["weights"]) == {"image", "text"}
        weights = [w for w in row["weights"].values() if w is not None]
        assert sum(weights) == pytest.approx(1, abs=1e-5)
        assert [w is not None for w in row["weights"].values()] == rec.items.present[code].tolist()
        likeness = {n: float(unit[rec.item_ids.code(n)] @ unit[code]) for n in history}
        assert row["because"] == sorted(history, key=lambda n: -likeness[n])[:3]
    stranger = rec.recommend(["stranger"], k=1, explain=True)
    assert stranger["because"].to_list() == [[]]


def test_explanations_of_a_model_without_weights(planted):
    rec = train(PopularityConfig(), planted.split, features=planted.features)
    found = rec.recommend([planted.split.users.ids[0]], k=2, explain=True)
    assert found["weights"].to_list() == [{"own": None}, {"own": None}]


def test_liked_items_instead_of_a_user(rec, user):
    liked = rec.history(user)[:4]
    found = rec.recommend(liked=liked, k=50, explain=True)
    assert found["user_id"].to_list() == [None] * 50
    assert not set(found["item_id"]) & set(liked)
    vector = rec.fold_in(liked)
    expected = rec.items.vectors[[rec.item_ids.code(n) for n in found["item_id"]]] @ vector
    np.testing.assert_allclose(found["score"], expected, rtol=1e-4, atol=1e-6)
    assert set(found["because"][0]) <= set(liked)


def test_similar_items_are_those_of_the_largest_cosine(rec):
    item = usable(rec)[3]
    found = rec.similar(item, k=5)
    unit = rec.items.vectors / np.linalg.norm(rec.items.vectors, axis=1, keepdims=True).clip(1e-12)
    likeness = unit @ unit[rec.item_ids.code(item)]
    expected = sorted((n for n in usable(rec) if n != item), key=lambda n: -likeness[rec.item_ids.code(n)])
    assert found["item_id"].to_list() == expected[:5]
    np.testing.assert_allclose(
        found["similarity"], [likeness[rec.item_ids.code(n)] for n in expected[:5]], rtol=1e-4, atol=1e-6
    )
    new = rec.similar(item, k=500)
    assert new.height == len(usable(rec)) - 1


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.recommend(["u"], k=0), "K = 0"),
        (lambda r: r.recommend([]), "No user"),
        (lambda r: r.recommend(["u"], liked=["p00001"]), "not both"),
        (lambda r: r.recommend(liked=[]), "at least one item"),
        (lambda r: r.recommend(liked=["p0000"]), "no item 'p0000'"),
        (lambda r: r.similar("nothing"), "no item 'nothing'"),
        (lambda r: r.similar(r.item_ids.ids[0], where=["price<0"]), "No item is left"),
    ],
)
def test_questions_that_cannot_be_answered(rec, ask, message):
    with pytest.raises(InputError, match=message):
        ask(rec)


def test_a_model_of_interactions_recommends_what_it_knows(planted):
    rec = train(PopularityConfig(), planted.split)
    found = rec.recommend(["stranger"], k=500)
    warm = {rec.item_ids.ids[i] for i in np.flatnonzero(planted.split.warm_items)}
    assert set(found["item_id"]) == warm
    with pytest.raises(InputError, match="No item is left"):
        rec.recommend(["stranger"], choose="new")
    cold = next(n for n in rec.item_ids if n not in warm)
    with pytest.raises(InputError, match="has no vector"):
        rec.similar(cold)
    with pytest.raises(InputError, match="None of the liked items"):
        rec.fold_in([cold])


def test_features_of_other_content_are_not_taken_for_the_own(recommender, shop, tmp_path):
    import shutil

    assert recommender.training_features() is not None
    copy = shutil.copytree(shop.path, tmp_path / "copy")
    recommender.manifest.dataset_path = str(copy)
    assert recommender.training_features() is not None
    shutil.rmtree(copy / "features" / "text")
    assert recommender.training_features() is None
    shutil.copytree(copy / "features" / "image", copy / "features" / "text")
    assert recommender.training_features() is None


def test_what_a_notebook_shows_is_a_line(rec):
    shown = repr(rec)
    assert shown.startswith(f"Recommender({rec.manifest.model}")
    assert f"{len(rec.catalog):,} items with image and text" in shown
    assert len(shown) < 300
