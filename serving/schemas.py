"""The wire: what each route takes and gives. Requests are validated against these models; answers are built as plain
dicts for speed, and the tests hold them to the models here.

JSON types are taken as they are: "5" is not a number, 1 is not true. Unknown fields are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, PlainValidator, WithJsonSchema

from runtime.sampling import MAX_STOPS


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


# ---------------------------------------------------------------- completions


def _prompt(value: Any) -> str | tuple[int, ...]:
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(type(token) is int for token in value):
        return tuple(value)
    if isinstance(value, list) and len(value) > 1 and all(isinstance(text, str) for text in value):
        raise ValueError("one prompt a request; send a request for each")
    raise ValueError("a prompt is a string, a list of one string, or a list of token ids")


def _stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise ValueError("stop is a non-empty string, a list of such strings, or null")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop strings")
    return tuple(stops)


_TEXT = {"type": "string", "minLength": 1}
Neutral = Annotated[float | None, Field(ge=0, le=0)]


class StreamOptions(Wire):
    """What a stream says beside its text."""

    include_usage: bool = Field(False, description="A last chunk without choices carries the token counts.")


class CompletionRequest(Wire):
    """OpenAI's completion request. A field that would change the answer and is not supported is refused; one that is
    sent at the value that changes nothing (n 1, penalties 0, …) is taken."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "ROMEO:", "max_tokens": 32, "temperature": 0.8, "seed": 7}],
        }
    )
    model: ModelId = None
    prompt: Annotated[
        str | tuple[int, ...],
        PlainValidator(_prompt),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1},
                    {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                ],
                "description": "One text, or its token ids.",
            }
        ),
    ]
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to generate; default 16.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token; default 1.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample from the smallest set of this mass; default 1.")
    top_k: int | None = Field(None, ge=0, description="Sample from this many tokens; default 0, all. Not in OpenAI's.")
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same seed gives the same text.")
    stop: Annotated[
        tuple[str, ...],
        PlainValidator(_stop),
        WithJsonSchema(
            {
                "anyOf": [_TEXT, {"type": "array", "items": _TEXT, "maxItems": MAX_STOPS}, {"type": "null"}],
                "description": "Generation ends before one of these; they are not returned.",
            }
        ),
    ] = ()
    stream: bool | None = Field(None, description="Send each token as a server-sent event.")
    stream_options: StreamOptions | None = None
    n: Annotated[int | None, Field(ge=1, le=1)] = None
    best_of: Annotated[int | None, Field(ge=1, le=1)] = None
    echo: Literal[False] | None = None
    logprobs: None = None
    suffix: None = None
    logit_bias: Annotated[dict[str, float] | None, Field(max_length=0)] = None
    presence_penalty: Neutral = None
    frequency_penalty: Neutral = None
    user: str | None = Field(None, description="Taken and not used.")


class Usage(Wire):
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Choice(Wire):
    """The text, and why it ended."""

    index: int
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None


class CompletionResponse(Wire):
    """A completion, or one event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


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
