"""Settings and documents on the pages, read by what they are for."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from prismrec.base import errors
from prismrec.experiments.expand import make_plan
from prismrec.experiments.recipe import read_bench
from prismrec.recommender.recipe import read_recipe, resolve
from prismrec.serving.settings import ServeSettings, read_settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# In the tutorials, commands read what the reader saves.
PAGES = [ROOT / "README.md", *sorted({*DOCS.rglob("*.md")} - {*(DOCS / "tutorials").glob("*.md")})]


def test_every_recipe_and_all_settings_are_taken(read_page, prepared, tmp_path) -> None:
    for path in PAGES:
        for block in read_page(path).blocks:
            if block.kind == "toml":
                file = tmp_path / f"{path.stem}-{block.line}.toml"
                file.write_text(block.body, encoding="utf-8")
                read_settings_of(file, prepared)


def read_settings_of(file: Path, home: Path) -> None:
    """Read a file by the model that it is for, which shows in its sections; data sets start from `home`."""
    sections = set(tomllib.loads(file.read_text(encoding="utf-8")))
    if "bench" in sections:
        make_plan(read_bench(file), {}, root=home)
    elif "model" in sections:
        resolve(read_recipe(file))
    else:
        read_settings(file, {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[model]\nname = "mamex"\ntop_q = 3\n', "top_q"),
        ('[model]\nname = "mamex"\n[training]\nstrategy = {name = "bsam+", rho = -1}\n', "rho"),
        ('host = "127.0.0.1"\n[limits]\npixel = 1\n', "pixel"),
        ('[bench]\nname = "a"\n[[data]]\nname = "a"\npath = "shop"\n[[model]]\nname = "hollow"\n', "hollow"),
    ],
)
def test_wrong_settings_are_found(text, said, prepared, tmp_path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(errors.ConfigError, match=said):
        read_settings_of(file, prepared)


def test_errors_look_as_the_command_line_page_says(read_page, carry_out, session) -> None:
    (block,) = [block for block in read_page(DOCS / "cli.md").blocks if block.kind == "json"]
    shown = json.loads(block.body)["error"]
    code, printed, _ = carry_out(["prismrec", "evaluate", "nowhere", "--json"])
    told = json.loads(printed)["error"]
    assert list(shown) == list(told)
    assert shown["exit_code"] == getattr(errors, shown["kind"]).exit_code == code
    assert {**shown, "problem": told["problem"], "hint": told["hint"]} == told


def test_the_proxy_is_set_as_the_service_is(read_page) -> None:
    (block,) = [block for block in read_page(DOCS / "serve.md").blocks if block.kind == "nginx"]
    depth = 0
    for line in filter(None, map(str.strip, block.body.splitlines())):
        assert re.fullmatch(r"\w+[^;{}]*[;{]|}", line), line
        depth += line.endswith("{") - (line == "}")
        assert depth >= 0, line
    assert depth == 0
    settings = ServeSettings()
    assert f"proxy_pass http://{settings.host}:{settings.port};" in block.body
    assert f"client_max_body_size {settings.limits.body_bytes // 1024**2}m;" in block.body


def test_no_document_is_read_by_nobody(read_page) -> None:
    found = [(path, block.kind) for path in PAGES for block in read_page(path).blocks]
    assert [(path.name, kind) for path, kind in found if kind in ("json", "nginx")] == [
        ("cli.md", "json"),
        ("serve.md", "nginx"),
    ]
