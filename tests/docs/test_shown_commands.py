"""Every command on every page, against the program: options exist, values fit, what is named is there.

`test_code_blocks` runs those that can be run. Here all are read, and those within sentences too.
"""

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt
from torch.distributed.run import get_args_parser
from typer.main import get_command

from prismrec.cli.app import app
from prismrec.data.sources.all_sources import source_called
from prismrec.experiments.recipe import read_bench
from prismrec.recommender.recipe import Job, overridden, read_recipe, resolve

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the verb that is meant, or the group of verbs if that is all, and the words after its name."""
    command, rest = get_command(app), words[1:]
    while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
        assert rest[0] in command.commands, f"{shlex.join(words)}: no verb {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


def read_command(words: list[str]) -> None:
    """Read a command without doing it; files that it names lie in the working folder or are of the project.

    Raises
    ------
    AssertionError, UsageError, PrismError
        If something is unknown: the program, an option, a model, a setting, a source, a recipe.
    """
    program, *rest = words
    if program == "prismrec":
        command, rest = command_of(words)
        given = command.make_context(command.name, rest).params
        if words[1] == "train":
            job_of(given)
        elif words[1] == "source" and given["name"] is not None:
            source_called(given["name"])
        elif words[1] == "bench":
            known = {section.name for section in read_bench(given["recipe"]).data}
            named = {pair.partition("=")[0] for pair in given["data"]}
            assert named <= known, f"{given['recipe']} has no data {named - known}"
    elif program in ("accelerate", "torchrun"):
        parser = get_args_parser() if program == "torchrun" else launch_command_parser()
        if program == "accelerate":
            assert rest.pop(0) == "launch"
        launched = parser.parse_args(rest)
        assert launched.module, "-m is missing"
        read_command([launched.training_script, *launched.training_script_args])
    elif program == "pip":
        require_extra(rest)
    elif program == "make":
        assert set(rest) <= make_targets(), rest
    else:
        # These are run wherever they stand.
        assert program in ("curl", "pytest"), f"nobody checks {program!r}"


def job_of(given: dict[str, Any]) -> Job:
    """Resolve what `train` was given, as it does."""
    recipe, modalities = given["recipe"], given["modalities"]
    return resolve(
        overridden(
            None if recipe is None else read_recipe(recipe),
            model=given["model"],
            preset=given["preset"],
            assignments=given["settings"] or (),
            split={
                "kind": given["split"],
                "valid": given["valid"],
                "test": given["test"],
                "seed": given["split_seed"],
                "by": given["by"],
            },
            strategy=given["strategy"],
            seed=given["seed"],
            modalities=None if modalities is None else modalities.split(","),
        )
    )


def require_extra(words: list[str]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = re.fullmatch(r"install prismrec\[(\w+)\]", " ".join(words))
    assert asked, words
    assert asked[1] in extras["optional-dependencies"], words


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_all_commands_of_the_blocks_are_understood(path, read_page, session) -> None:
    (session / "recipes").symlink_to(ROOT / "recipes")
    for block in read_page(path).blocks:
        if block.file is not None:
            (session / block.file).write_text(block.body, encoding="utf-8")
        for command in block.commands():
            read_command(shlex.split(command, comments=True))


@pytest.mark.parametrize("path", PAGES, ids=named)
def test_all_commands_within_sentences_exist(path) -> None:
    spans = [
        part.content
        for token in MarkdownIt().parse(path.read_text(encoding="utf-8"))
        for part in token.children or ()
        if part.type == "code_inline"
    ]
    for span in spans:
        if span.startswith("make "):
            assert span.split()[1] in make_targets(), span
        if not span.startswith("prismrec "):
            continue
        words = shlex.split(span.partition("|")[0])
        command, rest = command_of(words)
        options = {"--help", *(name for parameter in command.params for name in parameter.opts)}
        assert {word for word in rest if word.startswith("-")} <= options, span


def test_all_targets_of_make_that_pages_list_exist(read_page) -> None:
    for path in PAGES:
        for block in read_page(path).blocks:
            if block.kind == "text":
                assert set(re.findall(r"^make ([a-z]+)", block.body, re.MULTILINE)) <= make_targets(), path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("prismrec tarin shop --out r", "no verb 'tarin'"),
        ("prismrec sequential retune questions", "no verb 'retune'"),
        ("prismrec train shop --modle mamex --out r", "No such option: --modle"),
        ("prismrec train shop --model mamex", "Missing parameter: out"),
        ("prismrec train shop --model mamex --seed x --out r", "valid integer"),
        ("prismrec train shop --model mammoth --out r", "mammoth"),
        ("prismrec train shop --model mamex --set top_q=3 --out r", "top_q"),
        ("prismrec train shop --model mamex --set training.epochs=-1 --out r", "epochs"),
        ("prismrec train shop --recipe none.toml --out r", "none.toml"),
        ("prismrec recommend r --user u --items odd", "odd"),
        ("prismrec source movielens/tiny --raw r", "movielens/tiny"),
        ("prismrec bench recipes/bench/none.toml", "none.toml"),
        ("prismrec bench recipes/bench/mamex-lambda.toml --data mine=shop", "no data {'mine'}"),
        ("torchrun --nnodes 2 -m prismrec train shop", "Missing parameter: out"),
        ("accelerate launch --num_processes 2 -m prismrec train shop --out r --model x", "'x'"),
        ("pip install prismrec[gpu]", "gpu"),
        ("make tea", "tea"),
        ("rm -r shop", "nobody checks 'rm'"),
    ],
)
def test_a_wrong_command_is_found(command, said, session) -> None:
    (session / "recipes").symlink_to(ROOT / "recipes")
    with pytest.raises(Exception, match=re.escape(said)) as caught:
        read_command(shlex.split(command))
    assert not isinstance(caught.value, (TypeError, KeyError))
