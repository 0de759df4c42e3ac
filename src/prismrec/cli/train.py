"""`prismrec train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table
from prismrec.cli.verbs import ARGUMENTS

if TYPE_CHECKING:
    from prismrec.recommender.train_run import TrainOutcome

_MODEL = "Model"
_SPLIT = "Split"
_RUNNING = "How it runs"


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "train",
        epilog="Example: prismrec train shop --model mamex --set top_k=3 --set training.batch_size=256 "
        "--out runs/mamex",
    )(train)


def train(
    context: typer.Context,
    shop: Annotated[Path, typer.Argument(help="Folder of the data set, encoded.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the run.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(
            help="Which model; `prismrec models` lists them. Left out: holo, if new items are held out.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="Settings to start from.", rich_help_panel=_MODEL)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A setting of the model, or training.FIELD=VALUE, split.FIELD=VALUE. Repeatable.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="How a step is taken: plain, sam, asam, gsam, wsam, friendly-sam, looksam, bsam, bsam+, "
            "mirror-gradient, adversarial-features.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    modalities: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Features to use; otherwise all.", rich_help_panel=_MODEL),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="TOML with any of these; what is typed goes before.", rich_help_panel=_MODEL),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="item-cold-start (the default), random-holdout, leave-last, global-time, "
            "given (comes with the data), train-on-all.",
            rich_help_panel=_SPLIT,
        ),
    ] = None,
    valid: Annotated[float | None, typer.Option(help="Share that validates.", rich_help_panel=_SPLIT)] = None,
    test: Annotated[float | None, typer.Option(help="Share that tests.", rich_help_panel=_SPLIT)] = None,
    split_seed: Annotated[
        int | None, typer.Option(help="Seed of the division.", rich_help_panel=_SPLIT)
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="random, or time: the newest items are cold.", rich_help_panel=_SPLIT),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the training.", rich_help_panel=_RUNNING)
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.", rich_help_panel=_RUNNING)] = "cpu",
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Train in so many processes of this machine together; on GPUs one for each.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Log into tensorboard/ of the run.", rich_help_panel=_RUNNING),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option("--restart", help="Begin anew; a run that is there is lost.", rich_help_panel=_RUNNING),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a model and leave a run folder. A run that was killed goes on; a finished one is left alone."""
    if processes is not None and processes > 1 and "WORLD_SIZE" not in os.environ:
        from prismrec.training.launch import launch

        raise typer.Exit(launch(context.meta[ARGUMENTS], processes))
    if "WORLD_SIZE" in os.environ:
        from prismrec.training.launch import end_with_starter

        end_with_starter()
    from prismrec.recommender.recipe import overridden, read_recipe, resolve
    from prismrec.recommender.train_run import train_run

    # Of several processes one speaks.
    first = os.environ.get("RANK", "0") == "0"
    answer = Output(json, quiet or not first)
    job = resolve(
        overridden(
            None if recipe is None else read_recipe(recipe),
            model=model,
            preset=preset,
            assignments=settings or (),
            split={"kind": split, "valid": valid, "test": test, "seed": split_seed, "by": by},
            strategy=strategy,
            seed=seed,
            modalities=None
            if modalities is None
            else [n.strip() for n in modalities.split(",") if n.strip()],
        )
    )
    outcome = train_run(
        shop,
        job,
        out,
        restart=restart,
        device=device,
        tensorboard=tensorboard,
        progress=answer.progress,
    )
    document = _document(outcome, out)
    if outcome.already:
        answer.note(f"{out}: already trained with the same settings, data and seed; nothing was done.")
    if first:
        answer.finish(document, *_shown(document))


def _document(outcome: "TrainOutcome", out: Path) -> dict[str, Any]:
    manifest, split = outcome.recommender.manifest, outcome.recommender.split
    history = manifest.history
    return {
        "run": str(out),
        "already_trained": outcome.already,
        "model": manifest.model,
        "preset": manifest.preset,
        "config": manifest.config,
        "training": manifest.training.model_dump(mode="json"),
        "seed": manifest.seed,
        "split": {
            **manifest.split,
            "hash": manifest.split_hash,
            "train_pairs": len(split.train),
            "valid_pairs": len(split.valid),
        },
        "modalities": {note.name: note.dim for note in manifest.features},
        "epochs": len(history.epochs),
        "best_epoch": history.best_epoch,
        "valid": {"metric": manifest.training.metric, "best": history.best_metric},
        "stopped_early": history.stopped_early,
        "chosen": history.chosen,
        "seconds": manifest.seconds,
    }


def _shown(document: dict[str, Any]) -> list[Any]:
    split, valid = document["split"], document["valid"]
    preset = f", preset {document['preset']}" if document["preset"] else ""
    rows = [
        ("model", document["model"] + preset),
        ("features", ", ".join(f"{n} ({d})" for n, d in document["modalities"].items()) or "none"),
        (
            "split",
            f"{split['kind']}; pairs: {split['train_pairs']:,} training, {split['valid_pairs']:,} validation",
        ),
    ]
    if document["epochs"]:
        early = ", stopped early" if document["stopped_early"] else ""
        rows.append(("epochs", f"{document['epochs']}, the best is {document['best_epoch']}{early}"))
    rows += [(name, f"{value:.6g}") for name, value in document["chosen"].items()]
    if valid["best"] is not None:
        rows.append((f"validation {valid['metric']}", f"{valid['best']:.4f}"))
    rows += [("seconds", f"{document['seconds'].get('fit', 0.0):.1f}"), ("run", document["run"])]
    return [table(("", ""), rows)]
