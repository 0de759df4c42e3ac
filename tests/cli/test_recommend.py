import json
from pathlib import Path

import polars as pl
import pytest

from prismrec.recommender.recommender import Recommender


def test_lists_are_those_of_the_library(call, shop) -> None:
    user = shop.drawn.customer
    done = call("recommend", shop.run, "--user", user, "-k", 4, "--json")
    expected = Recommender.load(shop.run).recommend([user], k=4)
    (found,) = done.document["users"]
    assert found["user_id"] == user
    assert [row["item_id"] for row in found["items"]] == expected["item_id"].to_list()
    assert [row["rank"] for row in found["items"]] == [1, 2, 3, 4]
    assert done.document["fallback_users"] == []

    shown = call("recommend", shop.run, "--user", user, "-k", 4)
    assert all(item in shown.stdout for item in expected["item_id"])


def test_who_is_not_known_gets_the_average_and_that_is_said(call, shop) -> None:
    done = call("recommend", shop.run, "--user", "nobody", "--user", shop.drawn.customer, "-k", 2, "--json")
    assert done.code == 0
    assert done.document["fallback_users"] == ["nobody"]
    assert "'nobody'" in done.stderr
    assert "1 of 2 users" in done.stderr
    assert [u["user_id"] for u in done.document["users"]] == ["nobody", shop.drawn.customer]
    assert call("recommend", shop.run, "--user", "nobody", "-q").stderr == ""


def test_conditions_new_items_and_reasons(call, shop) -> None:
    items = pl.read_parquet(shop.drawn.today.items)
    cheap = set(items.filter(pl.col("price") < 40)["item_id"])
    words = ("--items", "new", "--where", "price<40", "--explain", "-k", 3, "--json")
    (found,) = call("recommend", shop.run, "--user", shop.drawn.customer, *words).document["users"]
    assert found["items"]
    assert all(row["item_id"] in cheap and row["new"] for row in found["items"])
    assert all(len(row["because"]) > 0 for row in found["items"])


def test_liked_items_stand_for_a_user(call, shop) -> None:
    liked = pl.read_parquet(shop.drawn.today.items)["item_id"].head(2).to_list()
    words = [word for item in liked for word in ("--liked", item)]
    (found,) = call("recommend", shop.run, *words, "-k", 5, "--json").document["users"]
    assert found["user_id"] is None
    assert not set(liked) & {row["item_id"] for row in found["items"]}


def test_more_than_there_is_gives_what_there_is(call, shop) -> None:
    (found,) = call("recommend", shop.run, "--user", shop.drawn.customer, "-k", 100000, "--json").document[
        "users"
    ]
    seen = len(Recommender.load(shop.run).history(shop.drawn.customer))
    assert len(found["items"]) == 194 - seen


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_lists_of_everyone_into_a_file(call, shop, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"recs{suffix}"
    done = call("recommend", shop.run, "--all", "-k", 2, "--explain", "--out", out, "--json")
    assert done.code == 0, done.stderr
    read = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[suffix](out)
    expected = Recommender.load(shop.run).recommend(k=2)
    assert done.document["rows"] == read.height == expected.height
    assert read["user_id"].to_list() == expected["user_id"].to_list()
    assert read["item_id"].to_list() == expected["item_id"].to_list()
    if suffix == ".csv":
        assert isinstance(json.loads(read["because"][0]), list)


def test_users_of_a_file(call, shop, tmp_path: Path) -> None:
    users = sorted(Recommender.load(shop.run).split.users)[:3]
    (tmp_path / "users.txt").write_text("\n".join(users) + "\n\n")
    pl.DataFrame({"user_id": users}).write_csv(tmp_path / "users.csv")
    documents = [
        call("recommend", shop.run, "--users", tmp_path / name, "-k", 2, "--json").document
        for name in ("users.txt", "users.csv")
    ]
    assert documents[0] == documents[1]
    assert [user["user_id"] for user in documents[0]["users"]] == users


def test_nobody_named_or_two_ways_is_a_usage_error(call, shop) -> None:
    assert call("recommend", shop.run).code == 2
    assert call("recommend", shop.run, "--all", "--user", "u").code == 2
    assert call("recommend", shop.run, "--user", "u", "-k", 0).code == 2
    assert call("recommend", shop.run, "--user", "u", "--items", "old").code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("--user", "u", "--where", "colour=red"),
        ("--user", "u", "--where", "price<cheap"),
        ("--liked", "no-such-item"),
        ("--users", "no-such-file.txt"),
        ("--all", "--out", "recs.xlsx"),
    ],
)
def test_what_cannot_be_asked(call, shop, words: tuple[str, ...]) -> None:
    done = call("recommend", shop.run, *words, "--json")
    assert done.code == 3
    assert done.document["error"]["problem"]


def test_a_folder_gets_parts_and_keeps_them(call, shop, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("prismrec.recommender.list_parts.PART", 40)
    out = tmp_path / "lists"
    first = call("recommend", shop.run, "--all", "-k", 5, "--out", out, "--json").document
    assert first["parts"] == len(list(out.glob("*.parquet"))) > 1
    call("recommend", shop.run, "--all", "-k", 5, "--out", tmp_path / "whole.parquet")
    assert pl.read_parquet(out / "*.parquet").equals(pl.read_parquet(tmp_path / "whole.parquet"))
    again = call("recommend", shop.run, "--all", "-k", 5, "--out", out, "--json").document
    assert (again["kept"], again["rows"]) == (first["parts"], first["rows"])
    other = call("recommend", shop.run, "--all", "-k", 6, "--out", out)
    assert other.code == 3
    assert "other lists" in other.stderr
    assert call("recommend", shop.run, "--liked", "i1", "--out", out).code == 2
