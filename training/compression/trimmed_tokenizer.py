"""A tokenizer with fewer tokens that cuts given texts as it did before: which tokens must stay, and the smaller file.

Works on the parsed `tokenizer.json` of WordPiece, BPE and Unigram tokenizers. Why the cut stays the same, if every
token stays that was used or made on the way:
- WordPiece takes the longest token that fits; with fewer tokens the one it took is still the longest.
- BPE joins the pair with the lowest rank; with fewer pairs the one it joined is still the lowest.
- Unigram takes the likeliest way; with fewer ways the one it took is still the likeliest.
Any other text can still be written, in shorter tokens: all single characters and bytes stay.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from tokenizers import Tokenizer, models

from runtime.errors import InvalidInput

Spec = dict[str, Any]  # a parsed tokenizer.json
# Tokens of a vocabulary that no text is cut into: places that BERT left free.
PLACEHOLDER = re.compile(r"\[unused\d+\]")
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def used_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> set[int]:
    """The ids of all tokens that `texts` are cut into, or would be if the words did not end in something unknown."""
    listed = list(texts)
    used: set[int] = set()
    unknown = tokenizer.token_to_id(getattr(tokenizer.model, "unk_token", None) or "")
    spelled = isinstance(tokenizer.model, models.WordPiece)
    vocabulary = tokenizer.get_vocab()
    for text, encoding in zip(listed, tokenizer.encode_batch_fast(listed), strict=True):
        used.update(encoding.ids)
        if spelled and unknown in encoding.ids:
            used.update(_pieces(tokenizer, vocabulary, text))
    return used


def _pieces(tokenizer: Tokenizer, vocabulary: Mapping[str, int], text: str) -> Iterator[int]:
    """What WordPiece takes of each word from its beginning, until nothing fits: such a word becomes unknown, and would
    not if the first piece were another."""
    normalized = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    words = tokenizer.pre_tokenizer.pre_tokenize_str(normalized) if tokenizer.pre_tokenizer else [(normalized, None)]
    for word, _ in words:
        start, prefix = 0, ""
        while start < len(word):
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in vocabulary)
            end = next(ends, None)
            if end is None:
                break
            yield vocabulary[prefix + word[start:end]]
            start, prefix = end, tokenizer.model.continuing_subword_prefix


def kept_tokens(spec: Spec, used: Collection[int], reserve: int, needed: Collection[int] = ()) -> list[int]:
    """Ids to keep, ascending: those `used`, special ones, single characters and bytes, `reserve` more from the front of
    the vocabulary, where the frequent ones are, those `needed` besides, and what all of these are made from.

    Raises InvalidInput: a kind of tokenizer that is not supported.
    """
    vocabulary = _vocabulary(spec)
    tokens = {index: token for token, index in vocabulary.items()}
    kept = {*used, *needed, *(each["id"] for each in spec["added_tokens"])}
    kept |= {index for token, index in vocabulary.items() if _is_atom(token, spec["model"])}
    kept |= _needed_by_model(spec["model"], vocabulary) | _around(spec.get("post_processor"))
    kept |= {spec["padding"]["pad_id"]} & set(tokens) if spec.get("padding") else set()
    spare = (index for index in sorted(tokens) if index not in kept and not PLACEHOLDER.fullmatch(tokens[index]))
    kept |= {index for index, _ in zip(spare, range(reserve), strict=False)}
    if spec["model"]["type"] == "BPE":
        steps = _derivation(spec["model"])
        kept |= {vocabulary[step] for index in list(kept) if index in tokens for step in steps(tokens[index])}
    return sorted(kept)


def trim(spec: Spec, kept: list[int]) -> Spec:
    """The `tokenizer.json` whose token i was `kept[i]`; `kept` is what `kept_tokens` returned."""
    new_id = {old: new for new, old in enumerate(kept)}
    trimmed = copy.deepcopy(spec)
    model = trimmed["model"]
    if model["type"] == "Unigram":
        model["vocab"] = [piece for index, piece in enumerate(model["vocab"]) if index in new_id]
        model["unk_id"] = new_id.get(model["unk_id"])
    else:
        model["vocab"] = {token: new_id[index] for token, index in model["vocab"].items() if index in new_id}
    if model["type"] == "BPE":
        known = model["vocab"]
        pairs = [_pair(merge) for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if a in known and b in known and a + b in known]
    for token in trimmed["added_tokens"]:
        token["id"] = new_id[token["id"]]
    if trimmed.get("padding"):
        trimmed["padding"]["pad_id"] = new_id.get(spec["padding"]["pad_id"], 0)
    if trimmed.get("post_processor"):
        _renumber(trimmed["post_processor"], new_id)
    return trimmed


def _vocabulary(spec: Spec) -> Mapping[str, int]:
    """Token -> id, special ones that stand outside the model included."""
    model = spec["model"]
    supported = ("WordPiece", "BPE", "Unigram")
    affixes = model["type"] == "BPE" and (model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"))
    if model["type"] not in supported or affixes:
        kind = f"{model['type']} with prefixes or suffixes" if affixes else model["type"]
        raise InvalidInput(f"The tokenizer is a {kind}; the vocabulary of {', '.join(supported)} can be trimmed.")
    if model["type"] == "Unigram":
        vocabulary = {token: index for index, (token, _) in enumerate(model["vocab"])}
    else:
        vocabulary = dict(model["vocab"])
    return vocabulary | {each["content"]: each["id"] for each in spec["added_tokens"]}


def _is_atom(token: str, model: Spec) -> bool:
    """Whether it is what any text can be written with: one character, in a word or at its beginning, or one byte."""
    prefix = model.get("continuing_subword_prefix") or ""
    return len(token.removeprefix(prefix)) <= 1 or bool(BYTE.fullmatch(token))


def _needed_by_model(model: Spec, vocabulary: Mapping[str, int]) -> set[int]:
    """The unknown token; of a Unigram also the least likely one, by which the price of an unknown character is set."""
    if model["type"] != "Unigram":
        return {vocabulary[model["unk_token"]]} if model.get("unk_token") in vocabulary else set()
    scores = [score for _, score in model["vocab"]]
    return {scores.index(min(scores))} | ({model["unk_id"]} if model.get("unk_id") is not None else set())


def _derivation(model: Spec) -> Callable[[str], list[str]]:
    """token -> the tokens that are joined on the way to it, itself included.

    They are the same in every text: pairs within a token are joined in an order that its neighbours have no part in.
    """
    ranks = {_pair(merge): rank for rank, merge in enumerate(model["merges"])}

    def steps(token: str) -> list[str]:
        parts, made = list(token), []
        while len(parts) > 1:
            rank, at = min((ranks.get(pair, math.inf), at) for at, pair in enumerate(pairwise(parts)))
            if rank == math.inf:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            made.append(parts[at])
        return made

    return steps


def _pair(merge: str | list[str]) -> tuple[str, str]:
    # Files of older versions have the pair in one string.
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


def _around(processor: Any) -> set[int]:
    """The tokens that a post-processor puts around texts; they need not be declared special."""
    if not processor:
        return set()
    ids = {index for special in processor.get("special_tokens", {}).values() for index in special["ids"]}
    ids |= {processor[name][1] for name in ("sep", "cls") if name in processor}
    return ids.union(*(_around(each) for each in processor.get("processors", ())))


def _renumber(processor: Any, new_id: Mapping[int, int]) -> None:
    """Special tokens of a post-processor: `ids` of templates, the pairs `sep` and `cls` of BERT's and RoBERTa's."""
    for each in processor.get("processors", ()):
        _renumber(each, new_id)
    for special in processor.get("special_tokens", {}).values():
        special["ids"] = [new_id[index] for index in special["ids"]]
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], new_id[processor[name][1]]]
