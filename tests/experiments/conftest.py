"""A small shop with features, and a bench of two cheap models and two seeds that ran on it."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from prismrec.data.dataset import Dataset
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.experiments.expand import make_plan
from prismrec.experiments.plan import BenchPlan
from prismrec.experiments.recipe import parse_bench
from prismrec.experiments.run import run_bench
from prismrec.experiments.state import Bench
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.text import TfidfSvdEncoder

Values = Mapping[str, Any]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return 200 items and 120 users on the disk, texts and pictures encoded. Not to be changed."""
    home = tmp_path_factory.mktemp("bench-shop") / "shop"
    settings = GeneratedConfig(
        items=200, users=120, interactions_per_user=12, image_size=32, sounds=False, seed=3
    )
    shop = generate(settings).write(home)
    for kind, encoder in (("image", DescriptorEncoder()), ("text", TfidfSvdEncoder(16))):
        extract(Contents.of(shop.catalog, kind), encoder, home / "features" / kind, name=kind)
    return shop


def recipe_of(*models: Values, bench: Values | None = None, data: Values | None = None) -> dict[str, Any]:
    return {
        "bench": {"name": "small", "seeds": 2, "ks": [5, 10], **(bench or {})},
        "data": [{"name": "shop", "split": {"valid": 0.15, "test": 0.15}, **(data or {})}],
        "model": list(models) or [{"name": "random"}, {"name": "content-profile"}],
    }


MakePlan = Callable[..., BenchPlan]


@pytest.fixture
def plan(shop: Dataset) -> MakePlan:
    """Return a function from models, and changes of the other sections, to a plan."""

    def make(*models: Values, bench: Values | None = None, data: Values | None = None) -> BenchPlan:
        recipe = parse_bench(recipe_of(*models, bench=bench, data=data), "recipe")
        assert shop.path is not None
        return make_plan(recipe, {"shop": shop.path})

    return make


@pytest.fixture(scope="session")
def done(shop: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Return a finished bench: random, popularity as an oracle, content profile, a small MAMEX. Read only."""
    values = recipe_of(
        {"name": "random"},
        {"name": "popularity", "label": "oracle", "oracle": True},
        {"name": "content-profile"},
        {
            "name": "mamex",
            "preset": "paper",
            "label": "mamex",
            "set": {"dim": 8},
            "training": {"epochs": 2, "batch_size": 256},
        },
        bench={"candidates": ["strict", "as_released"], "baseline": "random", "users": 60},
    )
    assert shop.path is not None
    bench = Bench.open(
        make_plan(parse_bench(values, "recipe"), {"shop": shop.path}), tmp_path_factory.mktemp("done")
    )
    run_bench(bench, jobs=1, threads=1)
    assert bench.failures() == []
    return bench
