"""The wire of embeddings, in OpenAI's shape; see serving/schemas.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema

from runtime.text import Ids
from serving.schemas import ModelId, TokensUsed, Wire


def _texts(value: Any) -> list[str] | list[Ids]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        if all(type(each) is str for each in value):
            return value
        if _are_ids(value):
            return [tuple(value)]
        if all(isinstance(each, list) and _are_ids(each) for each in value):
            return [tuple(each) for each in value]
    raise ValueError("texts are a string, a list of strings, a list of token ids, or a list of such lists")


def _are_ids(value: list[Any]) -> bool:
    return bool(value) and all(type(each) is int and each >= 0 for each in value)


_STRING: dict[str, Any] = {"type": "string"}
_IDS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
TextsIn = Annotated[
    list[str] | list[Ids],
    PlainValidator(_texts),
    WithJsonSchema(
        {
            "anyOf": [
                _STRING,
                {"type": "array", "items": _STRING, "minItems": 1},
                _IDS,
                {"type": "array", "items": _IDS, "minItems": 1},
            ],
            "description": "One text or several, or their token ids.",
        }
    ),
]


class EmbeddingsRequest(Wire):
    """Texts to embed."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"input": ["I was charged twice", "Why is there a double charge?"]}]}
    )
    model: ModelId = None
    input: Annotated[TextsIn, Field(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers, which is the default, or base64 of little-endian 32-bit floats."
    )
    dimensions: int | None = Field(
        None, ge=1, description="Keep the first so many and bring the vector back to length 1; default the model's."
    )
    user: str | None = Field(None, description="Taken and not used.")
    truncate: bool = Field(
        True, description="Cut texts that do not fit the model; false answers 422 instead. Not in OpenAI's."
    )


class Embedded(Wire):
    """One vector, of length 1; `index` is its text's place in the request."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str
    truncated: bool
    dropped_tokens: int = Field(ge=0, description="Tokens cut off to fit the model.")


class EmbeddingsResponse(Wire):
    """Vectors in the order of the texts."""

    object: Literal["list"]
    data: list[Embedded]
    model: str
    usage: TokensUsed
