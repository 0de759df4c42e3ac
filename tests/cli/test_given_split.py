"""A split that comes with the data, from training to evaluation."""

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from prismrec.data.dataset import Dataset
from prismrec.data.given_split import PARTS_FILE, write_parts
from prismrec.data.splits import ItemColdStart, RandomHoldout


@pytest.fixture
def data(shop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop.data, tmp_path / "data"))


def give(data: Path, cold: bool) -> None:
    dataset = Dataset.read(data)
    plan = ItemColdStart(valid=0.2, test=0.2, seed=4) if cold else RandomHoldout(valid=0.2, test=0.2)
    pairs, order = dataset.positives()
    parts = plan.parts(dataset, pairs, order)
    frame = pl.DataFrame(
        {
            "user_id": dataset.users.names(pairs.users),
            "item_id": dataset.items.names(pairs.items),
            "part": np.array(["train", "valid", "test"])[parts],
        }
    )
    write_parts(data, frame)


@pytest.mark.parametrize(
    ("cold", "modes"), [(True, {"strict", "as_released", "all_items"}), (False, {"warm"})]
)
def test_trained_and_evaluated_on_the_given_parts(call, data: Path, tmp_path: Path, cold, modes) -> None:
    give(data, cold)
    words = (
        "train",
        data,
        "--model",
        "content-profile",
        "--split",
        "given",
        "--out",
        tmp_path / "run",
        "--json",
    )
    done = call(*words)
    assert done.code == 0, done.stderr
    split = done.document["split"]
    assert (split["kind"], split["file"]) == ("given", PARTS_FILE)
    listed = pl.read_parquet(data / PARTS_FILE)["part"].to_list()
    assert (split["train_pairs"], split["valid_pairs"]) == (listed.count("train"), listed.count("valid"))
    assert call(*words).document["already_trained"]

    evaluated = call("evaluate", tmp_path / "run", "-k", 3, "--no-report", "--json")
    assert evaluated.code == 0, evaluated.stderr
    assert set(evaluated.document["metrics"]["test"]) == modes

    give(data, not cold)
    changed = call(*words)
    assert changed.code == 3
    assert "the data set has changed" in changed.document["error"]["problem"]


def test_without_parts_the_file_is_named(call, data: Path, tmp_path: Path) -> None:
    done = call("train", data, "--model", "random", "--split", "given", "--out", tmp_path / "run", "--json")
    assert done.code == 3
    assert PARTS_FILE in done.document["error"]["problem"]
    done = call(
        "train", data, "--model", "random", "--split", "given", "--test", 0.2, "--out", tmp_path / "run"
    )
    assert done.code == 3
    assert "'test'" in done.stderr
