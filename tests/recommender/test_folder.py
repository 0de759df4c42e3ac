import json
import shutil

import numpy as np
import polars as pl
import pytest

from prismrec.base.errors import DamagedError, InputError
from prismrec.data.catalog import Catalog
from prismrec.data.media import MemoryMedia, PackedMedia
from prismrec.models.content_profile import ContentProfileConfig
from prismrec.models.linear_map import LinearMapConfig
from prismrec.models.mamex import MAMEXConfig
from prismrec.models.popularity import PopularityConfig
from prismrec.recommender.evaluate import evaluate
from prismrec.recommender.folder import load, read_manifest, require_home
from prismrec.recommender.recommender import Recommender
from prismrec.recommender.train import train


def same(one, two):
    np.testing.assert_array_equal(one.items.vectors, two.items.vectors)
    np.testing.assert_array_equal(one.items.present, two.items.present)
    np.testing.assert_array_equal(one.users, two.users)
    assert one.recommend(k=5, explain=True).equals(two.recommend(k=5, explain=True))
    liked = list(one.item_ids)[:4]
    assert one.recommend(liked=liked, k=5).equals(two.recommend(liked=liked, k=5))
    assert one.digests == two.digests


@pytest.mark.parametrize("kind", ["mamex", "linear", "popularity"])
def test_what_is_saved_is_loaded(split, config, plan, tmp_path, kind):
    settings = {"mamex": config, "linear": LinearMapConfig(), "popularity": PopularityConfig()}[kind]
    trained = train(settings, split, plan=plan)
    expected = trained.recommend(k=5, explain=True)
    trained.save(tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run")
    assert loaded.recommend(k=5, explain=True).equals(expected)
    same(trained, loaded)
    for one, two in zip(trained.model.state().items(), loaded.model.state().items(), strict=True):
        assert one[0] == two[0]
        assert bool((one[1] == two[1]).all())
    # A model computes the same vectors again: nothing that it needs was left out.
    assert evaluate(loaded, part="valid").parts[0].metrics == evaluate(trained, part="valid").parts[0].metrics


class Mine(ContentProfileConfig):
    """A model of the user's own: prismrec has none of this name."""

    name = "mine"


def test_a_model_of_ones_own_is_loaded_by_its_configuration(split, tmp_path):
    trained = train(Mine(tune=False), split, out=tmp_path / "run")
    loaded = Recommender.load(tmp_path / "run", model=Mine)
    same(trained, loaded)
    assert isinstance(loaded.model.config, Mine)
    assert not loaded.model.config.tune
    same(trained, load(tmp_path / "run", Mine))
    with pytest.raises(InputError, match=r"'mine', which prismrec does not have[\s\S]*load\(folder, model="):
        load(tmp_path / "run")


def test_the_configuration_of_another_model_is_refused(home):
    with pytest.raises(InputError, match="a model 'mamex', not of 'mine'"):
        Recommender.load(home, model=Mine)
    assert Recommender.load(home, model=MAMEXConfig).manifest.model == "mamex"


def test_there_is_no_pickle_in_a_run(run):
    kinds = {p.suffix for p in run.rglob("*") if p.is_file()}
    assert kinds <= {".json", ".safetensors", ".parquet"}


def test_a_run_lives_without_its_data_set(home, shop, tmp_path):
    manifest = json.loads((home / "run.json").read_text())
    with_pictures = load(home)
    assert with_pictures.catalog.media["image"].ids
    manifest["dataset_path"] = str(tmp_path / "gone")
    (home / "run.json").write_text(json.dumps(manifest))
    without = load(home)
    assert not without.catalog.media
    assert without.recommend(k=3).equals(with_pictures.recommend(k=3))
    assert without.similar(without.item_ids.ids[0]).equals(with_pictures.similar(without.item_ids.ids[0]))
    assert evaluate(without, part="valid").parts[0].beyond.diversity is None


def test_pictures_of_another_data_set_in_the_same_place_are_not_shown(home, shop, tmp_path):
    copy = shutil.copytree(shop.path, tmp_path / "copy")
    manifest = json.loads((home / "run.json").read_text())
    (home / "run.json").write_text(json.dumps({**manifest, "dataset_path": str(copy)}))
    assert load(home).catalog.media
    other = json.loads((copy / "dataset.json").read_text())
    (copy / "dataset.json").write_text(json.dumps({**other, "content_hash": "0" * 32}))
    assert not load(home).catalog.media


FILES = [
    "model.safetensors",
    "vectors.safetensors",
    "split/split.parquet",
    "split/users.parquet",
    "split/items.parquet",
    "catalog/items.parquet",
    "catalog/catalog.json",
    "encoders/text/encoder.json",
    "encoders/text/weights.safetensors",
    "encoders/image/encoder.json",
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(home, name):
    (home / name).unlink()
    with pytest.raises(DamagedError, match=name.rsplit("/", maxsplit=1)[-1]):
        load(home)


@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named(home, name):
    content = bytearray((home / name).read_bytes())
    content[len(content) // 2] ^= 1
    (home / name).write_bytes(content)
    with pytest.raises(DamagedError, match=r"altered"):
        load(home)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", DamagedError, "damaged"),
        ("[]", DamagedError, "damaged"),
        ('{"format": "other"}', InputError, "not a run"),
        ('{"format": "prismrec-run", "format_version": 99}', InputError, "newer"),
        ('{"format": "prismrec-run", "format_version": 1}', DamagedError, "damaged"),
    ],
)
def test_manifests_that_are_none(home, text, error, message):
    (home / "run.json").write_text(text)
    with pytest.raises(error, match=message):
        load(home)


def test_a_folder_without_a_manifest_is_no_run(tmp_path):
    with pytest.raises(InputError, match="not a run"):
        load(tmp_path)
    with pytest.raises(InputError, match="not a run"):
        read_manifest(tmp_path / "nowhere")


def test_a_home_is_new_empty_or_a_run(home, tmp_path):
    require_home(tmp_path / "new")
    require_home(home)
    (home / "run.json").unlink()
    require_home(home)  # what a killed save left
    (home / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match=r"thesis\.doc"):
        require_home(home)


def test_saving_elsewhere_takes_added_items_along_with_their_pictures(recommender, tmp_path, shop):
    picture = shop.catalog.media["image"].read(shop.catalog.media["image"].ids[0])
    frame = pl.DataFrame({"item_id": ["new/1"], "title": ["a red mug"]})
    recommender.add_items(Catalog(frame, ("title",), {"image": MemoryMedia({"new/1": picture})}))
    recommender.save(tmp_path / "elsewhere")
    loaded = load(tmp_path / "elsewhere")
    same(recommender, loaded)
    assert loaded.catalog.media["image"].read("new/1") == picture
    assert recommender.path == tmp_path / "elsewhere"


def test_saving_elsewhere_takes_the_new_pictures_of_replaced_training_items_along(
    recommender, tmp_path, shop
):
    media = shop.catalog.media["image"]
    with_one = set(media.ids)
    known, same_as, bare = *media.ids[:2], next(n for n in shop.catalog.vocabulary if n not in with_one)
    first, second = (media.read(name) for name in media.ids[2:4])
    for pictures in ({known: second, same_as: media.read(same_as)}, {known: first, bare: second}):
        frame = shop.catalog.items.filter(pl.col("item_id").is_in(list(pictures)))
        recommender.add_items(Catalog(frame, shop.catalog.text_columns, {"image": MemoryMedia(pictures)}))
    # Twice: what was written once has to be found and written again.
    for place in ("elsewhere", "farther"):
        recommender.save(tmp_path / place)
        recommender = load(tmp_path / place)
        found = recommender.catalog.media["image"]
        assert found.read(known) == first
        assert found.read(bare) == second
        assert found.read(same_as) == media.read(same_as)
        assert found.read(media.ids[5]) == media.read(media.ids[5])
        packed = PackedMedia(tmp_path / place / "catalog" / "image.parquet")
        # What the data set's folder has is not written once more.
        assert set(packed.ids) <= {known, same_as, bare}


def test_saving_over_another_run_leaves_nothing_of_it(home, split, plan, new_items):
    old = load(home)
    old.add_items(new_items(item_id=["n1"], title=["a red mug"]))
    (home / "metrics.json").write_text("{}")
    train(PopularityConfig(), split).save(home)
    loaded = load(home)
    assert loaded.manifest.model == "popularity"
    assert len(loaded.catalog) == len(split.items)
    assert not (home / "added").exists()
    assert not (home / "metrics.json").exists()


def test_saving_in_place_keeps_everything(recommender, home, new_items):
    recommender.add_items(new_items(item_id=["n1"], title=["a red mug"]))
    recommender.save(home)
    same(load(home), recommender)


def test_leftovers_are_not_read(home):
    expected = load(home).recommend(k=3)
    (home / "added").mkdir()
    (home / "added" / "batch.0123abcd.partial").mkdir()
    (home / "added" / "batch.0123abcd.partial" / "items.parquet").write_bytes(b"half")
    (home / "model.safetensors.0123.partial").write_bytes(b"half")
    assert load(home).recommend(k=3).equals(expected)
