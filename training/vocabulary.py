"""Byte-level BPE tokenizers made from the data: any text in any language can be written with one, none is unknown.

Sennrich et al., arXiv:1508.07909; bytes as in GPT-2.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from models.pair_classifier import Frame
from runtime.errors import InvalidInput

END = "<|end|>"
PADDING, FIRST, SEPARATOR = "<|pad|>", "<|first|>", "<|separator|>"
UNSPACED = r"\p{Han}|\p{Hiragana}|\p{Katakana}|\p{Thai}"


def train_bpe(texts: Iterable[str], vocab_size: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer of `vocab_size` tokens for a language model, END included: what it writes it reads back unchanged.

    Fewer tokens where the texts have fewer pairs to merge.
    """
    tokenizer = _trained(texts, vocab_size, [END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=max_tokens
    )


def train_seq2seq_bpe(texts: Iterable[str], vocab_size: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens for an encoder-decoder: a text, source or target, then END. What it
    writes it reads back unchanged."""
    tokenizer = _trained(texts, vocab_size, [END, PADDING])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PADDING, model_max_length=max_tokens
    )


def train_encoder_bpe(texts: Iterable[str], vocab_size: int, max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens for an encoder: FIRST a SEPARATOR, or FIRST a SEPARATOR b SEPARATOR.

    Upper and lower case are the same, and so are forms of a character that Unicode holds compatible (full-width
    letters). What is written without spaces is parted into characters: of phrases, two texts would share few.
    """
    # The space: a word is the same token at the beginning of a text and in its middle.
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Prepend(" ")])
    parted = pre_tokenizers.Split(Regex(UNSPACED), "isolated")
    tokenizer = _trained(texts, vocab_size, [PADDING, FIRST, SEPARATOR], normalizer, parted)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {SEPARATOR}",
        pair=f"{FIRST} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (FIRST, SEPARATOR)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        cls_token=FIRST,
        sep_token=SEPARATOR,
        model_max_length=max_tokens,
    )


def pair_frame(tokenizer: Tokenizer) -> Frame:
    """What the tokenizer puts around a pair. Raises InvalidInput where nothing parts the two texts."""
    encoding = tokenizer.encode("a", "b")
    places = encoding.sequence_ids  # 0, 1, None for a special token
    special = {token for token, place in zip(encoding.ids, places, strict=True) if place is None}
    behind_first = len(places) - places[::-1].index(0)
    if places[behind_first] is not None:
        raise InvalidInput("The tokenizer puts no separator between two texts; take another base.")
    separator = encoding.ids[behind_first]
    if separator in encoding.ids[: places.index(0)]:
        raise InvalidInput(
            f"The tokenizer's separator ({separator}) also stands before the first text; take another base."
        )
    return Frame(separator, tuple(sorted(special)))


def _trained(
    texts: Iterable[str],
    vocab_size: int,
    special: list[str],
    normalizer: normalizers.Normalizer | None = None,
    *parted: pre_tokenizers.PreTokenizer,
) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*parted, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
