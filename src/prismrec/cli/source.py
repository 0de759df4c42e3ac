"""`prismrec source`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    from prismrec.data.sources.source import Source
    from prismrec.features.source_folder import WrittenSource

_RAW = "Raw files"
_SHOWN = 12


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "source",
        epilog="Example: prismrec source movielens/small --raw raw/movielens --download --out shop",
    )(source)


def source(
    name: Annotated[
        str | None, typer.Argument(help="Which source; without, all are listed.", show_default=False)
    ] = None,
    raw: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the source's files, as its publisher offers them.", rich_help_panel=_RAW
        ),
    ] = None,
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Download files that are not there; mind the licence.", rich_help_panel=_RAW
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the data set to write; new or empty.")] = None,
    min_rating: Annotated[
        float | None, typer.Option(help="Positive from this rating on; otherwise all.")
    ] = None,
    fetch_urls: Annotated[
        bool,
        typer.Option("--fetch-urls", help="Fetch pictures of which the catalogue has the address."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn the files of a public data set into a data set folder. Nothing is downloaded unasked."""
    from prismrec.data.sources.all_sources import SOURCES, source_called

    answer = Output(json, quiet)
    if name is None:
        # The first sentence; `prismrec source NAME` tells the rest.
        rows = [(known.name, known.about.partition(". ")[0], known.licence) for known in SOURCES]
        answer.finish([_described(known) for known in SOURCES], table(("source", "what", "licence"), rows))
        return
    chosen = source_called(name)
    if raw is None or (out is None and not download):
        _require_nothing_else(raw, out, download)
        answer.finish(_described(chosen), *_lines_about(chosen))
        return
    if download:
        _download(chosen, raw, answer)
    if out is None:
        from prismrec.data.sources.checksums import check_files

        files = [
            {"name": file.name, "size": file.size, "sha256": file.sha256, "compared_with": file.trust}
            for file in check_files(chosen.files, raw)
        ]
        answer.finish(
            {"source": chosen.name, "raw": str(raw), "files": files},
            table(
                ("file", "bytes", "compared with"),
                [(f["name"], f["size"], f["compared_with"]) for f in files],
            ),
        )
        return
    from prismrec.data.catalog_media import FetchOptions
    from prismrec.features.source_folder import write_source

    written = write_source(
        chosen,
        raw,
        out,
        min_rating=min_rating,
        fetching=FetchOptions() if fetch_urls else None,
        progress=answer.progress,
    )
    answer.finish(_document(chosen, written), *_summary(written))


def _require_nothing_else(raw: Path | None, out: Path | None, download: bool) -> None:
    """Refuse a path without the other: describing a source takes its name alone."""
    from prismrec.base.errors import InputError

    if raw is None and (out is not None or download):
        raise InputError(
            "The folder of the raw files is missing.", "Say --raw FOLDER: where they are, or are to be put."
        )
    if raw is not None and out is None:
        raise InputError(
            "What is to become of the raw files is missing.",
            "Say --out FOLDER to write a data set, or --download to get the files only.",
        )


def _download(chosen: "Source", raw: Path, answer: Output) -> None:
    from prismrec.base.errors import InputError
    from prismrec.data.sources.download import download

    if not chosen.files:
        raise InputError(
            f"{chosen.name}: its files cannot be downloaded by prismrec.",
            f"{chosen.about} Put them into {raw} and leave out --download.",
        )
    answer.progress.say(f"{chosen.name}: licence: {chosen.licence}. Please cite: {chosen.citation}")
    download(chosen.files, raw, progress=answer.progress)


def _described(known: "Source") -> dict[str, Any]:
    return {
        "name": known.name,
        "about": known.about,
        "licence": known.licence,
        "citation": known.citation,
        "files": [
            {
                "name": file.name,
                "url": file.url or None,
                "sha256": file.sha256,
                "md5": file.md5,
                "size": file.size,
                "about": file.about,
            }
            for file in known.files
        ],
    }


def _lines_about(known: "Source") -> list[str]:
    lines = [known.name, known.about, f"Licence: {known.licence}", f"Cite: {known.citation}"]
    lines += [f"File: {file.name}  {file.url or file.about}" for file in known.files]
    return [*lines, f"Read with: prismrec source {known.name} --raw FOLDER --out shop"]


def _document(chosen: "Source", written: "WrittenSource") -> dict[str, Any]:
    data = written.dataset
    return {
        "dataset": str(data.path),
        "source": chosen.name,
        "licence": chosen.licence,
        "citation": chosen.citation,
        "users": len(data.users),
        "items": len(data.items),
        "interactions": len(data.interactions),
        "min_rating": data.min_rating,
        "text_columns": list(data.catalog.text_columns),
        "media": {kind: len(media.ids) for kind, media in data.catalog.media.items()},
        "picture_urls_not_fetched": written.picture_urls,
        "features": {
            store.name: {"dim": store.dim, "items": len(store.ids), "folder": str(store.path)}
            for store in written.features
        },
        "parts": written.parts,
        "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in written.files},
        "reading": data.notes["reading"],
        "refused": written.refused.counts(),
    }


def _summary(written: "WrittenSource") -> list[str]:
    data = written.dataset
    lines = [
        f"{len(data.users):,} users, {len(data.items):,} items, {len(data.interactions):,} interactions",
        f"Text of an item: {', '.join(data.catalog.text_columns) or 'none'}",
    ]
    lines += [f"{kind}: {len(media.ids):,} items" for kind, media in data.catalog.media.items()]
    if written.picture_urls:
        lines.append(
            f"Addresses of pictures: {written.picture_urls:,} items; --fetch-urls fetches the pictures"
        )
    lines += [f"Vectors {s.name!r}: {len(s.ids):,} items, {s.dim} numbers each" for s in written.features]
    if written.parts is not None:
        parts = ", ".join(f"{part} {count:,}" for part, count in written.parts.items())
        lines.append(f"Its own split, in pairs: {parts}")
    refused = written.refused.counts()
    if refused:
        lines.append(f"Refused or left out: {sum(refused.values()):,}, each in refused.jsonl")
        lines += [f"  {count:,} x {reason}" for reason, count in list(refused.items())[:_SHOWN]]
        if len(refused) > _SHOWN:
            lines.append(f"  and {len(refused) - _SHOWN} other reasons")
    else:
        lines.append("Nothing was refused")
    return [*lines, f"Data set: {data.path}"]
