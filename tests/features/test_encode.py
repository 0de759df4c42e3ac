from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

import prismrec as pr
from prismrec.base.errors import ConfigError, InputError
from prismrec.base.progress import SILENT
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.features.contents import Contents
from prismrec.features.encode import EncodePlan, encode_catalog, encode_modalities
from prismrec.features.encoder import Encoder, Vectors
from prismrec.features.encoder_file import write_encoder_file
from prismrec.features.extract import extract
from prismrec.features.own import read_vectors
from prismrec.features.store import MANIFEST, FeatureStore

TEXTS = ["red wool coat", "blue wool hat", "red silk tie", "green mug", "blue mug", None]


def dataset(folder: Path, texts: list[str | None] = TEXTS) -> Dataset:
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(texts))], "title": texts})
    log = Interactions(pl.DataFrame({"user_id": ["u"], "item_id": ["i0"]}))
    return Dataset(log, Catalog(items, ("title",))).write(folder)


def own(folder: Path, ids: list[str], name: str = "mine", scale: float = 1.0) -> FeatureStore:
    vectors = scale * np.arange(3 * len(ids), dtype=np.float32).reshape(-1, 3)
    pl.DataFrame({"item_id": ids, "v": vectors.tolist()}).write_parquet(folder / "own.parquet")
    return read_vectors(folder / "own.parquet", name=name)


def test_every_kind_that_there_is_and_nothing_twice(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    (first,) = encode_modalities(data, EncodePlan())
    assert first.store.name == "text"
    assert (first.encoded, first.reused) == (5, 0)
    assert first.store.ids == ("i0", "i1", "i2", "i3", "i4")
    (again,) = encode_modalities(data, EncodePlan(encoders={"text": "default"}))
    assert (again.encoded, again.reused) == (0, 5)
    np.testing.assert_array_equal(again.store.vectors, first.store.vectors)
    assert [s.content_hash for s in encode_catalog(data, EncodePlan())] == [first.store.content_hash]


def test_items_that_come_go_through_the_encoder_that_is_there(tmp_path: Path) -> None:
    (first,) = encode_catalog(dataset(tmp_path / "shop"), EncodePlan())
    (grown,) = encode_modalities(dataset(tmp_path / "shop", [*TEXTS, "red mug"]), EncodePlan())
    assert (grown.encoded, grown.reused) == (1, 5)
    assert grown.store.encoder["key"] == first.encoder["key"]


def test_refit_learns_anew(tmp_path: Path) -> None:
    (first,) = encode_catalog(dataset(tmp_path / "shop"), EncodePlan())
    grown = dataset(tmp_path / "shop", [*TEXTS, "yellow lamp"])
    (anew,) = encode_modalities(grown, EncodePlan(refit=True))
    assert (anew.encoded, anew.reused) == (6, 0)
    assert anew.store.encoder["state"] != first.encoder["state"]


def test_an_encoder_learns_from_the_named_items_only(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    encode_catalog(data, EncodePlan())
    (some,) = encode_modalities(data, EncodePlan(fit_on=["i0", "i1", "i2"]))
    # "green mug" has no word that the others taught.
    assert set(some.store.problems) == {"i3"}
    assert some.encoded == 4
    (kept,) = encode_modalities(data, EncodePlan(fit_on=["i2", "i1", "i0", "i0"]))
    assert (kept.encoded, kept.reused) == (0, 4)
    (kept,) = encode_modalities(data, EncodePlan())
    assert (kept.encoded, kept.reused) == (0, 4)
    (all_items,) = encode_modalities(data, EncodePlan(refit=True))
    assert all_items.encoded == 5
    with pytest.raises(InputError, match="'i9'"):
        encode_catalog(data, EncodePlan(fit_on=["i0", "i9"]))


def test_own_vectors_of_known_items_are_taken_over(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    store = own(tmp_path, ["i4", "stranger", "i0"])
    plan = EncodePlan(encoders={"text": "none"}, vectors=[store])
    (first,) = encode_modalities(data, plan)
    assert first.unknown == ("stranger",)
    assert first.store.ids == ("i4", "i0")
    np.testing.assert_array_equal(first.store.vectors, store.vectors[[0, 2]])
    assert first.store.digests == (store.digests[0], store.digests[2])
    (again,) = encode_modalities(data, plan)
    assert (again.encoded, again.reused) == (0, 2)
    with pytest.raises(InputError, match="not one"):
        encode_catalog(data, EncodePlan(vectors=[own(tmp_path, ["x", "y"])]))


def test_half_precision_keeps_the_digest_and_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    store = own(tmp_path, ["i0", "i1"])
    (half,) = encode_catalog(data, EncodePlan(encoders={"text": "none"}, vectors=[store], dtype="float16"))
    assert half.vectors.dtype == np.float16
    assert half.digests == store.digests
    large = own(tmp_path, ["i0", "i1"], scale=1e5)
    with pytest.raises(InputError, match="infinite"):
        encode_catalog(data, EncodePlan(encoders={"text": "none"}, vectors=[large], dtype="float16"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_own_vectors_on_the_disk_are_taken_over_in_blocks(tmp_path: Path, monkeypatch, dtype: str) -> None:
    monkeypatch.setattr("prismrec.features.encode._BLOCK", 2)
    data = dataset(tmp_path / "shop")
    names = ["i3", "stranger", "i0", "i1"]
    vectors = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float16)
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "ids.txt").write_text("\n".join(names), encoding="utf-8")
    store = read_vectors(tmp_path / "v.npy", tmp_path / "ids.txt", name="mine")
    plan = EncodePlan(encoders={"text": "none"}, vectors=[store], dtype=dtype)
    (first,) = encode_modalities(data, plan)
    assert (first.store.ids, first.unknown) == (("i3", "i0", "i1"), ("stranger",))
    assert first.store.vectors.dtype == dtype
    np.testing.assert_array_equal(first.store.vectors, vectors[[0, 2, 3]].astype(dtype))
    # The file that held them meanwhile is gone.
    assert [p.name for p in (tmp_path / "shop" / "features").iterdir()] == ["mine"]
    (again,) = encode_modalities(data, plan)
    assert again.reused == 3


def test_own_vectors_of_a_kind_stay_until_an_encoder_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    encode_catalog(data, EncodePlan())
    store = own(tmp_path, ["i0", "i1"], name="text")
    encode_catalog(data, EncodePlan(vectors=[store]))
    assert not (tmp_path / "shop" / "features" / "text" / "encoder").exists()
    (kept,) = encode_catalog(data, EncodePlan())
    np.testing.assert_array_equal(kept.vectors, store.vectors)
    (encoded,) = encode_catalog(data, EncodePlan(encoders={"text": "default"}))
    assert encoded.ids == ("i0", "i1", "i2", "i3", "i4")
    assert (tmp_path / "shop" / "features" / "text" / "encoder").exists()


class Letters(Encoder[str]):
    """An encoder that is not prismrec's: how often a text has each of four letters."""

    kind: ClassVar[str] = "text"
    dim = 4

    def spec(self) -> dict[str, Any]:
        return {"name": "letters", "revision": "1"}

    def encode(self, contents: Sequence[str]) -> tuple[Vectors, list[str | None]]:
        counts = [[text.count(letter) for letter in "aeou"] for text in contents]
        return np.array(counts, dtype=np.float32), [None] * len(counts)

    def save(self, folder: Path) -> None:
        write_encoder_file(folder, "Letters", self.spec())


class Says(type(SILENT)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_what_an_encoder_of_ones_own_made_stays_until_an_encoder_is_named(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    home = tmp_path / "shop" / "features" / "text"
    vectors = np.array(extract(Contents.of(data.catalog, "text"), Letters(), home, name="text").vectors)
    for plan in (EncodePlan(), EncodePlan(refit=True)):
        said = Says()
        (kept,) = encode_modalities(data, plan, said)
        np.testing.assert_array_equal(kept.store.vectors, vectors)
        assert (kept.encoded, kept.reused) == (0, 5)
        (line,) = said.lines
        assert "'Letters'" in line
        assert "--text default" in line
        assert "have none" not in line
    said = Says()
    encode_catalog(dataset(tmp_path / "shop", [*TEXTS, "red mug"]), EncodePlan(), said)
    assert said.lines[0].endswith("that have none: 1")
    assert (home / "encoder" / "encoder.json").read_text().count("Letters") == 1
    (replaced,) = encode_catalog(data, EncodePlan(encoders={"text": "default"}))
    assert replaced.encoder["name"] != "letters"


def test_an_encoder_of_ones_own_that_was_stopped_is_not_replaced_unasked(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    home = tmp_path / "shop" / "features" / "text"
    extract(Contents.of(data.catalog, "text"), Letters(), home, name="text")
    (home / MANIFEST).unlink()
    for plan in (EncodePlan(), EncodePlan(refit=True)):
        with pytest.raises(InputError, match=r"'Letters'.*no whole store"):
            encode_catalog(data, plan)
    assert (home / "encoder" / "encoder.json").exists()
    encode_catalog(data, EncodePlan(encoders={"text": "none"}, vectors=[own(tmp_path, ["i0"])]))
    assert (home / "encoder" / "encoder.json").exists()
    (replaced,) = encode_catalog(data, EncodePlan(encoders={"text": "default"}))
    assert len(replaced.ids) == 5


def test_vectors_of_ones_own_say_that_they_stay(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    encode_catalog(data, EncodePlan(vectors=[own(tmp_path, ["i0", "i1"], name="text")]))
    said = Says()
    encode_catalog(data, EncodePlan(), said)
    assert said.lines == [
        "text: vectors of your own stay as they are (--text default replaces them); "
        "items with such content that have none: 3"
    ]


def test_encode_takes_what_the_command_takes(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    (first,) = pr.encode(data)
    assert first.name == "text"
    (mine,) = pr.encode(data, text="none", vectors=[own(tmp_path, ["i0", "i1"])])
    assert (mine.name, mine.ids) == ("mine", ("i0", "i1"))
    with pytest.raises(InputError, match="no image"):
        pr.encode(data, image="default")


def test_a_damaged_store_is_made_again(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop")
    (first,) = encode_catalog(data, EncodePlan())
    vectors = np.array(first.vectors)
    next((tmp_path / "shop" / "features" / "text").glob("vectors-*.npy")).write_bytes(b"cut")
    (again,) = encode_catalog(data, EncodePlan())
    np.testing.assert_array_equal(again.vectors, vectors)


def test_vectors_never_stand_beside_an_encoder_that_is_not_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prismrec.features import encode

    data = dataset(tmp_path / "shop")
    encode_catalog(data, EncodePlan())

    def killed(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encode, "extract", killed)
        with pytest.raises(KeyboardInterrupt):
            encode_catalog(data, EncodePlan(fit_on=["i0", "i1"]))
    assert not (tmp_path / "shop" / "features" / "text" / MANIFEST).exists()
    (after,) = encode_catalog(data, EncodePlan(fit_on=["i0", "i1"]))
    assert set(after.problems) == {"i3"}


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (EncodePlan(encoders={"smell": "default"}), "smell"),
        (EncodePlan(revision="main"), "revision"),
        (EncodePlan(encoders={"text": "a/b", "image": "c/d"}, revision="main"), "revision"),
    ],
)
def test_plans_that_contradict_themselves(tmp_path: Path, plan: EncodePlan, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        encode_catalog(dataset(tmp_path / "shop"), plan)


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ""])
def test_a_name_that_would_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be called"):
        encode_catalog(dataset(tmp_path / "shop"), EncodePlan(vectors=[own(tmp_path, ["i0"], name=name)]))


def test_nothing_to_encode(tmp_path: Path) -> None:
    data = dataset(tmp_path / "shop", [None, None])
    with pytest.raises(InputError, match="nothing to encode"):
        encode_catalog(data, EncodePlan())
    with pytest.raises(InputError, match="no image"):
        encode_catalog(data, EncodePlan(encoders={"image": "default"}))
