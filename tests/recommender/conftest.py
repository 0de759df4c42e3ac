"""A small shop with features, and a recommender trained on it for a moment."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.splits import ItemColdStart, Split, make_split
from prismrec.evaluation import ranking_torch
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.store import FeatureStore
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.plan import TrainingPlan
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train


@pytest.fixture(scope="session")
def config() -> MAMEXConfig:
    """Return a small model."""
    return MAMEXConfig(dim=16, start="random", missing="renormalise", loss="bpr")


@pytest.fixture(scope="session")
def plan() -> TrainingPlan:
    """Return a short training."""
    return TrainingPlan(sampling="triplets", epochs=3, batch_size=512, learning_rate=0.01)


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return 200 items and 150 users on the disk, texts and pictures encoded. Not to be changed."""
    home = tmp_path_factory.mktemp("shop") / "shop"
    settings = GeneratedConfig(
        items=200, users=150, interactions_per_user=12, image_size=32, sounds=False, seed=3
    )
    shop = generate(settings).write(home)
    for kind, encoder in (("image", DescriptorEncoder()), ("text", TfidfSvdEncoder(16))):
        extract(Contents.of(shop.catalog, kind), encoder, home / "features" / kind, name=kind)
    return shop


@pytest.fixture
def ranked_by_torch(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend that there is a GPU, and let torch rank on the processor in its place; return what it did."""
    done = []

    def here(name: str) -> Callable[..., Any]:
        original = getattr(ranking_torch, name)

        def run(*args: Any) -> Any:
            *rest, device, task = args
            assert device == "cuda"
            done.append(name)
            return original(*rest, "cpu", task)

        return run

    for name in ("count_above", "best"):
        monkeypatch.setattr(ranking_torch, name, here(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return done


@pytest.fixture(scope="session")
def split(shop: Dataset) -> Split:
    """Return the split that most tests use."""
    return make_split(shop, ItemColdStart(valid=0.15, test=0.15))


@pytest.fixture(scope="session")
def run(
    tmp_path_factory: pytest.TempPathFactory, split: Split, config: MAMEXConfig, plan: TrainingPlan
) -> Path:
    """Return the folder of a run. Not to be changed: tests that do so take `home`."""
    folder = tmp_path_factory.mktemp("runs") / "mamex"
    train(config, split, plan=plan, out=folder, preset="small")
    return folder


@pytest.fixture
def home(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run."""
    return Path(shutil.copytree(run, tmp_path / "mamex"))


@pytest.fixture
def recommender(home: Path) -> Recommender:
    """Return the recommender of that copy."""
    return Recommender.load(home)


@pytest.fixture(scope="session")
def planted() -> SimpleNamespace:
    """Return a split and features in memory, where the features are what users' tastes are made of."""
    random = np.random.default_rng(0)
    taste, truth = random.normal(size=(120, 4)), random.normal(size=(90, 4))
    scores = taste @ truth.T + 0.3 * random.normal(size=(120, 90))
    best = np.argsort(-scores, axis=1)[:, :18]
    ids = [f"i{n:02d}" for n in range(90)]
    rows = [(f"u{u:03d}", ids[i]) for u in range(120) for i in best[u]]
    log = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    dataset = Dataset(Interactions(log), Catalog(pl.DataFrame({"item_id": ids})))
    store = FeatureStore("own", truth.astype(np.float32), tuple(ids), ("",) * 90, {"name": "own"})
    split = make_split(dataset, ItemColdStart(valid=0.15, test=0.15, seed=1))
    return SimpleNamespace(split=split, features=[store], taste=taste, truth=truth)


@pytest.fixture
def new_items() -> Callable[..., Catalog]:
    """Return a function that makes a catalogue of texts by id."""

    def make(**columns: list[object]) -> Catalog:
        return Catalog(pl.DataFrame(columns), ("title",))

    return make
