"""Routes that read.

All routes are `async`, and do their work in one go in a thread of the service's own pool: the call of the
service and the writing of its JSON. A plain `def` route would take a thread from the pool that the whole
process shares, without a limit to how many wait for it, once for itself and once for each plain dependency;
and FastAPI would check and copy the answer once more in the event loop, where all other requests wait.
"""

import hashlib
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from prismrec.serving.access import READ, of
from prismrec.serving.bodies import JSON, content_kind, picture_type, read_body
from prismrec.serving.documents import body_of, refusals
from prismrec.serving.problems import RequestError
from prismrec.serving.runtime import Runtime
from prismrec.serving.schemas import (
    AnonymousIn,
    AnswerOut,
    Conditions,
    HealthOut,
    ItemOut,
    PathId,
    RankedOut,
    WishIn,
    parse,
)
from prismrec.serving.schemas_lookup import (
    FansOut,
    HistoryIn,
    HistoryOut,
    HowManyIn,
    ItemsIn,
    ItemsOut,
    UsersIn,
    UsersOut,
)
from prismrec.serving.types import Choice, Wish
from prismrec.serving.wire import answer_values, dump, fan_values, health_values, item_values, ranked_values

router = APIRouter(dependencies=[READ], responses=refusals(401, 403))

UserId = Annotated[PathId, Path(description="User id.")]
ItemId = Annotated[PathId, Path(description="Item id.")]


@router.get(
    "/v1/users/{user_id}/recommendations",
    summary="Recommend to a user",
    responses={200: {"model": AnswerOut}},
)
async def recommend(request: Request, user_id: UserId, wish: Annotated[WishIn, Query()]) -> Response:
    """By training history and recorded events; to somebody not known, what the average person is shown."""
    runtime = of(request)
    wanted = _within(runtime, wish.wish())
    return await runtime.answer(lambda: dump(answer_values(runtime.service.recommend(user_id, wanted))))


@router.get(
    "/v1/users/{user_id}/history", summary="Show what a user took", responses={200: {"model": HistoryOut}}
)
async def history(request: Request, user_id: UserId, asked: Annotated[HistoryIn, Query()]) -> Response:
    """By training and by recorded events; empty for somebody not known."""
    runtime = of(request)
    k = runtime.settings.limits.k if asked.k is None else _length(runtime, asked.k)

    def work() -> bytes:
        found = runtime.service.history(user_id)
        return dump({"items": [item_values(one) for one in found[-k:]], "total": len(found)})

    return await runtime.answer(work)


@router.get("/v1/users", summary="Find users", responses={200: {"model": UsersOut}})
async def find_users(request: Request, asked: Annotated[UsersIn, Query()]) -> Response:
    """By how their ids begin: those with training interactions or recorded events."""
    runtime = of(request)
    k = _length(runtime, asked.k)
    return await runtime.answer(lambda: dump({"users": runtime.service.find_users(asked.beginning, k)}))


@router.get("/v1/items", summary="Find items", responses={200: {"model": ItemsOut}})
async def find_items(request: Request, asked: Annotated[ItemsIn, Query()]) -> Response:
    """By words of the title, all of which it has."""
    runtime = of(request)
    k = _length(runtime, asked.k)

    def work() -> bytes:
        return dump({"items": [item_values(one) for one in runtime.service.find_items(asked.words, k)]})

    return await runtime.answer(work)


@router.post(
    "/v1/recommendations",
    summary="Recommend to somebody without a name",
    responses={200: {"model": AnswerOut}, **refusals(401, 403, 408, 413, 415)},
    openapi_extra=body_of(AnonymousIn),
)
async def recommend_liked(request: Request) -> Response:
    """By the items that they like or took. Nothing is recorded."""
    runtime = of(request)
    content_kind(request, (JSON,))
    body = await read_body(request, runtime.settings.limits)

    def work() -> bytes:
        given = parse(AnonymousIn, body)
        wanted = _within(runtime, given.wish())
        return dump(answer_values(runtime.service.recommend_liked(given.taken(), wanted)))

    return await runtime.answer(work)


@router.get(
    "/v1/users/{user_id}/items/{item_id}/explanation",
    summary="Explain a place",
    responses={200: {"model": RankedOut}, **refusals(401, 403, 404)},
)
async def explain(request: Request, user_id: UserId, item_id: ItemId) -> Response:
    """Score of an item for a user, its rank among all, and why."""
    runtime = of(request)
    return await runtime.answer(lambda: dump(ranked_values(runtime.service.explain(user_id, item_id))))


@router.get(
    "/v1/items/{item_id}/similar",
    summary="Find similar items",
    responses={200: {"model": AnswerOut}, **refusals(401, 403, 404)},
)
async def similar(
    request: Request,
    item_id: ItemId,
    k: Annotated[int, Query(ge=1, le=1_000, description="Length of the list.")] = 10,
    where: Annotated[Conditions, Query()] = (),
    choose: Annotated[Choice, Query(description="All items, only new ones, or only others.")] = "all",
) -> Response:
    """Find the nearest items by the model's vectors; the score is the cosine."""
    runtime = of(request)
    wanted = _within(runtime, Wish(k=k, where=where, choose=choose))
    return await runtime.answer(lambda: dump(answer_values(runtime.service.similar(item_id, wanted))))


@router.get(
    "/v1/items/{item_id}/users",
    summary="Say whom an item is for",
    responses={200: {"model": FansOut}, **refusals(401, 403, 404)},
)
async def fans(request: Request, item_id: ItemId, asked: Annotated[HowManyIn, Query()]) -> Response:
    """Find the users in whose lists an item stands highest; those who took it are left out."""
    runtime = of(request)
    k = _length(runtime, asked.k)

    def work() -> bytes:
        found = runtime.service.fans(item_id, k)
        return dump({"users": [fan_values(fan) for fan in found]})

    return await runtime.answer(work)


@router.get(
    "/v1/items/{item_id}",
    summary="Show an item",
    responses={200: {"model": ItemOut}, **refusals(401, 403, 404)},
)
async def item(request: Request, item_id: ItemId) -> Response:
    """Return an item as the service knows it."""
    runtime = of(request)
    return await runtime.answer(lambda: dump(item_values(runtime.service.item(item_id))))


@router.get(
    "/v1/items/{item_id}/picture",
    summary="Show an item's picture",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}, "application/octet-stream": {}}, "description": "The encoded file."},
        304: {"description": "The picture of that ETag is still the one."},
        **refusals(401, 403, 404),
    },
)
async def picture(request: Request, item_id: ItemId) -> Response:
    """Return the encoded picture. Its type is read from its bytes, not from what anybody says it is."""
    runtime = of(request)
    content = await runtime.call(lambda: runtime.service.picture(item_id))
    if content is None:
        raise RequestError(
            404, "no_picture", "The item has no picture.", "Put one with PUT /v1/items/{item_id}."
        )
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    kind = picture_type(content)
    if not kind.startswith("image/"):
        # What is no known picture is kept, never shown.
        headers["Content-Disposition"] = "attachment"
    return Response(content, 200, headers, kind)


@router.get("/v1/status", summary="Say how the service is", responses={200: {"model": HealthOut}})
async def status(request: Request) -> Response:
    """Model, version, numbers, and how the search is done."""
    runtime = of(request)
    return Response(dump(health_values(await runtime.health())), media_type=JSON)


def _within(runtime: Runtime, wish: Wish) -> Wish:
    _length(runtime, wish.k)
    return wish


def _length(runtime: Runtime, k: int) -> int:
    longest = runtime.settings.limits.k
    if k > longest:
        raise RequestError(422, "too_many", f"k: {k:,} is more than {longest:,}.", "Ask for fewer.")
    return k
