import shutil
from dataclasses import replace
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
import torch

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia
from prismrec.features.contents import Contents
from prismrec.features.encoder import Encoder
from prismrec.features.encoder_file import write_encoder_file
from prismrec.features.extract import extract
from prismrec.features.open import load_encoder
from prismrec.features.store import FeatureStore
from prismrec.models.batches import ItemBatch
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.recommender import added_batches
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train

IDS = ["shelf/1", "é 😀 ..", "plain"]
TITLES = ["A red ceramic mug", "Lamp of brass", "Chair in oak"]


@pytest.fixture
def picture(shop):
    return shop.catalog.media["image"].read(shop.catalog.media["image"].ids[0])


def scores(recommender, ids, user="stranger"):
    found = recommender.recommend([user], k=1000)
    return dict(found.filter(pl.col("item_id").is_in(ids)).select("item_id", "score").iter_rows())


def test_new_items_are_recommendable_at_once_and_after_loading(recommender, home, new_items):
    before = recommender.recommend(["stranger"], k=1000)
    report = recommender.add_items(new_items(item_id=IDS, title=TITLES))
    assert report.added == tuple(IDS)
    assert (report.updated, report.unchanged, report.without_content, report.problems) == ((), (), (), ())
    found = recommender.recommend(["stranger"], k=1000)
    assert found.filter(pl.col("item_id").is_in(IDS))["new"].all()
    assert set(found["item_id"]) == set(before["item_id"]) | set(IDS)
    kept = found.filter(~pl.col("item_id").is_in(IDS))
    assert kept.drop("rank").equals(before.drop("rank"))
    assert recommender.similar("é 😀 ..", k=3).height == 3
    assert recommender.recommend(liked=["shelf/1", "plain"], k=2).height == 2
    assert (
        Recommender.load(home).recommend(k=9, explain=True).equals(recommender.recommend(k=9, explain=True))
    )


def test_their_vectors_are_those_of_encoder_and_model(recommender, new_items, picture):
    new = new_items(item_id=IDS, title=TITLES)
    recommender.add_items(Catalog(new.items, ("title",), {"image": MemoryMedia({"plain": picture})}))
    texts, _ = load_encoder(recommender.encoders["text"]).encode(TITLES)
    images, _ = load_encoder(recommender.encoders["image"]).encode([picture])
    image = np.zeros((3, images.shape[1]), dtype=np.float32)
    image[2] = images[0]
    present = torch.tensor([[False, True], [False, True], [True, True]])
    batch = ItemBatch(torch.full((3,), -1), (torch.from_numpy(image), torch.from_numpy(texts)), present)
    with torch.no_grad():
        expected = recommender.model.item_vectors(batch).numpy()
    rows = recommender.item_ids.codes(IDS)
    np.testing.assert_allclose(recommender.items.vectors[rows], expected, atol=1e-6)
    assert recommender.items.present[rows].tolist() == present.tolist()


def test_the_same_content_gives_the_vector_of_the_old_item(recommender, shop):
    names = [n for n, t in zip(shop.items, shop.catalog.texts(), strict=True) if t is not None][:5]
    copies = shop.catalog.select(names)
    media = {n: c for n in names if (c := shop.catalog.media["image"].read(n)) is not None}
    renamed = MemoryMedia({f"copy of {n}": c for n, c in media.items()})
    frame = copies.items.with_columns(item_id="copy of " + pl.col("item_id"))
    recommender.add_items(Catalog(frame, copies.text_columns, {"image": renamed}))
    codes = recommender.item_ids.codes
    np.testing.assert_allclose(
        recommender.items.vectors[codes([f"copy of {n}" for n in names])],
        recommender.items.vectors[codes(names)],
        atol=1e-5,
    )


def test_adding_again_changes_nothing(recommender, home, new_items):
    new = new_items(item_id=IDS, title=TITLES)
    recommender.add_items(new)
    expected = recommender.recommend(k=20)
    for again in (recommender, Recommender.load(home)):
        report = again.add_items(new)
        assert report.unchanged == tuple(IDS)
        assert (report.added, report.updated) == ((), ())
        assert again.recommend(k=20).equals(expected)
    assert len(list((home / "added").iterdir())) == 1


def test_the_whole_old_catalogue_is_unchanged(recommender, shop, home):
    report = recommender.add_items(shop.catalog)
    assert len(report.unchanged) == 200
    assert not (home / "added").exists()


def test_changed_content_and_changed_attributes_are_updates(recommender, home, new_items):
    recommender.add_items(new_items(item_id=IDS, title=TITLES, price=[1.0, 2.0, 3.0]))
    before = scores(recommender, IDS)
    changed = new_items(item_id=IDS, title=["A blue silk scarf", *TITLES[1:]], price=[1.0, 2.5, 3.0])
    report = recommender.add_items(changed)
    assert (report.updated, report.unchanged) == ((IDS[0], IDS[1]), (IDS[2],))
    after = scores(recommender, IDS)
    assert after[IDS[0]] != before[IDS[0]]
    assert after[IDS[1]] == pytest.approx(before[IDS[1]], rel=1e-5)
    assert after[IDS[2]] == before[IDS[2]]
    loaded = Recommender.load(home)
    assert scores(loaded, IDS) == after
    assert loaded.recommend(["s"], where=["price=2.5"])["item_id"].to_list() == [IDS[1]]
    assert len(loaded.catalog) == 203


def test_an_item_of_training_can_be_updated(recommender, home, shop, new_items):
    name = next(n for n, warm in zip(shop.items, recommender.is_warm(), strict=True) if warm)
    report = recommender.add_items(new_items(item_id=[name], title=["Something else entirely: a mug"]))
    assert report.updated == (name,)
    assert len(recommender.catalog) == 200
    assert recommender.is_warm()[recommender.item_ids.code(name)]
    assert recommender.catalog.titles()[recommender.item_ids.code(name)].startswith("Something")
    # Its picture did not come again, and that is said.
    had = shop.catalog.media["image"].read(name) is not None
    assert ((name, "image") in [(n, m) for n, m, _ in report.problems]) == had
    assert Recommender.load(home).recommend(k=5).equals(recommender.recommend(k=5))


def test_updates_leave_the_places_of_items_alone(recommender, home, shop, new_items):
    names = [shop.items.ids[n] for n in (9, 4, 120)]
    recommender.add_items(new_items(item_id=["first", *names], title=["A mug", "One", "Two", "A lamp"]))
    for found in (recommender, Recommender.load(home)):
        assert found.item_ids.ids == (*shop.items.ids, "first")
        assert [found.catalog.titles()[n] for n in (9, 4, 120, 200)] == ["One", "Two", "A lamp", "A mug"]


def test_items_without_content_wait(recommender, new_items):
    report = recommender.add_items(
        new_items(item_id=["bare", "odd", "good"], title=[None, "zzqx", "A red mug"])
    )
    assert report.without_content == ("bare", "odd")
    assert [(n, m) for n, m, _ in report.problems] == [("odd", "text")]
    assert set(scores(recommender, ["bare", "odd", "good"])) == {"good"}
    with pytest.raises(InputError, match="has no vector"):
        recommender.similar("bare")
    later = recommender.add_items(new_items(item_id=["bare"], title=["A brass lamp"]))
    assert later.updated == ("bare",)
    assert set(scores(recommender, ["bare"])) == {"bare"}


def test_a_picture_that_is_none_is_a_problem_not_a_stop(recommender, new_items):
    new = new_items(item_id=["a", "b"], title=["A red mug", "A brass lamp"])
    media = {"image": MemoryMedia({"a": b"no picture"})}
    report = recommender.add_items(Catalog(new.items, ("title",), media))
    assert [(n, m) for n, m, _ in report.problems] == [("a", "image")]
    assert report.without_content == ()
    assert set(scores(recommender, ["a", "b"])) == {"a", "b"}


def test_attributes_of_other_types_are_refused_and_nothing_changes(recommender, home, new_items):
    expected = recommender.recommend(k=5)
    with pytest.raises(InputError, match="do not fit"):
        recommender.add_items(new_items(item_id=["a"], title=["A mug"], price=["cheap"]))
    assert recommender.recommend(k=5).equals(expected)
    assert not (home / "added").exists()
    report = recommender.add_items(new_items(item_id=["a"], title=["A mug"], price=[3]))  # fits: 3 is 3.0
    assert report.added == ("a",)


def test_attributes_that_the_catalogue_lacks_are_named(recommender, new_items):
    report = recommender.add_items(new_items(item_id=["a"], title=["A mug"], color=["red"]))
    assert report.ignored == ("color",)


def test_the_order_of_adding_does_not_matter(run, tmp_path, new_items):
    found = []
    for place, batches in enumerate(([[0], [1, 2]], [[2, 1], [0]], [[0, 1, 2]])):
        rec = Recommender.load(shutil.copytree(run, tmp_path / str(place)))
        for batch in batches:
            rec.add_items(new_items(item_id=[IDS[i] for i in batch], title=[TITLES[i] for i in batch]))
        found.append(rec.recommend(k=50))
    for other in found[1:]:
        assert other["item_id"].equals(found[0]["item_id"])
        np.testing.assert_allclose(other["score"], found[0]["score"], rtol=1e-4, atol=1e-6)


def test_many_batches_are_read_in_their_order(recommender, home, new_items):
    for turn in range(12):
        title = f"{['A red mug', 'A brass lamp', 'An oak chair'][turn % 3]} number {turn}"
        recommender.add_items(new_items(item_id=["turning", f"n{turn}"], title=[title, title]))
    loaded = Recommender.load(home)
    assert loaded.catalog.titles()[loaded.item_ids.code("turning")] == "An oak chair number 11"
    assert loaded.recommend(k=10).equals(recommender.recommend(k=10))


def test_pictures_of_added_items_are_kept(recommender, home, new_items, picture):
    new = new_items(item_id=["a/b", "c"], title=["A mug", "A lamp"])
    media = {"image": MemoryMedia({"a/b": picture, "stranger": b"x"})}
    recommender.add_items(Catalog(new.items, ("title",), media))
    loaded = Recommender.load(home)
    assert loaded.catalog.media["image"].read("a/b") == picture
    assert loaded.catalog.media["image"].read("c") is None


@pytest.mark.parametrize(
    ("name", "harm"),
    [
        (name, harm)
        for name in ("items.parquet", "arrays.safetensors", "batch.json")
        for harm in ("missing", "altered", "cut")
        # A changed letter in a digest of content only makes the item look changed when it comes again.
        if (name, harm) != ("batch.json", "altered")
    ],
)
def test_damaged_batches_are_named(recommender, home, new_items, name, harm):
    recommender.add_items(new_items(item_id=IDS, title=TITLES))
    path = home / "added" / "000000" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(bytes(content) if harm == "altered" else content[:-20])
    with pytest.raises(DamagedError, match="000000"):
        Recommender.load(home)


def own(name, ids, dim=4, seed=0, dtype=np.float32):
    vectors = np.random.default_rng(seed).normal(size=(len(ids), dim)).astype(dtype)
    return FeatureStore(name, vectors, tuple(ids), ("",) * len(ids), {"name": "own"})


@pytest.fixture
def with_own(planted, plan, tmp_path):
    config = MAMEXConfig(dim=8, loss="bpr", item_bias=False)
    return train(config, planted.split, plan=plan, features=planted.features, out=tmp_path / "own")


def test_own_vectors_of_new_items(with_own):
    new = Catalog(pl.DataFrame({"item_id": ["x", "y", "z"]}))
    report = with_own.add_items(new, vectors=[own("own", ["x", "y"])])
    assert report.added == ("x", "y", "z")
    assert report.without_content == ("z",)
    assert set(scores(with_own, ["x", "y", "z"])) == {"x", "y"}
    again = with_own.add_items(new, vectors=[own("own", ["y", "x"], seed=0)])
    assert set(again.updated) == {"x", "y"}  # the vectors changed places
    same = with_own.add_items(new, vectors=[own("own", ["y", "x"], seed=0)])
    assert same.updated == ()
    loaded = Recommender.load(with_own.path)
    assert loaded.recommend(k=5).equals(with_own.recommend(k=5))


def test_own_vectors_that_were_trained_on_are_unchanged(with_own, planted):
    old = planted.split.dataset.catalog
    report = with_own.add_items(old, vectors=planted.features)
    assert len(report.unchanged) == len(old)


def test_own_vectors_of_another_size_or_name_are_refused(with_own):
    new = Catalog(pl.DataFrame({"item_id": ["x"]}))
    with pytest.raises(InputError, match="5 dimensions, the model was trained on 4"):
        with_own.add_items(new, vectors=[own("own", ["x"], dim=5)])
    with pytest.raises(InputError, match="no modality other"):
        with_own.add_items(new, vectors=[own("other", ["x"])])
    assert "x" not in with_own.item_ids


def test_items_without_their_own_vectors_are_told_of(with_own):
    new = Catalog(pl.DataFrame({"item_id": ["x", "y"]}))
    report = with_own.add_items(new)
    assert report.without_content == ("x", "y")
    assert [problem[:2] for problem in report.problems] == [("x", "own"), ("y", "own")]
    assert "came as given vectors" in report.problems[0][2]
    assert "add-items --vectors" in report.problems[0][2]
    # Where vectors are handed in, one that is not among them is simply missing.
    report = with_own.add_items(new, vectors=[own("own", ["x"])])
    assert (report.updated, report.unchanged, report.problems) == (("x",), ("y",), ())
    # What is lost so is told once.
    lost = with_own.add_items(new)
    assert [problem[:2] for problem in lost.problems] == [("x", "own")]
    assert with_own.add_items(new).problems == ()


class Length(Encoder[str]):
    """An encoder that is not prismrec's."""

    kind: ClassVar[str] = "text"
    dim = 2

    def __init__(self, revision="1"):
        self.revision = revision

    def spec(self):
        return {"name": "length", "revision": self.revision, "sizes": (1, 2)}

    def encode(self, contents):
        return np.array([(len(t), t.count(" ") + 1) for t in contents], dtype=np.float32), [None] * len(
            contents
        )

    def save(self, folder):
        write_encoder_file(folder, "Length", self.spec())


@pytest.fixture
def by_length(split, tmp_path):
    store = extract(Contents.of(split.dataset.catalog, "text"), Length(), tmp_path / "text", name="text")
    return train(ContentProfileConfig(), split, features=[store], out=tmp_path / "length")


def test_an_encoder_of_ones_own_is_asked_for_by_name(by_length, new_items):
    for recommender in (by_length, Recommender.load(by_length.path)):
        with pytest.raises(InputError, match=r"'text' was made by the encoder class 'Length'") as found:
            recommender.add_items(new_items(item_id=["x"], title=["A mug"]))
        for way in ("encoders={'text': Length(...)}", "vectors=...", "--vectors text=FILE"):
            assert way in found.value.hint
        assert "x" not in recommender.item_ids


def test_an_encoder_of_ones_own_encodes_new_items_from_then_on(by_length, new_items):
    loaded = Recommender.load(by_length.path)
    report = loaded.add_items(new_items(item_id=["x"], title=["A mug"]), encoders={"text": Length()})
    assert (report.added, report.without_content, report.problems) == (("x",), (), ())
    assert loaded.add_items(new_items(item_id=["y"], title=["A red mug"])).added == ("y",)
    assert set(scores(Recommender.load(by_length.path), ["x", "y"])) == {"x", "y"}
    # The same content as the encoder saw before: nothing changes.
    texts = by_length.split.dataset.catalog
    assert len(loaded.add_items(Catalog(texts.items, texts.text_columns)).updated) == 0


def test_their_vectors_do_as_well(by_length, new_items):
    new = new_items(item_id=["x"], title=["A mug"])
    store = FeatureStore("text", np.array([[5, 2]], np.float32), ("x",), ("",), {"name": "own"})
    by_length.add_items(new, vectors=[store])
    other = Recommender.load(by_length.path)
    other.add_items(
        replace(new, items=new.items.with_columns(item_id=pl.lit("z"))), encoders={"text": Length()}
    )
    vectors = other.items.vectors[other.item_ids.codes(["x", "z"])]
    np.testing.assert_array_equal(vectors[0], vectors[1])


def test_an_encoder_that_did_not_make_the_modality_is_refused(by_length, with_own, new_items):
    new = new_items(item_id=["x"], title=["A mug"])
    with pytest.raises(InputError, match=r"'text': the encoder is .*'2'.* was encoded by .*'1'"):
        by_length.add_items(new, encoders={"text": Length("2")})
    with pytest.raises(InputError, match="no modality smell"):
        by_length.add_items(new, encoders={"smell": Length()})
    with pytest.raises(InputError, match="'own': the encoder is"):
        with_own.add_items(new, encoders={"own": Length()})
    assert by_length.opened == with_own.opened == {}


def test_items_can_be_added_in_memory(planted, plan):
    config = MAMEXConfig(dim=8, loss="bpr", item_bias=False)
    rec = train(config, planted.split, plan=plan, features=planted.features)
    rec.add_items(Catalog(pl.DataFrame({"item_id": ["x"]})), vectors=[own("own", ["x"])])
    assert set(scores(rec, ["x"])) == {"x"}


def test_a_batch_that_another_process_wrote_meanwhile_is_not_overwritten(
    recommender, home, new_items, monkeypatch
):
    other = Recommender.load(home)
    other.add_items(new_items(item_id=["other"], title=["A brass lamp"]))
    monkeypatch.setattr(added_batches, "batch_folders", lambda home: [])
    recommender.add_items(new_items(item_id=["mine"], title=["A red mug"]))
    monkeypatch.undo()
    assert {"other", "mine"} <= set(Recommender.load(home).item_ids)
