"""The wire of text-embeddings-inference, as in its router/src/http/types.rs; see serving/schemas.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, PlainValidator, RootModel, WithJsonSchema

from runtime.contract import Pair
from serving.embedding_schemas import TextsIn
from serving.schemas import Wire

NOT_EMPTY: dict[str, Any] = {"minItems": 1}
Truncate = Annotated[
    bool | None, Field(description="Cut texts that do not fit the model, the default; false answers 422 instead.")
]
Direction = Annotated[
    Literal["right", "left", "Right", "Left"], Field(description="Where a text that does not fit is cut.")
]
NoPrompt = Annotated[None, Field(description="Prompts are not supported.")]


class TeiError(Wire):
    """The body of every answer of these routes that is not a success."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]


class TeiRerankRequest(Wire):
    """Texts to order by their relevance to a query."""

    query: str
    texts: Annotated[list[str], FailFast(), Field(json_schema_extra=NOT_EMPTY)]
    truncate: Truncate = None
    truncation_direction: Direction = "right"
    raw_scores: bool = Field(
        False, description="A cross-encoder's logit, or the cosine, instead of a score from 0 to 1."
    )
    return_text: bool = False


class TeiRank(Wire):
    """One text; `index` is its place in the request."""

    index: int
    text: str | None = None
    score: float


class TeiRerankResponse(RootModel[list[TeiRank]]):
    """Best first."""


class PredictInputs(Wire):
    """What /predict classifies; `single`: it was not a list of inputs."""

    inputs: list[str | Pair]
    single: bool


def _predict(value: Any) -> PredictInputs:
    if isinstance(value, str):
        return PredictInputs(inputs=[value], single=True)
    if isinstance(value, list):
        if value and isinstance(value[0], str):
            return PredictInputs(inputs=[_sequence(value)], single=True)
        return PredictInputs(inputs=[_sequence(each) for each in value], single=False)
    raise ValueError("inputs are a text, a pair [a, b], or a list of [text] and [a, b]")


def _sequence(value: Any) -> str | Pair:
    if isinstance(value, list) and len(value) in (1, 2) and all(isinstance(text, str) for text in value):
        return value[0] if len(value) == 1 else Pair(*value)
    raise ValueError("an input is [text] or [a, b]")


_SEQUENCE: dict[str, Any] = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 2}


class PredictParameters(Wire):
    """What huggingface_hub's text classification sends."""

    top_k: int | None = Field(None, ge=1, description="How many labels to return; default all.")
    function_to_apply: None = None


class PredictRequest(Wire):
    """Texts or pairs to classify."""

    inputs: Annotated[
        PredictInputs,
        PlainValidator(_predict),
        WithJsonSchema({"anyOf": [{"type": "string"}, _SEQUENCE, {"type": "array", "items": _SEQUENCE, **NOT_EMPTY}]}),
    ]
    truncate: Truncate = None
    truncation_direction: Direction = "right"
    raw_scores: bool = Field(False, description="Logits instead of probabilities.")
    parameters: PredictParameters | None = None


class Prediction(Wire):
    """One class of the model."""

    score: float
    label: str


class PredictResponse(RootModel[list[Prediction] | list[list[Prediction]]]):
    """Every class, likeliest first; of each input where there was a list of them."""


class SimilarityInputs(Wire):
    """A text, and those it is compared with."""

    source_sentence: str
    sentences: Annotated[list[str], FailFast(), Field(json_schema_extra=NOT_EMPTY)]


class SimilarityParameters(Wire):
    """How texts that do not fit are treated."""

    truncate: Truncate = None
    truncation_direction: Direction = "right"
    prompt_name: NoPrompt = None


class SimilarityRequest(Wire):
    """Texts to compare by the cosine of their vectors."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters | None = None


class SimilarityResponse(RootModel[list[float]]):
    """Cosines, in the order of the sentences."""


class EmbedRequest(Wire):
    """Texts to embed."""

    inputs: TextsIn
    truncate: Truncate = None
    truncation_direction: Direction = "right"
    prompt_name: NoPrompt = None
    normalize: bool = Field(True, description="Bring the vectors to length 1.")
    dimensions: int | None = Field(None, ge=1, description="Keep the first so many; default the model's.")


class EmbedResponse(RootModel[list[list[float]]]):
    """Vectors in the order of the texts."""


def _plain_texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError("inputs are a text or a list of texts")
    return texts


class TokenizeRequest(Wire):
    """Texts to tokenise."""

    inputs: Annotated[
        list[str],
        PlainValidator(_plain_texts),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, **NOT_EMPTY}]}),
    ]
    add_special_tokens: bool = True
    prompt_name: NoPrompt = None


class TeiToken(Wire):
    """One token; `start` and `stop` in characters, null for a special one."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class TokenizeResponse(RootModel[list[list[TeiToken]]]):
    """Tokens of each text."""


class TeiInfo(Wire):
    """The model that answers these routes first, and the limits."""

    model_id: str
    model_sha: str
    model_dtype: str
    served_model_name: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


SHAPES = ("TeiRerankRequest", "PredictRequest", "SimilarityRequest", "EmbedRequest")


def _any_shape(schema: dict[str, Any]) -> None:
    schema.clear()
    schema["anyOf"] = [{"$ref": f"#/components/schemas/{name}"} for name in SHAPES]


class AnyRequest(RootModel[dict[str, Any]]):
    """A body of /rerank, /predict, /similarity or /embed."""

    model_config = {"json_schema_extra": _any_shape}


class AnyResponse(RootModel[list[Any]]):
    """The answer of the route whose body it was."""
