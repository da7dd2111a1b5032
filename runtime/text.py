"""Texts to token ids, and token ids back to text as it becomes printable. The same code in training's evaluation,
serving and batch. Wraps the `tokenizers` library; knows the manifest, not the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from tokenizers import Encoding, Tokenizer

from runtime.contract import Encoded, Pair
from runtime.errors import ArtifactRefused, InvalidInput, TooManyTokens

Ids = tuple[int, ...]
# What the caller calls its inputs, for errors: (index, part), where part is "" for an input as a whole, or "a" or "b"
# for one text of a pair.
Name = Callable[[int, str], str]
Side = Literal["right", "left"]
SIDES: tuple[Side, ...] = get_args(Side)


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json`, with its own truncation and padding switched off: limits are ours to enforce."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception on a file it cannot read
        raise ArtifactRefused(f"{path} is not a tokenizer file: {error}.") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pair_name(index: int, part: str) -> str:
    """The names of pairs that nobody calls otherwise."""
    return f"pairs[{index}].text_{part}" if part else f"pairs[{index}]"


def check_text(text: str, param: str) -> None:
    """Raises InvalidInput for a lone surrogate, which has no UTF-8 form and no tokenizer can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"{param} holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}; "
            "send well-formed Unicode.",
            param=param,
        ) from None


class TextEncoder:
    """Tokenises texts and pairs to at most `max_tokens`, special tokens included; of a pair, the longer text loses
    tokens first. Where nothing is left to read, an empty text without special tokens, it is one `pad_token_id`."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, pad_token_id: int = 0) -> None:
        self.max_tokens = max_tokens
        self._nothing = Encoded((pad_token_id,), (0,))
        self._whole = tokenizer
        frame = tokenizer.encode("a")
        ids = tuple(frame.ids)
        inner = [place for place, special in enumerate(frame.special_tokens_mask) if not special] or [len(ids)]
        # The special tokens before and after a single text.
        self._before, self._after = ids[: inner[0]], ids[inner[-1] + 1 :]

    def encode(
        self,
        inputs: Sequence[str | Pair],
        *,
        truncate: bool = True,
        side: Side = "right",
        name: Name = pair_name,
    ) -> list[Encoded]:
        """Token ids of each text or pair, in order. `side`: where a text that does not fit is cut.

        Raises TooManyTokens for the first one that does not fit when `truncate` is False, with the exact count,
        and InvalidInput for text that is not well-formed Unicode.
        """
        texts: list[str | tuple[str, str]] = []
        for index, each in enumerate(inputs):
            if isinstance(each, str):
                check_text(each, name(index, ""))
                texts.append(each)
            else:
                check_text(each.text_a, name(index, "a"))
                check_text(each.text_b, name(index, "b"))
                texts.append((each.text_a, each.text_b))
        # Byte offsets are not needed, which makes the fast variant about a third cheaper.
        encodings = self._whole.encode_batch_fast(texts)
        encoded = []
        for index, encoding in enumerate(encodings):
            dropped = len(encoding) - self.max_tokens
            ids, type_ids = encoding.ids, encoding.type_ids
            if dropped > 0:
                if not truncate:
                    raise self._too_many(len(encoding), name(index, ""))
                kept = self._kept(encoding.sequence_ids, side)
                ids, type_ids = [ids[place] for place in kept], [type_ids[place] for place in kept]
            item = Encoded(tuple(ids), tuple(type_ids), max(dropped, 0))
            encoded.append(item if item.ids else self._nothing)
        return encoded

    def frame(self, ids: Ids, *, truncate: bool = True, side: Side = "right", name: str = "input") -> Encoded:
        """Token ids of one text, put between the special tokens that the model wants around it, unless they are there.

        Raises TooManyTokens as `encode` does, and InvalidInput for an id that is not in the vocabulary.
        """
        for place, token in enumerate(ids):
            # The library takes 32 bits.
            if not 0 <= token < 2**32 or self._whole.id_to_token(token) is None:
                raise InvalidInput(
                    f"{name}[{place}] is {token}, which is no token of this model; POST /tokenize gives its tokens.",
                    param=name,
                )
        around = len(self._before) + len(self._after)
        inner = ids
        if around and len(ids) >= around and ids[: len(self._before)] == self._before and self._ends(ids):
            inner = ids[len(self._before) : len(ids) - len(self._after)]
        dropped = len(inner) + around - self.max_tokens
        if dropped > 0:
            if not truncate:
                raise self._too_many(len(inner) + around, name)
            inner = inner[:-dropped] if side == "right" else inner[dropped:]
        whole = (*self._before, *inner, *self._after)
        return Encoded(whole, (0,) * len(whole), max(dropped, 0))

    def shorten(self, text: str, tokens: int, name: str) -> tuple[str, int]:
        """The beginning of `text` that holds its first `tokens` tokens, special ones not counted, and how many more
        there were. Raises InvalidInput for text that is not well-formed Unicode."""
        check_text(text, name)
        encoding = self._whole.encode(text, add_special_tokens=False)
        dropped = len(encoding) - tokens
        return (text, 0) if dropped <= 0 else (text[: encoding.offsets[tokens - 1][1]], dropped)

    def spell(self, texts: Sequence[str], *, special: bool = True) -> list[Encoding]:
        """Texts as the tokenizer library's own encodings, nothing cut: ids, tokens, and offsets in characters."""
        encodings: list[Encoding] = self._whole.encode_batch(list(texts), add_special_tokens=special)
        return encodings

    def _ends(self, ids: Ids) -> bool:
        return not self._after or ids[-len(self._after) :] == self._after

    def _too_many(self, tokens: int, name: str) -> TooManyTokens:
        return TooManyTokens(
            f"{name} has {tokens} tokens; this model takes {self.max_tokens}. Shorten the text or allow truncation.",
            param=name,
        )

    def _kept(self, sequences: Sequence[int | None], side: Side) -> list[int]:
        """The places that stay: special tokens (None), and of each text (0, 1) its share.

        The library's own truncation also makes every combination of the pieces that it cuts off: of two texts of
        40,000 tokens that is gigabytes.
        """
        sizes = [sequences.count(0), sequences.count(1)]
        room = max(0, self.max_tokens - sequences.count(None))
        short = min(sizes)
        # The longer text loses tokens first; where both are too long, each gets half and the longer one what is odd.
        share = [room // 2, room - room // 2] if short > room // 2 else [short, room - short]
        budgets = share if sizes[0] <= sizes[1] else share[::-1]
        seen = [0, 0]
        kept = []
        for place, sequence in enumerate(sequences):
            if sequence is None:
                kept.append(place)
                continue
            order = seen[sequence] if side == "right" else sizes[sequence] - 1 - seen[sequence]
            if order < budgets[sequence]:
                kept.append(place)
            seen[sequence] += 1
        return kept


# A UTF-8 character has at most four bytes, hence at most four tokens: after that, bad bytes are bad and are shown.
MAX_TOKENS_PER_CHARACTER = 4


# Tokens that are decoded together at most: of the text behind, only the last few matter to a decoder's spacing.
WINDOW_TOKENS, KEPT_TOKENS = 24, 8


class TokenPrinter:
    """Turns the tokens of one stream into text as soon as it is final.

    A token may end in the middle of a character or of a stop string, so text is held back while its tail is a
    replacement character or could be the beginning of one of `stop`. The first `min_tokens` tokens are not searched.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stop: Sequence[str], *, min_tokens: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._unsearched = min_tokens  # of the tokens still to come
        # Decoding starts a few tokens back: some decoders drop the space before the first token they see.
        self._ids = list(prompt[-4:])
        self._shown = self._decode()  # of the window's text, what has been released or is held
        self._open = 0  # tokens since then
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Text that became final with `token`; ends before a complete stop string and then sets `stopped`."""
        self._ids.append(token)
        self._open += 1
        self._unsearched -= 1
        text = self._decode()
        if text.endswith("\ufffd") and self._open < MAX_TOKENS_PER_CHARACTER:
            return ""
        return self._release(self._held + self._advance(text))

    def flush(self) -> str:
        """The rest, when the stream ends; ends before a complete stop string and sets `stopped`, as `push` does."""
        if self.stopped:
            return ""
        # Unfinished characters are shown now, as U+FFFD, and may complete a stop string.
        final = self._release(self._held + (self._advance(self._decode()) if self._open else ""))
        rest = final + self._held
        self._held = ""
        return rest

    def _decode(self) -> str:
        text: str = self._tokenizer.decode(self._ids, skip_special_tokens=True)
        return text

    def _advance(self, text: str) -> str:
        """What `text`, the window's, has more than was shown of it. Shortens a window that has become long."""
        new = text[len(self._shown) :]
        self._open = 0
        self._shown = text
        if len(self._ids) > WINDOW_TOKENS:
            self._ids = self._ids[-KEPT_TOKENS:]
            self._shown = self._decode()
        return new

    def _release(self, text: str) -> str:
        if self._unsearched > 0:
            return text
        found = [position for stop in self._stop if (position := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest tail of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
