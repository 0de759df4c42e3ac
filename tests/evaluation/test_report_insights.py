"""Learning curves, weights and loads as the report shows them."""

import numpy as np
import pytest

from prismrec.base.errors import InputError
from prismrec.evaluation.report_inputs import Epoch, ExpertLoad, ModalityWeights
from prismrec.evaluation.report_insights import category_rows, distributions, experts, training


def test_the_best_epoch_is_that_of_the_first_validation_metric():
    epochs = [Epoch(1, 30, {"total": 2.0}, {"ndcg@10": 0.3}), Epoch(2, 45, {"total": 1.0}, {"ndcg@10": 0.2})]
    shown = training(epochs, None)
    assert (shown.epochs, shown.best, shown.minutes) == (2, 1, "1.2 minutes")
    assert [curve.title for curve in shown.curves] == ["Loss in training", "Quality on the validation part"]
    assert training(epochs, 2).best == 2
    assert training([], None) is None


def test_epochs_without_validation_and_with_broken_losses():
    shown = training(
        [Epoch(1, losses={"total": 1.0, "x": float("nan")}), Epoch(2, losses={"total": 0.5})], None
    )
    assert shown.best is None
    assert shown.curves[0].legend == [("total", "0.500")]
    assert training([Epoch(1)], None).curves == []


def test_distributions_leave_out_items_that_lack_the_modality():
    weights = np.array([[0.2, 0.8], [0.4, 0.6], [1.0, np.nan]])
    text, image, none = distributions(
        ModalityWeights(["text", "image", "none"], np.c_[weights, [np.nan] * 3])
    )
    assert (text.items, text.mean) == (3, "53.3 %")
    assert (image.items, image.mean) == (2, "70.0 %")
    assert (none.items, none.drawing) == (0, None)


def test_categories_average_their_items_and_an_absent_modality_is_zero():
    weights = ModalityWeights(
        ["text", "image"], np.array([[0.2, 0.8], [1.0, np.nan], [0.6, 0.4]]), [["a"], ["a", "b"], []]
    )
    rows, left_out = category_rows(weights)
    assert left_out == 0
    assert [(row.name, row.items, [share.percent for share in row.shares]) for row in rows] == [
        ("b", 1, [100.0, 0.0]),
        ("a", 2, [60.0, 40.0]),
    ]


def test_many_categories_are_cut_to_the_largest():
    names = [[f"c{n}"] for n in range(25)] + [["c24"]]
    rows, left_out = category_rows(ModalityWeights(["text"], np.ones((26, 1)), names))
    assert (len(rows), left_out) == (20, 5)
    assert "c24" in {row.name for row in rows}


def test_the_effective_number_of_experts():
    even, one = experts(ExpertLoad(["text", "image"], np.array([[0.25] * 4, [0, 0, 1.0, 0]])))
    assert (even.effective, one.effective) == ("4.0 of 4", "1.0 of 4")
    assert one.rows[2].value == "100.0 %"
    assert even.rows[0].bar.value == even.rows[0].bar.tick


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError):
        ModalityWeights(["text"], np.ones((3, 2)))
    with pytest.raises(InputError):
        ModalityWeights(["text"], np.ones((3, 1)), [["a"]])
    with pytest.raises(InputError):
        ExpertLoad(["text"], np.ones((2, 4)))
