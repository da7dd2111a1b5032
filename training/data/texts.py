"""Plain text for language models: files -> documents -> train, valid and test."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from records.storage import exists, list_files, read_bytes
from training.data.errors import DataError
from training.data.report import DataReport, SplitReport
from training.recipe import TextData

TEXT_ENDINGS = (".txt", ".text", ".md")
Document = tuple[str, str]  # file, text


@dataclass(frozen=True, slots=True)
class TextSplits:
    """Documents of the three splits and the report on them. `sources`: split -> the file of each of its documents."""

    train: Sequence[str]
    valid: Sequence[str]
    test: Sequence[str]
    report: DataReport
    sources: Mapping[str, Sequence[str]]

    def texts(self, split: str) -> Sequence[str]:
        """The documents of one split."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]

    def sha256(self, split: str) -> str:
        """Digest of the documents of one split."""
        return self.report.splits[split].sha256


def load_texts(data: TextData) -> TextSplits:
    """Read the documents; where valid or test has no source of its own, cut it off the end of train.

    Raises DataError: a source cannot be read, has no text, or is not in the recipe's encoding.
    """
    documents: dict[str, list[Document]] = {}
    reports: dict[str, SplitReport] = {}
    for split in ("train", "valid", "test"):
        source = getattr(data, split)
        if source is not None:
            read = _read(split, source, data.encoding)
            documents[split] = [(file, text) for file, text in read if text.strip()]
            empty = len(read) - len(documents[split])
            reasons = {"empty document": empty} if empty else {}
            reports[split] = SplitReport(source=source, read=len(read), used=0, rejected=empty, reject_reasons=reasons)
            if not documents[split]:
                raise DataError(f"data.{split} {source!r} has no text.")
    total = sum(len(text) for _, text in documents["train"])
    for split, share in (("test", data.test_share), ("valid", data.valid_share)):
        if split not in documents:
            documents["train"], documents[split] = _cut(documents["train"], int(total * share))
            source = f"the last {share:.0%} of data.train" if split == "test" else f"{share:.0%} of data.train, its end"
            reports[split] = SplitReport(source=source, read=len(documents[split]), used=0)
    texts = {split: [text for _, text in held] for split, held in documents.items()}
    for split, report in reports.items():
        if not texts[split]:
            raise DataError(f"data.{split} is empty: {total} characters of train are too few to cut it off; give more.")
        reports[split] = report.model_copy(
            update={
                "read": len(texts[split]) + report.rejected,  # what was cut off train counts where it went
                "used": len(texts[split]),
                "characters": sum(map(len, texts[split])),
                "sha256": _sha256_of(texts[split]),
            }
        )
    ordered = {split: reports[split] for split in ("train", "valid", "test")}
    sources = {split: [file for file, _ in held] for split, held in documents.items()}
    return TextSplits(texts["train"], texts["valid"], texts["test"], DataReport(splits=ordered), sources)


def _read(split: str, source: str, encoding: str) -> list[Document]:
    try:
        # A file that is named outright may be called anything; of a folder only texts are meant.
        files = [source] if exists(source) else [f for f in list_files(source) if f.endswith(TEXT_ENDINGS)]
    except (OSError, ValueError) as error:
        raise DataError(f"data.{split} {source!r} cannot be read: {error}") from None
    if not files:
        raise DataError(f"data.{split} {source!r} has no files that end in {', '.join(TEXT_ENDINGS)}.")
    documents = []
    for file in files:
        try:
            documents.append((file, read_bytes(file).decode(encoding)))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: byte {error.start} is not {encoding}: {error.reason}. Set data.encoding to the file's own."
            ) from None
        except LookupError:
            raise DataError(f"data.encoding {encoding!r} is no encoding that Python knows.") from None
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}") from None
    return documents


def _cut(documents: Sequence[Document], characters: int) -> tuple[list[Document], list[Document]]:
    """The last `characters` of the documents go to the second list; a document is cut after a line, if it has one."""
    kept = list(documents)
    gone: list[Document] = []
    while kept and characters > 0:
        file, last = kept.pop()
        if len(last) <= characters:
            gone.insert(0, (file, last))
            characters -= len(last)
            continue
        at = len(last) - characters
        at = last.rfind("\n", 0, at) + 1 or at
        kept.append((file, last[:at]))
        gone.insert(0, (file, last[at:]))
        break
    return kept, gone


def _sha256_of(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(f"{len(encoded)}\n".encode() + encoded)
    return digest.hexdigest()
