import datetime as dt
import errno
import math
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from prismrec.base.errors import DamagedError, InputError, MissingExtraError, StorageError
from prismrec.serving.storage import MemoryStore, Store, StoredItem
from prismrec.serving.types import Event, NewItem

pytest.importorskip("lancedb")

from prismrec.serving.store import ItemStore

COLUMNS = {"title": pl.String(), "price": pl.Float64(), "tags": pl.List(pl.String())}
NASTY = ["it's", 'quo"te', "back\\slash", "new\nline", "é😀", "nul\0byte", "`tick`", "%", "_", " ",
         "'; DROP TABLE items; --", "x' OR '1'='1", "item_id", "-1", "a" * 3000]  # fmt: skip


def item(name, title="a thing", picture=b"", model="m1", vector=(1.0, 2.0), notes=b"", **attributes):
    new = NewItem(name, {"title": title, **attributes}, picture or None)
    return StoredItem(new, model, np.array(vector, dtype=np.float32), notes)


def seen(rows):
    """Return rows in a form that can be compared."""
    return [
        (r.item.item_id, dict(r.item.attributes), r.item.picture, r.model, r.vector.tolist(), r.notes)
        for r in rows
    ]


@pytest.fixture
def home(tmp_path):
    return tmp_path / "store"


def test_it_is_a_store(home):
    store: Store = ItemStore(home, {"item_id": pl.String(), **COLUMNS})
    rows = [
        item("b", "Zwei", b"\xff\xd8picture", price=2.5, tags=["x", "y"], notes=b"\0\1"),
        item("a", "Eins", vector=(3, 4, 5), model="m2"),
    ]
    store.put(rows)
    assert seen(store.read_all()) == seen(rows)
    again = ItemStore(home, COLUMNS)
    assert seen(again.read_all()) == seen(rows)
    assert next(again.read_all()).vector.dtype == np.float32
    assert again.picture("b") == b"\xff\xd8picture"
    assert again.picture("a") is None
    assert again.picture("unknown") is None
    assert again.count() == 2


def test_it_does_what_a_store_in_memory_does(home):
    random = np.random.default_rng(5)
    store, memory = ItemStore(home, COLUMNS), MemoryStore()
    for step in range(60):
        names = [f"i{n}" for n in random.integers(0, 12, int(random.integers(1, 6)))]
        match random.integers(0, 8):
            case 0 | 1 | 2 | 3:
                rows = [
                    item(n, f"{n} at {step}", random.bytes(9), vector=random.normal(size=2 + step // 40))
                    for n in names
                ]
                store.put(rows)
                memory.put(rows)
            case 4 | 5:
                store.delete(names)
                memory.delete(names)
            case 6:
                events = [Event(f"u{n}", n, float(step)) for n in names]
                store.record(events)
                memory.record(events)
            case _ if step % 2:
                store.optimize(timedelta(0))
            case _:
                store = ItemStore(home, COLUMNS)
        assert seen(store.read_all()) == seen(memory.read_all())
        assert sorted(store.read_deleted()) == sorted(memory.read_deleted())
    assert store.read_events() == memory.read_events()
    assert len(store.read_events()) > 10
    for n in range(12):
        assert store.picture(f"i{n}") == memory.picture(f"i{n}")
        own = tuple(e for e in memory.read_events() if e.user_id == f"ui{n}")
        assert store.events_of(f"ui{n}") == own


def test_vectors_of_several_sizes(home):
    store = ItemStore(home, COLUMNS)
    sizes = {"a": 16, "b": 64, "c": 2, "d": 16}
    rows = [item(name, vector=np.arange(size) + 0.5) for name, size in sizes.items()]
    for row in rows[:2]:
        store.put([row])
    store.put(rows[2:])
    store.delete(["d", "unknown"])
    assert seen(ItemStore(home, COLUMNS).read_all()) == seen(rows[:3])
    changed = item("a", vector=np.arange(64) - 1)
    store.put([changed])
    assert seen(ItemStore(home, COLUMNS).read_all()) == seen([*rows[1:3], changed])


def test_a_number_missing_in_a_list_is_kept(home):
    columns = {"array": pl.Array(pl.Float64(), 12), "list": pl.List(pl.Float64())}
    store = ItemStore(home, columns)
    odd = [1.0, float("nan"), *[2.0] * 10]
    values = {"array": [None, *[3.0] * 11], "list": [None, 1.0]}
    store.put([StoredItem(NewItem(n, v), "m", np.ones(16, np.float32), b"") for n, v in (
        ("a", values), ("b", {"array": odd, "list": odd}))])  # fmt: skip
    found = {row.item.item_id: row.item.attributes for row in ItemStore(home, columns).read_all()}
    assert found["a"] == values
    assert str(found["b"]) == str({"array": odd, "list": odd})


def test_ids_are_never_part_of_a_query(home):
    store = ItemStore(home, COLUMNS)
    store.put([item(name, picture=name.encode()) for name in NASTY])
    for name in NASTY:
        assert store.picture(name) == name.encode()
    store.put([item(name, "again") for name in NASTY[:-3]])
    assert store.count() == len(NASTY)
    store.record([Event(name, name, 1.0) for name in NASTY])
    for name in NASTY:
        assert store.events_of(name) == (Event(name, name, 1.0),)
    store.delete(NASTY[:5])
    assert store.count() == len(NASTY) - 5
    assert list(store.read_deleted()) == NASTY[:5]


def test_conditions_are_the_projects_own(home):
    store = ItemStore(home, COLUMNS)
    store.put(
        [item("a", "Red mug", price=5.0), item("b", "Blue mug", price=25.0, tags=["x"]), item("c", "Pan")]
    )
    assert store.matching(["title~mug", "price<20"]) == ("a",)
    assert store.matching(["tags~x"]) == ("b",)
    assert store.matching([]) == ("a", "b", "c")
    assert store.matching(["title=' OR 1=1"]) == ()
    for wrong in ("1 == 1", "price BETWEEN 1 AND 9", "title LIKE '%'", "number<9", "other=x", "price<1 OR 1"):
        with pytest.raises(InputError):
            store.matching([wrong])


TYPED = {
    "i8": (pl.Int8(), -3),
    "u64": (pl.UInt64(), 2**63 + 1),
    "f32": (pl.Float32(), 0.5),
    "truth": (pl.Boolean(), True),
    "binary": (pl.Binary(), b"\0x"),
    "day": (pl.Date(), dt.date(2024, 2, 29)),
    "moment": (
        pl.Datetime("us", "Europe/Berlin"),
        dt.datetime(2024, 6, 1, 12, tzinfo=dt.timezone(timedelta(hours=2))),
    ),
    "plain moment": (pl.Datetime("ns"), dt.datetime(2024, 6, 1, 12, 0, 1)),
    "span": (pl.Duration("ms"), timedelta(seconds=3)),
    "time": (pl.Time(), dt.time(12, 30)),
    "decimal": (pl.Decimal(20, 3), Decimal("12.345")),
    "numbers": (pl.List(pl.Int64()), [1, 2]),
    "struct": (pl.Struct({"a": pl.Int64(), "b": pl.String()}), {"a": 1, "b": "x"}),
    "array": (pl.Array(pl.Float32(), 12), [1.0, 2.0] * 6),
    "embedding": (pl.Array(pl.Float64(), 12), [math.inf] * 12),
    "vector": (pl.List(pl.Float64()), [1.0, 2.0]),
    "category": (pl.Categorical(), "mug"),
    "choice": (pl.Enum(["s", "m"]), "m"),
    "a.b": (pl.String(), "dotted"),
    "a%2eb": (pl.String(), "coded"),
    "Upper `case` 'x' \"y\"": (pl.String(), "quoted"),
    "select": (pl.String(), "reserved"),
    "item_id ": (pl.String(), "nearly"),
    "vector_2": (pl.String(), "not a vector"),
    "_rowid": (pl.Int64(), 7),
    "nothing": (pl.Null(), None),
}


def test_attributes_have_columns_of_the_catalogues_types(home):
    columns = {name: dtype for name, (dtype, _) in TYPED.items()}
    values = {name: value for name, (_, value) in TYPED.items() if value is not None}
    store = ItemStore(home, columns)
    rows = [StoredItem(NewItem("full", values), "m", np.ones(2, np.float32), b""), item("empty", None)]
    store.put(rows)
    store.put([StoredItem(NewItem("full", values), "m", np.ones(2, np.float32), b"")])
    store = ItemStore(home, columns)
    found = {row.item.item_id: dict(row.item.attributes) for row in store.read_all()}
    assert found == {"full": values, "empty": {}}
    frame = store.frame()
    held = {
        **columns,
        "category": pl.String(),
        "choice": pl.String(),
        "array": pl.List(pl.Float32()),
        "embedding": pl.List(pl.Float64()),
    }
    assert dict(frame.schema) == {"item_id": pl.String(), **held}
    assert store.matching(["a.b=dotted", "i8<0", "day<2024-03-01"]) == ("full",)


def test_what_does_not_fit_its_column_is_kept_all_the_same(home):
    store = ItemStore(home, COLUMNS)
    given = {
        "title": 5,
        "price": "cheap",
        "tags": "word",
        "weight": 3,
        "list": [1, {"a": None}],
        "flag": True,
    }
    rows = [
        StoredItem(NewItem("odd", given), "m", np.ones(2, np.float32), b""),
        item("even", "Fine", price=1, tags=["a"]),
        item("truth", "Fine", price=True),
    ]
    store.put(rows)
    assert seen(ItemStore(home, COLUMNS).read_all()) == seen(rows)
    assert store.frame()["price"].to_list() == [None, 1.0, None]
    assert store.matching(["price<5"]) == ("even",)
    with pytest.raises(InputError, match=r"'bad'.*when"):
        store.put([item("bad", when=object())])
    with pytest.raises(InputError, match="type Int128"):
        ItemStore(home.with_name("other"), {"huge": pl.Int128()})


def test_a_new_catalogue_may_have_other_columns(home):
    ItemStore(home, COLUMNS).put([item("a", "Red mug", price=5.0)])
    changed = {"title": pl.String(), "price": pl.String(), "colour": pl.String()}
    store = ItemStore(home, changed)
    store.put([item("b", "Blue mug", price="five", colour="blue", tags=["kept"])])
    found = {row.item.item_id: dict(row.item.attributes) for row in ItemStore(home, changed).read_all()}
    assert found["a"] == {"title": "Red mug", "price": 5.0}
    assert found["b"] == {"title": "Blue mug", "price": "five", "colour": "blue", "tags": ["kept"]}
    assert store.matching(["colour=blue"]) == ("b",)


def test_what_is_wrong_is_refused_whole(home):
    store = ItemStore(home, COLUMNS)
    store.put([item("a", "before")])
    for wrong in (
        item(""),
        item("x", vector=(1, np.nan)),
        item("x", vector=(np.inf, 1)),
        item("x", vector=()),
        item("x", vector=[[1, 2]]),
    ):
        with pytest.raises(InputError):
            store.put([item("a", "after"), item("b"), wrong])
    with pytest.raises(InputError, match="empty"):
        store.delete(["a", ""])
    for wrong in (Event("", "a", 1.0), Event("u", "", 1.0), Event("u", "a", float("nan"))):
        with pytest.raises(InputError, match="needs a user"):
            store.record([Event("u", "a", 1.0), wrong])
    assert seen(store.read_all()) == seen([item("a", "before")])
    assert list(store.read_deleted()) == []
    assert list(store.read_events()) == []
    store.put([])
    store.delete([])
    store.record([])
    assert store.count() == 1


def test_an_event_without_a_time_happens_now(home):
    store = ItemStore(home, COLUMNS)
    store.record([Event("u", "a"), Event("u", "b", 5)])
    first, second = store.events_of("u")
    assert first.timestamp > 1.7e9
    assert second == Event("u", "b", 5.0)


def test_the_disk_does_not_fill_up_with_what_was(home):
    store = ItemStore(home, COLUMNS)
    picture = np.random.default_rng(0).bytes(50_000)
    rows = [item(f"i{n}", picture=picture) for n in range(4)]
    store.put(rows)
    store.optimize(timedelta(0))

    def size():
        return sum(p.stat().st_size for p in home.rglob("*") if p.is_file())

    once = size()
    for _ in range(6):
        store.put(rows)
    assert size() > 5 * once
    store.optimize(timedelta(0))
    assert size() < 1.2 * once
    assert seen(store.read_all()) == seen(rows)
    assert seen(ItemStore(home, COLUMNS).read_all()) == seen(rows)


def test_small_files_are_put_together_by_themselves(home, monkeypatch):
    monkeypatch.setattr("prismrec.serving.store_table._WRITES", 5)
    store = ItemStore(home, COLUMNS)
    for n in range(17):
        store.put([item(f"i{n}")])
        store.record([Event("u", f"i{n}", 1.0)])
    counts = [
        t.handle.stats()["fragment_stats"]["num_fragments"] for t in (store._items, store._events._table)
    ]
    assert max(counts) <= 6
    assert store.count() == 17
    assert [e.item_id for e in store.read_events()] == [f"i{n}" for n in range(17)]


def test_a_reader_does_not_mind_writers(home):
    store = ItemStore(home, COLUMNS)
    rows = [item(f"i{n:03d}", picture=b"x" * 100) for n in range(600)]
    store.put(rows)
    reading = store.read_all()
    begun = [next(reading) for _ in range(10)]
    store.put([item("i500", "changed"), item("new")])
    store.delete(["i400"])
    store.optimize()
    assert seen([*begun, *reading]) == seen(rows)
    assert store.count() == 600


def test_items_come_in_order_in_whatever_order_they_are_read(home, monkeypatch):
    store = ItemStore(home, COLUMNS)
    rows = [item(f"i{n:03d}", vector=(n, 1)) for n in range(40)]
    store.put(rows)
    read = store._items.read

    def shuffled(columns, where=None, *, rows=0):
        batches = list(read(columns, where, rows=7))
        return (batches[n].take(pa.array(range(len(batches[n]))[::-1])) for n in (3, 0, 5, 1, 2, 4))

    monkeypatch.setattr(store._items, "read", shuffled)
    assert seen(store.read_all()) == seen(rows)


def test_several_threads(home):
    store = ItemStore(home, COLUMNS)

    def work(n):
        for step in range(3):
            store.put([item(f"t{n}-{step}", picture=b"p%d" % n), item("shared", f"{n} {step}")])
            store.record([Event(f"u{n}", f"t{n}-{step}", float(step))])
            assert store.picture(f"t{n}-{step}") == b"p%d" % n
            assert len(list(store.read_all())) >= 2

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    found = [row.item.item_id for row in store.read_all()]
    assert sorted(found) == sorted(["shared", *(f"t{n}-{s}" for n in range(4) for s in range(3))])
    for n in range(4):
        assert [e.item_id for e in store.events_of(f"u{n}")] == [f"t{n}-{s}" for s in range(3)]
    numbers = store._items.table(["number"])["number"].to_pylist()
    assert len(set(numbers)) == len(numbers)


def test_two_writers_at_once_leave_one_row_an_id(home):
    # Two connections know nothing of each other, as two processes.
    stores = [ItemStore(home, COLUMNS) for _ in range(2)]
    gate = threading.Barrier(2, timeout=60)

    def work(n):
        for step in range(8):
            gate.wait()
            try:
                stores[n].put([item(f"i{step}", f"writer {n}")])
            except BaseException:
                gate.abort()
                raise

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    assert sorted(row.item.item_id for row in ItemStore(home, COLUMNS).read_all()) == [
        f"i{n}" for n in range(8)
    ]


def test_an_address_of_an_object_store():
    store = ItemStore("memory://", COLUMNS)
    store.put([item("a", picture=b"x")])
    store.record([Event("u", "a", 1.0)])
    store.optimize()
    assert store.picture("a") == b"x"
    assert store.read_events() == (Event("u", "a", 1.0),)


def test_other_places_are_refused(home, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        ItemStore(tmp_path / "file", COLUMNS)
    with pytest.raises(InputError, match=r"not a store \(file\)"):
        ItemStore(tmp_path, COLUMNS)
    import lancedb

    (tmp_path / "theirs").mkdir()
    lancedb.connect(tmp_path / "theirs").create_table("items", [{"item_id": "a", "x": 1}])
    with pytest.raises(InputError, match="not written by prismrec"):
        ItemStore(tmp_path / "theirs", COLUMNS)
    # The root of a volume is fine.
    (home / "lost+found").mkdir(parents=True)
    (home / ".hidden").write_text("")
    ItemStore(home, COLUMNS).put([item("a")])


def test_a_newer_store_is_refused(home, monkeypatch):
    monkeypatch.setattr("prismrec.serving.store_table.FORMAT_VERSION", 2)
    ItemStore(home, COLUMNS)
    monkeypatch.setattr("prismrec.serving.store_table.FORMAT_VERSION", 1)
    with pytest.raises(InputError, match="newer prismrec"):
        ItemStore(home, COLUMNS)


def test_damage_is_told_from_absence(home):
    store = ItemStore(home, COLUMNS)
    store.put([item("a", picture=b"x" * 5000)])
    store.put([item("b")])
    whole = shutil.copytree(home, home.with_name("whole"))

    def damaged(change):
        shutil.rmtree(home)
        shutil.copytree(whole, home)
        change(home / "items.lance")
        with pytest.raises(DamagedError, match=r"items\.lance: .*\n.*a copy of the folder"):
            seen(ItemStore(home, COLUMNS).read_all())

    def data(folder):
        return max((folder / "data").iterdir(), key=lambda p: p.stat().st_size)

    damaged(lambda folder: data(folder).unlink())
    damaged(lambda folder: os.truncate(data(folder), data(folder).stat().st_size // 2))
    damaged(lambda folder: shutil.rmtree(folder / "_versions"))
    damaged(lambda folder: os.truncate(min((folder / "_versions").glob("*.manifest")), 0))


def test_a_killed_beginning_is_begun_again(home):
    (home / "items.lance" / "_versions").mkdir(parents=True)
    (home / "events.lance").mkdir()
    store = ItemStore(home, COLUMNS)
    store.put([item("a")])
    assert ItemStore(home, COLUMNS).count() == 1


def test_a_disk_that_refuses(home, monkeypatch):
    store = ItemStore(home, COLUMNS)
    store.put([item("a", "before")])

    def refuse(*_, **__):
        raise RuntimeError("lance error: LanceError(IO): No space left on device (os error 28), /x/y.rs:1:2")

    from lancedb.merge import LanceMergeInsertBuilder
    from lancedb.table import LanceTable

    monkeypatch.setattr(LanceMergeInsertBuilder, "execute", refuse)
    monkeypatch.setattr(LanceTable, "add", refuse)
    monkeypatch.setattr(LanceTable, "optimize", refuse)
    for change in (
        lambda: store.put([item("a", "after")]),
        lambda: store.delete(["a"]),
        lambda: store.record([Event("u", "a", 1.0)]),
        store.optimize,
    ):
        with pytest.raises(StorageError, match=r"store.*the disk is full"):
            change()
    assert seen(store.read_all()) == seen([item("a", "before")])
    monkeypatch.setattr(
        LanceTable, "add", lambda *_: (_ for _ in ()).throw(RuntimeError("HTTP 503, /x/y.rs:1:2"))
    )
    with pytest.raises(StorageError, match=r"cannot write here \(HTTP 503\)"):
        store.record([Event("u", "a", 1.0)])
    monkeypatch.undo()
    store.put([item("a", "after")])
    assert seen(store.read_all()) == seen([item("a", "after")])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a file system")
def test_a_disk_that_is_full_in_fact(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    try:
        store = ItemStore(small / "store", COLUMNS)
        kept = []
        random = np.random.default_rng(1)

        def fill():
            for n in range(100):
                row = item(f"i{n}", picture=random.bytes(200_000))
                store.put([row])
                kept.append(row)

        with pytest.raises(StorageError, match="the disk is full"):
            fill()
        assert len(kept) > 3
        assert seen(store.read_all()) == seen(kept)
        assert seen(ItemStore(small / "store", COLUMNS).read_all()) == seen(kept)
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs to see what a descriptor stands for")
def test_every_file_is_flushed_before_a_write_returns(home, monkeypatch):
    store = ItemStore(home, COLUMNS)
    before = {p for p in home.rglob("*") if p.is_file()}
    flushed = []
    real = os.fsync

    def fsync(descriptor):
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    store.put([item("a", picture=b"x")])
    new = {p for p in (home / "items.lance").rglob("*") if p.is_file()} - before
    assert len(new) >= 2
    assert {str(p) for p in new} <= set(flushed)
    assert {str(p.parent) for p in new} <= set(flushed)


def test_a_flush_that_fails_is_told(home, monkeypatch):
    store = ItemStore(home, COLUMNS)

    def refuse(_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageError, match="read-only"):
        store.put([item("a")])


def test_lancedb_is_imported_late_and_missed_by_name(tmp_path):
    code = """
import sys
sys.modules["lancedb"] = None
import prismrec, prismrec.serving.store as store
from prismrec.base.errors import MissingExtraError
try:
    store.ItemStore(sys.argv[1], {})
except MissingExtraError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "pip install 'prismrec[serve]'" in done.stdout
    assert not (tmp_path / "x").exists()
    assert issubclass(MissingExtraError, ImportError)
