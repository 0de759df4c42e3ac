"""The pages that read, and how all of them are put together."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import ValidationError

from prismrec.base.errors import DamagedError, InputError
from prismrec.base.files import read_json
from prismrec.evaluation.report_views import CANDIDATES, headline, metric_table, slice_tables
from prismrec.evaluation.result import EvaluationResult
from prismrec.serving.page import pictures, shown
from prismrec.serving.page.frame import Frame
from prismrec.serving.page.map_routes import MapPages
from prismrec.serving.page.options import ItemQuery, ListQuery, PageOptions, Parts, PersonQuery, PickQuery
from prismrec.serving.page.writing import WritingPages, neighbourhood
from prismrec.serving.types import Answer, Drawable, Service, Wish

_PEOPLE, _FOUND, _HISTORY = 24, 18, 24
_LONGEST = 1000


def page_router(
    service: Service,
    options: PageOptions | None = None,
    *,
    other: Service | None = None,
    drawable: Drawable | None = None,
    write: Callable[..., Any] | None = None,
) -> APIRouter:
    """Return the routes of the page: ``/``, and what is under ``/page/``.

    Parameters
    ----------
    service
        The run.
    options
        How the page is set up.
    other
        A second run to compare it with.
    drawable
        For the map: the items' vectors, and how much each modality counts for each item.
    write
        Dependency of FastAPI that refuses whoever may not write, by raising `HTTPException`; it is asked
        before an item is added or deleted. None: the page only reads.

    Returns
    -------
    APIRouter
        To be included by the app, under any prefix. It answers errors by pages of its own.

    Raises
    ------
    ConfigError
        If the secret is too short.
    """
    options = options or PageOptions()
    parts = Parts(service, other, drawable, write)
    frame = Frame(parts, options)
    router = frame.router()
    reading = _Pages(parts, options, frame)
    for path, name, answer in (
        ("/", "home", reading.home),
        ("/page/person", "person", reading.person),
        ("/page/pick", "pick", reading.pick),
        ("/page/item", "item", reading.item),
        ("/page/picture", "picture", reading.picture),
    ):
        router.add_api_route(path, answer, methods=["GET"], name=f"page_{name}")
    if other is not None:
        router.add_api_route("/page/compare", reading.compare, methods=["GET"], name="page_compare")
    if options.evaluation is not None:
        router.add_api_route("/page/results", reading.results, methods=["GET"], name="page_results")
    if drawable is not None:
        MapPages(parts, options, frame).add_to(router)
    if write is not None:
        WritingPages(parts, options, frame).add_to(router)
    return router


class _Pages:
    """Answers to what only reads."""

    def __init__(self, parts: Parts, options: PageOptions, frame: Frame) -> None:
        self._service, self._other = parts.service, parts.other
        self._options, self._frame = options, frame
        self._thumbnails = pictures.Thumbnails()

    def home(self, request: Request, begin: Annotated[str, Query(max_length=512)] = "") -> Response:
        """Choose a user."""
        found = self._service.find_users(begin, _PEOPLE + 1)
        people = [(user, self._service.history(user)[-4:][::-1]) for user in found[:_PEOPLE]]
        first = self._service.find_items("", 6)
        more = len(found) > _PEOPLE
        return self._frame.page(request, "home", begin=begin, people=people, more=more, first=first)

    def person(self, request: Request, asked: Annotated[PersonQuery, Query()]) -> Response:
        """Show a user's history and list."""
        if not asked.user:
            raise HTTPException(422, "No person was named.")
        taken = self._service.history(asked.user)[::-1]
        view = self._list(lambda wish: self._service.recommend(asked.user, wish), asked)
        shown_taken = taken if asked.whole else taken[:_HISTORY]
        return self._frame.page(
            request, "person", asked=asked, taken=shown_taken, n_taken=len(taken), user=asked.user, **view
        )

    def pick(self, request: Request, asked: Annotated[PickQuery, Query()]) -> Response:
        """Let somebody pick items, and show the list that follows from them."""
        liked = list(dict.fromkeys(name for name in asked.like if name))
        view: dict[str, Any] = {"cards": None, "answer": None, "problem": None, "status": 200}
        if liked:
            view = self._list(lambda wish: self._service.recommend_liked(liked, wish), asked)
        found = [i for i in self._service.find_items(asked.q, _FOUND + len(liked)) if i.item_id not in liked]
        return self._frame.page(
            request,
            "pick",
            asked=asked,
            liked=[shown.known(self._service, name) for name in liked],
            found=found[:_FOUND],
            user=None,
            **view,
        )

    def compare(self, request: Request, asked: Annotated[PersonQuery, Query()]) -> Response:
        """Show one user's lists of two runs."""
        assert self._other is not None
        view: dict[str, Any] = {"columns": [], "problem": None, "both": 0, "people": ()}
        if asked.user:
            wish = replace(asked.wish(self._options.list_length), explain=False)
            try:
                ours = self._service.recommend(asked.user, wish)
                theirs = self._other.recommend(asked.user, wish)
            except InputError as error:
                view["problem"] = error
            else:
                view["columns"] = [
                    self._column(self._service, ours, theirs),
                    self._column(self._other, theirs, ours),
                ]
                view["both"] = sum(card.also is not None for card in view["columns"][0]["cards"])
        else:
            view["people"] = self._service.find_users("", _PEOPLE)
        status = 422 if view["problem"] else 200
        k = asked.k or self._options.list_length
        return self._frame.page(request, "compare", status, asked=asked, user=asked.user, k=k, **view)

    def item(self, request: Request, asked: Annotated[ItemQuery, Query()]) -> Response:
        """Show an item, what is like it, and to whom it would be recommended."""
        view = neighbourhood(self._service, asked.id)
        why, place, taken = None, None, False
        if asked.user and view["item"].ranked:
            why = shown.card(self._service, self._service.explain(asked.user, asked.id))
            # The explanation counts what was taken too: the list that people see leaves it out.
            listed = self._service.recommend(asked.user, Wish(k=_LONGEST)).items
            place = next((one.rank for one in listed if one.item.item_id == asked.id), None)
            taken = any(item.item_id == asked.id for item in self._service.history(asked.user))
        return self._frame.page(
            request,
            "item",
            user=asked.user,
            why=why,
            place=place,
            taken=taken,
            longest=_LONGEST,
            added=asked.added,
            problems=(),
            **view,
        )

    def picture(
        self, request: Request, id: Annotated[str, Query(max_length=512)], small: bool = False
    ) -> Response:
        """Answer with an item's picture, scaled down."""
        try:
            source, item = self._service, self._service.item(id)
        except InputError:
            if self._other is None:
                raise
            # What only the other run knows is still shown beside what both know.
            source, item = self._other, self._other.item(id)
        side = pictures.SMALL if small else pictures.SIDE
        found = self._thumbnails.of(source.picture(id), side, shown.title(item))
        headers = {
            "ETag": found.etag,
            "Cache-Control": "private, max-age=300",
            "X-Content-Type-Options": "nosniff",
            # A picture opened for itself may run nothing either.
            "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if found.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(found.content, 200, headers, found.media_type)

    def results(self, request: Request) -> Response:
        """Show what the run reached when it was evaluated."""
        assert self._options.evaluation is not None
        path = self._options.evaluation
        try:
            result = EvaluationResult.model_validate(read_json(path, "evaluation"))
        except ValidationError as error:
            raise DamagedError(
                f"{path}: is not what an evaluation writes ({error.error_count()} fields differ).",
                "Evaluate the run again: prismrec evaluate.",
            ) from None
        views = []
        for part in result.parts:
            ks, rows = metric_table(part)
            first = headline(part)
            tables = slice_tables(part, first.metric)
            meaning = CANDIDATES.get(part.candidates, part.candidates)
            views.append(
                {"result": part, "ks": ks, "rows": rows, "slices": tables, "first": first, "meaning": meaning}
            )
        return self._frame.page(request, "results", result=result, parts=views)

    def _list(self, recommend: Callable[[Wish], Answer], asked: ListQuery) -> dict[str, Any]:
        """Ask for a list; what is wrong with the question is shown beside the question."""
        wish = asked.wish(self._options.list_length)
        view: dict[str, Any] = {"cards": None, "answer": None, "problem": None, "status": 200, "k": wish.k}
        try:
            answer = recommend(wish)
        except InputError as error:
            return {**view, "problem": error, "status": 422}
        return {**view, "answer": answer, "cards": shown.cards(self._service, answer)}

    def _column(self, service: Service, answer: Answer, beside: Answer) -> dict[str, Any]:
        return {
            "health": service.health(),
            "answer": answer,
            "cards": shown.cards(service, answer, beside),
        }
