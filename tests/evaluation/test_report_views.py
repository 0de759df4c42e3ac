"""Numbers as people read them, and bars that are as long as their values."""

import pytest

from prismrec.evaluation.report_views import headline, metric_table, number, percent, slice_tables, spread
from prismrec.evaluation.result import Interval, PartResult, SliceRow


def part(metrics: dict[str, float], floor: dict[str, float] | None = None, slices=()) -> PartResult:
    return PartResult(
        part="test",
        candidates="strict",
        n_candidates=500,
        users_counted=10,
        n_positives=20,
        metrics={
            name: Interval(mean=mean, low=mean * 0.9, high=mean * 1.1) for name, mean in metrics.items()
        },
        random_floor=floor or {},
        slices=list(slices),
    )


def test_numbers_are_short():
    assert [percent(v) for v in (0.4213, 0.0421, 0.00421, 0.0, 1.0)] == [
        "42.1 %",
        "4.2 %",
        "0.42 %",
        "0 %",
        "100.0 %",
    ]
    assert [number(v) for v in (0.5, 0.01234)] == ["0.500", "0.0123"]
    assert spread(Interval(mean=0.5)) == ""


def test_the_key_figure_is_the_easiest_near_ten():
    assert headline(part({"ndcg@10": 0.1, "recall@20": 0.2, "recall@5": 0.1})).metric == "recall@5"
    assert headline(part({"ndcg@10": 0.1, "hit_rate@50": 0.2})).metric == "hit_rate@50"
    assert headline(part({"ndcg@10": 0.1, "hit_rate@50": 0.2}), "ndcg@10").figure == "10.0 %"


@pytest.mark.parametrize("metric", ["recall", "ndcg", "precision", "hit_rate", "map", "mrr"])
def test_every_metric_has_its_sentence(metric):
    key = headline(part({f"{metric}@7": 0.02}, {f"{metric}@7": 0.05}))
    assert "7 " in key.sentence
    assert "500" in key.sentence
    assert key.chance == "Chance alone would reach 5.0 %, which is more."


def test_without_a_floor_nothing_is_said_of_chance():
    assert headline(part({"ndcg@10": 0.1})).chance == ""
    assert headline(part({"ndcg@10": 0.1}, {"ndcg@10": 0.0})).chance == ""


def test_bars_share_a_scale_in_a_row_and_gaps_stay_gaps():
    ks, rows = metric_table(part({"ndcg@5": 0.1, "ndcg@10": 0.2, "recall@10": 0.3}, {"ndcg@10": 0.05}))
    assert ks == [5, 10]
    recall, ndcg = rows
    assert recall.cells[0] is None
    five, ten = ndcg.cells
    assert ten.bar.value == pytest.approx(2 * five.bar.value, abs=0.02)
    assert five.bar.low < five.bar.value < five.bar.high <= 100
    assert ten.bar.tick == pytest.approx(ten.bar.value / 4, abs=0.02)
    assert five.bar.tick is None


def test_slices_stay_in_their_order_and_are_marked_with_the_overall_mean():
    rows = [
        SliceRow(kind="k", value=value, users=1, positives=2, metrics={"ndcg@10": Interval(mean=mean)})
        for value, mean in (("b", 0.4), ("a", 0.1))
    ]
    empty = SliceRow(kind="none", value="x", users=0, positives=0, metrics={})
    ((kind, name, shown),) = slice_tables(
        part({"ndcg@10": 0.2, "recall@10": 0.5}, slices=[*rows, empty]), "recall@10"
    )
    assert (kind, name) == ("k", "ndcg@10")
    assert [row.label for row in shown] == ["b", "a"]
    assert shown[0].note == "1 user, 2 positives"
    assert shown[0].bar.tick == pytest.approx(shown[0].bar.value / 2, abs=0.02)
