from pathlib import Path
from typing import Any

import pytest

from prismrec.base.errors import ConfigError, InputError
from prismrec.data.splits import ItemColdStart, LeaveLast, RandomHoldout
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.strategies import BSAMPlus
from prismrec.recommender.recipe import (
    Recipe,
    overridden,
    parse_assignment,
    read_recipe,
    resolve,
    resolve_split,
)

RECIPE = """
seed = 3
modalities = ["image"]
[model]
name = "mamex"
preset = "paper"
top_k = 3
[training]
batch_size = 512
[split]
kind = "random-holdout"
test = 0.2
seed = 9
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return read_recipe(tmp_path / "recipe.toml")


def test_a_recipe_is_its_preset_with_its_own_settings(recipe: Recipe) -> None:
    job = resolve(recipe)
    paper = MAMEXConfig.presets()["paper"]
    assert job.config == paper.model.model_copy(update={"top_k": 3})
    assert job.training == paper.training.model_copy(update={"batch_size": 512})
    assert job.split == RandomHoldout(test=0.2, seed=9)
    assert (job.seed, job.preset, job.modalities) == (3, "paper", ("image",))


def test_what_is_typed_goes_before_the_recipe(recipe: Recipe) -> None:
    typed = overridden(
        recipe,
        preset="tuned",
        assignments=["experts=8", "training.epochs=2", "split.valid=0.3"],
        split={"test": 0.1, "kind": None},
        seed=0,
        modalities=["text", "image"],
    )
    job = resolve(typed)
    tuned = MAMEXConfig.presets()["tuned"]
    assert job.config == tuned.model.model_copy(update={"top_k": 3, "experts": 8})
    assert job.training == tuned.training.model_copy(update={"batch_size": 512, "epochs": 2})
    assert job.split == RandomHoldout(test=0.1, valid=0.3, seed=9)
    assert (job.seed, job.modalities) == (0, ("text", "image"))


def test_another_kind_of_split_drops_the_settings_of_the_recipes(recipe: Recipe) -> None:
    assert resolve(overridden(recipe, split={"kind": "leave-last"})).split == LeaveLast()
    same = resolve(overridden(recipe, split={"kind": "random-holdout"})).split
    assert same == RandomHoldout(test=0.2, seed=9)


def test_without_a_recipe_all_are_defaults() -> None:
    job = resolve(overridden(None, model="mamex"))
    default = MAMEXConfig.presets()["default"]
    assert (job.config, job.training) == (default.model, default.training)
    assert (job.split, job.seed, job.preset, job.modalities) == (ItemColdStart(), 0, "tuned", None)
    other = resolve(overridden(None, model="content-profile"))
    assert (other.config, other.preset) == (ContentProfileConfig(), None)


def test_without_a_model_new_items_have_a_default_and_nothing_else_has() -> None:
    assert overridden(None).model.name == "holo"
    assert overridden(None, split={"kind": "item-cold-start", "test": 0.2}).model.name == "holo"
    with pytest.raises(ConfigError, match="No model is named, and the split 'random-holdout'"):
        overridden(None, split={"kind": "random-holdout"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("top_k=3", ("model", "top_k", 3)),
        ("training.learning_rate=1e-3", ("training", "learning_rate", 1e-3)),
        ("split.by=time", ("split", "by", "time")),
        ("model.centre=false", ("model", "centre", False)),
        ("router=joint", ("model", "router", "joint")),
        ('router="joint"', ("model", "router", "joint")),
        ("fusion_top_k=none", ("model", "fusion_top_k", None)),
        ('modalities=["image", "text"]', ("model", "modalities", ["image", "text"])),
        ("note=a=b", ("model", "note", "a=b")),
        ("note=1\nother = 2", ("model", "note", "1\nother = 2")),
        ("note=", ("model", "note", "")),
    ],
)
def test_assignments(text: str, expected: tuple[str, str, Any]) -> None:
    assert parse_assignment(text) == expected


@pytest.mark.parametrize("text", ["top_k", "=3", "optimizer.lr=3", "training.=3"])
def test_assignments_of_another_form(text: str) -> None:
    with pytest.raises(ConfigError, match="not understood"):
        parse_assignment(text)


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("[model\n", InputError, "not TOML"),
        ("sed = 3\n[model]\nname='mamex'", ConfigError, "unknown setting 'sed'"),
        ("seed = 3\n", ConfigError, "'model'"),
        ("seed = -1\n[model]\nname='mamex'", ConfigError, "'seed'"),
        ("[model]\npreset='paper'", ConfigError, "model.name"),
    ],
)
def test_recipes_that_cannot_be_read(tmp_path: Path, text: str, kind: type[InputError], said: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(kind, match=said):
        read_recipe(tmp_path / "r.toml")
    with pytest.raises(InputError, match="no such file"):
        read_recipe(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("values", "said", "hint"),
    [
        ({"model": {"name": "mamex", "topk": 3}}, "'topk'", "'top_k'"),
        ({"model": {"name": "mamex", "preset": "papers"}}, "'papers'", "'paper'"),
        ({"model": {"name": "mamex", "batch_size": 3}}, "'batch_size'", "training.batch_size"),
        ({"model": {"name": "mamex"}, "training": {"epoch": 3}}, "'epoch'", "'epochs'"),
        ({"model": {"name": "mamex"}, "split": {"kind": "leave-lst"}}, "'leave-lst'", "'leave-last'"),
        ({"model": {"name": "mamex"}, "split": {"kind": "leave-last", "test": 0.1}}, "'test'", "Known"),
    ],
)
def test_what_is_unknown_names_the_nearest(values: dict[str, Any], said: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        resolve(Recipe.model_validate(values))
    assert hint in (caught.value.hint or "")


def test_shares_out_of_their_bounds() -> None:
    with pytest.raises(ConfigError, match="'test'"):
        resolve_split({"test": 1.5})


SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_change_what_they_say(path: Path) -> None:
    job = resolve(read_recipe(path))
    preset = MAMEXConfig.presets()[str(job.preset)]
    assert isinstance(job.config, MAMEXConfig)
    whole = path.stem in ("mamex-paper", "mamex-as-released")
    assert (job.config == preset.model) == whole
    assert job.training == preset.training


def test_the_ablations_are_all_there() -> None:
    assert len(SHIPPED) == 11


@pytest.mark.parametrize(
    "assignments",
    [
        ("training.strategy.rho=0.2", "training.strategy=bsam+", "training.strategy.mix=0.4"),
        ("training.strategy=bsam+", "training.strategy.mix=0.4", "training.strategy.rho=0.2"),
    ],
)
def test_settings_of_a_strategy_follow_after_another_dot(assignments: tuple[str, ...]) -> None:
    job = resolve(overridden(None, model="mamex", assignments=assignments))
    assert job.training.strategy == BSAMPlus(rho=0.2, mix=0.4)
    rest = [text for text in assignments if text != "training.strategy=bsam+"]
    typed = overridden(None, model="mamex", strategy="bsam+", assignments=rest)
    assert resolve(typed).training.strategy == BSAMPlus(rho=0.2, mix=0.4)
    job = resolve(overridden(None, model="mamex", assignments=("training.augmentation.feature_noise=0.3",)))
    assert job.training.augmentation.feature_noise == 0.3


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("training.strategy=bsamm", "strategy"),
        ("training.strategy.rho=0.1", "rho"),
        ("training.strategy={name = 'sam', mix = 0.2}", "unknown setting 'strategy.mix'.*Known: rho, radius"),
        ("training.strategy={name = 'sam', rhoo = 0.2}", "Did you mean 'strategy.rho'"),
        ("training.strategy={name = 'sam', rho = 'x'}", "setting 'strategy.rho' cannot be \"x\""),
        ("training.augmentation.feature_nois=0.2", "Did you mean 'augmentation.feature_noise'"),
    ],
)
def test_strategies_that_do_not_exist_are_named(assignment: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        resolve(overridden(None, model="mamex", assignments=(assignment,)))
