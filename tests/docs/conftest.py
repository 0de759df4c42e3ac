"""Runs the pages of the documentation: each is one session, in an empty folder."""

import ast
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from markdown_it import MarkdownIt
from typer.testing import CliRunner

import prismrec as pr
from prismrec.cli.app import app
from prismrec.sequential.template import Template
from prismrec.testing.tiny_models import tiny_model

ROOT = Path(__file__).resolve().parents[2]
LANGUAGE_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
KINDS = "python|console|bash|toml|json|nginx|text"
HEAD = re.compile(rf'```(?P<kind>{KINDS})(?: title="(?P<file>[\w.-]+)")?')
FENCE = re.compile(r"\W*(```|~~~)")


CarryOut = Callable[[list[str]], tuple[int, str, str]]
"""Does a command of these words; returns its exit code, and what it wrote on the two outputs."""


@dataclass(frozen=True)
class Block:
    """A piece of code of a page, or with the kind `text` of formulas, of a folder or of what is printed.

    `line` is that of its first line of code. A block with a `file` is what the reader saves under that name.
    """

    kind: str
    body: str
    line: int
    file: str | None = None

    def commands(self) -> list[str]:
        """Return what is typed, with continued lines joined: of `bash` every line that is no remark, of
        `console` what stands after `$ `, for there the other lines show what is printed.
        """
        lines = self.body.replace("\\\n", " ").splitlines()
        if self.kind == "bash":
            return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        if self.kind == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return []


@dataclass(frozen=True)
class Page:
    """A page and its code."""

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> "Page":
        return cls(path.name, path.read_text(encoding="utf-8"))

    @property
    def blocks(self) -> list[Block]:
        """All blocks. What is code for a reader of Markdown and would be passed over here is an error."""
        lines = self.text.split("\n")
        found: list[Block] = []
        inside: set[int] = set()
        for token in MarkdownIt().parse(self.text):
            if token.type not in ("fence", "code_block") or token.map is None:
                continue
            first, end = token.map
            head = HEAD.fullmatch(lines[first])
            assert head, self._passed_over(first)
            assert lines[end - 1] == "```", self._passed_over(end - 1)
            inside.update(range(first, end))
            found.append(Block(head["kind"], token.content, first + 2, head["file"]))
        for number, line in enumerate(lines):
            assert number in inside or not FENCE.match(line), self._passed_over(number)
        return found

    def _passed_over(self, number: int) -> str:
        line = self.text.split("\n")[number]
        return (
            f"{self.name}, line {number + 1}, {line!r}: a block is indented or not closed, or its language "
            f"({KINDS}) or its options are not known: it would not run"
        )

    def check(self, programs: set[str]) -> None:
        """Check that every block is found and can be run, with no other programs than these."""
        for block in self.blocks:
            where = f"{self.name}, line {block.line}"
            if block.kind == "python":
                ast.parse(block.body, where)
            elif block.kind == "toml":
                assert block.file, f"{where}: nobody reads this, it has no title"
            elif block.kind != "text":
                assert block.commands(), f"{where}: no command"
                assert {words_of(command)[0] for command in block.commands()} <= programs, where

    def run(self, carry_out: CarryOut | None = None) -> str:
        """Run all blocks in the working folder; return what the commands have printed.

        Parameters
        ----------
        carry_out
            Does a command; None: as a reader would.
        """
        names: dict[str, Any] = {"__name__": "__main__"}
        do = carry_out or carried_out
        try:
            return "".join(told for block in self.blocks for told in self._run(block, names, do))
        finally:
            for value in names.values():
                # A page that fails half-way leaves no service behind.
                if isinstance(value, subprocess.Popen) and value.poll() is None:
                    value.kill()
                    value.wait()

    def _run(self, block: Block, names: dict[str, Any], carry_out: CarryOut) -> Iterator[str]:
        if block.file is not None:
            Path(block.file).write_text(block.body, encoding="utf-8")
        elif block.kind == "python":
            # Empty lines in front give a traceback the line numbers of the page.
            exec(compile("\n" * (block.line - 1) + block.body, self.name, "exec"), names)
        else:
            for command in block.commands():
                code, printed, problem = carry_out(words_of(command))
                assert code == 0, f"{self.name}, line {block.line}: $ {command}\n{printed}{problem}"
                yield printed


def words_of(command: str) -> list[str]:
    """Return the words of a command, without the remark at its end."""
    return shlex.split(command, comments=True)


def carried_out(words: list[str]) -> tuple[int, str, str]:
    """Return a command's exit code and what it printed on standard output and standard error."""
    if words[0] == "prismrec":
        # In this process: most of a command's time is the import of its libraries.
        done = CliRunner().invoke(app, words[1:], prog_name="prismrec")
        return done.exit_code, done.stdout, f"{done.stderr}{done.exception or ''}"
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def page_of() -> Callable[[str, str], Page]:
    """Return how a page is made of its name and its text."""
    return Page


@pytest.fixture(scope="session")
def read_page() -> Callable[[Path], Page]:
    """Return how a page is read."""
    return Page.read


@pytest.fixture(scope="session")
def carry_out() -> CarryOut:
    """Return how a command is done."""
    return carried_out


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to an empty folder, as a reader does: its modules can be imported, `prismrec` is on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        # Another page may have a file of the same name.
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, carry_out: Callable[[list[str]], Any]) -> Path:
    """Return a folder with all that pages take for granted. Not to be changed."""
    home = tmp_path_factory.mktemp("prepared")
    drawn = pr.generate(
        pr.GeneratedConfig(items=220, users=120, interactions_per_user=10, image_size=32, with_sound=0.02)
    )
    items, arriving = drawn.catalog.items.head(-5), drawn.catalog.items.tail(5)
    # On the pages people are called u42.
    user = pl.format("u{}", pl.col("user_id").str.slice(1).cast(pl.Int64))
    clicks = drawn.interactions.frame.with_columns(user_id=user).filter(
        pl.col("item_id").is_in(items["item_id"].implode())
    )
    items.write_parquet(home / "items.parquet")
    arriving.write_parquet(home / "new.parquet")
    clicks.write_parquet(home / "clicks.parquet")
    (home / "pictures").mkdir()
    pictures = drawn.catalog.media["image"]
    for name in pictures.ids:
        (home / "pictures" / f"{name}.jpg").write_bytes(pictures.read(name))
    shutil.copy(home / "pictures" / f"{pictures.ids[0]}.jpg", home / "mug.jpg")
    write_vectors(home, items["item_id"])
    write_downloads(home, clicks, items)
    (home / "recipes").symlink_to(ROOT / "recipes")
    texts = [*items["title"].drop_nulls(), Template.default().top3]
    tiny_model(home / LANGUAGE_MODEL, "qwen2.5-vl", texts)
    with contextlib.chdir(home):
        for command in (
            "prismrec ingest --interactions clicks.parquet --items items.parquet --images pictures "
            "--out shop",
            "prismrec encode shop",
            "prismrec train shop --model mamex --preset paper --set dim=16 --set training.epochs=2 "
            "--out runs/mamex",
            "prismrec train shop --model holo --out runs/holo",
            "prismrec train shop --model sasrec --split leave-last --set training.epochs=1 --out runs/sasrec",
        ):
            code, _, problem = carry_out(command.split())
            assert code == 0, f"{command}\n{problem}"
    (home / "shops").mkdir()
    (home / "shops" / "movielens-small").symlink_to(home / "shop")
    return home


def write_vectors(home: Path, ids: pl.Series) -> None:
    """Write vectors of one's own, in both forms."""
    numbers = np.random.default_rng(0).normal(size=(len(ids), 6)).astype(np.float32)
    pl.DataFrame({"item_id": ids, "vector": numbers.tolist()}).write_parquet(home / "clip.parquet")
    np.save(home / "mine.npy", numbers)
    (home / "ids.txt").write_text("\n".join(ids), encoding="utf-8")


def write_downloads(home: Path, clicks: pl.DataFrame, items: pl.DataFrame) -> None:
    """Write folders as research code has them, the log as tables of other names, and a division of it."""
    part = (pl.col("timestamp").rank("ordinal", descending=True).over("user_id") - 1).clip(0, 2)
    log = clicks.with_columns(label=pl.lit(2) - part, item=pl.col("item_id"), user=pl.col("user_id"))
    names = pl.col("label").replace_strict([0, 1, 2], ["train", "valid", "test"])
    log.select("user_id", "item_id", names.alias("part")).write_csv(home / "my_parts.csv")
    log.select("user", "item", "timestamp").write_csv(home / "Netflix_pairs.csv")
    items.select("title", item="item_id").write_csv(home / "Netflix_titles.csv")
    (home / "images").symlink_to(home / "pictures")

    mmrec = home / "downloads" / "baby"
    mmrec.mkdir(parents=True)
    user, item = ((pl.col(name).rank("dense") - 1) for name in ("user_id", "item_id"))
    table = log.select("timestamp", userID=user, itemID=item, x_label="label")
    table.write_csv(mmrec / "baby.inter", separator="\t")
    for modality, dim in (("image", 8), ("text", 6)):
        vectors = np.random.default_rng(dim).normal(size=(log["item_id"].n_unique(), dim))
        np.save(mmrec / f"{modality}_feat.npy", vectors.astype(np.float32))

    hanorec = home / "data" / "netflix"
    hanorec.mkdir(parents=True)
    # Ids are numbers there.
    rows = [
        f"{user[1:]}\t{' '.join(item[1:] for item in history['item_id'])}\n"
        for (user,), history in clicks.sort("timestamp").group_by("user_id", maintain_order=True)
    ]
    for place, name in enumerate(("train", "val", "test")):
        (hanorec / f"{name}.tsv").write_text("".join(rows[place::3]), encoding="utf-8")
    items.select("title", item=pl.col("item_id").str.slice(1)).write_csv(hanorec / "Netflix_titles.csv")
    (hanorec / "images").mkdir()
    for picture in (home / "pictures").iterdir():
        (hanorec / "images" / picture.name[1:]).symlink_to(picture)


@pytest.fixture
def worked_along(prepared: Path, session: Path) -> Path:
    """Go to a copy of the prepared folder."""
    shutil.copytree(prepared, session, dirs_exist_ok=True, symlinks=True)
    return session
