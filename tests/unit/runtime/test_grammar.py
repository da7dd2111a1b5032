"""Structured output: what a random sequence says under a schema is a value that the schema admits, in every case."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers

from runtime.backends.fake import END, VOCABULARY, byte_tokenizer
from runtime.errors import InvalidInput
from runtime.grammar import MAX_CHARACTERS, MAX_PARTS, Grammar

pytestmark = pytest.mark.unit

SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "address": {
                "type": "object",
                "properties": {
                    "street": {"type": "string", "maxLength": 5},
                    "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
                },
                "required": ["street", "zip"],
                "additionalProperties": False,
            },
        },
        "required": ["name", "age", "address"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": {"type": "null"}, "b": {"type": "boolean"}},
        "additionalProperties": False,
    },
    "map": {
        "type": "object",
        "additionalProperties": {"enum": [1, "two", None]},
        "maxProperties": 2,
        "minProperties": 1,
    },
    "named": {
        "type": "object",
        "properties": {"k": {"const": 1}},
        "required": ["k"],
        "additionalProperties": {"type": "boolean"},
        "maxProperties": 2,
    },
    "patterns": {
        "type": "object",
        "patternProperties": {"^n_[a-z]$": {"type": "integer"}},
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 3, None, {"b": 1, "a": [2]}, "\u00e9\U0001f600"]},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 4},
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string", "maxLength": 3}, {"type": "null"}],
        "items": False,
        "minItems": 2,
    },
    "string": {"type": "string", "maxLength": 20},
    "pattern": {"type": "string", "pattern": "^([a-f]{2}-){1,3}\\d+$", "maxLength": 14},
    "inside": {"type": "string", "pattern": "ab|c", "maxLength": 12},
    "date": {"type": "string", "format": "date"},
    "mail": {"type": "string", "format": "email", "maxLength": 16},
    "number": {"type": "number"},
    "range": {"type": "number", "exclusiveMinimum": -1.5, "maximum": 1e3},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 10, "maximum": 1000},
    "any of": {
        "anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "null"}, "maxItems": 2}, {"type": "boolean"}]
    },
    "one of": {"oneOf": [{"type": "string", "maxLength": 4}, {"type": "integer"}]},
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            {"properties": {"y": {"const": "z"}}, "required": ["y"]},
        ]
    },
    "tree": {
        "$ref": "#/$defs/node",
        "$defs": {
            "node": {
                "type": "object",
                "properties": {"left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
                "required": ["left"],
                "additionalProperties": False,
            }
        },
    },
    "tagged": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "value": value},
                "required": ["kind", "value"],
                "additionalProperties": False,
            }
            for kind, value in (("a", {"type": "integer"}), ("b", {"type": "string", "maxLength": 2}))
        ]
    },
    "anything": {},
    "any object": {"type": "object"},
}


def sentencepiece() -> tuple[Tokenizer, int, tuple[int, ...]]:
    """A tokenizer like Llama's: pieces with a mark for the blank before a word, bytes for what has no piece."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [
        "\u2581",
        '"',
        '{"',
        '":',
        '",',
        "},",
        "]}",
        "\u2581\u2581",
        "\u2581the",
        "\u2581{",
        "true",
        "null",
        "name",
        "\u00e9",
        *"0123456789[]{}:,-.abcdef",
    ]
    tokenizer = Tokenizer(
        models.BPE({piece: place for place, piece in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer, len(pieces), (2,)


TOKENIZERS = {
    "bytes": (byte_tokenizer(pairs=False), VOCABULARY, (END,)),
    "sentencepiece": sentencepiece(),
    "padded, two ends": (*sentencepiece()[:1], 320, (2, 1)),
    "no end": (*sentencepiece()[:1], 320, ()),
}
GRAMMARS = {name: Grammar(*parts) for name, parts in TOKENIZERS.items()}


def say(kind: str, schema: dict[str, Any], seed: int, temperature: float, most: int = 400) -> tuple[str, str]:
    """Tokens of a random model under a schema, until they end: why, and the text."""
    tokenizer, vocab_size, ends = TOKENIZERS[kind]
    constraint = GRAMMARS[kind].constrain(json.dumps(schema))
    random = np.random.default_rng(seed)
    tokens: list[int] = []
    reason = "length"
    while len(tokens) < most:
        logits = random.normal(size=vocab_size, scale=4).astype(np.float32)
        constraint.mask(logits)
        token = int((logits + temperature * random.gumbel(size=vocab_size)).argmax())
        assert logits[token] > -np.inf
        if token in ends:
            reason = "stop"
            break
        tokens.append(token)
        constraint.accept(token)
        if constraint.finished:
            reason = "stop"
            break
    return reason, tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("name", SCHEMAS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32), temperature=st.sampled_from([0.0, 0.7, 2.0, 20.0]))
def test_a_completed_answer_is_valid(kind: str, name: str, seed: int, temperature: float) -> None:
    reason, text = say(kind, SCHEMAS[name], seed, temperature)
    if reason == "stop":
        jsonschema.validate(json.loads(text), SCHEMAS[name], format_checker=jsonschema.FormatChecker())


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_bounded_values_complete(kind: str) -> None:
    for name in ("object", "optional", "enum", "array", "tuple", "pattern", "date", "multiple", "tagged"):
        for seed in range(3):
            assert say(kind, SCHEMAS[name], seed, 1.0)[0] == "stop", name


def test_an_open_number_ends_where_the_model_says_so() -> None:
    constraint = GRAMMARS["bytes"].constrain('{"type": "integer"}')
    logits = np.zeros(VOCABULARY, np.float32)
    constraint.mask(logits)
    assert logits[END] == -np.inf  # nothing said yet
    constraint.accept(ord("4"))
    assert not constraint.finished  # 4 is complete, and so would 42 be
    logits = np.zeros(VOCABULARY, np.float32)
    constraint.mask(logits)
    assert logits[END] == 0
    assert logits[ord("2")] == 0
    assert logits[ord("x")] == logits[ord(" ")] == -np.inf


def test_the_letters_of_an_end_token_are_no_text() -> None:
    constraint = GRAMMARS["bytes"].constrain('{"type": "string"}')
    constraint.accept(ord('"'))
    logits = np.zeros(VOCABULARY, np.float32)
    constraint.mask(logits)
    assert logits[END] == -np.inf


def test_blanks_are_bounded() -> None:
    constraint = GRAMMARS["bytes"].constrain('{"type": "array", "items": {"type": "null"}, "minItems": 1}')
    for token in b"[\n" + b" " * 16:
        constraint.accept(token)
    logits = np.zeros(VOCABULARY, np.float32)
    constraint.mask(logits)
    assert np.flatnonzero(logits == 0).tolist() == [ord("n")]


def test_sequences_of_one_schema_do_not_know_each_other() -> None:
    first, second = (GRAMMARS["bytes"].constrain('{"enum": ["a", "b"]}') for _ in range(2))
    for token in b'"a"':
        first.accept(token)
    assert first.finished
    assert not second.finished


REFUSED = {
    "{": "is no JSON",
    "[1]": "must be an object",
    "true": "must be an object",
    '{"minimum": NaN}': "is no JSON",
    '{"type": "strin"}': "Invalid type: strin",
    '{"type": "array", "uniqueItems": true}': "uniqueItems",
    '{"not": {"type": "null"}}': "not",
    '{"type": "string", "format": "colour"}': "Unknown format: colour",
    '{"type": "string", "pattern": "^(?=a)b"}': "look-around",
    '{"oneOf": [{"type": "number"}, {"type": "integer"}]}': "oneOf",
    '{"$ref": "http://example.org/schema.json"}': "not present",
    '{"$ref": "#/$defs/none"}': "does not exist",
    '{"$ref": "#"}': "admits nothing",
    '{"enum": []}': "Unsatisfiable",
    '{"type": "integer", "minimum": 5, "maximum": 3}': "minimum (5) is greater than maximum (3)",
    '{"type": "object", "minProperties": 2}': "minProperties 2",
    '{"type": "integer", "multipleOf": 999983}': "multipleOf 999983",
    '{"allOf": [{"multipleOf": 997}, {"multipleOf": 0.991}]}': "multipleOf 0.991, 997",
    '{"multipleOf": 1e300}': "multipleOf 1E+300",
    '{"x-guidance": {"lenient": true}}': "x-guidance",
    json.dumps({"enum": ["x" * MAX_CHARACTERS]}): "characters",
    json.dumps({"anyOf": [{"type": "null"}] * MAX_PARTS}): "objects and lists",
    '{"items":' * 2000 + "{}" + "}" * 2000: "is no JSON",
}


@pytest.mark.parametrize("schema", REFUSED)
def test_a_schema_that_cannot_be_kept_is_refused_by_name(schema: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        GRAMMARS["bytes"].constrain(schema)
    assert REFUSED[schema] in refused.value.message
    assert refused.value.param == "schema"
    assert len(refused.value.message) < 400


def test_the_deepest_chain_of_references_does_not_end_the_process() -> None:
    links = MAX_PARTS // 2 - 2
    chain = {str(i): {"items": {"$ref": f"#/$defs/{i + 1}"}} for i in range(links)}
    text = json.dumps({"$ref": "#/$defs/0", "$defs": chain | {str(links): {"type": "null"}}})
    before = threading.stack_size()
    GRAMMARS["bytes"].constrain(text)
    assert threading.stack_size() == before


def test_a_tokenizer_that_cannot_spell_the_value_is_said_so() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "<end>": 2}, []))
    with pytest.raises(InvalidInput, match="cannot follow schemas"):
        Grammar(tokenizer, 3, (2,)).constrain('{"type": "boolean"}')
    tokenizer.decoder = decoders.ByteLevel()
    with pytest.raises(InvalidInput, match="nothing that this model's tokens spell"):
        Grammar(tokenizer, 3, (2,)).constrain('{"type": "boolean"}')


def test_nothing_is_loaded_before_the_first_schema() -> None:
    code = "import sys, runtime.grammar, runtime.load, service; sys.exit('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
