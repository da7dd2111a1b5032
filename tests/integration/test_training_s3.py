"""Training data from S3: the same rows, hashes and places as from disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from records import s3
from tests.integration.s3_server import environ_of, fresh_buckets, moto_server
from tests.unit.training.tiny import pair_rows, write_jsonl
from training.data.errors import DataError
from training.data.splits import load_pairs
from training.data.texts import load_texts
from training.recipe import PairData, TextData

pytestmark = pytest.mark.integration


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with moto_server() as endpoint:
        for name, value in environ_of(endpoint).items():
            monkeypatch.setenv(name, value)
        s3.client.cache_clear()
        yield fresh_buckets(endpoint, "data")
        s3.client.cache_clear()


def test_pairs_and_texts_come_from_s3_as_from_disk(bucket: Any, tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        file = write_jsonl(tmp_path / f"{split}.jsonl", [*pair_rows(10, seed), {"text_a": "x"}])
        bucket.put_object(Bucket="data", Key=f"pairs/{split}/part-0.jsonl", Body=file.read_bytes())
    rules: dict[str, Any] = {"bad_rows": "reject", "max_reject_share": 0.2}
    there = load_pairs(PairData(**{s: f"s3://data/pairs/{s}/" for s in ("train", "valid", "test")}, **rules))
    here = load_pairs(PairData(**{s: str(tmp_path / f"{s}.jsonl") for s in ("train", "valid", "test")}, **rules))
    assert [there.sha256(s) for s in ("train", "valid", "test")] == [here.sha256(s) for s in ("train", "valid", "test")]
    assert there.rejects[0][1].where == "s3://data/pairs/train/part-0.jsonl:11"

    bucket.put_object(Bucket="data", Key="texts/a.txt", Body=b"one\n" * 50)
    bucket.put_object(Bucket="data", Key="texts/b.txt", Body=b"two\n" * 50)
    splits = load_texts(TextData(train="s3://data/texts", test="s3://data/texts/b.txt"))
    assert "".join([*splits.train, *splits.valid]) == "one\n" * 50 + "two\n" * 50
    assert splits.test == ["two\n" * 50]
    with pytest.raises(DataError, match=r"data\.train 's3://nowhere/x' cannot be read: .*no such bucket"):
        load_texts(TextData(train="s3://nowhere/x"))
