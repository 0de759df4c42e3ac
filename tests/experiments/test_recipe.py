import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from prismrec.base.errors import ConfigError, InputError
from prismrec.experiments.plan import resolve_row
from prismrec.experiments.recipe import Axis, parse_bench, read_bench
from prismrec.models.catalogue import MODELS

TEXT = """
[bench]
name = "gates"
seeds = 3
metric = "recall@7"
budget = 5
[[data]]
name = "a"
path = "shops/a"
split = {kind = "item-cold-start", valid = 0.2}
missing = [0.1, 0.5]
[[model]]
name = "mamex"
preset = "paper"
set = {fusion = "mean"}
training = {epochs = 30}
[model.search]
align = {low = 0.001, high = 1.0, log = true}
experts = {choices = [4, 6]}
training.learning_rate = {low = 1e-4, high = 1e-2}
[[model]]
name = "random"
"""
SHIPPED = sorted((Path(__file__).parents[2] / "recipes" / "bench").glob("*.toml"))


def plain(**sections: Any) -> dict[str, Any]:
    return {"bench": {"name": "b"}, "data": [{"name": "a"}], "model": [{"name": "random"}], **sections}


def test_a_recipe_as_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(TEXT)
    recipe = read_bench(tmp_path / "r.toml")
    assert recipe.bench.seeds == (0, 1, 2)
    assert recipe.bench.lengths == (7, 10, 20)
    assert recipe.data[0].missing == (0.1, 0.5)
    first, second = recipe.models
    assert first.shown == "mamex (paper)"
    assert set(first.search) == {"align", "experts", "training.learning_rate"}
    assert first.search["experts"].choices == (4, 6)
    assert second.search == {}


def test_seeds_and_shares_may_be_single_or_several() -> None:
    recipe = parse_bench(
        plain(bench={"name": "b", "seeds": [4, 9]}, data=[{"name": "a", "missing": 0.3}]), "r"
    )
    assert recipe.bench.seeds == (4, 9)
    assert recipe.data[0].missing == (0.3,)


@pytest.mark.parametrize(
    ("sections", "said", "hint"),
    [
        ({"modle": []}, "unknown section 'modle'", "'model'"),
        ({"bench": {"name": "b", "metrik": "ndcg@10"}}, "'metrik'", "'metric'"),
        ({"data": [{"name": "a", "max_per_users": 5}]}, "[[data]] 1: unknown setting", "'max_per_user'"),
        ({"model": [{"name": "random"}, {"name": "x", "presett": "y"}]}, "[[model]] 2", "'preset'"),
        ({"model": [{"name": "x", "search": {"a": {"lo": 1}}}]}, "search.a", "'low'"),
        ({"model": [{"name": "x", "search": {"a": {"low": 2, "high": 1}}}]}, "search.a", None),
        ({"model": [{"name": "x", "search": {"a": {"low": 0, "high": 1, "log": True}}}]}, "search.a", None),
        ({"model": [{"name": "x", "search": {"a": 3}}]}, "search.a is 3", "{low = 1"),
        ({"model": [{"name": "x", "search": {"a": {"choices": [1]}}, "grid": {"a": [1]}}]}, "both", None),
        ({"bench": {"name": "b", "seeds": 0}}, "seeds", None),
        ({"bench": {"name": "b", "seeds": [1, 1]}}, "seeds", None),
        ({"bench": {"name": "b", "metric": "fame@10"}}, "fame@10", None),
        ({"bench": {"name": "b", "candidates": ["cold"]}}, "candidates", None),
        ({"data": [{"name": "a"}, {"name": "a"}]}, "two [[data]]", None),
        ({"data": [{"name": "a", "missing": 1.0}]}, "missing", None),
        ({"data": []}, "no section [[data]]", None),
        ({"data": {"name": "a"}}, "[[data]]", None),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(sections: dict[str, Any], said: str, hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        parse_bench(plain(**sections), "r.toml")
    assert said in caught.value.problem
    assert hint is None or hint in (caught.value.hint or "")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_bench(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[bench")
    with pytest.raises(InputError, match="not TOML"):
        read_bench(tmp_path / "broken.toml")
    with pytest.raises(InputError, match="folder"):
        read_bench(tmp_path)


@pytest.mark.parametrize(
    ("axis", "inside", "outside"),
    [
        (Axis(low=1, high=4), [1, 4, 2.5], [0, 5, "2", True]),
        (Axis(choices=("a", 2, [1, 2])), ["a", 2, [1, 2]], ["b", 3, [1]]),
        (Axis(choices=(1,)), [1], [True]),
    ],
)
def test_what_an_axis_holds(axis: Axis, inside: list[Any], outside: list[Any]) -> None:
    assert all(axis.holds(value) for value in inside)
    assert not any(axis.holds(value) for value in outside)


def test_whole_numbers_are_those_written_without_a_point() -> None:
    assert Axis(low=1, high=8).whole
    assert not Axis(low=1.0, high=8).whole


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_name_models_and_settings_that_exist(path: Path) -> None:
    recipe = read_bench(path)
    assert recipe.bench.name == path.stem
    known = {model.name: model for model in MODELS}
    for row in recipe.models:
        assert row.name in known, f"{row.name} is not in the catalogue"
        plain_row = row.model_copy(update={"grid": {}})
        resolve_row(plain_row, {})
        for field, values in row.grid.items():
            for value in values:
                resolve_row(plain_row, {field: value})
        for field, axis in row.search.items():
            ends = axis.choices if axis.choices is not None else (axis.low, axis.high)
            for value in ends:
                resolve_row(plain_row, {field: value})


def test_all_benches_are_in_their_read_me() -> None:
    text = (SHIPPED[0].parent / "README.md").read_text()
    assert len(SHIPPED) >= 8
    for path in SHIPPED:
        assert f"`{path.name}`" in text


def test_an_unknown_model_is_named() -> None:
    recipe = parse_bench(plain(model=[{"name": "mamax"}]), "r")
    with pytest.raises(ConfigError, match="mamax"):
        resolve_row(recipe.models[0], {})


def test_the_recipe_of_the_page_can_be_used() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    recipe = parse_bench(tomllib.loads(text), "page")
    assert [row.shown for row in recipe.models] == ["kernel-ridge", "no gate", "mamex (paper)", "searched"]
    for row in recipe.models:
        resolve_row(row, {})
    assert recipe.data[1].missing == (0.1, 0.5)
