"""An item that no training has seen comes in through the page: what is it near, and whom is it for?

The tastes are planted: each user loves one of five subjects, which an item's words and colours tell. So it is
known whom the item fits. Service, model and page are the real ones.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.media import MemoryMedia
from prismrec.data.splits import ItemColdStart, make_split
from prismrec.features.contents import Contents
from prismrec.features.extract import extract
from prismrec.features.image import DescriptorEncoder
from prismrec.features.text import TfidfSvdEncoder
from prismrec.models.kernel_ridge import KernelRidgeConfig
from prismrec.recommender.train import train
from prismrec.serving.compose import make_app, open_service
from prismrec.serving.service import RunService
from prismrec.serving.settings import ServeSettings

pytestmark = pytest.mark.browser

SUBJECTS = ("sea", "forest", "city", "space", "kitchen")
COLOURS = ((30, 90, 200), (40, 130, 50), (130, 130, 130), (20, 10, 60), (220, 160, 60))
ITEMS, USERS, TAKEN = 150, 100, 15
WITHHELD = 3
"""Row of the item that is withheld; its subject is space."""


@dataclass(frozen=True)
class Story:
    """What is known of the drawn catalogue."""

    service: RunService
    row: dict[str, Any]
    picture: Path
    lovers: frozenset[str]
    subject_of: dict[str, str]


def drawn_picture(subject: int, chance: np.random.Generator) -> bytes:
    pixels = np.array(COLOURS[subject]) + chance.integers(-25, 26, (24, 24, 3))
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    home, chance = tmp_path_factory.mktemp("story"), np.random.default_rng(5)
    subjects = np.arange(ITEMS) % len(SUBJECTS)
    words = [[f"{name}word{n}" for n in range(12)] for name in SUBJECTS]
    common = [f"plainword{n}" for n in range(12)]
    rows = [
        {
            "item_id": f"i{n:03}",
            "title": f"Tale {n}",
            "year": 1950 + n % 70,
            "genres": [SUBJECTS[s], "tale"],
            "description": " ".join([*chance.choice(words[s], 9), *chance.choice(common, 6)]),
        }
        for n, s in enumerate(subjects)
    ]
    pictures = {row["item_id"]: drawn_picture(s, chance) for row, s in zip(rows, subjects, strict=True)}
    loved = chance.integers(0, len(SUBJECTS), USERS)
    log = []
    for user, subject in enumerate(loved):
        liking = np.where(subjects == subject, 12.0, 1.0)
        chosen = chance.choice(ITEMS, TAKEN, replace=False, p=liking / liking.sum())
        log += [(f"u{user:03}", rows[item]["item_id"]) for item in chosen]
    gone = rows[WITHHELD]["item_id"]
    frame = pl.DataFrame([pair for pair in log if pair[1] != gone], ["user_id", "item_id"], orient="row")
    kept = pl.DataFrame([row for row in rows if row["item_id"] != gone])
    media = MemoryMedia({name: content for name, content in pictures.items() if name != gone})
    catalog = Catalog(kept, ("title", "description"), {"image": media})
    shop = Dataset(Interactions(frame), catalog).write(home / "shop")
    for kind, encoder in (("image", DescriptorEncoder()), ("text", TfidfSvdEncoder(16))):
        extract(Contents.of(shop.catalog, kind), encoder, home / "shop" / "features" / kind, name=kind)
    train(KernelRidgeConfig(), make_split(shop, ItemColdStart(valid=0.1, test=0.1)), out=home / "run")
    picture = home / "picture.png"
    picture.write_bytes(pictures[gone])
    lovers = frozenset(f"u{n:03}" for n in np.flatnonzero(loved == subjects[WITHHELD]))
    service = open_service(home / "run")
    yield Story(service, rows[WITHHELD], picture, lovers, {row["item_id"]: row["genres"][0] for row in rows})
    service.close()


@pytest.fixture
def added(story, browser, served) -> Iterator[Any]:
    """The page that answers to the form."""
    home = served(make_app(story.service, ServeSettings(port=0, rate=None)))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    failed: list[str] = []
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(home)
    page.get_by_role("link", name="New item").click()
    page.get_by_label("Title").fill("A new tale")
    page.get_by_label("Year").fill(str(story.row["year"]))
    page.get_by_label("Genres").fill(", ".join(story.row["genres"]))
    page.get_by_label("Description").fill(story.row["description"])
    page.get_by_label("Id", exact=True).fill("late")
    page.get_by_label("Picture", exact=True).set_input_files(story.picture)
    page.get_by_role("button", name="Add it").click()
    page.wait_for_url("**added=1")
    yield page
    page.close()
    story.service.delete(["late"])
    assert failed == []


def test_it_is_kept_with_the_values_that_were_typed(story, added):
    assert added.locator("h1").text_content() == "A new tale"
    item = story.service.item("late")
    assert (item.attributes["year"], item.attributes["genres"]) == (story.row["year"], story.row["genres"])
    assert story.service.picture("late") == story.picture.read_bytes()
    assert "can be recommended from now on" in added.get_by_role("status").first.text_content()


def test_it_falls_between_items_of_its_subject(story, added):
    links = added.locator(".card h3 a").evaluate_all(
        "all => all.map(a => new URL(a.href).searchParams.get('id'))"
    )
    assert len(links) == 12
    assert [story.subject_of[name] for name in links].count("space") >= 11


def test_it_is_for_those_who_love_its_subject(story, added):
    fans = added.locator(".fans li a").all_text_contents()
    # About a fifth of all users would be met by chance.
    assert 10 <= len(story.lovers) <= 30
    assert len(fans) == 12
    assert len(story.lovers.intersection(fans)) >= 11


def test_its_people_find_it_in_their_lists_where_the_page_says(story, added):
    fan = added.locator(".fans li").first
    user = fan.locator("a").text_content()
    rank = int(fan.locator(".num").first.text_content())
    fan.locator("a").click()
    panel = added.locator("section").filter(has=added.get_by_role("heading", name=f"For {user}", exact=True))
    assert f"rank {rank} of the list" in panel.text_content()
    added.get_by_role("link", name="See the whole list").click()
    assert added.locator("h1").text_content() == user
    titles = added.locator("#list .card h3").all_text_contents()
    assert titles.index("A new tale") + 1 == rank <= 12
    assert "New" in added.locator("#list .card").nth(rank - 1).text_content()
