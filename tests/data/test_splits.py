"""The order of pairs, from the log to what a model is trained on."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from prismrec.base.errors import InputError
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.interactions import Interactions
from prismrec.data.splits import TRAIN, LeaveLast, RandomHoldout, Split, TrainOnAll, make_split


def data_set(*, ordered: bool = True) -> Dataset:
    rng = np.random.default_rng(4)
    users, items = np.divmod(rng.permutation(60), 10)
    columns = {"user_id": [f"u{u}" for u in users], "item_id": [f"i{i}" for i in items]}
    times = {"timestamp": rng.permutation(60).astype(np.float64)} if ordered else {}
    catalog = Catalog(pl.DataFrame({"item_id": [f"i{i}" for i in range(10)]}))
    return Dataset(Interactions(pl.DataFrame({**columns, **times})), catalog)


def when(data: Dataset) -> dict[tuple[str, str], float]:
    rows = data.interactions.frame.rows(named=True)
    return {(row["user_id"], row["item_id"]): row["timestamp"] for row in rows}


def test_every_pair_has_its_time() -> None:
    data = data_set()
    split = make_split(data, LeaveLast())
    times = when(data)
    for pairs, order in ((split.pairs, split.order), (split.train, split.train_order)):
        assert order is not None
        named = zip(split.users.names(pairs.users), split.items.names(pairs.items), strict=True)
        assert [times[pair] for pair in named] == order.tolist()
    assert len(split.train) == 60 - 2 * 6


def test_without_times_there_is_no_order(tmp_path: Path) -> None:
    split = make_split(data_set(ordered=False), TrainOnAll())
    assert split.order is None
    assert split.train_order is None
    assert split.take(split.pairs.items < 5).order is None
    split.write(tmp_path)
    assert pq.read_schema(tmp_path / "split.parquet").names == ["user", "item", "part"]
    assert Split.read(tmp_path).order is None


def test_the_order_survives_a_folder_and_old_folders_can_be_read(tmp_path: Path) -> None:
    split = make_split(data_set(), RandomHoldout())
    split.write(tmp_path)
    np.testing.assert_array_equal(Split.read(tmp_path).order, split.order)
    table = pq.read_table(tmp_path / "split.parquet")
    pq.write_table(table.drop_columns(["order"]), tmp_path / "split.parquet")
    old = Split.read(tmp_path)
    assert old.order is None
    assert old.hash == split.hash


def test_the_hash_is_the_same_with_and_without_an_order() -> None:
    split = make_split(data_set(), RandomHoldout())
    assert dataclasses.replace(split, order=None).hash == split.hash
    assert make_split(data_set(ordered=False), RandomHoldout()).hash == split.hash


def test_what_is_taken_keeps_parts_and_order_in_step() -> None:
    split = make_split(data_set(), LeaveLast())
    kept = np.random.default_rng(0).random(60) < 0.5
    some = split.take(kept)
    np.testing.assert_array_equal(some.pairs.items, split.pairs.items[kept])
    np.testing.assert_array_equal(some.parts, split.parts[kept])
    np.testing.assert_array_equal(some.order, split.order[kept])
    np.testing.assert_array_equal(some.train_order, split.order[kept & (split.parts == TRAIN)])
    assert split.take(np.ones(60, dtype=bool)).hash == split.hash


def test_a_subset_has_a_ledger_in_memory_of_its_own() -> None:
    split = make_split(data_set(), LeaveLast())
    some = split.take(np.ones(60, dtype=bool))
    some.open_test({})
    assert split.open_test({})[1] == 0


def test_an_order_of_other_pairs_is_refused() -> None:
    split = make_split(data_set(), LeaveLast())
    with pytest.raises(InputError, match="60 pairs and an order of 59"):
        dataclasses.replace(split, order=split.order[1:])


def test_what_a_notebook_shows_is_a_line() -> None:
    data = data_set()
    split = make_split(data, RandomHoldout(valid=0.2, test=0.1))
    assert repr(data) == "Dataset(10 items, 60 interactions; in memory)"
    assert repr(dataclasses.replace(data, path=Path("shop"), min_rating=None)).endswith("; shop)")
    assert repr(data.interactions) == "Interactions(60 rows in memory: user_id, item_id, timestamp)"
    assert repr(split) == (
        "Split(random-holdout: 42 pairs train, 12 validate, 6 are sealed; 6 users, 10 items)"
    )
    assert repr(split.items) == "Vocabulary(10 item ids: 'i0', 'i1', 'i2', ...)"
