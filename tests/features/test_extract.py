import json

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder
from prismrec.features.encoder_file import write_encoder_file
from prismrec.features.extract import ENCODER_FOLDER, extract, fitted_on
from prismrec.features.open import load_encoder
from prismrec.features.store import MANIFEST, FeatureStore
from prismrec.features.text import TfidfSvdEncoder


class Lengths(Encoder[str]):
    """Length and first letter; remembers what it was asked for; stops where it is told to."""

    kind = "text"

    def __init__(self, scale=1.0, stop_after=None):
        self.scale, self.stop_after, self.seen = scale, stop_after, []

    @property
    def dim(self):
        return 2

    def spec(self):
        return {"name": "lengths", "scale": self.scale}

    def encode(self, contents):
        if self.stop_after is not None and len(self.seen) >= self.stop_after:
            raise KeyboardInterrupt
        self.seen += contents
        vectors = np.zeros((len(contents), 2), dtype=np.float32)
        problems = [None if text.strip() else "empty" for text in contents]
        for row, text in enumerate(contents):
            if problems[row] is None:
                vectors[row] = self.scale * len(text), ord(text[0])
        return vectors, problems

    def save(self, folder):
        write_encoder_file(folder, "Lengths", self.spec())


def contents(**texts):
    return Contents(tuple(texts), texts.__getitem__)


def as_dict(store):
    return {n: v.tolist() for n, v in zip(store.ids, store.vectors, strict=True)}


TEXTS = {"a": "alpha", "b": "be", "c": "gamma ray", "d": "delta", "e": "e"}
VECTORS = {n: [float(len(t)), float(ord(t[0]))] for n, t in TEXTS.items()}


def test_each_content_is_encoded_once(tmp_path):
    encoder = Lengths()
    store = extract(contents(**TEXTS), encoder, tmp_path, name="text", part_size=2)
    assert as_dict(store) == VECTORS
    assert sorted(encoder.seen) == sorted(TEXTS.values())
    assert store.encoder["kind"] == "text"
    assert not list(tmp_path.glob("parts-*"))
    again = Lengths()
    second = extract(contents(**TEXTS), again, tmp_path, name="text")
    assert again.seen == []
    assert second.content_hash == store.content_hash


def test_only_what_changed_is_encoded_and_what_is_gone_is_left_out(tmp_path):
    extract(contents(**TEXTS), Lengths(), tmp_path, name="text")
    encoder = Lengths()
    changed = {**TEXTS, "b": "other", "z": "alpha"}
    del changed["c"]
    store = extract(contents(**changed), encoder, tmp_path, name="text")
    assert encoder.seen == ["other"]  # z has the same content as a
    assert as_dict(store) == {n: [float(len(t)), float(ord(t[0]))] for n, t in changed.items()}


def test_a_stopped_extraction_goes_on_where_it_was(tmp_path):
    first = Lengths(stop_after=4)
    with pytest.raises(KeyboardInterrupt):
        extract(contents(**TEXTS), first, tmp_path, name="text", part_size=2)
    assert not (tmp_path / MANIFEST).exists()
    second = Lengths()
    store = extract(contents(**TEXTS), second, tmp_path, name="text", part_size=2)
    assert sorted(first.seen + second.seen) == sorted(TEXTS.values())
    assert as_dict(store) == VECTORS


def test_a_stopped_repetition_leaves_the_old_store(tmp_path):
    old = extract(contents(**TEXTS), Lengths(), tmp_path, name="text")
    with pytest.raises(KeyboardInterrupt):
        extract(contents(x="new", y="newer"), Lengths(stop_after=1), tmp_path, name="text", part_size=1)
    assert FeatureStore.read(tmp_path).content_hash == old.content_hash


def test_problems_are_noted_and_the_item_is_missing(tmp_path):
    store = extract(contents(a="alpha", blank="  "), Lengths(), tmp_path, name="text")
    assert store.ids == ("a",)
    assert FeatureStore.read(tmp_path).problems == {"blank": "empty"}


def test_nothing_encoded_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"Not one text.*empty"):
        extract(contents(blank=" "), Lengths(), tmp_path, name="text")


def test_another_encoder_replaces_the_old_one(tmp_path):
    extract(contents(**TEXTS), Lengths(), tmp_path, name="text")
    other = Lengths(scale=2.0)
    store = extract(contents(**TEXTS), other, tmp_path, name="text")
    assert len(other.seen) == len(TEXTS)
    assert store.vectors[0, 0] == 10.0
    saved = json.loads((tmp_path / ENCODER_FOLDER / "encoder.json").read_text())
    assert saved["settings"] == other.spec()


def test_what_a_killed_preparation_left_is_not_used(tmp_path):
    home = tmp_path / ENCODER_FOLDER
    home.mkdir()
    (home / "weights.safetensors.0011.partial").write_bytes(b"half")
    (home / "encoder.json").write_text("{")
    store = extract(contents(**TEXTS), Lengths(), tmp_path, name="text")
    fresh = extract(contents(**TEXTS), Lengths(), tmp_path.parent / "fresh", name="text")
    assert store.encoder == fresh.encoder
    assert store.digests == fresh.digests


def test_half_precision_is_stored_and_what_it_cannot_hold_is_refused(tmp_path):
    store = extract(contents(**TEXTS), Lengths(), tmp_path / "a", name="text", dtype=np.float16)
    assert store.vectors.dtype == np.float16
    with pytest.raises(InputError, match="float16"), np.errstate(over="ignore"):
        extract(contents(**TEXTS), Lengths(scale=1e5), tmp_path / "b", name="text", dtype=np.float16)


def test_a_damaged_store_is_encoded_again(tmp_path):
    extract(contents(**TEXTS), Lengths(), tmp_path, name="text")
    path = next(tmp_path.glob("vectors-*.npy"))
    path.write_bytes(path.read_bytes()[:-5])
    encoder = Lengths()
    assert as_dict(extract(contents(**TEXTS), encoder, tmp_path, name="text")) == VECTORS
    assert len(encoder.seen) == len(TEXTS)


def test_a_damaged_part_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(contents(**TEXTS), Lengths(stop_after=2), tmp_path, name="text", part_size=2)
    part = next(tmp_path.glob("parts-*/*.safetensors"))
    part.write_bytes(b"junk")
    with pytest.raises(DamagedError, match=part.name):
        extract(contents(**TEXTS), Lengths(), tmp_path, name="text")


def test_an_encoder_is_fitted_once_and_found_again(tmp_path):
    texts = {f"i{n}": f"a {color} {thing}" for n, (color, thing) in enumerate(
        (c, t) for c in ("red", "blue", "green") for t in ("mug", "lamp", "chair", "table"))}  # fmt: skip
    first = extract(contents(**texts), TfidfSvdEncoder(4), tmp_path, name="text")
    assert fitted_on(tmp_path) == 12
    grown = {**texts, "new": "a red table and a lamp"}
    second = extract(contents(**grown), TfidfSvdEncoder(4), tmp_path, name="text")
    # The state of the first fit is kept, so the old vectors are the same.
    np.testing.assert_array_equal(second.vectors[:12], first.vectors)
    loaded = load_encoder(tmp_path / ENCODER_FOLDER)
    np.testing.assert_allclose(loaded.encode([grown["new"]])[0][0], second.vectors[12], atol=1e-6)
    third = extract(contents(**grown), TfidfSvdEncoder(2), tmp_path, name="text")
    assert third.dim == 2
    assert fitted_on(tmp_path) == 13


def test_fitting_sees_the_allowed_items_only(tmp_path):
    texts = {"a": "red mug", "b": "red lamp", "c": "secret secret", "d": "secret lamp"}
    extract(contents(**texts), TfidfSvdEncoder(4), tmp_path, name="text", fit_on=["a", "b"])
    assert fitted_on(tmp_path) == 2
    _, problems = load_encoder(tmp_path / ENCODER_FOLDER).encode(["secret"])
    assert problems[0] is not None
    with pytest.raises(InputError, match="None of the items"):
        extract(contents(**texts), TfidfSvdEncoder(4), tmp_path / "b", name="text", fit_on=["x"])


def test_contents_of_a_catalogue():
    frame = pl.DataFrame({"item_id": ["a", "b"], "title": ["One", None]})
    catalog = Catalog(frame, ("title",), {"image": MemoryMedia({"b": b"x", "stranger": b"y"})})
    assert Contents.of(catalog, "text").ids == ("a",)
    images = Contents.of(catalog, "image")
    assert (images.ids, images.read("b")) == (("b",), b"x")
    with pytest.raises(InputError, match="no audio"):
        Contents.of(catalog, "audio")


def test_without_an_encoder_nothing_was_fitted(tmp_path):
    assert fitted_on(tmp_path) is None
