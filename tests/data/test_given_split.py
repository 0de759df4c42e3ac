from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prismrec.base.errors import ConfigError, InputError, SealedError
from prismrec.base.files import digest_file
from prismrec.data.catalog import Catalog
from prismrec.data.dataset import Dataset
from prismrec.data.given_split import PART_NAMES, PARTS_FILE, check_parts, write_parts
from prismrec.data.interactions import Interactions
from prismrec.data.sources.source import PARTS
from prismrec.data.splits import (
    PLANS,
    TEST,
    TRAIN,
    VALID,
    Candidates,
    GivenSplit,
    ItemColdStart,
    Part,
    RandomHoldout,
    Split,
)
from prismrec.models.settings import parse_settings

LOG = [("u", "a"), ("u", "b"), ("u", "c"), ("v", "a"), ("v", "d"), ("v", "b")]
WARM = ["train", "train", "valid", "train", "train", "test"]
COLD = ["train", "test", "valid", "train", "valid", "test"]


def table(parts: list[str | None], log: list[tuple[str, str]] = LOG) -> pl.DataFrame:
    users, items = zip(*log, strict=True)
    return pl.DataFrame(
        {"user_id": users, "item_id": items, "part": parts}, schema_overrides={"part": pl.String}
    )


def data_set(folder: Path, parts: pl.DataFrame | None = None, min_rating: float | None = None) -> Dataset:
    frame = table(WARM).drop("part").with_columns(rating=pl.Series([5.0, 4, 3, 2, 5, 4]))
    items = pl.DataFrame({"item_id": ["d", "c", "b", "a", "new"]})
    written = Dataset(Interactions(frame), Catalog(items), min_rating).write(folder)
    if parts is not None:
        write_parts(folder, parts)
    return written


def named(split: Split) -> dict[tuple[str, str], str]:
    names = zip(split.users.names(split.pairs.users), split.items.names(split.pairs.items), strict=True)
    return dict(zip(names, (PART_NAMES[code] for code in split.parts), strict=True))


def test_each_pair_goes_where_the_file_says(tmp_path: Path) -> None:
    shuffled = table(WARM)[[4, 0, 3, 5, 1, 2]]
    split = data_set(tmp_path, shuffled).split(GivenSplit())
    assert named(split) == dict(zip(LOG, WARM, strict=True))
    assert len(split.train) == 4
    assert len(split.valid) == 1
    with pytest.raises(SealedError):
        _ = split.test
    assert len(split.open_test({})[0]) == 1


def test_names_of_parts_agree_everywhere() -> None:
    assert PART_NAMES == PARTS
    assert [PART_NAMES[code] for code in (TRAIN, VALID, TEST)] == ["train", "valid", "test"]


def test_the_content_of_the_file_is_part_of_the_identity(tmp_path: Path) -> None:
    data = data_set(tmp_path, table(WARM))
    first = data.split(GivenSplit())
    assert first.origin == digest_file(tmp_path / PARTS_FILE)
    assert data.split(GivenSplit()).hash == first.hash
    # The same division from another file: more rows than pairs, each agreeing.
    pl.concat([table(WARM), table(WARM)]).write_parquet(tmp_path / PARTS_FILE)
    again = data.split(GivenSplit())
    assert named(again) == named(first)
    assert again.hash != first.hash


def test_other_plans_keep_the_digests_they_had(tmp_path: Path) -> None:
    # Written down before there was an origin: runs on disk are recognised by it.
    pairs, _ = (data := data_set(tmp_path)).positives()
    parts = np.array([0, 0, 1, 2, 0, 0], dtype=np.int8)
    split = Split(RandomHoldout(), data.users, data.items, pairs, parts)
    assert split.origin == ""
    assert split.hash == "273e32c5adf97cd08ec1d25055e470ea"


def test_written_and_read_again(tmp_path: Path) -> None:
    split = data_set(tmp_path / "data", table(COLD)).split(GivenSplit())
    split.write(tmp_path / "run")
    back = Split.read(tmp_path / "run")
    assert (back.hash, back.origin, back.plan) == (split.hash, split.origin, GivenSplit())
    assert PLANS.validate_json(split.plan.model_dump_json()) == GivenSplit()


def test_whether_items_are_held_out(tmp_path: Path) -> None:
    warm = data_set(tmp_path / "w", table(WARM)).split(GivenSplit())
    cold = data_set(tmp_path / "c", table(COLD)).split(GivenSplit())
    # c is new in validation, but b is trained on and tested.
    assert not warm.holds_out_items
    assert cold.holds_out_items
    assert cold.items.names(cold.candidates(Candidates.STRICT, Part.VALID)) == ["d", "c"]
    assert cold.items.names(cold.candidates(Candidates.STRICT, Part.TEST)) == ["b"]
    nothing = np.zeros(len(cold.pairs), dtype=np.int8)
    assert not Split(cold.plan, cold.users, cold.items, cold.pairs, nothing).holds_out_items


def test_item_cold_start_holds_items_out(tmp_path: Path) -> None:
    assert data_set(tmp_path).split(ItemColdStart(valid=0.25, test=0.25)).holds_out_items


def test_a_positive_that_is_not_listed(tmp_path: Path) -> None:
    data = data_set(tmp_path, table(WARM)[[0, 2, 3, 5]])
    with pytest.raises(InputError, match=r"2 positive pairs are not listed, the first is row 1 of.*'u'.*'b'"):
        data.split(GivenSplit())
    split = data.split(GivenSplit(unlisted="train"))
    assert named(split) == dict(zip(LOG, WARM, strict=True))


def test_what_is_below_the_threshold_need_not_and_may_be_listed(tmp_path: Path) -> None:
    kept = {LOG[0]: "train", LOG[1]: "train", LOG[4]: "train", LOG[5]: "test"}
    for name, parts in (("all", table(WARM)), ("few", table(WARM)[[0, 1, 4, 5]])):
        assert named(data_set(tmp_path / name, parts, min_rating=4.0).split(GivenSplit())) == kept


def test_nothing_positive_is_left_in_a_part(tmp_path: Path) -> None:
    # Only the pair (v, a) validates and tests nothing; it is rated 2.
    lone = table(["train", "train", "train", "valid", "train", "train"])
    with pytest.raises(InputError, match=r"none of the 5 positive pairs is held out"):
        data_set(tmp_path / "a", lone, min_rating=3.0).split(GivenSplit())
    with pytest.raises(InputError, match="none of the 6 positive pairs is for training"):
        data_set(tmp_path / "b", table(["valid", "test", "valid", "valid", "valid", "test"])).split(
            GivenSplit()
        )
    # A source without validation: that part is empty, as with valid = 0.
    half = data_set(tmp_path / "c", table([p.replace("valid", "test") for p in WARM])).split(GivenSplit())
    assert len(half.valid) == 0


def test_listed_pairs_that_the_data_lack(tmp_path: Path) -> None:
    for user, item in (("w", "a"), ("u", "new"), ("u", "d")):
        data = data_set(tmp_path, table([*WARM, "test"], [*LOG, (user, item)]))
        with pytest.raises(InputError, match=rf"1 listed pairs.*row 6: user '{user}', item '{item}'"):
            data.split(GivenSplit())


def test_tables_that_are_no_parts(tmp_path: Path) -> None:
    good = table(WARM)
    torn = pl.concat([good, table(["test"], [("u", "a")])])
    data = data_set(tmp_path)
    for bad, said in (
        (good.drop("part"), "'part' is missing"),
        (good.with_columns(item_id=pl.lit(3)), "'item_id' is Int32"),
        (good.with_columns(part=pl.lit("validation")), "row 0: there is no part 'validation'"),
        (table([*WARM[:3], None, *WARM[4:]]), "row 3: 'part' is empty"),
        (torn, r"'u' and item 'a' stand in two parts: train \(row 0\), test \(row 6\); 1 pairs do"),
    ):
        with pytest.raises(InputError, match=said):
            check_parts(bad, "x.parquet")
        with pytest.raises(InputError, match=said):
            write_parts(tmp_path, bad)
        bad.write_parquet(tmp_path / PARTS_FILE)
        with pytest.raises(InputError, match=said):
            data.split(GivenSplit())


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        data.split(GivenSplit())
    (tmp_path / PARTS_FILE).write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as a Parquet file"):
        data.split(GivenSplit())
    in_memory = Dataset(data.interactions, data.catalog)
    with pytest.raises(InputError, match="in memory"):
        in_memory.split(GivenSplit())


def test_the_file_lies_inside_the_folder() -> None:
    for outside in ("/etc/parts.parquet", "../other/parts.parquet", "a/../../b", ""):
        with pytest.raises(ConfigError, match="file"):
            parse_settings(GivenSplit, {"file": outside}, "split given")
    assert GivenSplit(file="own/cold.parquet").file == "own/cold.parquet"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(PART_NAMES), min_size=6, max_size=6), st.permutations(range(6)))
def test_any_division_comes_back(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str], order: list[int]
) -> None:
    if "train" not in parts or set(parts) == {"train"}:
        return
    split = data_set(tmp_path_factory.mktemp("any"), table(list(parts))[order]).split(GivenSplit())
    assert named(split) == dict(zip(LOG, parts, strict=True))
    trained = {item for (_, item), part in zip(LOG, parts, strict=True) if part == "train"}
    tested = {item for (_, item), part in zip(LOG, parts, strict=True) if part != "train"}
    assert split.holds_out_items == (not trained & tested)
