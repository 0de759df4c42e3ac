"""One small shop for all tests of the command line, made by the command line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from prismrec.cli.app import app
from prismrec.data.sources.generated import GeneratedConfig
from prismrec.data.sources.generated_demo import DemoShop, draw_demo


@dataclass(frozen=True)
class Answer:
    """What a call printed, and how it ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


Call = Callable[..., Answer]


def call_verb(*words: object) -> Answer:
    done = CliRunner().invoke(app, [str(word) for word in words], prog_name="prismrec")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Answer(done.exit_code, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def call() -> Call:
    return call_verb


@dataclass(frozen=True)
class Shop:
    """Folders: drawn files, a data set with features, a trained content profile."""

    home: Path
    drawn: DemoShop
    data: Path
    run: Path


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    home = tmp_path_factory.mktemp("cli")
    config = GeneratedConfig(
        items=200, users=150, interactions_per_user=12, seed=3, image_size=32, with_sound=0.1
    )
    drawn = draw_demo(config, home / "demo", arriving=6)
    raw = drawn.today
    data, run = home / "shop", home / "run"
    ingest = ("ingest", "--interactions", raw.interactions, "--items", raw.items, "--out", data)
    for words in (
        (*ingest, "--images", raw.images, "--audio", raw.audio),
        ("encode", data),
        ("train", data, "--model", "content-profile", "--out", run),
    ):
        done = call_verb(*words, "--json")
        assert done.code == 0, done.stderr
    return Shop(home, drawn, data, run)
