"""`prismrec recommend`."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prismrec.cli.engine import Engine, EngineOption, RayAddress, Workers, connected, require_fitting
from prismrec.cli.output import Debug, Json, Output, Quiet, table

if TYPE_CHECKING:
    import polars as pl

    from prismrec.base.progress import Progress
    from prismrec.base.ray_session import RayCluster
    from prismrec.recommender.recommender import Recommender
    from prismrec.recommender.wanted import Wanted
    from prismrec.sequential.rerank import Reranker

_WHO = "For whom"
_WHAT = "What"
_SHOWN = 5
_ROWS_SHOWN = 200


class Choice(StrEnum):
    """Which items."""

    ALL = "all"
    NEW = "new"
    WARM = "warm"


def add_to(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command(
        "recommend",
        epilog="Example: prismrec recommend runs/mamex --user u42 -k 10 --items new --where 'price<20'",
    )(recommend)


def recommend(
    run: Annotated[Path, typer.Argument(help="Folder of the run.", show_default=False)],
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="A user. Repeatable.", rich_help_panel=_WHO),
    ] = None,
    users: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Users: .txt with one id a line, or a table with user_id.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    everyone: Annotated[bool, typer.Option("--all", help="Everyone.", rich_help_panel=_WHO)] = False,
    liked: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ITEM",
            help="Somebody who is not known likes this item. Repeatable, oldest first.",
            rich_help_panel=_WHO,
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", "-k", min=1, help="Length of the lists.")] = 10,
    items: Annotated[
        Choice,
        typer.Option(help="new: without training interactions; warm: the others.", rich_help_panel=_WHAT),
    ] = Choice.ALL,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="On an attribute: 'price<20', 'category=mug', 'genres~Drama'. Repeatable.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    include_seen: Annotated[
        bool,
        typer.Option("--include-seen", help="Also what the user had in training.", rich_help_panel=_WHAT),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="Weight of each modality, most similar items of the user.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    rerank: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="A run of `prismrec sequential` that puts the best items in its own order.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    depth: Annotated[
        int, typer.Option(min=1, help="With --rerank: how many items it reads.", rich_help_panel=_WHAT)
    ] = 20,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the lists to .parquet, .csv or .jsonl instead; to a folder (no extension): in parts "
            "of 100,000 users, and what is there is kept."
        ),
    ] = None,
    engine: EngineOption = Engine.LOCAL,
    ray_address: RayAddress = None,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank items for users. Who has no history gets what people like on average, and that is said."""
    if sum((bool(user), users is not None, everyone, bool(liked))) != 1:
        raise typer.BadParameter("name one of --user, --users, --all and --liked", param_hint="users")

    require_fitting(engine, ray_address, workers)
    from prismrec.data.id_files import read_ids
    from prismrec.recommender.list_parts import is_folder
    from prismrec.recommender.recommender import Recommender
    from prismrec.recommender.wanted import Wanted
    from prismrec.recommender.write_lists import require_format

    parts = out is not None and is_folder(out)
    if liked and (engine is Engine.RAY or parts):
        which = "--out FOLDER" if parts else "--engine ray"
        raise typer.BadParameter("that is for many users", param_hint=f"{which} with --liked")
    answer = Output(json, quiet)
    if out is not None and not parts:
        require_format(out)
    names = user or (read_ids(users, "user_id") if users is not None else None)
    recommender = Recommender.load(run)
    if names is None:
        asked = [] if liked else list(recommender.split.users)
    else:
        asked = names = list(dict.fromkeys(names))
    wanted = Wanted(
        k if rerank is None else max(k, depth), items.value, where or (), not include_seen, explain
    )
    with ExitStack() as stack:
        cluster = None
        if engine is Engine.RAY:
            cluster = stack.enter_context(connected(answer, ray_address, workers))
        maker = _Maker(recommender, wanted, k, liked, _reranker(rerank), cluster, answer.progress)
        document: dict[str, Any] = {"run": str(run), "k": k}
        if out is not None and parts:
            said = _write_parts(maker, asked, rerank, out, document)
        else:
            frame = maker(names)
    document["fallback_users"] = _note_fallbacks(answer, recommender, asked)
    if out is None:
        document["users"] = _by_user(frame, asked if not liked else [None])
        answer.finish(document, *_shown(frame, len(asked)))
        return
    answer.finish(document, said if parts else _write(frame, out, document))


@dataclass(frozen=True)
class _Maker:
    """Makes lists, here or on a cluster, in the model's order or a language model's."""

    recommender: "Recommender"
    wanted: "Wanted"
    k: int
    liked: Sequence[str] | None
    reranker: "Reranker | None"
    cluster: "RayCluster | None"
    progress: "Progress"

    def __call__(self, users: Sequence[str] | None) -> "pl.DataFrame":
        if self.cluster is None:
            frame = self.wanted.of(self.recommender, users, liked=self.liked or None, progress=self.progress)
        else:
            from prismrec.recommender.ray_recommend import recommend_on

            frame = recommend_on(self.cluster, self.recommender, users, self.wanted, progress=self.progress)
        if self.reranker is None:
            return frame
        from prismrec.sequential.rerank import rerank_lists

        return rerank_lists(
            frame, self.recommender, self.reranker, k=self.k, liked=self.liked, progress=self.progress
        )


def _reranker(run: Path | None) -> "Reranker | None":
    if run is None:
        return None
    from prismrec.sequential.rerank import Reranker

    return Reranker.load(run)


def _write_parts(
    maker: _Maker, asked: Sequence[str], rerank: Path | None, out: Path, document: dict[str, Any]
) -> str:
    """Write a folder of parts, complete the document, and return what is said."""
    from prismrec.recommender.list_parts import PART, asked_for, write_parts

    second = None
    if rerank is not None:
        from prismrec.base.files import digest_file
        from prismrec.sequential.runs import MANIFEST

        # Not by its folder, in which another one may come to stand.
        second = digest_file(rerank / MANIFEST)
    wish = {**asdict(maker.wanted), "k": maker.k, "depth": maker.wanted.k, "rerank": second}
    asked_digest = asked_for(maker.recommender, asked, wish)
    written = write_parts(out, asked, maker, asked_digest, part_size=PART, progress=maker.progress)
    document |= {"written": str(out), "rows": written.rows, "users": len(asked)}
    document |= {"parts": written.parts, "kept": written.kept}
    before = f" ({written.kept:,} were there)" if written.kept else ""
    return f"{written.rows:,} rows for {len(asked):,} users in {written.parts:,} parts{before}: {out}"


def _write(frame: "pl.DataFrame", out: Path, document: dict[str, Any]) -> str:
    """Write one file, complete the document, and return what is said."""
    from prismrec.recommender.write_lists import write_lists

    write_lists(frame, out)
    n_users = frame["user_id"].n_unique()
    document |= {"written": str(out), "rows": frame.height, "users": n_users}
    return f"{frame.height:,} rows for {n_users:,} users: {out}"


def _note_fallbacks(answer: Output, recommender: "Recommender", asked: Sequence[str]) -> list[str]:
    """Say who gets what people like on average, and return them."""
    fallback = [name for name in asked if recommender.user_vector(name)[1]]
    if fallback:
        shown = ", ".join(map(repr, fallback[:_SHOWN])) + (", ..." if len(fallback) > _SHOWN else "")
        answer.note(
            f"{len(fallback):,} of {len(asked):,} users have no training interactions and get what people "
            f"like on average: {shown}"
        )
    return fallback


def _by_user(frame: "pl.DataFrame", asked: list[Any]) -> list[dict[str, Any]]:
    """For each user that was asked for their list, empty where nothing is left."""
    by_user: dict[Any, list[dict[str, Any]]] = {name: [] for name in asked}
    for row in frame.drop("fallback").iter_rows(named=True):
        by_user[row.pop("user_id")].append(row)
    return [{"user_id": name, "items": rows} for name, rows in by_user.items()]


def _shown(frame: "pl.DataFrame", users: int) -> list[Any]:
    names = [name for name in frame.columns if name != "fallback" and (users > 1 or name != "user_id")]
    rows = [[_short(value) for value in row] for row in frame.select(names).head(_ROWS_SHOWN).iter_rows()]
    parts: list[Any] = [table(names, rows)]
    if frame.height > _ROWS_SHOWN:
        parts.append(f"and {frame.height - _ROWS_SHOWN:,} more rows; --out writes them all to a file")
    return parts


def _short(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{name} {weight:.2f}" for name, weight in value.items() if weight is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else value
