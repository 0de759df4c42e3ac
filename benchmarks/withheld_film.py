"""A film that no training has seen is added through a service's page: what is it near, whom is it for?

    python benchmarks/withheld_film.py --data FOLDER --work FOLDER [--title "Toy Story"]

The film and all its ratings are taken out of movielens-small before anything is learnt. Then a browser
without a window (Chromium, by Playwright) fills the page's form with its title, year, genres, plot and
poster, reads from the page that answers the films nearest to it and the people it is for, opens the first of
these people and looks for the film in the list. Screenshots of each step are left in the work folder. Beyond
what a page can show it prints how well the scores tell those who really rated the film from the others (AUC).

The shop and the run in the work folder are used again: take another folder for another film or text model.
"""

import argparse
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from playwright.sync_api import Browser, Page, sync_playwright
from sklearn.metrics import roc_auc_score

import prismrec as pr
from prismrec.data.ingest import ingest
from prismrec.features.encode import EncodePlan, encode_catalog
from prismrec.models.catalogue import config_of
from prismrec.serving.compose import make_app, open_service
from prismrec.serving.server import server
from prismrec.serving.service import RunService
from prismrec.serving.settings import ServeSettings

LONGEST = "96"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@dataclass(frozen=True)
class Film:
    """The film that is withheld: what the form is filled with, and who rated it."""

    item_id: str
    title: str
    year: str
    genres: str
    plot: str
    poster: Path
    rated: frozenset[str]


@dataclass(frozen=True)
class Shown:
    """What the page says of the film: films beside it with cosines, people with the rank in their lists."""

    near: tuple[tuple[str, str], ...]
    fans: tuple[tuple[str, int], ...]


def without(data: Path, title: str, work: Path) -> tuple[Film, Path]:
    """Write the data without a film; return the film, and the folder."""
    items = pl.read_parquet(data / "items.parquet")
    found = items.filter(pl.col("title") == title)
    if not found.height:
        raise SystemExit(f"{data}: no film is called {title!r}.")
    row = found.row(0, named=True)
    log = pl.read_parquet(data / "interactions.parquet")
    rated = frozenset(log.filter(pl.col("item_id") == row["item_id"])["user_id"].to_list())
    raw = work / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    items.filter(pl.col("item_id") != row["item_id"]).write_parquet(raw / "items.parquet")
    log.filter(pl.col("item_id") != row["item_id"]).write_parquet(raw / "interactions.parquet")
    poster = work / "poster.jpg"
    poster.write_bytes(row["image"])
    genres = ", ".join(row["genres"])
    film = Film(str(row["item_id"]), title, str(row["year"]), genres, row["description"], poster, rated)
    return film, raw


def trained(film: Film, raw: Path, work: Path, model: str, text_model: str) -> Path:
    """Train on the data without the film; return the run's folder."""
    shop, run = work / "shop", work / f"run-{model}"
    if not (shop / "dataset.json").exists():
        ingest(raw / "interactions.parquet", raw / "items.parquet", shop)
    dataset = pr.Dataset.read(shop)
    if film.item_id in dataset.items:
        raise SystemExit(f"{shop}: holds {film.title!r}. Take another --work for another film.")
    if not (run / "run.json").exists():
        encode_catalog(dataset, EncodePlan({"text": text_model}))
        pr.train(config_of(model)(), dataset.split(pr.ItemColdStart()), out=run)
    return run


@contextmanager
def served(service: RunService, run: Path) -> Iterator[str]:
    """Serve API and page on a free port of this machine; give the address."""
    settings = ServeSettings(port=0, rate=None)
    process = server(make_app(service, settings, run=run), settings)
    thread = threading.Thread(target=process.run, daemon=True)
    thread.start()
    while not process.started:
        if not thread.is_alive():
            raise SystemExit("The service did not start.")
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{process.servers[0].sockets[0].getsockname()[1]}"
    finally:
        process.should_exit = True
        thread.join(30)


@contextmanager
def browser() -> Iterator[Browser]:
    """Run Chromium without a window."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


def add(page: Page, home: str, film: Film, work: Path) -> Shown:
    """Fill in the form for a new item, send it, and read the page that answers."""
    page.goto(home)
    page.get_by_role("link", name="New item").click()
    page.get_by_label("Title").fill(film.title)
    page.get_by_label("Year").fill(film.year)
    page.get_by_label("Genres").fill(film.genres)
    page.get_by_label("Description").fill(film.plot)
    page.get_by_label("Id", exact=True).fill(film.item_id)
    page.get_by_label("Picture", exact=True).set_input_files(film.poster)
    page.locator("#preview").wait_for(state="visible")
    page.screenshot(path=work / "1-form.png", full_page=True)
    page.get_by_role("button", name="Add it").click()
    page.wait_for_url("**added=1")
    _pictures_loaded(page)
    page.screenshot(path=work / "2-added.png", full_page=True)
    titles = page.locator(".card h3").all_text_contents()
    cosines = page.locator(".card .meta .num").all_text_contents()
    people = page.locator(".fans li a").all_text_contents()
    ranks = page.locator(".fans li small .num:first-child").all_text_contents()
    fans = [(user, int(rank.replace(",", ""))) for user, rank in zip(people, ranks, strict=True)]
    return Shown(tuple(zip(titles, cosines, strict=True)), tuple(fans))


def place_with(page: Page, user: str, film: Film, work: Path) -> int | None:
    """Open somebody for whom the film is, and return its place in the longest list shown, None without."""
    page.locator(".fans").get_by_role("link", name=user, exact=True).click()
    page.get_by_role("heading", name=f"For {user}", exact=True).wait_for()
    _pictures_loaded(page)
    page.screenshot(path=work / "3-why.png", full_page=True)
    page.get_by_role("link", name="See the whole list").click()
    page.get_by_label("Length").select_option(LONGEST)
    page.wait_for_url(f"**k={LONGEST}**")
    titles = page.locator("#list .card h3").all_text_contents()
    place = titles.index(film.title) + 1 if film.title in titles else None
    page.locator("#list .card").nth((place or 1) - 1).scroll_into_view_if_needed()
    _pictures_loaded(page)
    page.screenshot(path=work / "4-list.png")
    return place


def show_map(page: Page, work: Path) -> None:
    """Leave a picture of the catalogue's map, coloured by genre."""
    page.get_by_role("link", name="Map", exact=True).click()
    page.get_by_label("Coloured by").select_option("genres")
    page.wait_for_url("**by=genres**")
    page.locator("#map").wait_for(state="visible")
    page.screenshot(path=work / "5-map.png", full_page=True)


def _pictures_loaded(page: Page) -> None:
    """Let the pictures load that wait until they are near, so that a screenshot has them."""
    page.evaluate("for (const image of document.images) image.loading = 'eager'")
    page.evaluate("Promise.all([...document.images].map(image => image.decode().catch(() => null)))")


def tell_apart(service: RunService, film: Film) -> str:
    """Say how well scores and ranks tell those who rated the film from the others."""
    people = service.find_users("", 1_000)
    places = [service.explain(user, film.item_id) for user in people]
    labels = [user in film.rated for user in people]
    by_score = roc_auc_score(labels, [place.score for place in places])
    by_rank = roc_auc_score(labels, [-place.rank for place in places])
    median = np.median([place.rank for place, label in zip(places, labels, strict=True) if label])
    return (
        f"AUC of those who rated it: by score {by_score:.3f}, by its rank in their lists {by_rank:.3f}.\n"
        f"Median rank in the lists of those who rated it: {median:.0f} of {service.health().ranked:,}."
    )


def main() -> None:
    """Withhold, train, add, look."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="holds movielens-small")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--title", default="Toy Story")
    parser.add_argument("--model", default="kernel-ridge")
    parser.add_argument("--text-model", default="default")
    given: Any = parser.parse_args()
    film, raw = without(given.data / "movielens-small", given.title, given.work)
    run = trained(film, raw, given.work, given.model, given.text_model)
    service = open_service(run)
    with served(service, run) as home, browser() as chromium:
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(120_000)
        seen = add(page, home, film, given.work)
        print(f"Nearest to {film.title!r}: " + "; ".join(f"{title} {cosine}" for title, cosine in seen.near))
        really = sum(user in film.rated for user, _ in seen.fans)
        print(f"For whom it is (rank): {', '.join(f'{user} ({rank})' for user, rank in seen.fans)}.")
        total = service.health().users
        print(f"Of these {len(seen.fans)}, {really} rated it in truth ({len(film.rated)} of {total} did).")
        first, rank = seen.fans[0]
        place = place_with(page, first, film, given.work)
        where = f"at place {place}" if place else f"not among the first {LONGEST}"
        print(f"In the list that the page shows to user {first} it stands {where} (said: rank {rank}).")
        show_map(page, given.work)
    print(tell_apart(service, film))


if __name__ == "__main__":
    main()
