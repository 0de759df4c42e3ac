"""A film that no training has seen is added to a running service: what is it near, and whom is it for?

    python benchmarks/withheld_film.py --data FOLDER --work FOLDER [--title "Toy Story"]

The film and all its ratings are taken out of movielens-small before anything is learnt. Then it is added with
its title, plot and poster, as the page's form does. Printed are the films nearest to it, the users that it
would be recommended to, and how well the scores tell those who really rated it from those who did not (AUC).
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

import prismrec as pr
from prismrec.data.ingest import ingest
from prismrec.features.encode import EncodePlan, encode_catalog
from prismrec.models.catalogue import config_of
from prismrec.serving.compose import open_service
from prismrec.serving.types import NewItem, Wish

COLUMNS = ("title", "year", "genres", "description")


def without(data: Path, title: str, work: Path) -> tuple[dict[str, object], set[str], Path]:
    """Write the data without a film; return the film, who rated it, and the folder."""
    items = pl.read_parquet(data / "items.parquet")
    found = items.filter(pl.col("title") == title)
    if not found.height:
        raise SystemExit(f"{data}: no film is called {title!r}.")
    film = found.row(0, named=True)
    log = pl.read_parquet(data / "interactions.parquet")
    rated = set(log.filter(pl.col("item_id") == film["item_id"])["user_id"].to_list())
    raw = work / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    items.filter(pl.col("item_id") != film["item_id"]).write_parquet(raw / "items.parquet")
    log.filter(pl.col("item_id") != film["item_id"]).write_parquet(raw / "interactions.parquet")
    return film, rated, raw


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
    arguments = parser.parse_args()
    film, rated, raw = without(arguments.data / "movielens-small", arguments.title, arguments.work)
    shop, run = arguments.work / "shop", arguments.work / "run"
    if not (shop / "dataset.json").exists():
        ingest(raw / "interactions.parquet", raw / "items.parquet", shop)
    dataset = pr.Dataset.read(shop)
    encode_catalog(dataset, EncodePlan({"text": arguments.text_model}))
    pr.train(config_of(arguments.model)(), dataset.split(pr.ItemColdStart()), out=run)
    service = open_service(run)
    attributes = {name: film[name] for name in COLUMNS}
    print(service.put([NewItem(str(film["item_id"]), attributes, film["image"])]))
    near = service.similar(str(film["item_id"]), Wish(k=8))
    print(
        f"Nearest to {arguments.title!r}: " + "; ".join(f"{r.item.title} {r.score:.2f}" for r in near.items)
    )
    fans = service.fans(str(film["item_id"]), 10)
    really = sum(fan.user_id in rated for fan in fans)
    print(f"Of the 10 users whom it is for first, {really} rated it ({len(rated)} of 610 did).")
    people = service.find_users("", 1_000)
    places = [service.explain(user, str(film["item_id"])) for user in people]
    labels = [user in rated for user in people]
    by_score = roc_auc_score(labels, [place.score for place in places])
    by_rank = roc_auc_score(labels, [-place.rank for place in places])
    print(f"AUC of those who rated it: by score {by_score:.3f}, by its rank in their lists {by_rank:.3f}.")
    ranks = np.array([place.rank for place, label in zip(places, labels, strict=True) if label])
    print(
        f"Median rank in the lists of those who rated it: {np.median(ranks):.0f} of {len(dataset.items):,}."
    )


if __name__ == "__main__":
    main()
