"""Every block of code on every page is run, or it stands here why not.

The tutorials have tests of their own. All other pages are sessions as well, each in a folder where the files
that pages speak of lie ready: `clicks.parquet`, the data set `shop`, the run `runs/mamex` and so on.
"""

import argparse
import ast
import contextlib
import itertools
import json
import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from prismrec.serving.compose import make_app, open_service
from prismrec.serving.settings import ServeSettings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUN_ELSEWHERE = {DOCS / "tutorial.md", *(DOCS / "tutorials").glob("*.md")}


@dataclass(frozen=True)
class NotRun:
    """A command of a page, by how it begins, that is looked at (`test_shown_commands`) and not run."""

    page: str
    begins: str
    why: str


NOT_RUN = (
    NotRun("README.md", "make ", "makes an environment, and runs these tests"),
    NotRun("docs/index.md", "make ", "makes an environment"),
    NotRun("docs/features.md", "pip install", "changes the environment"),
    NotRun("docs/features.md", "prismrec encode shop --image openai/", "weights come from a hub"),
    NotRun("docs/data.md", "prismrec source movielens/small", "files come from their publisher"),
    NotRun("docs/data.md", "prismrec source amazon-2014/baby", "files come from their publisher"),
    NotRun("docs/bench.md", "prismrec bench recipes/bench/mamex-ablations.toml --data movielens-small"
           "=shops/movielens-small --jobs", "trains for hours; its dry run is run"),
    NotRun("docs/concepts/mamex-studies.md", "prismrec bench", "takes a quarter of an hour"),
    NotRun("docs/hanorec.md", "pip install", "changes the environment"),
    NotRun("docs/scale-out.md", "prismrec train", "starts two processes: tests/training does"),
    NotRun("docs/scale-out.md", "accelerate launch", "starts two processes: tests/training does"),
    NotRun("docs/scale-out.md", "torchrun", "needs four machines"),
    NotRun("docs/scale-out.md", "pip install", "changes the environment"),
    NotRun("docs/scale-out.md", "prismrec encode shop --engine ray", "starts a cluster: tests/features does"),
    NotRun("docs/scale-out.md", "prismrec recommend", "starts a cluster: tests/recommender does"),
    NotRun("docs/scale-out.md", "prismrec bench", "starts a cluster: tests/experiments does"),
    NotRun("docs/serve.md", "pip install", "changes the environment"),
)  # fmt: skip


def shown_pages() -> list[Path]:
    """Return all pages but those that are run elsewhere, with the files that a page takes in."""
    found = [ROOT / "README.md"]
    for path in sorted({*DOCS.rglob("*.md")} - RUN_ELSEWHERE):
        taken_in = re.findall(r'^--8<-- "(.+)"$', path.read_text(encoding="utf-8"), re.MULTILINE)
        found += [path, *(ROOT / name for name in taken_in)]
    return found


PAGES = shown_pages()
RUN = [
    path for path in PAGES if re.search("^```(python|bash|console)", path.read_text("utf-8"), re.MULTILINE)
]
TYPED = re.compile(r"^\s*(\$ |(prismrec|pip|python|curl|accelerate|torchrun|docker|git) )", re.MULTILINE)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_every_block_is_of_a_kind_that_is_run_or_looked_at(path, read_page) -> None:
    for block in read_page(path).blocks:
        where = f"{path}, line {block.line}"
        if block.kind == "text":
            typed = TYPED.search(block.body)
            assert not typed, f"{where}: commands stand in a block of `bash`: {typed[0]!r}"
        elif block.kind in ("bash", "console"):
            assert block.commands(), f"{where}: no command"
        elif block.kind == "python":
            ast.parse(block.body, where)
        elif block.kind == "json":
            json.loads(block.body)
        elif block.kind == "toml":
            tomllib.loads(block.body)


def test_what_is_not_run_is_still_there(read_page) -> None:
    for one in NOT_RUN:
        (path,) = [path for path in PAGES if named(path) == one.page]
        commands = [command for block in read_page(path).blocks for command in block.commands()]
        assert any(command.startswith(one.begins) for command in commands), one


@dataclass
class Reader:
    """Does the commands of a page, in the working folder.

    A command that writes into a folder finds none there, however many lie ready. Training is cut short, and
    the language model is a tiny one: what they would learn says nothing about the page.
    """

    page: str
    as_typed: Callable[[list[str]], tuple[int, str, str]]
    open_things: contextlib.ExitStack
    made: set[str] = field(default_factory=set)
    service: TestClient | None = None

    def __call__(self, words: list[str]) -> tuple[int, str, str]:
        if any(one.page == self.page and " ".join(words).startswith(one.begins) for one in NOT_RUN):
            return 0, "", ""
        if words[0] == "curl":
            return self._ask(words[1:])
        if words[:2] == ["prismrec", "serve"]:
            return self._open(words[2:])
        for option, folder in itertools.pairwise(words):
            if option == "--out" and folder not in self.made:
                shutil.rmtree(folder, ignore_errors=True)
                self.made.add(folder)
        return self.as_typed(shortened(words))

    def _open(self, words: list[str]) -> tuple[int, str, str]:
        """Open what `serve` serves, without a socket."""
        options = argparse.ArgumentParser()
        options.add_argument("run", type=Path)
        options.add_argument("--store", type=Path)
        asked = options.parse_args(words)
        settings = ServeSettings()
        service = open_service(asked.run, asked.store)
        self.open_things.callback(service.close)
        client = TestClient(make_app(service, settings, run=asked.run), f"http://localhost:{settings.port}")
        self.service = self.open_things.enter_context(client)
        return 0, "", ""

    def _ask(self, words: list[str]) -> tuple[int, str, str]:
        options = argparse.ArgumentParser()
        options.add_argument("address")
        options.add_argument("-X", default="GET")
        options.add_argument("-F", action="append", default=[])
        asked = options.parse_args(words)
        fields: dict[str, Any] = {}
        for text in asked.F:
            name, _, value = text.partition("=")
            path = Path(value.removeprefix("@"))
            fields[name] = (path.name, path.read_bytes()) if value.startswith("@") else (None, value)
        assert self.service is not None, "no service was started before"
        base = f"{self.service.base_url}".removeprefix("http://")
        assert asked.address.startswith(base), f"the service answers at {base}"
        answer = self.service.request(asked.X, asked.address.removeprefix(base), files=fields or None)
        return (0 if answer.is_success else answer.status_code), answer.text, ""


def shortened(words: list[str]) -> list[str]:
    if words[1] == "train":
        return [*words, "--set", "training.epochs=2"]
    if words[1] == "robustness" and "--repeats" not in words:
        return [*words, "--repeats", "1"]
    if words[1] == "sequential" and words[2] in ("sft", "align"):
        return [*("cpu" if word == "cuda" else word for word in words), "--most", "4"]
    return words


@pytest.mark.parametrize("path", RUN, ids=named)
def test_the_page_runs(path, read_page, carry_out, worked_along) -> None:
    with contextlib.ExitStack() as open_things:
        read_page(path).run(Reader(named(path), carry_out, open_things))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("curl localhost:8000/v1/nothing", "404|not found"),
        ("curl -X POST localhost:8000/v1/users/u42/recommendations", "405|not allowed"),
        ("curl localhost:8000/v1/users/u42/recommendations?k=x", "must|valid|number"),
        ("curl localhost:8001/v1/users", "the service answers at localhost:8000"),
        ("prismrec evaluate nowhere", "nowhere: this is not a run"),
        ("prismrec train shop --model mamex --set top_q=3 --out runs/mine", "top_q"),
    ],
)
def test_what_fails_is_found(command, said, page_of, carry_out, worked_along) -> None:
    page = page_of("a.md", f"```bash\nprismrec serve runs/mamex\n{command}\n```\n")
    with contextlib.ExitStack() as open_things, pytest.raises(AssertionError, match=f"(?i){said}"):
        page.run(Reader("a.md", carry_out, open_things))


def test_a_page_makes_its_own_folders_and_keeps_them(carry_out, worked_along) -> None:
    (worked_along / "shop" / "of-before").touch()
    with contextlib.ExitStack() as open_things:
        reader = Reader("a.md", carry_out, open_things)
        ingest = "prismrec ingest --interactions clicks.parquet --items items.parquet --out shop"
        assert reader(ingest.split())[0] == 0
        assert not (worked_along / "shop" / "of-before").exists()
        # The second time as a reader would find it.
        (worked_along / "shop" / "mine").touch()
        reader(ingest.split())
        assert (worked_along / "shop" / "mine").exists()
