import json
from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import ConfigError, InputError
from prismrec.data.dataset import Dataset
from prismrec.experiments.expand import make_plan
from prismrec.experiments.plan import RunSpec, SearchSpec, split_plan
from prismrec.experiments.recipe import Axis, parse_bench


def key(plan, *models, seed: int = 0, **sections) -> str:
    return plan(*models, **sections).rows[0].run(seed, {}).key


MAMEX = {"name": "mamex", "preset": "paper"}


def test_rows_are_data_by_model(plan) -> None:
    made = plan({"name": "random"}, {"name": "content-profile"}, data={"missing": [0.0, 0.5]})
    assert made.data == ["shop, 0 % missing", "shop, 50 % missing"]
    assert [(row.data.missing, row.label) for row in made.rows] == [
        (0.0, "random"),
        (0.0, "content-profile"),
        (0.5, "random"),
        (0.5, "content-profile"),
    ]


def test_a_grid_is_a_row_for_each_combination(plan) -> None:
    made = plan({**MAMEX, "grid": {"experts": [4, 6], "training.epochs": [1, 2, 3]}})
    labels = [row.label for row in made.rows]
    assert labels[0] == "mamex (paper), experts 4, epochs 1"
    found = [(r.run(0, {}).config["experts"], r.run(0, {}).training["epochs"]) for r in made.rows]
    assert found == [(4, 1), (4, 2), (4, 3), (6, 1), (6, 2), (6, 3)]


def test_settings_go_preset_then_set_then_what_was_chosen(plan) -> None:
    row = plan({**MAMEX, "set": {"experts": 6}, "training": {"epochs": 7}}).rows[0]
    run = row.run(0, {"align": 0.5, "training.learning_rate": 0.01})
    assert (run.config["experts"], run.config["align"], run.config["dim"]) == (6, 0.5, 128)
    assert (run.training["epochs"], run.training["learning_rate"], run.training["patience"]) == (7, 0.01, 20)


def test_the_seed_of_the_division_follows_the_runs_unless_it_is_fixed(plan) -> None:
    free, fixed = plan().rows[0], plan(data={"split": {"seed": 7, "test": 0.15}}).rows[0]
    assert [free.run(seed, {}).split["seed"] for seed in (0, 1)] == [0, 1]
    assert [fixed.run(seed, {}).split["seed"] for seed in (0, 1)] == [7, 7]
    assert "seed" not in split_plan({"kind": "leave-last"}, 3).model_dump()


def test_names_and_addresses_do_not_change_a_key(plan, shop: Dataset, tmp_path: Path) -> None:
    same = {"name": "random", "label": "another name"}
    assert key(plan, {"name": "random"}) == key(plan, same)
    run = plan().rows[0].run(0, {})
    moved = run.model_copy(
        update={"data": run.data.model_copy(update={"name": "b", "path": str(tmp_path)}), "preset": "x"}
    )
    assert moved.key == run.key


@pytest.mark.parametrize(
    "change",
    [
        {"models": ({**MAMEX, "set": {"align": 0.3}},)},
        {"models": ({**MAMEX, "training": {"epochs": 3}},)},
        {"models": ({**MAMEX, "modalities": ["text"]},)},
        {"seed": 1},
        {"bench": {"ks": [3]}},
        {"bench": {"candidates": ["as_released"]}},
        {"bench": {"users": 5}},
        {"data": {"max_per_user": 5}},
        {"data": {"users": 5}},
        {"data": {"missing": 0.2}},
        {"data": {"missing": 0.2, "keep_one": True}},
        {"data": {"split": {"test": 0.2, "valid": 0.15}}},
    ],
    ids=lambda change: json.dumps(change)[:40],
)
def test_whatever_matters_changes_the_key(plan, change: dict) -> None:
    models = change.pop("models", (MAMEX,))
    assert key(plan, *models, **change) != key(plan, MAMEX)


def test_other_data_change_the_key(plan, shop: Dataset, tmp_path: Path) -> None:
    frame = shop.interactions.frame
    fewer = Dataset(
        type(shop.interactions)(frame.filter(pl.col("user_id") != frame["user_id"][0])), shop.catalog
    )
    home = fewer.write(tmp_path / "fewer").path
    assert shop.path is not None
    (tmp_path / "fewer" / "features").symlink_to(shop.path / "features")
    recipe = parse_bench(
        {
            "bench": {"name": "b", "seeds": 2, "ks": [5, 10]},
            "data": [{"name": "shop", "split": {"valid": 0.15, "test": 0.15}}],
            "model": [{"name": "random"}],
        },
        "r",
    )
    assert make_plan(recipe, {"shop": home}).rows[0].run(0, {}).key != key(plan, {"name": "random"})


def test_a_run_goes_through_json_unchanged(plan) -> None:
    run = plan({**MAMEX, "modalities": ["text"]}).rows[0].run(1, {})
    assert RunSpec.model_validate_json(run.model_dump_json()) == run
    search = SearchSpec(start=run, space={"align": Axis(low=0.1, high=1)}, metric="ndcg@10", trials=3)
    again = SearchSpec.model_validate_json(search.model_dump_json())
    assert again.key == search.key
    assert again.space["align"].whole is search.space["align"].whole


def test_a_longer_search_has_the_key_of_a_shorter_one(plan) -> None:
    model = {**MAMEX, "search": {"align": {"low": 0.1, "high": 1.0}}}
    short, long = (plan(model, bench={"budget": n}).rows[0].search() for n in (3, 9))
    assert short.key == long.key
    assert plan(model).rows[0].search() is None
    wider = {**MAMEX, "search": {"align": {"low": 0.1, "high": 2.0}}}
    assert plan(wider, bench={"budget": 3}).rows[0].search().key != short.key


@pytest.mark.parametrize(
    ("models", "sections", "said"),
    [
        (({"name": "random"}, {"name": "random"}), {}, "Two rows"),
        (({"name": "mamex", "set": {"expert": 4}},), {}, "expert"),
        (({"name": "mamex", "set": {"experts": 1, "top_k": 2}},), {}, "top_k"),
        (({"name": "mamex", "search": {"alignn": {"low": 0, "high": 1}}},), {}, "alignn"),
        (({"name": "mamex", "search": {"training.epoch": {"low": 1, "high": 2}}},), {}, "training.epoch"),
        (({"name": "mamex", "oracle": True},), {}, "oracle"),
        (({"name": "random"},), {"bench": {"baseline": "randon"}}, "randon"),
        (({"name": "random"},), {"bench": {"ks": [500]}}, "K = 500"),
        (({"name": "random"},), {"data": {"split": {"kind": "train-on-all"}}}, "nothing to measure"),
        (({"name": "random"},), {"data": {"modalities": ["smell"]}}, "smell"),
        (({"name": "random", "modalities": ["smell"]},), {}, "smell"),
        (({"name": "random"},), {"data": {"split": {"kind": "item-cold"}}}, "item-cold"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_before_anything_runs(plan, models, sections, said: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(*models, **sections)
    assert said in caught.value.problem


def test_folders_are_named_or_asked_for(shop: Dataset) -> None:
    values = {"bench": {"name": "b"}, "data": [{"name": "shop"}], "model": [{"name": "random"}]}
    recipe = parse_bench(values, "r")
    with pytest.raises(InputError, match="--data shop=FOLDER"):
        make_plan(recipe, {})
    with pytest.raises(ConfigError, match="'shop'"):
        make_plan(recipe, {"shopp": shop.path})


def test_candidates_left_out_are_those_that_fit_the_split(plan) -> None:
    assert [str(c) for c in plan().rows[0].candidates] == ["strict"]
    warm = plan(data={"split": {"kind": "random-holdout"}})
    assert [str(c) for c in warm.rows[0].candidates] == ["warm"]
