"""Slices by hand, and against metrics computed on the chosen users or positives alone."""

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.evaluation import slices
from prismrec.evaluation.metrics import per_user
from prismrec.evaluation.ranking import Ranks


def ranks() -> Ranks:
    """Four users: item 0 at rank 1 and item 3 at 4; item 2 at 3; nothing; item 1 at 2 and item 2 at 5."""
    return Ranks(
        starts=np.array([0, 2, 3, 3, 5]),
        ranks=np.array([1, 4, 3, 2, 5]),
        positives=np.array([2, 1, 0, 2]),
        items=np.array([0, 3, 2, 1, 2], dtype=np.int32),
    )


def test_degrees_fall_into_their_bins():
    grouping = slices.by_degree(np.array([0, 1, 4, 5, 9, 10, 19, 20, 49, 50, 99, 100, 5000]))
    named = [grouping.labels[code] for code in grouping.codes]
    assert named == [
        "0",
        "1-4",
        "1-4",
        "5-9",
        "5-9",
        "10-19",
        "10-19",
        "20-49",
        "20-49",
        "50-99",
        "50-99",
        "100+",
        "100+",
    ]


def test_tenths_of_the_warm_items_and_the_cold_apart():
    counts = np.array([0, *range(1, 21), 0])
    grouping = slices.by_popularity(counts, np.arange(22))
    assert [grouping.labels[c] for c in grouping.codes[[0, 1, 2, 3, 20, 21]]] == [
        "cold", "1 (least)", "1 (least)", "2", "10 (most)", "cold",
    ]  # fmt: skip
    assert np.bincount(grouping.codes).tolist() == [2] + [2] * 10


def test_equally_popular_items_stay_together():
    grouping = slices.by_popularity(np.array([5, 5, 5, 5, 9, 0]), np.array([0, 3, 4, 5]))
    assert [grouping.labels[c] for c in grouping.codes] == ["1 (least)", "1 (least)", "9", "cold"]


def test_tenths_without_any_warm_item():
    grouping = slices.by_popularity(np.zeros(3, dtype=np.int64), np.arange(3))
    assert {grouping.labels[c] for c in grouping.codes} == {"cold"}


def test_modalities_are_named_by_what_is_there():
    text = np.array([True, True, False, False, True])
    image = np.array([True, False, False, True, True])
    grouping = slices.by_modalities({"text": text, "image": image})
    assert [grouping.labels[c] for c in grouping.codes] == [
        "image + text", "text only", "none", "image only", "image + text",
    ]  # fmt: skip
    assert grouping.labels[0] == "image + text"
    assert grouping.labels[-1] == "none"
    assert slices.by_modalities({"text": text}).labels == ("text", "none")
    with pytest.raises(InputError):
        slices.by_modalities({})


def test_users_are_averaged_by_slice():
    metrics = per_user(ranks(), [2, 5])
    grouping = slices.by_degree(np.array([3, 2, 4, 50]))
    rows = slices.slice_users(metrics, ranks().positives, grouping, ["recall@2", "mrr@5"])
    assert [(r.value, r.users, r.positives) for r in rows] == [("1-4", 2, 3), ("50-99", 1, 2)]
    assert rows[0].metrics["recall@2"].mean == pytest.approx((0.5 + 0.0) / 2)
    assert rows[0].metrics["mrr@5"].mean == pytest.approx((1 + 1 / 3) / 2)
    assert rows[0].metrics["mrr@5"].low is not None
    assert rows[1].metrics["recall@2"].low is None


def test_positives_are_cut_apart_by_item_and_keep_their_ranks():
    grouping = slices.by_temperature(np.array([True, True, False, False]))
    cold, warm = slices.slice_items(ranks(), grouping, ["recall@4", "mrr@5", "ndcg@5"])
    assert (cold.value, cold.users, cold.positives) == ("cold", 3, 3)
    # User 0 has item 3 at rank 4, user 1 item 2 at 3, user 3 item 2 at 5: each as the one thing to find.
    assert cold.metrics["recall@4"].mean == pytest.approx(2 / 3)
    assert cold.metrics["mrr@5"].mean == pytest.approx((1 / 4 + 1 / 3 + 1 / 5) / 3)
    assert cold.metrics["ndcg@5"].mean == pytest.approx(np.mean(1 / np.log2([5, 4, 6])))
    assert (warm.value, warm.users, warm.positives) == ("warm", 2, 2)
    assert warm.metrics["recall@4"].mean == 1.0


def test_one_slice_of_all_items_is_the_overall_mean():
    whole = slices.slice_items(ranks(), slices.by_temperature(np.ones(4, dtype=bool)), ["ndcg@5", "map@5"])
    overall = per_user(ranks(), [5]).means()
    assert [row.value for row in whole] == ["warm"]
    assert {n: i.mean for n, i in whole[0].metrics.items()} == {
        n: pytest.approx(overall[n]) for n in ("ndcg@5", "map@5")
    }


def test_codes_that_do_not_fit_are_refused():
    short = slices.by_temperature(np.ones(3, dtype=bool))
    with pytest.raises(InputError, match="3 candidates"):
        slices.slice_items(ranks(), short, ["ndcg@5"])
    with pytest.raises(InputError, match="3 users"):
        slices.slice_users(per_user(ranks(), [5]), ranks().positives, short, ["ndcg@5"])


def test_items_in_no_slice_are_left_out():
    grouping = slices.Grouping("odd", ("a",), np.array([0, -1, -1, -1]))
    (row,) = slices.slice_items(ranks(), grouping, ["hit_rate@1"])
    assert (row.users, row.positives, row.metrics["hit_rate@1"].mean) == (1, 1, 1.0)
