"""JSON schemas as constraints on tokens: what a sequence may say next, so that its text is a value the schema admits.

llguidance does the work (docs/adr/0008-structured-output.md); here are its limits, and the few schemas that it would
take but not follow to the letter. It is loaded with the first schema: a server that never sees one does not pay for it.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from runtime.contract import F32
from runtime.errors import InvalidInput

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer
    from llguidance._lib import JsonCompileOptions

T = TypeVar("T")
U8 = npt.NDArray[np.uint8]

MAX_CHARACTERS = 131_072
# Objects and lists of a schema. They bound the time to compile it (0.2 s) and how deep the compiler recurses.
MAX_PARTS = 1000
# A multiple is told by an automaton of so many states; 100,000 of them take a second or two.
MAX_MULTIPLE = 10_000
# Of the automaton that reads a sequence, 1 to 2 KB each; a string of counted length takes up to 30 a token.
MAX_STATES = 50_000
# An overflow of the stack ends the process. 8 MiB, which threads usually have, carries 1600 parts, one in another.
STACK_BYTES = 64 << 20
# One space, or a line and its indentation. Without a bound a model could say blanks for ever.
WHITESPACE = r"(\x20|\n\x20{0,16})"
# `\uXXXX` is left out: tokens spell every character themselves, and it could spell half a surrogate pair.
ESCAPES = 'nrbtf\\"'
_COMPILING = threading.Lock()  # of all models: the size of a new thread's stack is a setting of the process
NO_END = "<|no end token|>"
MAX_REASON_CHARACTERS = 200


class Grammar:
    """Makes constraints for the sequences of one model. Thread-safe; schemas are compiled one at a time."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        # An end token that the tokenizer does not know is one that llguidance cannot know.
        self._ends = [token for token in eos_token_ids if tokenizer.id_to_token(token) is not None]
        self._tokens: LLTokenizer | None = None

    def constrain(self, schema: str) -> SchemaConstraint:
        """The constraint of one new sequence. Takes milliseconds, with the first schema of a process half a second.

        Each sequence compiles its own: copies of a compiled grammar share an automaton, which grows with use up to a
        limit, so that one sequence could be the end of another.
        Raises InvalidInput (param `schema`): malformed, too large, a keyword that cannot be followed, nothing to say.
        """
        text = json.dumps(_checked(schema))  # what was checked is what is compiled
        with _COMPILING:
            tokens, matcher = _with_deep_stack(lambda: self._compile(text))
        constraint = SchemaConstraint(matcher, tokens.eos_tokens, drawn=bool(self._ends))
        if constraint.finished:
            raise _refused("admits no value")
        return constraint

    def _compile(self, schema: str) -> tuple[LLTokenizer, LLMatcher]:
        from llguidance import LLMatcher, LLParserLimits

        if self._tokens is None:
            self._tokens = self._read_tokens()
        options: JsonCompileOptions = {"whitespace_pattern": WHITESPACE, "json_allowed_escapes": ESCAPES}
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=options)
        except ValueError as error:  # NaN, half a surrogate pair: what Python's JSON has and JSON has not
            raise _refused(f"is no JSON: {error}") from None
        # Its defaults bound a step to about 20 ms.
        limits = LLParserLimits(max_lexer_states=MAX_STATES, verbose_errors=False)
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise _refused(f"cannot be followed: {_one_line(matcher.get_error())}")
        return self._tokens, matcher

    def _read_tokens(self) -> LLTokenizer:
        from llguidance import LLTokenizer

        # A copy, in which the end tokens are special whatever the file says: else their letters would pass for text.
        # A model that has none gets one, since llguidance wants it; it may be allowed, but is never drawn.
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.add_special_tokens([tokenizer.id_to_token(end) for end in self._ends] or [NO_END])
        ends = self._ends or [tokenizer.get_vocab_size() - 1]
        size = max(self._vocab_size, tokenizer.get_vocab_size())
        try:
            return LLTokenizer(tokenizer.to_str(), n_vocab=size, eos_token=ends, slices=[])
        except ValueError as error:  # neither bytes nor sentencepiece
            raise InvalidInput(
                f"This model cannot follow schemas: {error}. Leave the schema out.", param="schema"
            ) from None


class SchemaConstraint:
    """Where one sequence stands in its value; a `Constraint`. `drawn`: the model has these `ends`, and draws them."""

    def __init__(self, matcher: LLMatcher, ends: Sequence[int], *, drawn: bool) -> None:
        self._matcher = matcher
        self._ends = list(ends)
        self._drawn = drawn
        self._allowed: U8 | None = None
        self._count = 0

    @property
    def finished(self) -> bool:
        """The value is complete and nothing can be added. Raises InvalidInput where it is not, and nothing can."""
        if self._next()[self._ends].sum() < self._next().sum():
            return False
        if not self._matcher.is_accepting():
            raise self._stuck()
        return True

    def mask(self, logits: F32) -> None:
        """Set to -inf the logits (V,) of tokens that may not come next. Raises InvalidInput as `finished` does."""
        logits[self._next()[: len(logits)] == 0] = -np.inf
        if not self._drawn:
            logits[[end for end in self._ends if end < len(logits)]] = -np.inf

    def accept(self, token: int) -> None:
        """Go on with a token that `mask` let through. Raises InvalidInput where the grammar outgrows its limits."""
        self._matcher.consume_token(token)
        self._count += 1
        self._allowed = None
        self._check()

    def _next(self) -> U8:
        if self._allowed is None:
            bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
            self._check()
            self._allowed = np.unpackbits(bits, bitorder="little")
        return self._allowed

    def _check(self) -> None:
        if not self._matcher.is_error():
            return
        reason = _one_line(self._matcher.get_error())
        if reason.startswith("NoExtension"):
            raise self._stuck()
        raise _refused(f"cannot be followed after {self._count} tokens: {reason}")

    def _stuck(self) -> InvalidInput:
        return _refused(f"admits nothing after {self._count} tokens, or nothing that this model's tokens spell")


def _checked(text: str) -> Any:
    """The schema as a value. Raises InvalidInput for what llguidance should not see, or takes and does not keep."""
    if len(text) > MAX_CHARACTERS:
        raise _refused(f"has {len(text)} characters; {MAX_CHARACTERS} are the most")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refused(f"is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise _refused(f"is {text[:40]}; it must be an object, {{}} for any value")
    if "x-guidance" in schema:
        raise _refused("has x-guidance, with which it could set aside its own keywords; leave that out")
    parts, multiples, open_ = 0, set[Decimal](), [schema]
    while open_:
        part = open_.pop()
        if not isinstance(part, dict | list):
            continue
        parts += 1
        if isinstance(part, dict):
            _check_properties(part)
            multiple = part.get("multipleOf")
            if isinstance(multiple, int | float) and math.isfinite(multiple):
                multiples.add(abs(Decimal(str(multiple))))
        open_ += part.values() if isinstance(part, dict) else part
    if parts > MAX_PARTS:
        raise _refused(f"has {parts} objects and lists; {MAX_PARTS} are the most")
    _check_multiples(multiples)
    return schema


def _check_properties(part: dict[str, Any]) -> None:
    """Keys that are not named in `properties` may come twice, and would count twice for `minProperties`."""
    least, required = part.get("minProperties"), part.get("required")
    named = len(required) if isinstance(required, list) else 0
    closed = part.get("additionalProperties") is False and "patternProperties" not in part
    if isinstance(least, int) and least > named + 1 and not closed:
        raise _refused(
            f"has minProperties {least} and requires {named} by name; name at least {least - 1} in `required`"
        )


def _check_multiples(multiples: set[Decimal]) -> None:
    digits = max((max(0, -int(each.as_tuple().exponent)) for each in multiples), default=0)
    common = 1
    for each in multiples:
        # Counted in the last decimal place of them all, as the automaton does; one of 1e300 need not be written out.
        scaled = each.scaleb(digits)
        if scaled > MAX_MULTIPLE or (common := math.lcm(common, int(scaled) or 1)) > MAX_MULTIPLE:
            raise _refused(
                f"has multipleOf {', '.join(map(str, sorted(multiples)))}: their least common multiple has "
                f"more than {MAX_MULTIPLE} steps of its last decimal place"
            )


def _with_deep_stack(work: Callable[[], T]) -> T:
    """Call `work` on a thread whose stack is large enough for a compiler that recurses."""
    before = threading.stack_size(STACK_BYTES)
    try:
        pool = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        future = pool.submit(work)  # the thread starts here
    finally:
        threading.stack_size(before)
    with pool:
        return future.result()


def _refused(reason: str) -> InvalidInput:
    return InvalidInput(f"The JSON schema {reason}.", param="schema")


def _one_line(reason: str) -> str:
    words = " ".join(reason.split())
    return words[:MAX_REASON_CHARACTERS].rstrip(". ")
