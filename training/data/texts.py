"""Plain text for language models: files -> documents -> train, valid and test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from records.storage import exists, list_files, read_bytes
from training.data.errors import DataError
from training.data.report import DataReport, SplitReport
from training.recipe import TextData

TEXT_ENDINGS = (".txt", ".text", ".md")


@dataclass(frozen=True, slots=True)
class TextSplits:
    """Documents of the three splits and the report on them."""

    train: Sequence[str]
    valid: Sequence[str]
    test: Sequence[str]
    report: DataReport

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
    texts: dict[str, list[str]] = {}
    reports: dict[str, SplitReport] = {}
    for split in ("train", "valid", "test"):
        source = getattr(data, split)
        if source is not None:
            read = _read(split, source, data.encoding)
            texts[split] = [text for text in read if text.strip()]
            empty = len(read) - len(texts[split])
            reasons = {"empty document": empty} if empty else {}
            reports[split] = SplitReport(source=source, read=len(read), used=0, rejected=empty, reject_reasons=reasons)
            if not texts[split]:
                raise DataError(f"data.{split} {source!r} has no text.")
    total = sum(map(len, texts["train"]))
    for split, share in (("test", data.test_share), ("valid", data.valid_share)):
        if split not in texts:
            texts["train"], texts[split] = _cut(texts["train"], int(total * share))
            source = f"the last {share:.0%} of data.train" if split == "test" else f"{share:.0%} of data.train, its end"
            reports[split] = SplitReport(source=source, read=len(texts[split]), used=0)
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
    return TextSplits(texts["train"], texts["valid"], texts["test"], DataReport(splits=ordered))


def _read(split: str, source: str, encoding: str) -> list[str]:
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
            documents.append(read_bytes(file).decode(encoding))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file}: byte {error.start} is not {encoding}: {error.reason}. Set data.encoding to the file's own."
            ) from None
        except LookupError:
            raise DataError(f"data.encoding {encoding!r} is no encoding that Python knows.") from None
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error}") from None
    return documents


def _cut(texts: Sequence[str], characters: int) -> tuple[list[str], list[str]]:
    """The last `characters` of the documents go to the second list; a document is cut after a line, if it has one."""
    kept = list(texts)
    gone: list[str] = []
    while kept and characters > 0:
        last = kept.pop()
        if len(last) <= characters:
            gone.insert(0, last)
            characters -= len(last)
            continue
        at = len(last) - characters
        at = last.rfind("\n", 0, at) + 1 or at
        kept.append(last[:at])
        gone.insert(0, last[at:])
        break
    return kept, gone


def _sha256_of(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(f"{len(encoded)}\n".encode() + encoded)
    return digest.hexdigest()
