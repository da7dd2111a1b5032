"""What a run is asked to do: the arguments of `python -m loadtests run`, checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from loadtests.errors import UsageError
from loadtests.texts import FEWEST_WORDS


class Kind(StrEnum):
    """What a simulated user asks the server to do."""

    MATCH = "match"
    RERANK = "rerank"
    COMPLETION = "completion"


# The kind of model, as GET /v1/models names it, that each kind of user needs.
MODEL_KINDS: Mapping[Kind, str] = {
    Kind.MATCH: "matching",
    Kind.RERANK: "matching",
    Kind.COMPLETION: "generation",
}
# One process: a thousand greenlets are the most whose timings can still be trusted.
MOST_USERS = 1000


def _checked_host(host: str) -> str:
    parts = urlsplit(host)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be a URL like http://127.0.0.1:3000")
    if parts.username or parts.password:
        raise ValueError("must not carry a user or password; use --api-key")
    if parts.query or parts.fragment:
        raise ValueError("must not carry a query or fragment")
    _ = parts.port  # raises ValueError with the reason when it is no number or out of range
    return host.rstrip("/")


def _checked_key(key: SecretStr) -> SecretStr:
    text = key.get_secret_value()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("the API key must be printable ASCII without spaces")
    return key


class RunSettings(BaseModel):
    """One load test: whom to drive, with how many users, for how long, and with which texts.

    The command line is made from these fields: a field's alias is its option, its description the option's help.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    host: Annotated[str, AfterValidator(_checked_host)] = Field(
        default="http://127.0.0.1:3000", description="base URL of the server"
    )
    users: dict[Kind, Annotated[int, Field(ge=1)]] = Field(
        default_factory=lambda: {Kind.MATCH: 8, Kind.COMPLETION: 2},
        description="simulated users of each kind, each with one request under way at a time: match=8,completion=2",
    )
    models: dict[Kind, str] = Field(
        default_factory=dict,
        description="model id for a kind of user, match=NAME,completion=NAME (default: the server's production model)",
    )
    duration_s: float = Field(
        default=30.0, gt=0, le=86_400, alias="duration", description="seconds that are measured, after the warm-up"
    )
    warm_up_s: float = Field(
        default=3.0, ge=0, le=3_600, alias="warm-up", description="seconds under full load that are not measured"
    )
    spawn_rate: float = Field(default=10.0, gt=0, le=100, alias="spawn-rate", description="users started a second")
    max_requests: int = Field(
        default=100_000, ge=1, le=10_000_000, alias="max-requests", description="end early after this many requests"
    )
    timeout_s: float = Field(
        default=30.0, gt=0, le=3_600, alias="timeout", description="seconds for one whole request, a stream included"
    )
    seed: int = Field(default=7, ge=0, description="the same seed sends the same texts")
    items: int = Field(default=4, ge=1, le=512, description="most pairs, or documents to rank, in one request")
    text_words: int = Field(
        default=80, ge=FEWEST_WORDS, le=2_000, alias="text-words", description="most words in a text to match or rank"
    )
    prompt_words: int = Field(
        default=24, ge=FEWEST_WORDS, le=2_000, alias="prompt-words", description="most words in a prompt"
    )
    max_tokens: int = Field(
        default=32, ge=1, le=4_096, alias="max-tokens", description="most tokens that a completion may ask for"
    )
    api_key: Annotated[SecretStr, AfterValidator(_checked_key)] | None = Field(
        default=None, alias="api-key", description="bearer key (default: the environment's SLUICE_API_KEY)"
    )
    slo: Path | None = Field(default=None, description="YAML file of service level objectives that judges the run")
    out: Path = Field(default=Path("reports/loadtest"), description="folder for results.json and report.html")

    @model_validator(mode="after")
    def _users_fit_one_process(self) -> Self:
        if not self.users:
            raise ValueError("--users: at least one kind of user is needed, e.g. match=8")
        if (total := sum(self.users.values())) > MOST_USERS:
            raise ValueError(f"--users: {total} are more than one process can time ({MOST_USERS}); start several runs")
        if stray := sorted(set(self.models) - set(self.users)):
            raise ValueError(f"--models: {', '.join(stray)} has a model but no users; add it to --users")
        return self

    @property
    def total_users(self) -> int:
        """Users of all kinds together."""
        return sum(self.users.values())


def parse_assignments(text: str, option: str) -> dict[str, str]:
    """Parse `match=8,completion=2` into its parts; raises UsageError for anything else."""
    known = ", ".join(Kind)
    found: dict[str, str] = {}
    for part in text.split(","):
        kind, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UsageError(f"{option} {text!r}: {part!r} is not KIND=VALUE; write for example match=8,completion=2")
        if kind not in set(Kind):
            raise UsageError(f"{option} {text!r}: {kind!r} is no kind of user; the kinds are {known}")
        if kind in found:
            raise UsageError(f"{option} {text!r}: {kind} is given twice")
        found[kind] = value
    return found


def build_settings(values: Mapping[str, object]) -> RunSettings:
    """Check the values of a run; raises UsageError with one line per value that cannot be used."""
    try:
        return RunSettings.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            option = str(problem["loc"][0]) if problem["loc"] else ""
            shown = f"--{option} {problem['input']!r}: " if option and option != "api-key" else ""
            lines.append(shown + problem["msg"].removeprefix("Value error, "))
        raise UsageError("\n".join(lines)) from error


def api_key_from_environment() -> str | None:
    """Return SLUICE_API_KEY, the bearer key to send, or None when it is unset or empty."""
    return os.environ.get("SLUICE_API_KEY") or None
