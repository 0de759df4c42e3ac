import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prismrec.base.errors import DamagedError, InputError
from prismrec.features.store import MANIFEST, FeatureStore, ItemFeatures

IDS = ("b/1", "é 😀", "c")


def store(name="image", ids=IDS, dim=4, dtype=np.float32, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(dtype)
    return FeatureStore(name, vectors, tuple(ids), tuple(f"d{i}" for i in ids), {"name": "own"})


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_is_written_is_read(tmp_path, dtype):
    first = store(dtype=dtype)
    read = first.write(tmp_path / "image")
    assert isinstance(read.vectors, np.memmap)
    assert read.vectors.dtype == dtype
    np.testing.assert_array_equal(read.vectors, first.vectors)
    assert (read.ids, read.digests, read.name) == (first.ids, first.digests, "image")
    assert read.content_hash == first.content_hash
    assert read.rows(["c", "nobody", "b/1"]).tolist() == [2, -1, 0]


@given(st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=12), st.integers(1, 5), st.data())
def test_gathering_agrees_with_a_dictionary(names, dim, data):
    kept = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    features = store(ids=kept, dim=dim)
    by_name = dict(zip(kept, features.vectors, strict=True))
    codes = np.array(data.draw(st.lists(st.integers(0, len(names) - 1), max_size=20)), dtype=np.int64)
    (vectors,), present = ItemFeatures([features], names).gather(codes)
    assert vectors.shape == (len(codes), dim)
    for row, code in enumerate(codes):
        expected = by_name.get(names[code])
        assert present[row, 0] == (expected is not None)
        np.testing.assert_array_equal(vectors[row], np.zeros(dim) if expected is None else expected)


def test_several_modalities_keep_their_order_and_their_own_gaps():
    image, text = store("image", ("a", "b")), store("text", ("b", "c"), dim=2, dtype=np.float16)
    features = ItemFeatures([text, image], ["a", "b", "c", "d"])
    assert (features.names, features.dims) == (("text", "image"), (2, 4))
    (texts, images), present = features.gather(np.array([3, 1, 0]))
    assert present.tolist() == [[False, False], [True, True], [False, True]]
    assert texts.dtype == np.float32
    np.testing.assert_array_equal(texts[1], text.vectors[0].astype(np.float32))
    np.testing.assert_array_equal(images[2], image.vectors[0])
    assert not texts[[0, 2]].any()


def test_the_hash_depends_on_all_that_matters():
    hashes = {
        store().content_hash,
        store(seed=1).content_hash,
        store(dtype=np.float16).content_hash,
        store(ids=("b/1", "c", "é 😀")).content_hash,
        store(ids=("b/1",)).content_hash,
    }
    assert len(hashes) == 5
    one = ItemFeatures([store()], IDS).content_hash
    assert one != ItemFeatures([store(name="other")], IDS).content_hash


def test_writing_again_replaces_the_files_and_leaves_open_stores_alone(tmp_path):
    old = store().write(tmp_path)
    new = store(seed=1).write(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    np.testing.assert_array_equal(old.vectors, store().vectors)
    np.testing.assert_array_equal(new.vectors, store(seed=1).vectors)


def test_the_same_vectors_with_other_digests_are_another_store(tmp_path):
    first = store()
    first.write(tmp_path)
    FeatureStore(first.name, first.vectors, first.ids, ("x", "y", "z"), {}).write(tmp_path)
    assert FeatureStore.read(tmp_path).digests == ("x", "y", "z")


def test_leftovers_of_a_killed_writer_are_not_read(tmp_path):
    store().write(tmp_path)
    (tmp_path / "vectors-000000000000.npy.1234.partial").write_bytes(b"half")
    (tmp_path / "vectors-000000000000.npy").write_bytes(b"whole, but the manifest names another")
    assert FeatureStore.read(tmp_path).ids == IDS


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_are_refused_with_the_item_named(bad):
    vectors = np.ones((3, 2), dtype=np.float32)
    vectors[1, 1] = bad
    with pytest.raises(InputError, match=r"1 items.*'é 😀' \(row 1\)"):
        FeatureStore("own", vectors, IDS, ("", "", ""), {})


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        FeatureStore("own", np.ones((2, 2)), IDS, ("", "", ""), {})
    with pytest.raises(InputError, match="do not fit"):
        FeatureStore("own", np.ones(3), IDS, ("", "", ""), {})


def test_an_id_may_stand_once():
    with pytest.raises(InputError, match="'a' stands twice"):
        store(ids=("a", "a")).rows(["a"])


def test_features_of_other_items_are_refused():
    with pytest.raises(InputError, match="not one item"):
        ItemFeatures([store()], ["x", "y"])
    with pytest.raises(InputError, match="stands twice"):
        ItemFeatures([store(), store()], IDS)


def test_no_modality_is_no_content():
    vectors, present = ItemFeatures([], IDS).gather(np.array([0, 2]))
    assert vectors == []
    assert present.shape == (2, 0)


def test_no_store_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="not a feature store"):
        FeatureStore.read(tmp_path)
    (tmp_path / MANIFEST).write_text('{"format": "other"}')
    with pytest.raises(InputError, match="not a feature store"):
        FeatureStore.read(tmp_path)


def _remove(folder, kind):
    next(folder.glob(f"{kind}-*")).unlink()


def _cut(folder, kind):
    path = next(folder.glob(f"{kind}-*"))
    path.write_bytes(path.read_bytes()[:-9])


def _change(folder, **values):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **values}))


def _forget(folder, name):
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest[name]
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: _remove(f, "vectors"),
        lambda f: _remove(f, "index"),
        lambda f: _cut(f, "vectors"),
        lambda f: _cut(f, "index"),
        lambda f: _change(f, dim=5),
        lambda f: _change(f, items=2),
        lambda f: _change(f, files={}),
        lambda f: _forget(f, "files"),
        lambda f: _forget(f, "encoder"),
        lambda f: (f / MANIFEST).write_text("{"),
    ],
)
def test_damage_is_found(tmp_path, harm):
    store().write(tmp_path)
    harm(tmp_path)
    with pytest.raises(DamagedError):
        FeatureStore.read(tmp_path)


def test_a_newer_store_is_an_input_error(tmp_path):
    store().write(tmp_path)
    _change(tmp_path, format_version=99)
    with pytest.raises(InputError, match="newer"):
        FeatureStore.read(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what is resident")
def test_pages_that_were_read_can_be_let_go(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(64, 1024)).astype(np.float32)
    ids = tuple(map(str, range(64)))
    read = FeatureStore("image", vectors, ids, ids, {}).write(tmp_path)

    def resident():
        of_file = Path("/proc/self/smaps").read_text().split("vectors-", 1)[1].split("VmFlags", 1)[0]
        return int(of_file.split("Rss:", 1)[1].split()[0])

    np.testing.assert_array_equal(read.vectors, vectors)
    assert resident() >= 256
    read.forget()
    assert resident() == 0
    np.testing.assert_array_equal(read.vectors, vectors)


def test_a_store_in_memory_has_nothing_to_let_go():
    held = store()
    before = held.vectors.copy()
    held.forget()
    np.testing.assert_array_equal(held.vectors, before)


def test_what_a_notebook_shows_is_a_line(tmp_path):
    assert repr(store()) == "FeatureStore('image': 3 vectors of 4 numbers, float32; in memory)"
    assert repr(store().write(tmp_path / "image")).endswith(f"; {tmp_path / 'image'})")
