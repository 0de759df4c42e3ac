"""Routes that write. Each is acknowledged when it is on disk, and may be repeated (see `replays`)."""

from typing import Any

from fastapi import APIRouter, Request, Response

from prismrec.serving.access import WRITE, of
from prismrec.serving.bodies import JSON, MULTIPART, batch_of, content_kind, item_of, read_body
from prismrec.serving.documents import body_of, refusals
from prismrec.serving.errors import UnknownItem
from prismrec.serving.problems import RequestError
from prismrec.serving.replays import Made
from prismrec.serving.routes_read import ItemId
from prismrec.serving.schemas import (
    BatchIn,
    DeletedOut,
    EventsIn,
    HealthOut,
    ItemIn,
    PutOut,
    RecordedOut,
    parse,
)
from prismrec.serving.wire import dump, health_values, put_values

_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A UUID of this write: sent again with it, the write is answered, not carried out again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_FILE = {"type": "string", "contentMediaType": "application/octet-stream"}
_ITEM_PARTS = {
    "type": "object",
    "properties": {
        "attributes": {"type": "string", "description": "JSON object, by column."},
        "picture": _FILE,
    },
}
_BATCH_PARTS = {
    "type": "object",
    "properties": {"batch": {"type": "string", "description": "The JSON body, naming parts."}},
    "required": ["batch"],
    "additionalProperties": _FILE,
}

router = APIRouter(dependencies=[WRITE], responses=refusals(401, 403, 409))


@router.put(
    "/v1/items/{item_id}",
    summary="Add or replace an item",
    responses={
        200: {"model": PutOut, "description": "It was there."},
        201: {"model": PutOut, "description": "It is new."},
        **refusals(401, 403, 408, 409, 413, 415),
    },
    openapi_extra={**body_of(ItemIn, _ITEM_PARTS), "parameters": [_KEY]},
)
async def put_item(request: Request, item_id: ItemId) -> Response:
    """Recommendable when this is answered. JSON with a base64 picture, or multipart with a file."""
    runtime = of(request)
    kind = content_kind(request, (JSON, MULTIPART))
    limits = runtime.settings.limits
    body = await read_body(request, limits)

    def work() -> Made:
        item = item_of(item_id, kind, request.headers["content-type"], body, limits)
        report = runtime.service.put([item])
        return Made(201 if report.added else 200, dump(put_values([item], report)))

    return await runtime.write(request, body, work)


@router.post(
    "/v1/items:batch",
    summary="Add or replace items",
    responses={200: {"model": PutOut}, **refusals(401, 403, 408, 409, 413, 415)},
    openapi_extra={**body_of(BatchIn, _BATCH_PARTS), "parameters": [_KEY]},
)
async def put_items(request: Request) -> Response:
    """Pictures in base64, or as parts that `picture_part` names. An item that does not fit is `refused`."""
    runtime = of(request)
    kind = content_kind(request, (JSON, MULTIPART))
    limits = runtime.settings.limits
    body = await read_body(request, limits)

    def work() -> Made:
        items = batch_of(kind, request.headers["content-type"], body, limits)
        return Made(200, dump(put_values(items, runtime.service.put(items))))

    return await runtime.write(request, body, work)


@router.delete(
    "/v1/items/{item_id}",
    summary="Remove an item",
    responses={200: {"model": DeletedOut}, **refusals(401, 403, 404, 409)},
    openapi_extra={"parameters": [_KEY]},
)
async def delete_item(request: Request, item_id: ItemId) -> Response:
    """Recommended no more when this is answered."""
    runtime = of(request)

    def work() -> Made:
        deleted = runtime.service.delete([item_id])
        if not deleted:
            raise UnknownItem(item_id)
        return Made(200, dump({"deleted": deleted}))

    return await runtime.write(request, b"", work)


@router.post(
    "/v1/events",
    summary="Record events",
    responses={200: {"model": RecordedOut}, **refusals(401, 403, 408, 409, 413, 415)},
    openapi_extra={**body_of(EventsIn), "parameters": [_KEY]},
)
async def record(request: Request) -> Response:
    """They count from the next request on. Sent twice without an Idempotency-Key they may count twice."""
    runtime = of(request)
    content_kind(request, (JSON,))
    limits = runtime.settings.limits
    body = await read_body(request, limits)

    def work() -> Made:
        events = parse(EventsIn, body).events
        if len(events) > limits.events:
            raise RequestError(
                422,
                "too_many",
                f"{len(events):,} events, at most {limits.events:,}.",
                "Send several requests.",
            )
        runtime.service.record([event.event() for event in events])
        return Made(200, dump({"recorded": len(events)}))

    return await runtime.write(request, body, work)


@router.post("/v1/reload", summary="Reload the model", responses={200: {"model": HealthOut}})
async def reload(request: Request) -> Response:
    """Open what the settings name, never what a request names; if that fails the old model stays."""
    runtime = of(request)
    return Response(dump(health_values(await runtime.reload())), media_type=JSON)
