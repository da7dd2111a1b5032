"""The wire of generation: what a request may ask of the engine, OpenAI's completion, and what both routes answer.

A field that would change the answer and is not supported is refused by name; one that is sent at the value that changes
nothing is taken. What concerns two fields is an InvalidInput: pydantic's own error would name neither.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from runtime.errors import InvalidInput
from runtime.sampling import MAX_STOPS
from serving.schemas import ModelId, Wire

MAX_CHOICES = 128  # OpenAI's limit of `n`
MAX_LOGPROBS = 5  # OpenAI's limit of a completion's `logprobs`
LARGEST_BIAS = 100.0
_TEXT = {"type": "string", "minLength": 1}


def _stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(text, str) and text for text in stops):
        raise ValueError("stop is a non-empty string, a list of such strings, or null")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} stop strings")
    return tuple(stops)


def _bias(value: Any) -> tuple[tuple[int, float], ...]:
    given = {} if value is None else value
    if not isinstance(given, dict) or not all(key.isascii() and key.isdigit() and len(key) < 10 for key in given):
        raise ValueError("logit_bias maps token ids, as texts of digits, to numbers")
    if not all(type(bias) in (int, float) and -LARGEST_BIAS <= bias <= LARGEST_BIAS for bias in given.values()):
        raise ValueError(f"a bias is a number from {-LARGEST_BIAS:g} to {LARGEST_BIAS:g}")
    return tuple((int(key), float(bias)) for key, bias in given.items())


class StreamOptions(Wire):
    """What a stream says beside its text."""

    include_usage: bool = Field(False, description="A last chunk without choices carries the token counts.")


class JsonSchema(Wire):
    """A schema under OpenAI's names."""

    name: str = Field(description="Not used.")
    description: str | None = Field(None, description="Not used.")
    schema_: dict[str, Any] = Field(alias="schema", description="What the text must be: JSON Schema.")
    strict: bool | None = Field(None, description="Every schema is kept to, whatever this says.")


class ResponseFormat(Wire):
    """What the text must be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise InvalidInput(
                f"response_format.type is {self.type}; json_schema goes with the type json_schema, and with no other.",
                param="response_format",
            )
        return self


class GenerationRequest(Wire):
    """What completions and chats may ask alike."""

    model: ModelId = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES, description="Texts for each prompt; default 1.")
    temperature: float | None = Field(None, ge=0, le=2, description="0 takes the likeliest token; default 1.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample from the smallest set of this mass; default 1.")
    top_k: int | None = Field(None, ge=0, description="Sample from this many tokens; default 0, all. Not in OpenAI's.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Least probability, as a share of the likeliest token's. Not in OpenAI's."
    )
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Off each token that the text has already.")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="The same for each time that it has it.")
    repetition_penalty: float | None = Field(
        None, gt=0, le=10, description="Divides what prompt or text hold already; default 1. Not in OpenAI's."
    )
    min_tokens: int | None = Field(None, ge=0, description="No end before so many tokens. Not in OpenAI's.")
    ignore_eos: bool | None = Field(None, description="Go on after an end token. Not in OpenAI's.")
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
    logit_bias: Annotated[
        tuple[tuple[int, float], ...],
        PlainValidator(_bias),
        WithJsonSchema(
            {
                "anyOf": [
                    {
                        "type": "object",
                        "additionalProperties": {"type": "number", "minimum": -LARGEST_BIAS, "maximum": LARGEST_BIAS},
                        "propertyNames": {"pattern": "^[0-9]{1,9}$"},
                    },
                    {"type": "null"},
                ],
                "description": "Token id -> what is added to its logit.",
            }
        ),
    ] = ()
    response_format: ResponseFormat | None = Field(None, description="Text, any JSON object, or JSON of a schema.")
    stream: bool | None = Field(None, description="Send each token as a server-sent event.")
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Taken and not used.")

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


# ---------------------------------------------------------------- completions

Prompt = str | tuple[int, ...]


def _one(value: Any) -> Prompt | None:
    if isinstance(value, str):
        return value
    ids = isinstance(value, list) and value and all(type(token) is int for token in value)
    return tuple(value) if ids else None


def _prompts(value: Any) -> tuple[Prompt, ...]:
    alone = _one(value)
    if alone is not None:
        return (alone,)
    several = [_one(each) for each in value] if isinstance(value, list) else []
    if not several or any(each is None for each in several):
        raise ValueError("a prompt is a text, its token ids, or a list of texts or of lists of token ids")
    return tuple(each for each in several if each is not None)


_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


class CompletionRequest(GenerationRequest):
    """OpenAI's completion request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": "ROMEO:", "max_tokens": 32, "temperature": 0.8, "seed": 7}],
        }
    )
    prompt: Annotated[
        tuple[Prompt, ...],
        PlainValidator(_prompts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    _IDS,
                    {"type": "array", "items": {"anyOf": [{"type": "string"}, _IDS]}, "minItems": 1},
                ],
                "description": "A text, its token ids, or several of these.",
            }
        ),
    ]
    max_tokens: int | None = Field(None, ge=0, description="Most tokens to generate; default 16. 0 goes with echo.")
    echo: bool | None = Field(None, description="The text begins with the prompt.")
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Log-probabilities of the tokens, and of so many of the likeliest."
    )
    best_of: int | None = Field(None, ge=1, description="Taken only where it equals n.")
    suffix: None = None

    @model_validator(mode="after")
    def _fits(self) -> CompletionRequest:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise InvalidInput(
                f"best_of is {self.best_of}; it is taken only where it equals n, which is {self.n or 1}.",
                param="best_of",
            )
        if self.max_tokens == 0 and not self.echo:
            raise InvalidInput(
                "max_tokens is 0, which leaves nothing to answer; ask for a token or set echo.", param="max_tokens"
            )
        return self


class CachedTokens(Wire):
    """What of a prompt was not computed again."""

    cached_tokens: int


class Usage(Wire):
    """Token counts of all choices; a prompt counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens


class TokenLogprobs(Wire):
    """One entry a token. Of a prompt's first token nothing is known."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="Where each token begins in the text of its choice, in characters.")


class Choice(Wire):
    """The text, and why it ended."""

    index: int
    text: str
    logprobs: TokenLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class CompletionResponse(Wire):
    """A completion, or one event of its stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
