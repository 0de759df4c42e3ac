"""The HTTP API over a `Service`: routes, refusals in one form, limits, metrics, a log without persons.

No path and no URL from a request is ever opened: ids are looked up, pictures come as bytes.
"""

from typing import Any, NoReturn

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from prismrec.serving.access import READ, of
from prismrec.serving.bodies import JSON
from prismrec.serving.documents import document, refusals
from prismrec.serving.observe import Observe, note_failure
from prismrec.serving.problems import RequestError, invalid
from prismrec.serving.routes_read import router as reads
from prismrec.serving.routes_write import router as writes
from prismrec.serving.runtime import OpenService, Runtime
from prismrec.serving.schemas import AliveOut, ReadyOut
from prismrec.serving.security import Gate
from prismrec.serving.settings import ServeSettings
from prismrec.serving.types import Health, Service
from prismrec.serving.wire import dump


def create_app(service: Service, settings: ServeSettings, open_service: OpenService | None = None) -> FastAPI:
    """Make the API.

    Parameters
    ----------
    service
        What answers.
    settings
        Keys and limits.
    open_service
        Opens ``settings.bundle`` anew for ``POST /v1/reload``; None: that is refused.

    Returns
    -------
    FastAPI
        An ASGI app; more routes may be added to it (with `prismrec.serving.access.READ` they ask for a key).
    """
    # No pages of documentation: they load scripts from elsewhere. The document itself is /v1/openapi.json.
    app = FastAPI(
        title="prismrec",
        version="1",
        description="Recommendations for items that nobody has clicked yet.",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    runtime = Runtime(service, settings, open_service)
    app.state.runtime = runtime
    app.include_router(_service_routes())
    app.include_router(reads)
    app.include_router(writes)
    app.add_exception_handler(HTTPException, _translate)
    app.add_exception_handler(RequestValidationError, _translate)
    # The last one added is the outermost.
    app.add_middleware(Gate, settings=settings)
    app.add_middleware(Observe, metrics=runtime.metrics)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = document(app, guarded=bool(settings.keys))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to change it
    return app


def _service_routes() -> APIRouter:
    """Return the routes about the service itself; those that ask for no key tell nothing."""
    router = APIRouter(responses=refusals())

    @router.get("/health", summary="Say whether the process lives", responses={200: {"model": AliveOut}})
    async def health() -> Response:
        """Answers as long as the process does, whatever else is wrong."""
        return Response(b'{"status":"alive"}', media_type=JSON)

    @router.get(
        "/ready",
        summary="Say whether requests are answered",
        responses={200: {"model": ReadyOut}, 503: {"model": ReadyOut, "description": "Not yet, or no more."}},
    )
    async def ready(request: Request) -> Response:
        """503 until the model is loaded, and when the service cannot say how it is."""
        found = await _health(request)
        good = found is not None and found.ready
        return Response(dump({"ready": good}), 200 if good else 503, media_type=JSON)

    @router.get(
        "/metrics",
        summary="Give numbers to Prometheus",
        dependencies=[READ],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **refusals(401, 403)},
    )
    async def metrics(request: Request) -> Response:
        """Count requests, times, errors and items, in Prometheus' text format."""
        numbers = of(request).metrics
        found = await _health(request)
        numbers.ready.set(found is not None and found.ready)
        if found is not None:
            numbers.items.labels("known").set(found.items)
            numbers.items.labels("ranked").set(found.ranked)
            numbers.users.set(found.users)
            numbers.recall.set(found.recall)
        return Response(generate_latest(numbers.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/openapi.json", summary="Describe the API", responses={200: {"model": dict[str, Any]}})
    async def described(request: Request) -> Response:
        """Return the OpenAPI document."""
        return Response(dump(request.app.openapi()), media_type=JSON)

    return router


async def _health(request: Request) -> Health | None:
    try:
        return await of(request).health()
    except Exception as error:
        # Whatever it is: who asks whether the service is well is told that it is not.
        note_failure(error, request.state.request_id)
        return None


async def _translate(request: Request, error: Exception) -> NoReturn:
    """Turn the framework's refusals into ours; `Observe` answers them, as it does all others."""
    if isinstance(error, RequestValidationError):
        raise invalid(error.errors()) from None
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        raise RequestError(
            404, "no_route", "There is no such route.", "All stand in /v1/openapi.json."
        ) from None
    if error.status_code == 405:
        allowed = dict(error.headers or {})
        raise RequestError(
            405, "wrong_method", "The route has no such method.", "All stand in /v1/openapi.json.", allowed
        ) from None
    raise RequestError(error.status_code, "refused", str(error.detail), None, error.headers) from None
