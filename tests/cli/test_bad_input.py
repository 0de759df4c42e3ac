"""What goes wrong for people, through the command line: each kind of bad input, and how it is answered.

``STOPPED`` are calls that end with an error and leave every file as it was. ``LEFT_OUT`` are rows and
contents that are refused one by one, while the rest becomes a data set. After them comes what looks bad and
is not, and last a disk that refuses.
"""

import errno
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.base.files import digest_file
from prismrec.data.dataset import Dataset
from prismrec.features.store import FeatureStore
from prismrec.recommender.folder import RESULTS

Words = list[object]
LOG: dict[str, Any] = {"user_id": ["ann", "ann", "bob"], "item_id": ["1", "2", "1"], "rating": [5, 4, 2]}
ITEMS: dict[str, Any] = {"item_id": ["1", "2", "3"], "title": ["Red mug", "Blue mug", "Tea pot"]}
ODD = (
    "a/b",
    "🧸 bear",
    "../up",
    "C:\\x",
    "-k",
    "naïve ' \" ,",
    "ж" * 90,
    "#1",
    "x.png",
    "%2F",
    "[red]",
    " 7",
)


@dataclass(frozen=True)
class Room:
    """A folder for one call's files, and folders that all tests share: to be copied before a change.

    ``shop`` has features of pictures, texts and sounds; the data set and the run in ``odd`` have ids of all
    sorts and vectors ``v`` of four dimensions.
    """

    home: Path
    call: Callable[..., Any]
    shop: Any = None
    odd: Path = Path()

    @property
    def out(self) -> Path:
        return self.home / "out"

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def table(self, name: str, /, **columns: Any) -> Path:
        frame = pl.DataFrame(columns)
        path = self.file(name, "")
        if path.suffix == ".csv":
            frame.write_csv(path)
        else:
            frame.write_parquet(path)
        return path

    def ingest(self, *words: object, log: Path | None = None, items: Path | None = None) -> Words:
        log = log or self.table("log.parquet", **LOG)
        items = items or self.table("items.parquet", **ITEMS)
        return ["ingest", "--interactions", log, "--items", items, "--out", self.out, *words]

    def logged(self, **columns: Any) -> Words:
        return self.ingest(log=self.table("log.parquet", **{**LOG, **columns}))

    def listed(self, *words: object, **columns: Any) -> Words:
        return self.ingest(*words, items=self.table("items.parquet", **{**ITEMS, **columns}))

    def drawn(self) -> Words:
        raw = self.shop.drawn.today
        return self.ingest("--images", raw.images, log=raw.interactions, items=raw.items)

    def picture(self, content: bytes, name: str = "1.png") -> Words:
        self.file(f"pictures/{name}", content)
        return self.ingest("--images", self.home / "pictures")

    def train(self, *words: object, data: Path | None = None) -> Words:
        return ["train", data or self.shop.data, *words, "--out", self.out]

    def recipe(self, text: str) -> Words:
        return self.train("--recipe", self.file("recipe.toml", text))

    def data(self) -> Path:
        return Path(copytree(self.shop.data, self.home / "shop"))

    def without(self, name: str) -> Path:
        """The shop's data set, less one file or folder of it."""
        data = self.data()
        (data / name).rename(self.home / "taken")
        return data

    def with_cut(self, pattern: str) -> Path:
        """The shop's data set, a file of it cut in half."""
        data = self.data()
        self.cut(next(data.glob(pattern)))
        return data

    def run(self) -> Path:
        return Path(copytree(self.shop.run, self.home / "run"))

    def small(self) -> Path:
        """A data set of three items, neither encoded nor with times."""
        assert self.call(*self.ingest()).code == 0
        return self.out.rename(self.home / "small")

    def vectors(self, rows: Any, ids: Sequence[str] = ("p00001", "p00002")) -> Words:
        return ["--vectors", f"v={self.table('v.parquet', item_id=list(ids), v=rows)}"]

    def encode(self, rows: Any, ids: Sequence[str] = ("p00001", "p00002")) -> Words:
        return ["encode", self.data(), *self.vectors(rows, ids)]

    def damaged(self, folder: Path, name: str) -> Path:
        """Change a byte in the middle of a file of a folder; return the folder."""
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 0xFF
        (folder / name).write_bytes(content)
        return folder

    def cut(self, path: Path) -> Path:
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        return path

    def files(self) -> dict[str, str]:
        """Digest of every file: a call that failed is to leave all as it was."""
        found = sorted(self.home.rglob("*"))
        return {str(p.relative_to(self.home)): digest_file(p) if p.is_file() else "folder" for p in found}


@pytest.fixture(scope="module")
def odd(call: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = Room(tmp_path_factory.mktemp("odd"), call)
    ids = [*ODD, *(f"{name}/{n}" for name in ("mug", "🫖") for n in range(14))]
    users = [f"{name}/{n}" for name in ("анна", "🙂") for n in range(6)]
    pairs = [(user, ids[(3 * u + 5 * n) % len(ids)]) for u, user in enumerate(users) for n in range(8)]
    log = room.table("log.csv", user_id=[p[0] for p in pairs], item_id=[p[1] for p in pairs])
    titles = [f"{('blue', 'red', 'green')[n % 3]} mug {n}" for n in range(40)]
    items = room.table("items.csv", item_id=ids, title=titles)
    for name in ("a/b.png", "🧸 bear.png", "x.png.png"):
        room.file(f"pictures/{name}", png(9, 9))
    vectors = room.vectors(np.random.default_rng(0).normal(size=(40, 4)).tolist(), ids)
    profile = ("--model", "content-profile")
    for words in (
        room.ingest("--images", room.home / "pictures", log=log, items=items),
        ["encode", room.out, "--image", "none", *vectors],
        ["train", room.out, *profile, "--set", "training.metric=ndcg@3", "--out", room.home / "run"],
    ):
        done = call(*words, "--json")
        assert done.code == 0, done.stderr
    return room.home


@pytest.fixture
def room(call: Any, shop: Any, odd: Path, tmp_path: Path) -> Room:
    return Room(tmp_path, call, shop, odd)


def png(width: int, height: int) -> bytes:
    kept = BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(kept, "PNG")
    return kept.getvalue()


def bomb(side: int) -> bytes:
    """A picture of some bytes whose header speaks of `side` x `side` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def other_dimension_later(room: Room) -> Words:
    """The vectors are encoded again with another size; then the same training once more."""
    data, run = copytree(room.odd / "out", room.home / "data"), copytree(room.odd / "run", room.home / "run")
    again = room.vectors([[1.0] * 5, [2.0] * 5], ODD[:2])
    assert room.call("encode", data, "--image", "none", "--text", "none", *again).code == 0
    return ["train", data, "--model", "content-profile", "--out", run]


def add_vectors(room: Room, *rows: list[float]) -> Words:
    """A new item with vectors, for a run that was trained on four dimensions."""
    run = copytree(room.odd / "run", room.home / "run")
    new = room.table("new.csv", item_id=["n1"], title=["mug"])
    return ["add-items", run, new, *room.vectors(list(rows), ["n1"])]


NAN, INF = float("nan"), float("inf")
POPULAR, PROFILE = ("--model", "popularity"), ("--model", "content-profile")
RESTART, MAMEX = (*POPULAR, "--restart"), ("--model", "mamex", "--set")
# How the call comes about, its exit code, and what the error says.
# fmt: off
STOPPED: dict[str, tuple[Callable[[Room], Words], int, tuple[str, ...]]] = {
    "truncated Parquet": (
        lambda r: r.ingest(log=r.cut(r.table("cut.parquet", **LOG))), 3, ("cut.parquet", "cut off")),
    "bytes that are no Parquet": (
        lambda r: r.ingest(items=r.file("i.parquet", b"\x7fELF" + bytes(99))), 3, ("i.parquet", "Parquet")),
    "CSV of no bytes": (lambda r: r.ingest(log=r.file("l.csv", "")), 3, ("l.csv", "empty")),
    "header without rows": (
        lambda r: r.ingest(log=r.file("l.csv", "user_id,item_id\n")), 3, ("l.csv", "no rows")),
    "catalogue without rows": (
        lambda r: r.ingest(items=r.file("i.csv", "item_id,title\n")), 3, ("i.csv", "no rows")),
    "CSV in Latin-1": (
        lambda r: r.ingest(items=r.file("i.csv", b"item_id,title\n1,mug\n2,caf\xe9\n")),
        3, ("i.csv", "line 3", "0xe9", "UTF-8")),
    "ragged CSV": (
        lambda r: r.ingest(log=r.file("l.csv", "user_id,item_id\na,1\na,1,2\n")),
        3, ("l.csv", "data row 1", "3 fields", "2")),
    "broken JSON line": (
        lambda r: r.ingest(log=r.file("l.jsonl", '{"user_id": "a", "item_id": "1"}\n{"user_id": \n')),
        3, ("l.jsonl", "line 2")),
    "missing column": (
        lambda r: r.ingest(log=r.table("l.parquet", who=["a"], item_id=["1"])),
        3, ("l.parquet", "user", "'who'", "--column user=")),
    "column given that is not there": (
        lambda r: r.ingest("--column", "rating=stars"), 3, ("log.parquet", "'stars'", "'rating'")),
    "missing file": (lambda r: r.ingest(log=r.home / "none.csv"), 3, ("none.csv", "no such file")),
    "a spreadsheet": (lambda r: r.ingest(log=r.file("l.xlsx", "PK")), 3, ("l.xlsx", ".parquet")),
    "ratings of a type that is none": (
        lambda r: [*r.logged(rating=[[1], [2], [3]]), "--column", "rating=rating"],
        3, ("log.parquet", "'rating'", "no numbers")),
    "all ratings are words": (
        lambda r: r.logged(rating=["good", "bad", "good"]),
        3, ("log.parquet", "3 rows", "not a number", "--column rating=")),
    "no item of the log is known": (
        lambda r: r.logged(item_id=["x", "y", "z"]), 3, ("log.parquet", "'x'", "'1'")),
    "min-rating without ratings": (
        lambda r: r.ingest("--min-rating", 4, "--column", "rating="),
        3, ("log.parquet", "min_rating is 4", "--column rating=")),
    "min-rating that leaves nothing": (
        lambda r: r.ingest("--min-rating", 6), 3, ("log.parquet", "6", "highest is 5", "--min-rating")),
    "thresholds that leave nothing": (
        lambda r: r.ingest("--min-user-interactions", 9), 3, ("9", "lower thresholds")),
    "text column that is not there": (lambda r: r.ingest("--text", "plot"), 3, ("'plot'", "'title'")),
    "folder of pictures that is not there": (
        lambda r: r.ingest("--images", r.home / "nowhere"), 3, ("nowhere", "folder")),
    "folder of other things": (
        lambda r: r.ingest("--quiet", *(r.file("out/thesis.tex", "mine") and ())),
        3, ("thesis.tex", "new folder")),
    "no data set": (lambda r: ["encode", r.home], 3, ("not a data set", "prismrec ingest")),
    "damaged data set": (
        lambda r: r.train(*POPULAR, data=r.damaged(r.data(), "interactions.parquet")),
        5, ("interactions.parquet", "altered", "ingest again")),
    "data set with a damaged manifest": (
        lambda r: ["encode", r.cut(r.data() / "dataset.json").parent],
        5, ("dataset.json", "damaged", "prismrec ingest", "anew")),
    "data set with another's manifest": (
        lambda r: ["encode", r.file("d/dataset.json", '{"format": "prismrec-dataset"}').parent],
        5, ("dataset.json", "'format_version'", "ingest again")),
    "data set without its log": (
        lambda r: r.train(*POPULAR, data=r.without("interactions.parquet")),
        5, ("interactions.parquet", "missing", "ingest again")),
    "data set with cut pictures": (
        lambda r: ["encode", r.with_cut("media/image.parquet"), "--refit"],
        5, ("image.parquet", "ingest again")),
    "cut features": (
        lambda r: r.train(*PROFILE, data=r.with_cut("features/text/*.npy")),
        5, ("text", "damaged", "Encode again")),
    "NaN among vectors": (lambda r: r.encode([[1.0, 2.0], [1.0, NAN]]), 3, ("'p00002' (row 1)", "NaN")),
    "infinite vectors": (lambda r: r.encode([[INF, 2.0], [1.0, 1.0]]), 3, ("'p00001' (row 0)", "infinite")),
    "ragged vectors": (lambda r: r.encode([[1.0, 2.0], [1.0]]), 3, ("v.parquet", "'p00002'", "row 1")),
    "vectors of words": (lambda r: r.encode([["a"], ["b"]]), 3, ("v.parquet", "'v'", "not numbers")),
    "vectors of one item twice": (
        lambda r: r.encode([[1.0], [2.0]], ["p00001", "p00001"]),
        3, ("v.parquet", "'p00001'", "rows 0 and 1")),
    "vectors of unknown ids alone": (
        lambda r: r.encode([[1.0], [2.0]], ["x", "y"]), 3, ("'v'", "'x'", "catalogue")),
    "dimension changed, add-items": (lambda r: add_vectors(r, [1.0] * 5), 3, ("'v'", "5 dim", "on 4")),
    "dimension changed, train": (other_dimension_later, 3, ("features have changed", "--restart")),
    "NaN among vectors of new items": (lambda r: add_vectors(r, [1.0, NAN, 1.0, 1.0]), 3, ("'n1'", "NaN")),
    "empty split": (
        lambda r: r.train(*POPULAR, data=r.small()), 3, ("empty", "2 items", "too few")),
    "shares of a split beyond one": (
        lambda r: r.train(*POPULAR, "--valid", 0.6, "--test", 0.4, "--split", "global-time"),
        3, ("global-time", "'valid'", "'test'", "nothing to train on")),
    "--restart with a wrong metric": (
        lambda r: ["train", r.shop.data, *RESTART, "--set", "training.metric=auc", "--out", r.run()],
        3, ("'auc'", "ndcg")),
    "--restart on a wrong device": (
        lambda r: ["train", r.shop.data, *RESTART, "--device", "gpu", "--out", r.run()], 3, ("'gpu'", "cpu")),
    "split by time without times": (
        lambda r: r.train(*POPULAR, "--by", "time", data=r.small()), 3, ("timestamp", "ingest")),
    "split by order without an order": (
        lambda r: r.train(*POPULAR, "--split", "leave-last", data=r.small()), 3, ("position", "ingest")),
    "nothing encoded yet": (
        lambda r: r.train(*PROFILE, data=r.without("features")), 3, ("no features", "prismrec encode")),
    "unknown model": (lambda r: r.train("--model", "mames"), 3, ("'mames'", "'mamex'")),
    "unknown setting": (lambda r: r.train(*MAMEX, "topk=3"), 3, ("'topk'", "'top_k'")),
    "setting out of its bounds": (lambda r: r.train(*MAMEX, "dim=0"), 3, ("'dim'", "1")),
    "setting of the wrong type": (lambda r: r.train(*MAMEX, "dim=wide"), 3, ("'dim'", "wide")),
    "unknown device": (lambda r: r.train("--model", "mamex", "--device", "cuda:9x"), 3, ("'cuda:9x'", "cpu")),
    "unknown device, model without training": (
        lambda r: r.train(*POPULAR, "--device", "gpu"), 3, ("'gpu'", "cpu")),
    "metric that does not exist": (
        lambda r: r.train(*PROFILE, "--set", "training.metric=ndgc@10"), 3, ("ndgc@10", "ndcg")),
    "metric beyond the candidates": (
        lambda r: r.train(*PROFILE, "--set", "training.metric=ndcg@999"),
        3, ("ndcg@999", "19 candidates", "ndcg@5")),
    "recipe that is no TOML": (lambda r: r.recipe("[model\nname ="), 3, ("recipe.toml", "line 1")),
    "recipe that is no text": (
        lambda r: r.train("--recipe", r.file("recipe.toml", b"\xff\xfe\x00")), 3, ("recipe.toml", "TOML")),
    "unknown key in a recipe": (
        lambda r: r.recipe('sead = 1\n[model]\nname = "mamex"'), 3, ("recipe.toml", "'sead'", "'seed'")),
    "unknown key in a section": (
        lambda r: r.recipe('[model]\nname = "mamex"\n[training]\nepoch = 3'), 3, ("'epoch'", "'epochs'")),
    "modality that is not encoded": (
        lambda r: r.train(*PROFILE, "--modalities", "smell"), 3, ("smell", "image", "prismrec encode")),
    "no run": (lambda r: ["recommend", r.home, "--all"], 3, ("not a run", "prismrec train")),
    "a data set as a run": (
        lambda r: ["similar", r.data(), "--item", "p00001"], 3, ("not a run", "run.json")),
    "run with altered weights": (
        lambda r: ["recommend", r.damaged(r.run(), "vectors.safetensors"), "--all"],
        5, ("vectors.safetensors", "altered", "Train again")),
    "run with an altered catalogue": (
        lambda r: ["similar", r.damaged(r.run(), "catalog/items.parquet"), "--item", "p00001"],
        5, ("items.parquet", "altered", "Train again")),
    "run with a damaged manifest": (
        lambda r: ["evaluate", r.cut(r.run() / "run.json").parent],
        5, ("run.json", "damaged", "prismrec train", "anew")),
    "K beyond the candidates": (lambda r: ["evaluate", r.run(), "-k", "10,9999"], 3, ("9999", "candidates")),
    "K that is no number": (lambda r: ["evaluate", r.run(), "-k", "ten"], 2, ("'ten'", "-k 10,20")),
    "unknown item in similar": (
        lambda r: ["similar", r.run(), "--item", "p0001"], 3, ("'p0001'", "look alike", "'p00")),
    "unknown liked item": (lambda r: ["recommend", r.run(), "--liked", "?"], 3, ("'?'",)),
    "condition on no attribute": (
        lambda r: ["recommend", r.run(), "--all", "--where", "colour=red"], 3, ("'colour'", "price")),
    "new items whose prices are words": (
        lambda r: ["add-items", r.run(), r.table("new.csv", item_id=["n"], price=["cheap"])],
        3, ("price", "cheap")),
    "new items without ids": (
        lambda r: ["add-items", r.run(), r.table("new.csv", name=["n"], title=["Mug"])],
        3, ("new.csv", "'name'", "--column item=")),
    "lists to a spreadsheet": (
        lambda r: ["recommend", r.run(), "--all", "--out", r.home / "lists.xlsx"],
        3, ("lists.xlsx", ".parquet")),
}
# fmt: on


@pytest.mark.parametrize("kind", STOPPED)
def test_the_error_says_where_and_what_to_do_and_all_is_as_it_was(room: Room, kind: str) -> None:
    make, code, says = STOPPED[kind]
    words = make(room)
    before = room.files()
    done = room.call(*words, "--json")
    assert done.code == code, done.stderr
    error = done.document["error"]
    assert error["exit_code"] == code
    assert error["kind"] != "Unexpected"
    assert error["hint"] or code == 2, f"says not what to do: {done.stderr}"
    for text in says:
        assert text in f"{error['problem']}\n{error['hint'] or error['problem']}"
    assert error["problem"].splitlines()[0] in done.stderr or code == 2
    assert "Traceback" not in done.stderr
    assert room.files() == before


# How the call comes about; field, row, item and reason of what is refused; items and interactions that stay.
Refused = tuple[str, int | None, str | None, str]
# fmt: off
LEFT_OUT: dict[str, tuple[Callable[[Room], Words], Refused, tuple[int, int]]] = {
    "rating of words": (
        lambda r: r.logged(rating=["5", "good", "2"]), ("rating", 1, "2", "not a number"), (3, 2)),
    "NaN rating": (
        lambda r: r.logged(rating=[5.0, NAN, 2.0]), ("rating", 1, "2", "not a finite number"), (3, 2)),
    "null user": (lambda r: r.logged(user_id=["ann", None, "bob"]), ("user_id", 1, "2", "missing"), (3, 2)),
    "null item": (lambda r: r.listed(item_id=["1", "2", None]), ("item_id", 2, None, "missing"), (2, 3)),
    "empty id": (lambda r: r.listed(item_id=["1", "2", ""]), ("item_id", 2, None, "missing"), (2, 3)),
    "item twice": (
        lambda r: r.listed(item_id=["1", "2", "2"]),
        ("item_id", 2, "2", "duplicate, with other values"), (2, 3)),
    "interaction twice": (
        lambda r: r.logged(user_id=["ann"] * 3, item_id=["1", "2", "1"], rating=[5, 4, 5]),
        ("item_id", 2, "1", "duplicate"), (3, 2)),
    "unknown item": (
        lambda r: r.logged(item_id=["1", "2", "9"]), ("item_id", 2, "9", "unknown item"), (3, 2)),
    "picture of 20,000 x 20,000": (
        lambda r: r.picture(bomb(20_000)),
        ("image", 0, "1", "too many pixels: 400,000,000, at most 64,000,000"), (3, 3)),
    "fake picture": (
        lambda r: r.picture(b"<html>404 Not Found</html>"),
        ("image", 0, "1", "not a picture in a known format"), (3, 3)),
    "picture of no bytes": (lambda r: r.picture(b""), ("image", 0, "1", "the file is empty"), (3, 3)),
    "truncated picture": (
        lambda r: r.picture(png(99, 99)[:-30]),
        ("image", 0, "1", "damaged or truncated PNG picture"), (3, 3)),
    "picture without a file": (
        lambda r: r.listed("--images", r.picture(png(9, 9))[-1], image=["1.png", "no.png", None]),
        ("image", 1, "2", "there is no such file"), (3, 3)),
    "path out of the folder": (
        lambda r: r.listed("--images", r.picture(png(9, 9))[-1], image=["1.png", "../secret.png", None]),
        ("image", 1, "2", "the path leads outside the folder"), (3, 3)),
    "absolute path": (
        lambda r: r.listed("--images", r.picture(png(9, 9))[-1], image=["1.png", "/etc/passwd", None]),
        ("image", 1, "2", "the path leads outside the folder"), (3, 3)),
    "URL, fetching not asked for": (
        lambda r: r.listed(image=["https://example.org/1.png", None, None]),
        ("image", 0, "1", "it is at a URL, and fetching was not asked for"), (3, 3)),
    "URL of a private address": (
        lambda r: r.listed("--fetch-urls", image=["http://127.0.0.1:9/1.png", None, None]),
        ("image", 0, "1", "is not public"), (3, 3)),
    "URL of a local file": (
        lambda r: r.listed("--fetch-urls", image=["file:///etc/passwd", None, None]),
        ("image", 0, "1", "only http and https"), (3, 3)),
}
# fmt: on


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_what_is_refused_is_listed_and_the_rest_is_a_data_set(room: Room, kind: str) -> None:
    make, (field, row, item, reason), (items, interactions) = LEFT_OUT[kind]
    done = room.call(*make(room))
    assert done.code == 0, done.stderr
    assert "Refused or left out: 1, each in refused.jsonl" in done.stdout
    (refused,) = map(json.loads, (room.out / "refused.jsonl").read_text(encoding="utf-8").splitlines())
    assert (refused["field"], refused["row"], refused["item_id"]) == (field, row, item)
    assert reason in refused["reason"]
    assert Path(refused["source"]).parent == room.home
    data = Dataset.read(room.out)
    assert (len(data.items), len(data.interactions)) == (items, interactions)


def test_pictures_of_extreme_shapes_are_no_fault(room: Room) -> None:
    for name, shape in (("1", (1, 1)), ("2", (20_000, 3)), ("3", (3, 20_000))):
        words = room.picture(png(*shape), f"{name}.png")
    assert room.call(*words, "--json").document["refused"] == {}
    done = room.call("encode", room.out, "--text", "none", "--json")
    assert done.code == 0, done.stderr
    found = done.document["modalities"]["image"]
    assert (found["encoded"], found["problems"]) == (3, {})


def test_ids_with_slashes_and_emoji_go_all_the_way(room: Room) -> None:
    run = copytree(room.odd / "run", room.home / "run")
    assert set(Dataset.read(room.odd / "out").catalog.media["image"].ids) == {"a/b", "🧸 bear", "x.png"}
    (found,) = room.call("recommend", run, "--user", "анна/0", "-k", 99, "--json").document["users"]
    assert found["user_id"] == "анна/0"
    assert {row["item_id"] for row in found["items"]} & set(ODD)
    for item in ODD:
        done = room.call("similar", run, f"--item={item}", "-k", 3, "--json")
        assert done.code == 0, done.stderr
        assert len(done.document["items"]) == 3
        assert room.call("recommend", run, f"--liked={item}", "--json").code == 0
    new = ["new/🎈", "..", "新"]
    table = room.table("new.csv", item_id=new, title=["red mug", "blue mug", "green mug"])
    assert room.call("add-items", run, table, "--json").document["added"] == new
    shown = room.call("similar", run, "--item", "new/🎈", "-k", 50, "--json").document["items"]
    assert {"..", "新"} <= {row["item_id"] for row in shown}


def test_a_user_without_positives_is_counted_and_served(room: Room) -> None:
    shop = room.shop.drawn.today
    log = pl.read_parquet(shop.interactions).select("user_id", "item_id", rating=pl.lit(5))
    sad = pl.DataFrame({"user_id": ["sad"], "item_id": log["item_id"][:1], "rating": [1]}, schema=log.schema)
    pl.concat([log, sad]).write_parquet(room.home / "log.parquet")
    words = room.ingest("--min-rating", 4, log=room.home / "log.parquet", items=shop.items)
    done = room.call(*words)
    assert "Users without any positive: 1\n" in done.stdout
    assert json.loads((room.out / "report.json").read_text())["users_without_positives"] == 1
    assert room.call(*room.train(*POPULAR, data=room.out)[:-1], room.home / "run").code == 0
    done = room.call("recommend", room.home / "run", "--user", "sad", "-k", 3, "--json")
    assert len(done.document["users"][0]["items"]) == 3
    assert done.document["fallback_users"] == ["sad"]
    assert "1 of 1 users have no training interactions" in done.stderr


def test_an_unknown_user_gets_the_average_and_all_there_is_if_k_is_large(room: Room) -> None:
    done = room.call("recommend", room.shop.run, "--user", "nobody", "-k", 10**6, "--json")
    assert done.code == 0
    assert "'nobody'" in done.stderr
    assert "what people like on average" in done.stderr
    assert done.document["fallback_users"] == ["nobody"]
    assert 0 < len(done.document["users"][0]["items"]) <= 200


class Disk:
    """A small file system of its own where that can be had, else one that only pretends to refuse."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._patch = patch
        home.mkdir()
        self.real = os.geteuid() == 0 and self._mount("-t", "tmpfs", "-o", "size=24m", "tmpfs")

    def _mount(self, *words: str) -> bool:
        try:
            done = subprocess.run(["mount", *words, self.home], capture_output=True, check=False)
        except OSError:
            return False
        return done.returncode == 0

    def fill(self, free: int) -> None:
        """Leave `free` bytes."""
        if not self.real:
            self._refuse(errno.ENOSPC)
            return
        place = os.statvfs(self.home)
        (self.home / "filler").write_bytes(bytes(place.f_bavail * place.f_frsize - free))

    def lock(self) -> None:
        if not self.real:
            self._refuse(errno.EROFS)
        else:
            assert self._mount("-o", "remount,ro")

    def relieve(self) -> None:
        if not self.real:
            self._patch.undo()
            return
        self._mount("-o", "remount,rw")
        (self.home / "filler").unlink(missing_ok=True)

    def _refuse(self, number: int) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        self._patch.setattr(os, "fsync", refuse)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", "-l", self.home], check=True)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", monkeypatch)
    yield made
    made.close()


WRITING: dict[str, Callable[[Room], Words]] = {
    "ingest": lambda r: r.drawn(),
    "encode": lambda r: ["encode", r.without("features")],
    "train": lambda r: r.train("--model", "mamex", "--set", "training.epochs=1", "--set", "dim=32"),
    "evaluate": lambda r: ["evaluate", r.run(), "-k", "3", "--part", "valid", "--examples", 1],
    "recommend": lambda r: [
        "recommend",
        r.run(),
        "--all",
        "-k",
        50,
        "--explain",
        "--out",
        r.home / "l.parquet",
    ],
    "add-items": lambda r: ["add-items", r.run(), r.shop.drawn.arriving, "--images", r.shop.drawn.images],
}


@pytest.mark.parametrize("free", [0, 40_960])
@pytest.mark.parametrize("verb", WRITING)
def test_a_full_disk(call: Any, shop: Any, disk: Disk, verb: str, free: int) -> None:
    room = Room(disk.home, call, shop)
    words = WRITING[verb](room)
    before = room.files()
    disk.fill(free)
    done = call(*words, "--json")
    disk.relieve()
    refused_well(done, "the disk is full", room, before)
    assert call(*words).code == 0


@pytest.mark.parametrize("verb", WRITING)
def test_a_read_only_folder(call: Any, shop: Any, disk: Disk, verb: str) -> None:
    room = Room(disk.home, call, shop)
    words = WRITING[verb](room)
    before = room.files()
    disk.lock()
    done = call(*words, "--json")
    disk.relieve()
    refused_well(done, "the file system is read-only", room, before)
    assert call(*words).code == 0


def refused_well(done: Any, reason: str, room: Room, before: dict[str, str]) -> None:
    assert done.code == 6, done.stderr
    error = done.document["error"]
    assert error["kind"] == "StorageError"
    assert str(room.home) in error["problem"]
    assert reason in error["problem"]
    assert "choose another folder" in error["hint"]
    after = room.files()
    assert {name: after.get(name) for name in before} == before
    new = [Path(name) for name in after if name not in before and after[name] != "folder"]
    assert all(path.parts[0] == "out" or "features" in path.parts or path.name in RESULTS for path in new)
    # What a later call takes for good has one of these; features that were done before the disk was full are.
    assert not [
        path for path in new if path.suffix == ".partial" or path.name in ("dataset.json", "run.json")
    ]
    for path in new:
        if path.name == "manifest.json":
            FeatureStore.read(room.home / path.parent)
