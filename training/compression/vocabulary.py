"""The step that trims the vocabulary to what the data uses, and a reserve; trimmed_tokenizer.py says what stays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from runtime.errors import InvalidInput
from runtime.manifest import Format, Kind
from training.compression.step import Context, Step

if TYPE_CHECKING:
    from training.data.splits import Splits


class Vocabulary(Step):
    """Texts of train are cut into the same tokens as before and score the same; others may need more tokens."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "torch"
    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")

    step: Literal["vocabulary"] = "vocabulary"
    reserve: int = Field(default=500, ge=0)  # further tokens, from the front of the vocabulary: the most frequent
    texts: Path | None = None  # a UTF-8 file whose tokens stay as well: names of products, a glossary

    def inputs(self, context: Context) -> Mapping[str, str]:
        """The file of further texts."""
        return {"texts": hashlib.sha256(self._further().encode()).hexdigest()} if self.texts else {}

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        import json

        from models.surgery import special_ids, trim_vocabulary
        from runtime.text import load_tokenizer
        from training.compression.network import load_network, write_network
        from training.compression.trimmed_tokenizer import kept_tokens, trim, used_tokens

        if context.splits is None:
            raise InvalidInput("vocabulary needs the texts of train: compress a recipe with data, not a folder.")
        tokenizer = load_tokenizer(source / "tokenizer.json")
        spec = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        network = load_network(source)
        used = used_tokens(tokenizer, [*texts_of(context.splits, "train"), *self._further().splitlines()])
        kept = kept_tokens(spec, used, self.reserve, special_ids(network))
        size = network.get_input_embeddings().weight.shape[0]
        write_network(trim_vocabulary(network, kept), source, directory, tokenizer=False)
        write_tokenizer(trim(spec, kept), source, directory)
        trimmed = load_tokenizer(directory / "tokenizer.json")
        valid = texts_of(context.splits, "valid")
        pairs = zip(tokenizer.encode_batch_fast(valid), trimmed.encode_batch_fast(valid), strict=True)
        otherwise = sum([kept[index] for index in after.ids] != before.ids for before, after in pairs)
        return {
            "tokens_before": size,
            "tokens": len(kept),
            "used": len(used),
            "valid_texts_cut_otherwise": round(otherwise / len(valid), 4),
        }

    def _further(self) -> str:
        try:
            return self.texts.read_text(encoding="utf-8") if self.texts else ""
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"vocabulary: texts {self.texts} cannot be read: {error}") from None


def texts_of(splits: Splits, split: str) -> list[str]:
    """Each text of a split once, in order."""
    from training.data.splits import ExampleSplits, GroupedSplits
    from training.data.texts import TextSplits

    if isinstance(splits, TextSplits):
        return list(splits.texts(split))
    if isinstance(splits, ExampleSplits):
        return [text for row in splits.rows(split) for text in (row.source, row.target)]
    texts = [text for row in splits.rows(split) for text in (row.text_a, row.text_b)]
    if isinstance(splits, GroupedSplits) and split == "train":
        texts += [row.text for row in splits.groups]
    return list(dict.fromkeys(texts))


def write_tokenizer(spec: dict[str, Any], source: Path, directory: Path) -> None:
    """Write `spec` as the tokenizer of `directory`, with the settings of the one in `source`.

    Other files of the tokenizer (vocab.txt, merges.txt, …) have the old ids and stay behind.
    """
    import json
    import shutil

    (directory / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    settings = source / "tokenizer_config.json"
    if settings.is_file():
        config = json.loads(settings.read_text(encoding="utf-8"))
        config.pop("added_tokens_decoder", None)  # by id; tokenizer.json says the same
        (directory / settings.name).write_text(json.dumps(config, ensure_ascii=False, indent=1), encoding="utf-8")
    for name in ("special_tokens_map.json", "chat_template.jinja"):
        if (source / name).is_file():
            shutil.copyfile(source / name, directory / name)
