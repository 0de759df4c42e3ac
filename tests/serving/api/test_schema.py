"""The OpenAPI document against the service: whatever fits it or does not, nothing breaks inside."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from prismrec.serving.api import create_app
from prismrec.serving.settings import Limits, ServeSettings

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


OPERATIONS = [
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", "/metrics"),
    ("GET", "/v1/openapi.json"),
    ("GET", "/v1/status"),
    ("GET", "/v1/users/{user_id}/recommendations"),
    ("GET", "/v1/users/{user_id}/history"),
    ("GET", "/v1/users"),
    ("POST", "/v1/recommendations"),
    ("GET", "/v1/users/{user_id}/items/{item_id}/explanation"),
    ("GET", "/v1/items"),
    ("GET", "/v1/items/{item_id}"),
    ("GET", "/v1/items/{item_id}/users"),
    ("GET", "/v1/items/{item_id}/similar"),
    ("GET", "/v1/items/{item_id}/picture"),
    ("PUT", "/v1/items/{item_id}"),
    ("DELETE", "/v1/items/{item_id}"),
    ("POST", "/v1/items:batch"),
    ("POST", "/v1/events"),
    ("POST", "/v1/reload"),
]
# Routes for which anything of the right form will do, and much is of the wrong one.
FRUITFUL = (
    "/v1/users/{user_id}/recommendations",
    "/v1/users/{user_id}/history",
    "/v1/users",
    "/v1/items",
    "/v1/events",
    "/v1/items:batch",
)


@pytest.fixture(scope="module")
def schema(fake):
    limits = Limits(body_bytes=64 * 1024, pixels=1_000_000)
    app = create_app(fake(), ServeSettings(rate=None, limits=limits, hosts=("testserver",)))
    return schemathesis.openapi.from_asgi("/v1/openapi.json", app)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", OPERATIONS, ids=" ".join)
def test_nothing_breaks_and_all_is_as_documented(schema, operation, mode):
    method, path = operation
    statuses = set()

    @settings(
        max_examples=20 if path == "/v1/events" else 8,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def check(case):
        response = case.call()
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    try:
        check()
    except Unsatisfiable:
        # A route without any parameter can be asked in one way only.
        assert mode is GenerationMode.NEGATIVE
        return
    # What fits the document gets through; what does not is refused, or no request can be wrong.
    if mode is GenerationMode.POSITIVE and path in FRUITFUL:
        assert statuses & {200, 201}
    if mode is GenerationMode.NEGATIVE and path in FRUITFUL:
        assert statuses & {400, 404, 415, 422}


def test_the_document_knows_every_route(schema):
    paths = schema.raw_schema["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert sorted(found) == sorted(OPERATIONS)
