"""The wire of chats: OpenAI's request, answer and stream events. What a model without tools, images or sound cannot do
is refused by name, unless it is sent at the value that asks for nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator

from runtime.errors import InvalidInput
from serving.generation_schemas import GenerationRequest, Usage
from serving.schemas import Wire

MAX_TOP_LOGPROBS = 20  # OpenAI's limit


def _content(value: Any) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("content is a text, or a list of text parts")
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"a part of type {str(kind)[:40]!r} is not supported; this server takes text parts only")
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise ValueError('a text part is {"type": "text", "text": string}')
    return "".join(part["text"] for part in value)


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
    "additionalProperties": False,
}
Nothing = Annotated[list[Any] | None, Field(max_length=0)]


class Message(Wire):
    """One turn. The last fields are there because clients send an assistant's answer back as they got it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str,
        PlainValidator(_content),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}),
    ]
    name: str | None = Field(None, description="Who speaks; for templates that write it.")
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Nothing = None
    annotations: Nothing = None


class ChatRequest(GenerationRequest):
    """OpenAI's chat request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "Who goes there?"}], "max_tokens": 32}],
        }
    )
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Most tokens to generate; default: what the context has left."
    )
    max_tokens: int | None = Field(None, ge=1, description="The older name of max_completion_tokens.")
    logprobs: bool | None = Field(None, description="Log-probabilities of the tokens.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="And of so many of the likeliest; goes with logprobs."
    )
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = None
    metadata: dict[str, str] | None = Field(None, description="Taken and not used.")
    safety_identifier: str | None = Field(None, description="Taken and not used.")
    prompt_cache_key: str | None = Field(None, description="Taken and not used: equal beginnings are found anyway.")
    service_tier: Literal["auto", "default"] | None = None
    tools: Nothing = None
    functions: Nothing = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = Field(None, description="Taken and not used: there are no tools.")
    audio: None = None
    prediction: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    @model_validator(mode="after")
    def _fits(self) -> ChatRequest:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise InvalidInput(
                f"max_tokens is {self.max_tokens} and max_completion_tokens {self.max_completion_tokens}; send one.",
                param="max_completion_tokens",
            )
        if self.top_logprobs and not self.logprobs:
            raise InvalidInput("top_logprobs goes with logprobs; set that to true.", param="top_logprobs")
        return self


class TopLogprob(Wire):
    """A token that might have come. `bytes`: what it stands for in UTF-8, which may be a part of a character."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Wire):
    """One entry a token of the answer."""

    content: list[TokenLogprob]
    refusal: None


class AssistantMessage(Wire):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Wire):
    """One answer, and why it ended."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatResponse(Wire):
    """A chat's answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(Wire):
    """What is new of an answer: first its role, then its text, piece by piece."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Wire):
    """What is new of one answer; the last one says why it ended."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class ChatChunk(Wire):
    """One event of a chat's stream."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
