"""What of a generation model is text: prompts and chats to token ids, tokens back to what they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.contract import TextEngine
from runtime.errors import InvalidInput
from runtime.manifest import Manifest
from runtime.spelling import Speller
from runtime.text import check_text
from serving.chat_template import PLAIN, SOURCE, ChatTemplate

if TYPE_CHECKING:
    from serving.chat_schemas import Message

# Templates were written for three roles; OpenAI calls the first one by two names.
ROLES = {"developer": "system"}


class Prompts:
    """Of one loaded model. Thread-safe."""

    def __init__(self, engine: TextEngine, manifest: Manifest, directory: Path) -> None:
        """Raises ArtifactRefused for a chat template that cannot be read."""
        self._engine = engine
        self._tokenizer = engine.tokenizer
        self.speller = Speller(engine.tokenizer)
        source = (directory / manifest.chat_template).read_text(encoding="utf-8") if manifest.chat_template else None
        plain = SOURCE if manifest.causal and manifest.causal.has_source else PLAIN
        self._template = ChatTemplate(source, self._special(manifest), plain=plain)

    def ids(self, prompt: str | Sequence[int]) -> list[int]:
        """Token ids of a prompt. Raises InvalidInput."""
        return self._engine.encode(prompt) if isinstance(prompt, str) else list(prompt)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special ones left out."""
        # The library takes 32 bits; what is outside the vocabulary is the engine's to refuse.
        wrong = next((token for token in ids if not 0 <= token < 2**32), None)
        if wrong is not None:
            raise InvalidInput(f"Token {wrong} is outside the vocabulary.", param="prompt")
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, up to where the answer begins. Raises InvalidInput."""
        turns = [
            {"role": ROLES.get(message.role, message.role), "content": message.content}
            | ({"name": message.name} if message.name else {})
            for message in messages
        ]
        prompt = self._template.render(turns)
        if self._template.plain:
            return self._engine.encode(prompt)
        check_text(prompt, "messages")
        # The template writes the special tokens. As a batch of one: only those let other threads run meanwhile.
        ids: list[int] = self._tokenizer.encode_batch_fast([prompt], add_special_tokens=False)[0].ids
        return ids

    def _special(self, manifest: Manifest) -> dict[str, str]:
        shape = manifest.causal
        begin = shape.bos_token_id if shape else None
        end = next(iter(shape.eos_token_ids), None) if shape else None
        found = {"bos_token": begin, "eos_token": end}
        return {name: self._tokenizer.id_to_token(id) or "" for name, id in found.items() if id is not None}
