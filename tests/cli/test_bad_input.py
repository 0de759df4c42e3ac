"""What people get wrong, through the command line: each kind of bad input, and what it is answered with.

``STOPPED`` are calls that end with an error and leave every file as it was. ``LEFT_OUT`` are rows and contents
that are refused one by one, while the rest becomes a data set.
"""

import errno
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from prismrec.base.files import digest_file

LOG: dict[str, list[Any]] = {"user_id": ["ann", "ann", "bob"], "item_id": ["1", "2", "1"], "rating": [5, 4, 2]}
ITEMS: dict[str, list[Any]] = {"item_id": ["1", "2", "3"], "title": ["Red mug", "Blue mug", "Tea pot"]}
PRICED = {**ITEMS, "price": [1.0, 2.0, 3.0]}
ODD = ("a/b", "🧸 bear", "../up", "C:\\x", "-k", "naïve ' \" ,", "ж" * 90, "#1", "x.png", "%2F", "[red]", " 7")


@dataclass(frozen=True)
class Room:
    """A folder for one call's files, and the folders that all tests share (to be copied before a change)."""

    home: Path
    shop: Any
    odd: Path

    @property
    def out(self) -> Path:
        return self.home / "out"

    def file(self, name: str, content: bytes | str) -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def table(self, name: str, columns: dict[str, Any]) -> Path:
        path, frame = self.home / name, pl.DataFrame(columns)
        frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
        return path

    def ingest(self, *words: object, log: Path | None = None, items: Path | None = None) -> list[object]:
        log = log or self.table("log.parquet", LOG)
        items = items or self.table("items.parquet", ITEMS)
        return ["ingest", "--interactions", log, "--items", items, "--out", self.out, *words]

    def pictures(self, **contents: bytes) -> list[object]:
        for name, content in contents.items():
            self.file(f"pictures/{name.removeprefix('item_')}.png", content)
        return ["--images", self.home / "pictures"]

    def train(self, *words: object, data: Path | None = None) -> list[object]:
        return ["train", data or self.shop.data, *words, "--out", self.out]

    def data(self) -> Path:
        return Path(copytree(self.shop.data, self.home / "shop"))

    def run(self) -> Path:
        return Path(copytree(self.shop.run, self.home / "run"))

    def vectors(self, rows: object, ids: Sequence[str] = ("p00001", "p00002"), name: str = "v") -> list[object]:
        path = self.table("v.parquet", {"item_id": list(ids), "v": rows})
        return ["--vectors", f"{name}={path}"]

    def state(self) -> dict[str, str]:
        """Digest of every file, so that a call that failed can be seen to have left all as it was."""
        found = sorted(self.home.rglob("*"))
        return {str(p.relative_to(self.home)): digest_file(p) if p.is_file() else "folder" for p in found}


@pytest.fixture(scope="module")
def odd(call, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data set and run on ids of all sorts, with texts, pictures, and own vectors of four dimensions."""
    room = Room(tmp_path_factory.mktemp("odd"), None, Path())
    ids = [*ODD, *(f"{name}/{n}" for name in ("mug", "🫖") for n in range(14))]
    users = [f"{name}/{n}" for name in ("анна", "🙂") for n in range(6)]
    pairs = [(user, ids[(3 * u + 5 * n) % len(ids)]) for u, user in enumerate(users) for n in range(8)]
    log = room.table("log.csv", {"user_id": [p[0] for p in pairs], "item_id": [p[1] for p in pairs]})
    items = room.table("items.csv", {"item_id": ids, "title": [f"{'blue red green'.split()[n % 3]} mug {n}" for n in range(40)]})
    room.file("pictures/a/b.png", png(9, 9))
    room.file("pictures/🧸 bear.png", png(9, 9))
    rows = np.random.default_rng(0).normal(size=(40, 4)).tolist()
    for words in (
        room.ingest("--images", room.home / "pictures", log=log, items=items),
        ["encode", room.out, "--image", "default", *room.vectors(rows, ids)],
        ["train", room.out, "--model", "content-profile", "--out", room.home / "run"],
    ):
        done = call(*words, "--json")
        assert done.code == 0, done.stderr
    return room.home


@pytest.fixture
def room(shop, odd: Path, tmp_path: Path) -> Room:
    return Room(tmp_path, shop, odd)


def png(width: int, height: int) -> bytes:
    kept = BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(kept, "PNG")
    return kept.getvalue()


def huge_png(side: int) -> bytes:
    """A file of some bytes whose header speaks of `side` x `side` pixels."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0" * 999))]
    chunks = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def truncated_log(room: Room) -> Path:
    whole = room.table("log.parquet", {"user_id": [*map(str, range(500))], "item_id": ["1"] * 500}).read_bytes()
    return room.file("log.parquet", whole[: len(whole) // 2])


def damage(path: Path) -> None:
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def damaged_run(room: Room) -> list[object]:
    damage(room.run() / "model.safetensors" if (room.shop.run / "model.safetensors").stat().st_size > 200 else room.home / "run" / "vectors.safetensors")
    return ["recommend", room.home / "run", "--all"]


def damaged_data(room: Room) -> list[object]:
    damage(room.data() / "interactions.parquet")
    return room.train("--model", "popularity", data=room.home / "shop")


def cut_pictures(room: Room) -> list[object]:
    packed = room.data() / "media" / "image.parquet"
    packed.write_bytes(packed.read_bytes()[:500])
    return ["encode", room.home / "shop", "--image", "default", "--refit"]


def cut_features(room: Room) -> list[object]:
    stored = next((room.data() / "features" / "text").glob("*.npy"))
    stored.write_bytes(stored.read_bytes()[:200])
    return room.train("--model", "content-profile", data=room.home / "shop")


def other_dimension(room: Room) -> list[object]:
    run = copytree(room.odd / "run", room.home / "run")
    return ["add-items", run, room.table("new.csv", {"item_id": ["n1"], "title": ["mug"]}), *room.vectors([[1.0] * 5], ["n1"])]


def other_dimension_later(room: Room) -> list[object]:
    """The same run again, after its features have changed size."""
    data, run = copytree(room.odd / "out", room.home / "data"), copytree(room.odd / "run", room.home / "run")
    (data / "features" / "v").rename(room.home / "old")
    copytree(room.odd / "out" / "features" / "text", data / "features" / "v")
    named = data / "features" / "v" / "manifest.json"
    named.write_text(named.read_text().replace('"modality": "text"', '"modality": "v"'))
    return ["train", data, "--model", "content-profile", "--out", run]


def small_data(room: Room, call: Callable[..., Any]) -> Path:
    assert call(*room.ingest(), "--json").code == 0
    return room.out.rename(room.home / "small")
