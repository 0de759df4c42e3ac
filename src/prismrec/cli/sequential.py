"""`prismrec sequential`: a multimodal language model that reads histories, step by step."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table
from prismrec.cli.recommend import Choice

if TYPE_CHECKING:
    from prismrec.sequential.steps import Outcome

_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="A setting; FIELD.INNER=VALUE too. Repeatable."),
]
_Preset = Annotated[
    str | None,
    typer.Option(help="Start from: published-sft, published-align, small.", show_default=False),
]
_Recipe = Annotated[
    Path | None,
    typer.Option(help="TOML with the settings of all steps; what is typed goes before.", show_default=False),
]
_Seed = Annotated[int, typer.Option(min=0, help="Seed.")]
_Device = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
_Most = Annotated[int | None, typer.Option(min=1, help="Most examples; otherwise all.", show_default=False)]
_Restart = Annotated[bool, typer.Option("--restart", help="Begin anew; a run that is there is lost.")]
_Shop = Annotated[
    Path | None, typer.Option(help="Where the data set lies now, if it was moved.", show_default=False)
]
_Run = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
_Out = Annotated[Path, typer.Option(help="Folder to write.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    # A plain group: errors are reported by the one around it, once.
    steps = typer.Typer(
        no_args_is_help=True,
        help="Tune a multimodal language model to read histories: prepare, sft, align, evaluate, recommend.",
    )
    steps.command(
        "prepare",
        epilog="Example: prismrec sequential prepare shop --task top3 --noun movie --out questions",
    )(prepare)
    steps.command(
        "sft",
        epilog="Example: prismrec sequential sft questions --model Qwen/Qwen2.5-VL-3B-Instruct --out sft",
    )(sft)
    steps.command(
        "align", epilog="Example: prismrec sequential align runs/sft --loss hanorec --out runs/hanorec"
    )(align)
    steps.command(
        "evaluate",
        epilog="Example: prismrec sequential evaluate runs/hanorec --beside sasrec=runs/sasrec "
        "--before runs/sft",
    )(evaluate)
    steps.command(
        "recommend",
        epilog="Example: prismrec sequential recommend runs/hanorec --first-stage runs/holo --user u42",
    )(recommend)
    steps.command("merge", epilog="Example: prismrec sequential merge runs/hanorec --out models/films")(merge)
    steps.command(
        "estimate",
        epilog="Example: prismrec sequential estimate questions --recipe hanorec-qwen2.5-vl-3b.toml",
    )(estimate)
    app.add_typer(steps, name="sequential")


def prepare(
    shop: Annotated[Path, typer.Argument(help="Folder of the data set.", show_default=False)],
    out: _Out,
    task: Annotated[
        str | None, typer.Option(help="binary, top3, next (the default), rerank.", show_default=False)
    ] = None,
    noun: Annotated[
        str | None, typer.Option(help="What an item is called: movie.", show_default=False)
    ] = None,
    plural: Annotated[
        str | None, typer.Option(help="What items are called; otherwise the noun and s.", show_default=False)
    ] = None,
    first_stage: Annotated[
        Path | None,
        typer.Option(help="For rerank: the run whose lists are ranked again.", show_default=False),
    ] = None,
    template: Annotated[
        Path | None, typer.Option(help="TOML with words of your own.", show_default=False)
    ] = None,
    recipe: _Recipe = None,
    settings: _Set = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make questions of a data set: histories, what came then, and what else to choose from."""
    from prismrec.data.dataset import Dataset
    from prismrec.recommender.recipe import assigned
    from prismrec.recommender.recommender import Recommender
    from prismrec.sequential.prepare import PrepareConfig
    from prismrec.sequential.prepared import prepare as make
    from prismrec.sequential.recipe import read_recipe

    answer = Output(json, quiet)
    plural = plural if plural is not None else f"{noun}s" if noun else None
    named = {"task": task, "noun": noun, "plural": plural}
    typed = {name: value for name, value in named.items() if value is not None}
    config = PrepareConfig.parse({**read_recipe(recipe).prepare, **typed, **assigned(settings or ())})
    prepared = make(
        Dataset.read(shop),
        out,
        config,
        template=template,
        first_stage=None if first_stage is None else Recommender.load(first_stage),
        progress=answer.progress,
    )
    counts = {part: len(prepared.part(part)) for part in ("train", "valid", "test")}
    document = {
        "questions": str(out),
        "task": config.task.value,
        "examples": counts,
        "notes": list(prepared.notes),
    }
    rows = [("task", config.task.value), *((f"{part} examples", f"{n:,}") for part, n in counts.items())]
    for note in prepared.notes:
        answer.note(note)
    answer.finish(document, table(("", ""), [*rows, ("questions", str(out))]))


def sft(
    questions: Annotated[Path, typer.Argument(help="Folder of prepared questions.", show_default=False)],
    out: _Out,
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of a language model.", show_default=False)
    ] = None,
    preset: _Preset = None,
    recipe: _Recipe = None,
    settings: _Set = None,
    most: _Most = None,
    seed: _Seed = 0,
    device: _Device = "cpu",
    shop: _Shop = None,
    restart: _Restart = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tune a model on the right answers. A run that was killed goes on; a finished one is left alone."""
    from prismrec.recommender.recipe import assigned
    from prismrec.sequential.backbone import Origin, need_llm
    from prismrec.sequential.prepared import read_prepared
    from prismrec.sequential.recipe import read_recipe
    from prismrec.sequential.settings import tuning_of
    from prismrec.sequential.steps import supervise

    answer = Output(json, quiet)
    written = read_recipe(recipe).sft
    model = model if model is not None else written.model
    if model is None:
        raise typer.BadParameter("name a language model, here or in the recipe", param_hint="--model")
    need_llm("peft", model)
    outcome = supervise(
        read_prepared(questions, shop),
        Origin(model),
        out,
        tuning_of(preset or written.preset, {**written.set, **assigned(settings or ())}),
        most=most,
        seed=seed,
        device=_device(device),
        restart=restart,
        progress=answer.progress,
    )
    _finish(answer, outcome)


def align(
    run: _Run,
    out: _Out,
    loss: Annotated[
        str | None,
        typer.Option(help="dpo, s-dpo, dmpo, simpo, beta-dpo, hanorec (the default).", show_default=False),
    ] = None,
    preset: _Preset = None,
    recipe: _Recipe = None,
    settings: _Set = None,
    most: _Most = None,
    seed: _Seed = 0,
    device: _Device = "cpu",
    shop: _Shop = None,
    restart: _Restart = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Tune a supervised run by preference. Settings: preference., pairs., noise., tuning., hardness_from."""
    from prismrec.recommender.recipe import assigned
    from prismrec.sequential.backbone import need_llm
    from prismrec.sequential.recipe import read_recipe
    from prismrec.sequential.runs import align_config
    from prismrec.sequential.steps import align as tune

    answer = Output(json, quiet)
    need_llm("peft", str(run))
    written = read_recipe(recipe).align
    changes = {**written.set, **assigned(settings or ())}
    config = align_config(loss or written.loss, preset or written.preset, changes)
    outcome = tune(
        run,
        out,
        config,
        most=most,
        seed=seed,
        device=_device(device),
        shop=shop,
        restart=restart,
        progress=answer.progress,
    )
    _finish(answer, outcome)


def evaluate(
    run: _Run,
    part: Annotated[str, typer.Option(help="valid, or test, which is written down.")] = "test",
    mode: Annotated[
        str, typer.Option(help="likelihood of each title, or written: the model writes one of them.")
    ] = "likelihood",
    summed: Annotated[
        bool, typer.Option("--summed", help="Do not divide a title's likelihood by its length.")
    ] = False,
    beside: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=RUN", help="A trained run to show beside. Repeatable.", show_default=False
        ),
    ] = None,
    before: Annotated[
        list[Path] | None,
        typer.Option(
            help="Another run on the same questions, to compare with. Repeatable.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the files; otherwise the run's.", show_default=False)
    ] = None,
    most: _Most = None,
    device: _Device = "cpu",
    shop: _Shop = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a run beside random, popularity and what else is named; write tables into the run's folder."""
    from prismrec.base.errors import InputError
    from prismrec.recommender.recommender import Recommender
    from prismrec.sequential.evaluate import evaluate_run

    answer = Output(json, quiet)
    named = {}
    for pair in beside or ():
        name, equals, folder = pair.partition("=")
        if not equals or not name or not folder:
            raise InputError(f"--beside {pair!r} is not understood.", "Write NAME=RUN.")
        if name in named:
            raise InputError(f"--beside: the name {name!r} stands twice.", "Give each run its own name.")
        named[name] = Recommender.load(folder)
    result = evaluate_run(
        run,
        part=part,
        mode=mode,
        normalised=not summed,
        beside=named,
        before=before or (),
        most=most,
        device=_device(device),
        shop=shop,
        progress=answer.progress,
    )
    name = f"evaluation-{part}" if mode == "likelihood" else f"evaluation-{part}-{mode}"
    result.write(out if out is not None else run / name)
    from rich.markdown import Markdown

    answer.finish(result.to_json(), Markdown(result.to_markdown()))


def recommend(
    run: _Run,
    first_stage: Annotated[Path, typer.Option(help="Run whose lists are ranked again.", show_default=False)],
    user: Annotated[list[str], typer.Option(help="User id. Repeatable.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists.")] = 10,
    depth: Annotated[
        int, typer.Option(min=1, help="How many of the first stage's items the model reads.")
    ] = 20,
    items: Annotated[Choice, typer.Option(help="Which items.")] = Choice.ALL,
    device: _Device = "cpu",
    shop: _Shop = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Recommend: a first stage finds candidates, the language model puts them in order."""
    from prismrec.recommender.recommender import Recommender
    from prismrec.sequential.rerank import Reranker, rerank_lists

    answer = Output(json, quiet)
    first = Recommender.load(first_stage)
    reranker = Reranker.load(run, device=_device(device), shop=shop)
    lists = first.recommend(
        list(dict.fromkeys(user)), k=max(k, depth), choose=items.value, progress=answer.progress
    )
    best = rerank_lists(lists, first, reranker, k=k, progress=answer.progress)
    rows = best.to_dicts()
    unknown = list(dict.fromkeys(row["user_id"] for row in rows if row["score"] is None))
    if unknown:
        answer.note(f"Without a history, in the order of the first stage: {', '.join(map(repr, unknown))}")
    answer.finish(
        {"run": str(run), "first_stage": str(first_stage), "recommendations": rows},
        table(
            ("user", "rank", "before", "item", "title", "score"),
            [
                (r["user_id"], r["rank"], r["first_rank"], r["item_id"], r["title"], _number(r["score"]))
                for r in rows
            ],
        ),
    )


def merge(
    run: _Run,
    out: _Out,
    shop: _Shop = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a run's model with its adapters merged: a folder that needs nothing else."""
    from prismrec.sequential.backbone import require_empty, save_merged
    from prismrec.sequential.runs import load_run

    answer = Output(json, quiet)
    require_empty(out)
    _, _, backbone, _ = load_run(run, shop=shop)
    save_merged(backbone, out)
    answer.finish(
        {"run": str(run), "model": str(out), "parameters": backbone.size},
        table(("", ""), [("model", str(out)), ("parameters", f"{backbone.size:,}")]),
    )


def estimate(
    questions: Annotated[Path, typer.Argument(help="Folder of prepared questions.", show_default=False)],
    recipe: _Recipe = None,
    prompt: Annotated[
        float, typer.Option(min=1, help="Mean tokens of a prompt, pictures among them.")
    ] = 2000.0,
    answer_tokens: Annotated[float, typer.Option("--answer", min=1, help="Mean tokens of an answer.")] = 30.0,
    peak: Annotated[float, typer.Option(min=1, help="Operations a second at best; an H100's.")] = 989e12,
    share: Annotated[float, typer.Option(min=0.01, max=1, help="Share of that which is reached.")] = 0.35,
    shop: _Shop = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Estimate memory and time of tuning Qwen2.5-VL-3B on some questions. Computed, not measured."""
    from prismrec.sequential.estimate import QWEN25_VL_3B, Load
    from prismrec.sequential.estimate import estimate as compute
    from prismrec.sequential.prepared import read_prepared
    from prismrec.sequential.recipe import read_recipe
    from prismrec.sequential.runs import align_config
    from prismrec.sequential.settings import tuning_of

    answer = Output(json, quiet)
    written, examples = read_recipe(recipe), len(read_prepared(questions, shop).train)
    aligned = align_config(written.align.loss, written.align.preset, written.align.set)
    steps = {
        "sft": (tuning_of(written.sft.preset, written.sft.set), 1),
        "align": (aligned.tuning, 1 + aligned.pairs.rejected),
    }
    found = {
        name: compute(
            QWEN25_VL_3B,
            tuning,
            # The eyes take in four patches for each of a picture's tokens, which are most of a prompt.
            Load(examples, prompt, answer_tokens, seen=4 * prompt, answers=answers),
            peak=peak,
            share=share,
        )
        for name, (tuning, answers) in steps.items()
    }
    rows = [
        (name, f"{one.memory / 2**30:.1f} GiB", f"{one.operations:.2e}", f"{one.seconds / 3600:.1f} h")
        for name, one in found.items()
    ]
    answer.finish(
        {
            "estimate": True,
            "examples": examples,
            "steps": {
                name: {"bytes": one.memory, "operations": one.operations, "seconds": one.seconds}
                for name, one in found.items()
            },
        },
        table(("estimated", "memory", "operations", "time"), rows),
    )


def _finish(answer: Output, outcome: "Outcome") -> None:
    manifest = outcome.manifest
    if outcome.already:
        answer.note(f"{outcome.path}: already trained with the same settings, questions and seed.")
    for note in manifest.notes:
        answer.note(note)
    document: dict[str, Any] = {
        "run": str(outcome.path),
        "already_trained": outcome.already,
        **manifest.model_dump(mode="json"),
    }
    rows = [
        ("model", manifest.plan.asked),
        ("parameters", f"{manifest.parameters:,}, of which {manifest.trainable:,} are trained"),
        ("examples", f"{manifest.examples:,}"),
        ("steps", f"{manifest.steps:,}"),
        ("loss at the end", f"{manifest.loss:.4f}"),
        ("seconds", f"{manifest.seconds:.1f}"),
        ("run", str(outcome.path)),
    ]
    answer.finish(document, table(("", ""), rows))


def _device(asked: str) -> str:
    from prismrec.training.loop import require_device

    return require_device(asked)


def _number(score: float | None) -> str:
    return "-" if score is None else f"{score:.4f}"
