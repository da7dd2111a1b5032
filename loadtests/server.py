"""The server before the load: is it ready, what does it serve, and which model does each kind of user ask for."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pydantic import ValidationError

from loadtests.connection import Connection, TransportFailure
from loadtests.errors import ServerNotReady, UsageError
from loadtests.results import ModelFacts, ServerFacts
from loadtests.settings import MODEL_KINDS, Kind, RunSettings
from loadtests.wire import read_error

PATIENCE_S = 10.0  # for one answer before the load starts


def request_headers(settings: RunSettings) -> dict[str, str]:
    """Return the headers that go with every request of the run."""
    headers = {"User-Agent": "sluice-loadtests"}
    if settings.api_key is not None:
        headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    return headers


def inspect_server(settings: RunSettings) -> ServerFacts:
    """Ask a server for its readiness and its models.

    Raises ServerNotReady when it cannot be reached, says that it is not ready or does not speak the contract, and
    UsageError when it wants another key.
    """
    connection = Connection(settings.host, PATIENCE_S, request_headers(settings))
    try:
        with connection.exchange("GET", "/readyz") as answer:
            body = answer.read()
            # Readiness is the server's word on it; a proxy may not let the route through, /v1/models decides then.
            if answer.status not in (200, 401, 403, 404):
                raise ServerNotReady(
                    f"{settings.host} is not ready: /readyz answered {answer.status}: {read_error(body)[1]}"
                )
        with connection.exchange("GET", "/v1/models") as answer:
            return _read_models(settings.host, answer.status, answer.headers, answer.read())
    except TransportFailure as failure:
        raise ServerNotReady(
            f"{settings.host} cannot be reached: {failure}; start the server or correct --host"
        ) from failure
    finally:
        connection.close()


def choose_models(settings: RunSettings, facts: ServerFacts) -> dict[Kind, str]:
    """Return the model id for each kind of user: the one asked for, else the production one, else the first.

    Raises UsageError when the server has no such model.
    """
    return {kind: _choose(kind, settings.models.get(kind), facts) for kind in settings.users}


def _choose(kind: Kind, wanted: str | None, facts: ServerFacts) -> str:
    served = ", ".join(f"{model.id} ({model.kind or 'kind unknown'})" for model in facts.models) or "none"
    if wanted is not None:
        if wanted not in {model.id for model in facts.models}:
            raise UsageError(f"--models {kind}={wanted}: the server has no such model; it serves {served}")
        return wanted
    fitting = [model for model in facts.models if model.kind in (MODEL_KINDS[kind], None)]
    if not fitting:
        lacking = f"the server has no {MODEL_KINDS[kind]} model; it serves {served}"
        raise UsageError(f"--users {kind}: {lacking}. Leave {kind} out of --users")
    return next((model.id for model in fitting if model.stage == "production"), fitting[0].id)


def _read_models(host: str, status: int, headers: Mapping[str, str], body: bytes) -> ServerFacts:
    if status in (401, 403):
        raise UsageError(f"{host} refuses the key ({status}): {read_error(body)[1]}; set SLUICE_API_KEY or --api-key")
    if status != 200:
        raise ServerNotReady(f"{host}: GET /v1/models answered {status}: {read_error(body)[1]}")
    try:
        models = tuple(ModelFacts.model_validate(entry) for entry in json.loads(body)["data"])
    except (ValueError, TypeError, KeyError, ValidationError) as error:
        raise ServerNotReady(f"{host}: GET /v1/models is no list of models: {body[:200]!r}") from error
    kept = {name: value for name, value in headers.items() if name not in ("set-cookie", "date", "content-length")}
    return ServerFacts(models=models, headers=kept)
