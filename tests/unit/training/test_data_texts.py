"""Text in: documents, and the parts cut off the end of train; no character is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data.errors import DataError
from training.data.texts import load_texts
from training.recipe import TextData

pytestmark = pytest.mark.unit
TEXT = "".join(f"line {number}\n" for number in range(200))


def test_valid_and_test_are_cut_off_the_end_after_a_line(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(TEXT)
    splits = load_texts(TextData(train=str(tmp_path / "one.txt"), valid_share=0.1, test_share=0.2))
    assert "".join(splits.train[0] + splits.valid[0] + splits.test[0]) == TEXT
    assert splits.train[0].endswith("\n")
    assert splits.valid[0].endswith("\n")
    assert len(splits.test[0]) == pytest.approx(0.2 * len(TEXT), rel=0.05)
    assert len(splits.valid[0]) == pytest.approx(0.1 * len(TEXT), rel=0.1)
    characters = {name: split.characters for name, split in splits.report.splits.items()}
    assert sum(characters.values()) == len(TEXT)
    assert len({splits.sha256(name) for name in characters}) == 3


def test_whole_documents_move_and_one_is_cut(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text(str(number) * 100)
    (tmp_path / "readme.pdf").write_bytes(b"\xff")
    splits = load_texts(TextData(train=str(tmp_path), valid_share=0.15, test_share=0.25))
    assert [len(text) for text in splits.test] == [50, 100, 100]
    assert [len(text) for text in splits.valid] == [100, 50]
    assert "".join([*splits.train, *splits.valid, *splits.test]) == "".join(str(n) * 100 for n in range(10))
    for report in splits.report.splits.values():
        assert report.read == report.used + report.rejected


def test_own_files_for_each_split_and_empty_ones_counted(tmp_path: Path) -> None:
    for name, text in (("train", "a b"), ("valid", "c d"), ("test", "e f")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "train" / "b.txt").write_text(" \n")
    splits = load_texts(TextData(**{name: str(tmp_path / name) for name in ("train", "valid", "test")}))
    assert (splits.train, splits.valid, splits.test) == (["a b"], ["c d"], ["e f"])
    report = splits.report.splits["train"]
    assert (report.read, report.used, report.reject_reasons) == (2, 1, {"empty document": 1})


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("später".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin.txt: byte 2 is not utf-8-sig.*data.encoding"):
        load_texts(TextData(train=str(path)))
    with pytest.raises(DataError, match="no encoding"):
        load_texts(TextData(train=str(path), encoding="klingon"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="has no files"):
        load_texts(TextData(train=str(tmp_path / "empty")))
    (tmp_path / "blank.txt").write_text("\n")
    with pytest.raises(DataError, match="has no text"):
        load_texts(TextData(train=str(tmp_path / "blank.txt")))
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(DataError, match="too few"):
        load_texts(TextData(train=str(tmp_path / "short.txt")))
