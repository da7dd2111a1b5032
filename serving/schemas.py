"""The wire: what each route takes and gives. Requests are validated against these models; answers are built as plain
dicts for speed, and the tests hold them to the models here.

JSON types are taken as they are: "5" is not a number, 1 is not true. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, WithJsonSchema


class Wire(BaseModel):
    """A part of a body."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


ModelId = Annotated[str | None, Field(description="Id or tag of GET /v1/models; default: the first of the kind.")]

# ---------------------------------------------------------------- match


class PairIn(Wire):
    """Two texts whose relation is asked for."""

    text_a: str
    text_b: str


class MatchRequest(Wire):
    """Pairs to score."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"pairs": [{"text_a": "I was charged twice", "text_b": "Why is there a double charge?"}]},
            ]
        }
    )
    model: ModelId = None
    pairs: Annotated[list[PairIn], FailFast(), Field(min_length=1)]
    truncate: bool = Field(True, description="Cut texts that do not fit the model; false answers 422 instead.")
    threshold: float | None = Field(
        None, ge=0, le=1, description="A score from here on is a match; default: the model's own."
    )


class ErrorDetail(Wire):
    """What went wrong, and whether the same request may work later."""

    type: str
    code: str
    message: str
    param: str | None
    retryable: bool
    request_id: str


class ErrorBody(Wire):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Scored(Wire):
    """One scored pair; `index` is its place in the request."""

    index: int
    score: float = Field(ge=0, le=1, description="Probability of the positive label.")
    label: str
    match: bool
    truncated: bool
    dropped_tokens: int = Field(ge=0, description="Tokens cut off to fit the model.")


class Failed(Wire):
    """An item that failed alone; its neighbours were answered."""

    index: int
    error: ErrorDetail


class TokensUsed(Wire):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class MatchResponse(Wire):
    """Results in the order of the pairs."""

    model: str
    results: list[Scored | Failed]
    usage: TokensUsed


# ---------------------------------------------------------------- rerank


class Document(Wire):
    """A document, spelt as an object."""

    text: str


def _document(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"text"}:
        value = value["text"]
    if not isinstance(value, str):
        raise ValueError('a document is a string or {"text": string}')
    return value


DocumentIn = Annotated[
    str,
    PlainValidator(_document),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"text": {"type": "string"}},
                    "required": ["text"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class RerankRequest(Wire):
    """Documents to order by their relevance to a query."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "I was charged twice",
                    "documents": ["How do I change my PIN?", "Why is there a double charge?"],
                    "top_n": 1,
                },
            ]
        }
    )
    model: ModelId = None
    query: str
    documents: Annotated[list[DocumentIn], FailFast(), Field(min_length=1)]
    top_n: int | None = Field(None, ge=1, description="How many to return; default all.")
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(
        None, ge=1, description="Cut each document to so many tokens first; default: only what does not fit is cut."
    )
    truncate: bool = Field(
        True, description="Cut texts that do not fit the model; false answers 422 instead. Not in Cohere's."
    )


class Ranked(Wire):
    """One document; `index` is its place in the request."""

    index: int
    relevance_score: float = Field(ge=0, le=1)
    truncated: bool
    dropped_tokens: int = Field(ge=0, description="Tokens cut off to fit the model or max_tokens_per_doc.")
    document: Document | None = None


class RerankResponse(Wire):
    """Best first; documents that failed come last, with their error."""

    id: str
    model: str
    results: list[Ranked | Failed]
    usage: TokensUsed


# ---------------------------------------------------------------- score


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("a text, or a list of one or more")
    return texts


_SCORE_TEXTS: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}


class ScoreRequest(Wire):
    """Texts to score: one with one, one with each of several, or several with as many, in vLLM's shape."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text_1": "I was charged twice", "text_2": ["Why a double charge?"]}]}
    )
    model: ModelId = None
    text_1: Annotated[list[str], PlainValidator(_texts), WithJsonSchema(_SCORE_TEXTS)]
    text_2: Annotated[list[str], PlainValidator(_texts), WithJsonSchema(_SCORE_TEXTS)]
    truncate: bool = Field(
        True, description="Cut texts that do not fit the model; false answers 422 instead. Not in vLLM's."
    )


class Score(Wire):
    """One pair's score; `index` is its place in the longer list."""

    index: int
    object: Literal["score"]
    score: float = Field(description="Probability of the positive label; a bi-encoder's cosine.")
    truncated: bool
    dropped_tokens: int = Field(ge=0, description="Tokens cut off to fit the model.")


class ScoreResponse(Wire):
    """Scores in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score | Failed]
    usage: TokensUsed


# ---------------------------------------------------------------- models and probes


class ModelLimits(Wire):
    """What one request to this model may hold."""

    max_tokens: int = Field(description="Tokens of a pair, of a text, or of a prompt and its completion.")
    max_items: int | None = Field(description="Pairs, documents or texts in one request; null where there are none.")


class ModelCard(Wire):
    """A served model. `id` is what requests name; `tag` is the very version."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    tag: str
    kind: Literal["matching", "embedding", "generation"]
    architecture: str
    precision: str
    stage: str | None = Field(description="The stage that this version holds in the store.")
    pending: str | None = Field(description="The version that is being loaded to replace this one.")
    threshold: float | None
    dimensions: int | None = Field(description="Of an embedding model's vectors.")
    digest: str
    limits: ModelLimits


class ModelList(Wire):
    """Every served model."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(Wire):
    """A probe's answer."""

    status: Literal["live", "ready"]
