"""Settings of the questions: bounds, and what None stands for."""

import pytest

from prismrec.base.errors import ConfigError
from prismrec.sequential.examples import Task
from prismrec.sequential.prepare import PrepareConfig


@pytest.mark.parametrize(
    ("task", "shown", "positives", "negatives"),
    [(Task.BINARY, 5, 1, 4), (Task.TOP3, 3, 3, 4), (Task.NEXT, 5, 1, 20), (Task.RERANK, 5, 1, 20)],
)
def test_defaults_are_those_of_the_task(task, shown, positives, negatives):
    config = PrepareConfig(task=task)
    assert (config.shown, config.n_positives, config.n_negatives) == (shown, positives, negatives)
    assert PrepareConfig(task=task, history=2, negatives=7).shown == 2
    assert PrepareConfig(task=task, history=2, negatives=7).n_negatives == 7


def test_all_items_are_for_one_positive_only():
    assert PrepareConfig.parse({"task": "next", "negatives": "all"}).n_negatives is None
    for task in ("binary", "top3"):
        with pytest.raises(ConfigError, match="'all'"):
            PrepareConfig.parse({"task": task, "negatives": "all"})


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"taks": "next"}, "'task'"),
        ({"history": 0}, "history"),
        ({"windows": -1}, "windows"),
        ({"valid": 0.5, "test": 0.5}, "train"),
        ({"min_interactions": 1}, "min_interactions"),
        ({"noun": ""}, "noun"),
        ({"negatives": 0}, "negatives"),
    ],
)
def test_a_wrong_setting_is_named(values, named):
    with pytest.raises(ConfigError, match=named):
        PrepareConfig.parse(values)
