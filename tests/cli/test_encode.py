import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest


@pytest.fixture
def data(shop, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shop.data, tmp_path / "shop"))


def test_what_is_encoded_is_not_encoded_again(call, data: Path) -> None:
    found = call("encode", data, "--json").document["modalities"]
    assert set(found) == {"image", "text", "audio"}
    assert all(m["encoded"] == 0 and m["reused"] > 0 for m in found.values())


def test_one_kind_alone_and_anew(call, data: Path) -> None:
    done = call("encode", data, "--image", "none", "--audio", "none", "--refit", "--json")
    found = done.document["modalities"]
    assert set(found) == {"text"}
    assert found["text"]["encoded"] > 0
    assert found["text"]["reused"] == 0


def test_vectors_of_your_own_from_both_kinds_of_file(call, shop, data: Path, tmp_path: Path) -> None:
    ids = pl.read_parquet(shop.drawn.today.items)["item_id"].to_list()
    vectors = np.random.default_rng(0).normal(size=(len(ids) + 1, 4)).astype(np.float32)
    names = [*ids, "stranger"]
    pl.DataFrame({"item_id": names, "v": vectors.tolist()}).write_parquet(tmp_path / "v.parquet")
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("\n".join(names))
    words = ("--image", "none", "--text", "none", "--audio", "none", "--json")
    done = call(
        "encode", data, "--vectors", f"clip={tmp_path}/v.parquet",
        "--vectors", f"other={tmp_path}/v.npy:{tmp_path}/ids.txt", *words,
    )  # fmt: skip
    assert done.code == 0, done.stderr
    found = done.document["modalities"]
    assert found["clip"]["encoded"] == found["other"]["encoded"] == len(ids)
    assert found["clip"]["unknown"] == ["stranger"]
    stored = {name: np.load(next((data / "features" / name).glob("*.npy"))) for name in ("clip", "other")}
    np.testing.assert_array_equal(stored["clip"], vectors[:-1])
    np.testing.assert_array_equal(stored["other"], vectors[:-1])


def test_nan_among_vectors_names_item_and_row(call, data: Path, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["p00001", "p00002"], "v": [[1.0, 2.0], [1.0, float("nan")]]}).write_parquet(
        tmp_path / "v.parquet"
    )
    done = call("encode", data, "--vectors", f"clip={tmp_path}/v.parquet", "--json")
    assert done.code == 3
    assert "'p00002' (row 1)" in done.document["error"]["problem"]


def test_not_a_data_set(call, tmp_path: Path) -> None:
    done = call("encode", tmp_path)
    assert done.code == 3
    assert "prismrec ingest" in done.stderr
    assert done.stdout == ""


def test_people_see_a_table(call, data: Path) -> None:
    shown = call("encode", data).stdout
    assert "tfidf-svd" in shown
    assert "descriptors" in shown
