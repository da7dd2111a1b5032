"""What single tokens stand for, in bytes: a token may be a part of a character. What streams show is TokenPrinter's."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from tokenizers import Tokenizer

SPACE = "\u2581"  # how SentencePiece writes one


@cache
def byte_alphabet() -> dict[str, int]:
    """The character that byte-level tokenizers write for each byte (Radford et al. 2019, GPT-2's encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Speller:
    """Tokens of one tokenizer to bytes. Special ones are spelt as they are written, and are `silent`: in no text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        described: dict[str, Any] = json.loads(tokenizer.to_str())
        added = described.get("added_tokens", ())
        self._as_written = {token["id"] for token in added}
        self.silent = frozenset(token["id"] for token in added if token["special"])
        self._byte_level = "ByteLevel" in json.dumps(described.get("decoder"))
        self._known: dict[int, bytes] = {}  # at most the vocabulary

    def spell(self, token: int) -> bytes:
        """What a token of the vocabulary stands for."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._look_up(token)
        return found

    def _look_up(self, token: int) -> bytes:
        written: str = self._tokenizer.id_to_token(token) or ""
        if token in self._as_written:
            return written.encode()
        if self._byte_level:
            alphabet = byte_alphabet()
            return bytes(alphabet[character] for character in written if character in alphabet)
        if len(written) == 6 and written.startswith("<0x") and written.endswith(">"):
            return bytes([int(written[3:5], 16)])
        return written.replace(SPACE, " ").encode()
