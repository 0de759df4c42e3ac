from pathlib import Path

import polars as pl
import pytest

from prismrec.base.errors import InputError
from prismrec.data.sources.generated import GeneratedConfig, generate
from prismrec.data.sources.generated_demo import MARKER, draw_demo

CONFIG = GeneratedConfig(items=200, users=40, interactions_per_user=6, image_size=32, with_sound=0.1)


def test_the_newest_items_are_set_apart_with_all_that_is_theirs(tmp_path: Path) -> None:
    drawn = draw_demo(CONFIG, tmp_path / "demo", arriving=5)
    whole = generate(CONFIG)
    new, old = pl.read_parquet(drawn.arriving), pl.read_parquet(drawn.today.items)
    log = pl.read_parquet(drawn.today.interactions)
    assert pl.concat([old, new]).sort("item_id").equals(whole.catalog.items.sort("item_id"))
    assert new["released"].min() == drawn.arrival > old["released"].max()
    assert not set(log["item_id"]) & set(new["item_id"])
    assert (
        log.height
        == whole.interactions.frame.filter(pl.col("item_id").is_in(old["item_id"].implode())).height
    )
    there = {path.stem for path in drawn.images.iterdir()}
    assert there == set(whole.catalog.media["image"].ids) & set(new["item_id"])
    assert drawn.today.images is not None
    assert {p.stem for p in drawn.today.images.iterdir()} == set(whole.catalog.media["image"].ids) - there
    assert drawn.customer in set(log["user_id"])


def test_only_an_earlier_demonstration_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="not a demonstration"):
        draw_demo(CONFIG, tmp_path)
    (tmp_path / MARKER).write_text("{}")
    (tmp_path / "shop").mkdir()
    draw_demo(CONFIG, tmp_path)
    assert not (tmp_path / "shop").exists()
    assert (tmp_path / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        draw_demo(CONFIG, tmp_path / "mine.txt")
