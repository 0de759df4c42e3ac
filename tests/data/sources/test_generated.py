import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from prismrec.base.errors import InputError
from prismrec.data.sources.generated import GeneratedConfig, generate, planted, write_raw
from prismrec.data.splits import ItemColdStart

SMALL = GeneratedConfig(items=200, users=100, interactions_per_user=12, image_size=32, seed=3)


@pytest.fixture(scope="module")
def shop():
    return generate(SMALL)


def test_columns(shop):
    assert shop.catalog.items.schema == {
        "item_id": pl.String,
        "title": pl.String,
        "description": pl.String,
        "category": pl.String,
        "price": pl.Float64,
        "brand": pl.String,
        "in_stock": pl.Boolean,
        "released": pl.Int64,
    }
    assert shop.catalog.text_columns == ("title", "description")
    assert shop.interactions.frame.schema == {
        "user_id": pl.String,
        "item_id": pl.String,
        "timestamp": pl.Float64,
    }
    assert len(shop.catalog) == 200
    assert len(shop.users) == 100


def test_as_much_is_missing_as_asked_for():
    config = SMALL.model_copy(update={"missing_image": 0.1, "missing_text": 0.25, "with_sound": 0.4})
    catalog = generate(config).catalog
    assert len(catalog.media["image"].ids) == 180
    assert len(catalog.media["audio"].ids) == 80
    assert catalog.items["title"].null_count() == 50
    assert (catalog.items["title"].is_null() == catalog.items["description"].is_null()).all()
    assert sum(text is None for text in catalog.texts()) == 50


def test_all_content_may_be_missing():
    config = SMALL.model_copy(update={"missing_image": 1.0, "missing_text": 1.0, "with_sound": 0.0})
    catalog = generate(config).catalog
    assert catalog.texts() == [None] * 200
    assert not catalog.media["image"].ids
    assert not catalog.media["audio"].ids


def test_the_same_configuration_gives_the_same_bytes(shop):
    again = generate(SMALL)
    assert_frame_equal(shop.catalog.items, again.catalog.items)
    assert_frame_equal(shop.interactions.frame, again.interactions.frame)
    for kind in ("image", "audio"):
        one, other = shop.catalog.media[kind], again.catalog.media[kind]
        assert one.ids == other.ids
        assert all(one.read(name) == other.read(name) for name in one.ids)


def test_the_seed_decides(shop):
    other = generate(SMALL.model_copy(update={"seed": 4, "pictures": False, "sounds": False}))
    assert not shop.catalog.items.equals(other.catalog.items)
    assert not shop.interactions.frame.equals(other.interactions.frame)


def test_leaving_pictures_and_sounds_out_changes_nothing_else(shop):
    bare = generate(SMALL.model_copy(update={"pictures": False, "sounds": False}))
    assert not bare.catalog.media
    assert_frame_equal(shop.catalog.items, bare.catalog.items)
    assert_frame_equal(shop.interactions.frame, bare.interactions.frame)


def test_missing_content_changes_nothing_else(shop):
    patchy = generate(SMALL.model_copy(update={"missing_image": 0.5, "missing_text": 0.5}))
    assert_frame_equal(shop.interactions.frame, patchy.interactions.frame)
    both = set(patchy.catalog.media["image"].ids) & set(shop.catalog.media["image"].ids)
    assert both
    for name in both:
        assert patchy.catalog.media["image"].read(name) == shop.catalog.media["image"].read(name)


def test_the_truth_goes_with_the_rows(shop):
    truth = planted(SMALL)
    assert shop.catalog.items["released"].to_list() == truth.attributes.released.tolist()
    assert set(shop.catalog.media["audio"].ids) == set(
        np.array(shop.items.ids)[truth.attributes.has_sound].tolist()
    )
    assert truth.user_vectors.shape == (100, truth.item_vectors.shape[1])


def test_on_cold_items_the_truth_is_far_above_popularity_and_chance():
    config = GeneratedConfig(items=400, users=400, pictures=False, sounds=False)
    data, truth = generate(config), planted(config)
    split = data.split(ItemColdStart(valid=0.1, test=0.2, seed=0))
    cold = np.flatnonzero(np.bincount(split.train.items, minlength=400) == 0)
    positive = np.zeros((400, 400), dtype=bool)
    pairs, _ = data.positives()
    positive[pairs.users, pairs.items] = True
    positive = positive[:, cold]
    tested = positive.any(axis=1)

    def recall(scores):
        top = np.argsort(-scores[:, cold], axis=1)[:, :10]
        hits = np.take_along_axis(positive, top, axis=1).sum(axis=1)
        return (hits[tested] / positive.sum(axis=1)[tested]).mean()

    best = recall(truth.scores(np.arange(400)))
    popular = recall(np.tile(truth.popularity, (400, 1)))
    chance = 10 / len(cold)
    assert best > 1.5 * popular
    assert best > 3 * chance
    assert popular > 1.2 * chance


def test_raw_files_hold_the_same(shop, tmp_path):
    paths = write_raw(SMALL, tmp_path / "raw")
    assert_frame_equal(pl.read_parquet(paths.items), shop.catalog.items)
    assert_frame_equal(pl.read_parquet(paths.interactions), shop.interactions.frame)
    for kind, folder, suffix in (("image", paths.images, ".jpg"), ("audio", paths.audio, ".wav")):
        media = shop.catalog.media[kind]
        assert {path.name for path in folder.iterdir()} == {name + suffix for name in media.ids}
        for name in media.ids:
            assert (folder / f"{name}{suffix}").read_bytes() == media.read(name)


def test_raw_files_without_pictures_and_sounds(tmp_path):
    paths = write_raw(SMALL.model_copy(update={"pictures": False, "sounds": False}), tmp_path)
    assert (paths.images, paths.audio) == (None, None)
    assert {path.name for path in tmp_path.iterdir()} == {"interactions.parquet", "items.parquet"}


def test_raw_files_do_not_mix_with_others(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not an empty folder"):
        write_raw(SMALL, tmp_path)
    with pytest.raises(InputError, match="not an empty folder"):
        write_raw(SMALL, tmp_path / "notes.txt")


def test_a_written_data_set_comes_back(shop, tmp_path):
    read = shop.write(tmp_path / "shop")
    assert read.notes["generated"] == SMALL.model_dump()
    assert GeneratedConfig(**read.notes["generated"]) == SMALL
    assert len(read.catalog.media["image"].ids) == len(shop.catalog.media["image"].ids)


@pytest.mark.parametrize(
    "settings",
    [
        {"items": 199},
        {"items": 1_000_001},
        {"missing_text": 1.1},
        {"noise": -0.1},
        {"image_size": 4},
        {"seed": -1},
        {"colour": "red"},
        {"items": 200, "interactions_per_user": 51},
    ],
)
def test_settings_out_of_bounds(settings):
    with pytest.raises(ValidationError):
        GeneratedConfig(**settings)
