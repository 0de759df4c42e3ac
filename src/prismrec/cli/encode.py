"""`prismrec encode`."""

from dataclasses import replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.engine import Engine, EngineOption, RayAddress, Workers, connected, require_fitting
from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.data.dataset import Dataset
    from prismrec.features.encode import EncodedModality

_CONTENT = "Where content lies, if not in the data set"
_ENCODERS = "Encoders"
_RUNNING = "How it runs"
_SHOWN = 5


class Precision(StrEnum):
    """How vectors are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "encode",
        epilog="Example: prismrec encode shop --text sentence-transformers/all-MiniLM-L6-v2 --image default",
    )(encode)


def encode(
    shop: Annotated[Path, typer.Argument(help="Folder of the data set.", show_default=False)],
    image: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|default|none",
            help="Encoder of pictures: a hub id, a local folder, 'default', or 'none' to leave them alone. "
            "Otherwise as before, the first time the default.",
            rich_help_panel=_ENCODERS,
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|default|none", help="Encoder of texts, likewise.", rich_help_panel=_ENCODERS
        ),
    ] = None,
    audio: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|default|none", help="Encoder of sounds, likewise.", rich_help_panel=_ENCODERS
        ),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="Vectors of your own: a .parquet with item_id and a column of lists, or FILE.npy:IDS. "
            "Repeatable.",
            rich_help_panel=_ENCODERS,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(help="Branch, tag or commit of the pretrained model.", rich_help_panel=_ENCODERS),
    ] = None,
    fit_on: Annotated[
        Path | None,
        typer.Option(
            metavar="IDS",
            help="Items that an encoder may learn from (.txt, one id a line); otherwise all.",
            rich_help_panel=_ENCODERS,
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Fit and encode again what is there.", rich_help_panel=_ENCODERS),
    ] = False,
    images_at: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Pictures that stay where they are, in files named by item id: s3://bucket/x, or a folder.",
            rich_help_panel=_CONTENT,
        ),
    ] = None,
    sounds_at: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Sounds, likewise.", rich_help_panel=_CONTENT),
    ] = None,
    dtype: Annotated[
        Precision, typer.Option(help="How vectors are stored.", rich_help_panel=_RUNNING)
    ] = Precision.FLOAT32,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Contents at a time, pretrained models.", rich_help_panel=_RUNNING)
    ] = 32,
    device: Annotated[
        str | None,
        typer.Option(
            help="Where pretrained models run: cpu, cuda, mps; otherwise cpu, or with --engine ray the GPUs "
            "that there are.",
            rich_help_panel=_RUNNING,
        ),
    ] = None,
    engine: EngineOption = Engine.LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn pictures, texts and sounds into vectors. What is encoded already is not encoded again."""
    require_fitting(engine, ray_address, workers)

    from prismrec.data.dataset import Dataset
    from prismrec.data.id_files import read_ids
    from prismrec.features.encode import EncodePlan, encode_modalities
    from prismrec.features.own import read_assigned

    answer = Output(json, quiet)
    named = {"image": image, "text": text, "audio": audio}
    plan = EncodePlan(
        encoders={kind: name for kind, name in named.items() if name is not None},
        vectors=[read_assigned(assignment) for assignment in vectors or []],
        revision=revision,
        dtype=dtype.value,
        # On a cluster, this process only asks what the model is.
        device=device if device is not None and engine is Engine.LOCAL else "cpu",
        batch_size=batch_size,
        refit=refit,
        fit_on=None if fit_on is None else read_ids(fit_on, "item_id"),
    )
    dataset = _with_media(Dataset.read(shop), images_at, sounds_at)
    if engine is Engine.RAY:
        from prismrec.features.ray_extract import RayEngine

        with connected(answer, ray_address, workers) as cluster:
            done = encode_modalities(dataset, plan, answer.progress, RayEngine(cluster, device))
    else:
        done = encode_modalities(dataset, plan, answer.progress)
    columns = ("modality", "encoder", "dim", "encoded", "reused", "problems", "unknown ids", "seconds")
    rows = [
        (
            m.store.name,
            m.store.encoder.get("name", ""),
            m.store.dim,
            m.encoded,
            m.reused,
            len(m.store.problems),
            len(m.unknown),
            round(m.seconds, 2),
        )
        for m in done
    ]
    answer.finish(
        {"dataset": str(shop), "modalities": {m.store.name: _document(m) for m in done}},
        table(columns, rows),
        *(line for m in done for line in _remarks(m)),
    )


def _with_media(dataset: "Dataset", images: str | None, sounds: str | None) -> "Dataset":
    from prismrec.data.object_media import ObjectMedia

    media = dict(dataset.catalog.media)
    for kind, address in (("image", images), ("audio", sounds)):
        if address is not None:
            media[kind] = ObjectMedia.below(address, kind, dataset.items.ids)
    return replace(dataset, catalog=replace(dataset.catalog, media=media))


def _document(modality: "EncodedModality") -> dict[str, Any]:
    store = modality.store
    return {
        "encoder": dict(store.encoder),
        "dim": store.dim,
        "dtype": str(store.vectors.dtype),
        "encoded": modality.encoded,
        "reused": modality.reused,
        "problems": dict(store.problems),
        "unknown": list(modality.unknown),
        "seconds": modality.seconds,
        "folder": str(store.path),
    }


def _remarks(modality: "EncodedModality") -> list[str]:
    name, problems, unknown = modality.store.name, modality.store.problems, modality.unknown
    lines = [f"{name}: item {item!r}: {reason}" for item, reason in islice(problems.items(), _SHOWN)]
    if len(problems) > _SHOWN:
        lines.append(f"{name}: and {len(problems) - _SHOWN:,} more, all in {modality.store.path}")
    if unknown:
        shown = ", ".join(map(repr, unknown[:_SHOWN]))
        lines.append(f"{name}: left out, not in the catalogue: {len(unknown):,} items, e.g. {shown}")
    return lines
