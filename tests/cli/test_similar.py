import polars as pl

from prismrec.recommender.recommender import Recommender


def test_neighbours_are_those_of_the_library(call, shop) -> None:
    item = pl.read_parquet(shop.drawn.today.items)["item_id"][5]
    done = call("similar", shop.run, "--item", item, "-k", 3, "--where", "in_stock=true", "--json")
    assert done.code == 0, done.stderr
    expected = Recommender.load(shop.run).similar(item, k=3, where=["in_stock=true"])
    assert [row["item_id"] for row in done.document["items"]] == expected["item_id"].to_list()
    shown = call("similar", shop.run, "--item", item, "-k", 3)
    assert shown.code == 0
    assert "similarity" in shown.stdout


def test_an_unknown_item_names_those_that_look_alike(call, shop) -> None:
    done = call("similar", shop.run, "--item", "p0001", "--json")
    assert done.code == 3
    assert "look alike" in done.document["error"]["hint"]
