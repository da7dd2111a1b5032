"""/openapi.json, and the app held to it: generated requests must be answered as it says, and never with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from serving.app import create_app, describe
from serving.gate import Gate
from tests.unit.serving.conftest import MakeApp

pytestmark = pytest.mark.unit
PATHS = {
    "/v1/match",
    "/v1/rerank",
    "/v2/rerank",
    "/score",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/chat/completions",
    *(TEI := {"/rerank", "/predict", "/similarity", "/embed", "/tokenize", "/info"}),
    "/v1/models",
    "/v1/models/{id}",
    "/livez",
    "/readyz",
    "/metrics",
    "/",
}


@pytest.fixture(scope="module")
def document(make_app: MakeApp) -> dict[str, Any]:
    return describe(create_app(make_app()[1]))


def test_every_route_is_described(document: dict[str, Any]) -> None:
    assert set(document["paths"]) == PATHS
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"]
            errors = [status for status in operation["responses"] if int(status) >= 400]
            for status in errors:
                schema = operation["responses"][status]["content"]["application/json"]["schema"]
                tei = operation["tags"] == ["text-embeddings-inference"] and status != "401"
                assert schema == {"$ref": f"#/components/schemas/{'TeiError' if tei else 'ErrorBody'}"}, (path, status)
    assert "HTTPValidationError" not in str(document)
    request = document["components"]["schemas"]["MatchRequest"]
    assert request["additionalProperties"] is False
    assert request["required"] == ["pairs"]


class Asgi:
    """Only the HTTP scopes: schemathesis' transport also starts a lifespan, which the host answers in production."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._gate(scope, receive, send)


@pytest.fixture(scope="module")
def contract(make_app: MakeApp) -> Any:
    gate, room = make_app(max_items=20)
    found = schemathesis.openapi.from_dict(describe(create_app(room)))
    found.app = Asgi(gate)
    return found


CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]
WORK = sorted(
    path
    for path in PATHS
    if path in {"/", "/score", *TEI} - {"/info"} or (path.startswith(("/v1", "/v2")) and "models" not in path)
)
# Routes without a body leave nothing to get wrong.
TRIALS = [(path, "GET", GenerationMode.POSITIVE) for path in sorted(PATHS - set(WORK))]
TRIALS += [(path, "POST", mode) for path in WORK for mode in GenerationMode]


@pytest.mark.parametrize(("path", "method", "mode"), TRIALS)
def test_generated_requests_are_answered_as_described(
    contract: Any, path: str, method: str, mode: GenerationMode
) -> None:
    statuses: list[int] = []

    @settings(
        max_examples=40 if method == "POST" else 5,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=contract[path][method].as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        response = case.call()
        statuses.append(response.status_code)
        case.validate_response(response, checks=CHECKS)

    run()
    assert statuses
    assert mode is GenerationMode.NEGATIVE or path.endswith("}") or 200 in statuses
