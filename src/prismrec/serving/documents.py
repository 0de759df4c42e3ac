"""The OpenAPI document: what FastAPI sees, and the bodies that the routes read themselves."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from prismrec.serving.schemas import REQUESTS, ErrorOut

OPEN_PATHS = ("/health", "/ready")
"""Paths that ask for no key."""

_WHY = {
    400: "Not HTTP, JSON, UTF-8 or multipart as it should be.",
    401: "No key, or a wrong one.",
    403: "The key lacks the scope, or a page of another site writes.",
    404: "There is no such thing.",
    405: "The route has no such method.",
    408: "The body did not arrive in time.",
    409: "Something like it is under way.",
    413: "Larger than allowed.",
    415: "A content type that is not known here.",
    422: "Readable, but it cannot be carried out.",
    429: "Too many requests; Retry-After says how long to wait.",
    500: "Something went wrong inside.",
    503: "Busy, not ready, or the disk refuses; Retry-After may say when.",
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how refusals are documented: those that any route may give, and some more."""
    return {
        status: {"model": ErrorOut, "description": _WHY[status]}
        for status in sorted({400, 422, 429, 500, 503, *statuses})
    }


def body_of(kind: type[BaseModel], parts: dict[str, Any] | None = None) -> dict[str, Any]:
    """Document a body that a route reads itself: JSON of a form and, with `parts`, multipart."""
    content: dict[str, Any] = {
        "application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}
    }
    if parts is not None:
        content["multipart/form-data"] = {"schema": parts}
    return {"requestBody": {"required": True, "content": content}}


def document(app: FastAPI, guarded: bool) -> dict[str, Any]:
    """Return the OpenAPI document of an app; `guarded`: keys are asked for."""
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    _, schemas = models_json_schema(
        [(kind, "validation") for kind in REQUESTS], ref_template="#/components/schemas/{model}"
    )
    components = found.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas["$defs"])
    if guarded:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        for path, operations in found["paths"].items():
            for operation in operations.values() if path not in OPEN_PATHS else ():
                operation["security"] = [{"bearer": []}, {"header": []}]
    return found
