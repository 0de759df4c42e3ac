"""Smaller benches of a recipe."""

import pytest

from prismrec.base.errors import ConfigError
from prismrec.experiments.plan import resolve_row
from prismrec.experiments.recipe import BenchRecipe, parse_bench
from prismrec.experiments.reduction import Reduction


def recipe(**model: object) -> BenchRecipe:
    return parse_bench(
        {
            "bench": {"name": "b", "about": "Which is best.", "seeds": [7, 8, 9]},
            "data": [{"name": "a", "path": "a", "users": 50}, {"name": "b", "path": "b", "max_per_user": 5}],
            "model": [
                {"name": "mamex", "preset": "tuned"},
                {"name": "vbpr", "training": {"epochs": 3}, **model},
            ],
        },
        "here",
    )


def test_nothing_asked_for_leaves_the_recipe_as_it_is() -> None:
    assert Reduction().of(recipe()) == recipe()


def test_bounds_lower_what_is_higher_and_leave_what_is_lower() -> None:
    smaller = Reduction(seeds=2, users=100, max_per_user=30, epochs=10).of(recipe())
    assert smaller.bench.seeds == (7, 8)
    assert [section.users for section in smaller.data] == [50, 100]
    assert [section.max_per_user for section in smaller.data] == [30, 5]
    before = [resolve_row(section, {}) for section in recipe().models]
    after = [resolve_row(section, {}) for section in smaller.models]
    assert before[0].training.epochs > 10
    assert [job.training.epochs for job in after] == [10, 3]
    assert after[0].training == before[0].training.model_copy(update={"epochs": 10})
    assert after[1].training == before[1].training


def test_the_report_will_say_what_was_reduced() -> None:
    about = Reduction(seeds=2, max_per_user=30).of(recipe()).bench.about
    assert about == ("Which is best. Reduced from the recipe: at most 2 seeds, 30 training positives a user.")


@pytest.mark.parametrize(
    "chosen",
    [{"grid": {"training.epochs": [5, 50]}}, {"search": {"training.epochs": {"low": 5, "high": 50}}}],
)
def test_chosen_epochs_cannot_be_bounded(chosen: dict[str, object]) -> None:
    asked = recipe(**chosen)
    assert Reduction(seeds=1).of(asked).models == asked.models
    with pytest.raises(ConfigError, match=r"'vbpr': it chooses training\.epochs"):
        Reduction(epochs=10).of(asked)
