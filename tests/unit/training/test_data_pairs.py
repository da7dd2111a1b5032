"""Pairs in: each row is used, rejected or dropped, and the report says which, where and why."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.training.tiny import pair_rows, write_jsonl
from training.data.errors import DataError
from training.data.pairs import label_text
from training.data.splits import PairSplits, load_pairs
from training.recipe import PairData

pytestmark = pytest.mark.unit
GOOD = {"text_a": "a", "text_b": "b", "label": 1}


def load(
    folder: Path,
    train: Sequence[Mapping[str, Any]] | None = None,
    valid: Sequence[Mapping[str, Any]] | None = None,
    test: Sequence[Mapping[str, Any]] | None = None,
    **settings: Any,
) -> PairSplits:
    splits = {"train": train, "valid": valid, "test": test}
    urls = {
        name: str(write_jsonl(folder / f"{name}.jsonl", pair_rows(20, seed) if rows is None else rows))
        for seed, (name, rows) in enumerate(splits.items())
    }
    return load_pairs(PairData(**urls, **settings))


def pair(a: str, b: str, label: int = 1) -> dict[str, Any]:
    return {"text_a": a, "text_b": b, "label": label}


BOTH_CLASSES = [pair("x1", "y1", 0), pair("x2", "y2", 1)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text_a": "", "text_b": "b", "label": 1}, "text_a is empty"),
        ({"text_a": "a", "text_b": " \n", "label": 1}, "text_b is empty"),
        ({"text_a": "a", "text_b": None, "label": 1}, "text_b is not text"),
        ({"text_a": 5, "text_b": "b", "label": 1}, "text_a is not text"),
        ({"text_a": ["a"], "text_b": "b", "label": 1}, "text_a is not text"),
        ({"text_a": "\ud800", "text_b": "b", "label": 1}, "text_a is not well-formed Unicode"),
        ({"text_b": "b", "label": 1}, "no column 'text_a'"),
        ({"text_a": "a", "text_b": "b"}, "no column 'label'"),
        ({"text_a": "a", "text_b": "b", "label": None}, "label is empty"),
        ({"text_a": "a", "text_b": "b", "label": "maybe"}, "unknown label"),
        ({"text_a": "a", "text_b": "b", "label": True}, "unknown label"),
        ({"text_a": "a", "text_b": "b", "label": 0.5}, "unknown label"),
        ({"text_a": "a", "text_b": "b", "label": {}}, "unknown label"),
    ],
)
def test_a_bad_row_is_named_and_set_aside(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    splits = load(tmp_path, [*pair_rows(20, 9), row], bad_rows="reject", max_reject_share=0.1)
    ((split, reject),) = splits.rejects
    assert (split, reject.reason, reject.where) == ("train", reason, f"{tmp_path}/train.jsonl:21")
    report = splits.report.splits["train"]
    assert (report.read, report.used, report.rejected, report.reject_reasons) == (21, 20, 1, {reason: 1})

    with pytest.raises(DataError, match=rf"train.jsonl:21: {reason[:8]}"):
        load(tmp_path, [*pair_rows(20, 9), row])


def test_a_line_that_is_no_json_is_a_bad_row_too(tmp_path: Path) -> None:
    urls = [str(write_jsonl(tmp_path / f"{n}.jsonl", pair_rows(20, n))) for n in range(3)]
    with (tmp_path / "0.jsonl").open("a") as stream:
        stream.write('{"text_a": \n')
    splits = load_pairs(PairData(train=urls[0], valid=urls[1], test=urls[2], bad_rows="reject", max_reject_share=0.05))
    (_, reject) = splits.rejects[0]
    assert reject.row == {"raw": '{"text_a": '}
    assert reject.reason == "unreadable row"


def test_too_many_rejects_fail_the_run(tmp_path: Path) -> None:
    rows = [*pair_rows(20, 9), {"text_a": "a"}]
    with pytest.raises(DataError, match=r"1 of 21 rows \(4.8%\).*max_reject_share is 1.0%"):
        load(tmp_path, rows, bad_rows="reject")


def test_other_column_names_are_hinted_at(tmp_path: Path) -> None:
    rows = [{"question1": "a", "question2": "b", "is_duplicate": 1}] * 3
    with pytest.raises(DataError, match=r"data.columns.text_a=…"):
        load(tmp_path, rows)
    columns = {"text_a": "question1", "text_b": "question2", "label": "is_duplicate"}
    for name in ("train", "valid", "test"):
        lines = [{"question1": f"{name}{n}", "question2": "b", "is_duplicate": n % 2} for n in range(4)]
        write_jsonl(tmp_path / f"{name}.jsonl", lines)
    urls = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "valid", "test")}
    assert load_pairs(PairData(**urls, columns=columns)).report.splits["train"].labels == {"0": 2, "1": 2}


def test_labels_of_a_csv_are_mapped_as_they_stand(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        with (tmp_path / f"{name}.csv").open("w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text_a", "text_b", "label"])
            writer.writerows([[f"{name} eins", "zwei", "ja "], [f"{name}, drei", "vier\nfünf", "nein"]])
    urls = {name: str(tmp_path / f"{name}.csv") for name in ("train", "valid", "test")}
    splits = load_pairs(PairData(**urls, labels=("nein", "ja"), positive="ja"))
    assert [(row.text_b, row.label) for row in splits.train] == [("zwei", "ja"), ("vier\nfünf", "nein")]


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (1.0, "1"), ("1 ", "1"), (True, "true"), (0.5, "0.5"), (None, None), ([], None)]
)
def test_label_text(value: object, text: str | None) -> None:
    assert label_text(value) == text


def test_duplicates_are_counted_in_both_orders_and_conflicts_shown_first(tmp_path: Path) -> None:
    rows = [*BOTH_CLASSES, pair("x1", "y1", 0), pair("y2", "x2", 1), pair("y1", "x1", 1)]
    report = load(tmp_path, rows).report
    found = report.splits["train"].duplicates
    assert found is not None
    assert (found.same, found.swapped, found.conflicting) == (1, 2, 1)
    file = tmp_path / "train.jsonl"
    assert found.examples[0] == f"{file}:5 is the swapped pair of {file}:1, labelled '1' and '0'"
    assert report.splits["train"].used == 5
    assert any("contradict" in warning for warning in report.warnings)
    assert any("2 swapped, 1 with another label" in line for line in report.lines())


def test_duplicates_dropped_or_refused(tmp_path: Path) -> None:
    rows = [*BOTH_CLASSES, pair("x1", "y1", 0), pair("y1", "x1", 1)]
    splits = load(tmp_path, rows, duplicates="drop")
    assert [row.where[-1] for row in splits.train] == ["1", "2"]
    assert splits.report.splits["train"].dropped_duplicates == 2
    with pytest.raises(DataError, match=r"duplicates: 2 pairs stand twice, 1 of them with another label"):
        load(tmp_path, rows, duplicates="fail")


def test_leakage_is_reported_dropped_from_train_or_refused(tmp_path: Path) -> None:
    train = [*BOTH_CLASSES, pair("t1", "t2", 1), pair("v1", "v2", 0)]
    valid = [*pair_rows(10, 1), pair("v2", "v1", 0), pair("w1", "w2", 1)]
    test = [*pair_rows(10, 2), pair("t1", "t2", 0), pair("w1", "w2", 1)]

    report = load(tmp_path, train, valid, test).report
    found = {(leak.earlier, leak.later): leak.overlap for leak in report.leakage}
    assert {key: (o.same, o.swapped, o.conflicting) for key, o in found.items()} == {
        ("train", "valid"): (0, 1, 0),
        ("train", "test"): (1, 0, 1),
        ("valid", "test"): (1, 0, 0),
    }
    assert sum("figures are too good" in warning for warning in report.warnings) == 3

    splits = load(tmp_path, train, valid, test, leakage="drop")
    counts = {name: (s.read, s.used, s.dropped_leaks) for name, s in splits.report.splits.items()}
    assert counts == {"train": (4, 2, 2), "valid": (12, 11, 1), "test": (12, 12, 0)}
    assert not any("figures are too good" in warning for warning in splits.report.warnings)

    with pytest.raises(DataError, match=r"leakage: 3 pairs"):
        load(tmp_path, train, valid, test, leakage="fail")


def test_a_class_that_a_split_lacks_is_an_error_and_a_rare_one_a_warning(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.valid has no row labelled '0'"):
        load(tmp_path, valid=[pair(f"a{n}", "b") for n in range(5)])
    rare = [*(pair(f"a{n}", "b") for n in range(30)), pair("c", "d", 0)]
    assert load(tmp_path, rare).report.warnings == ("train: only 1 of 31 rows (3.2%) are '0'",)


def test_an_empty_or_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.test '.*test.jsonl' has no rows"):
        load(tmp_path, test=[])
    with pytest.raises(DataError, match=r"data.train 'nowhere.jsonl' cannot be read: .*no such"):
        load_pairs(PairData(train="nowhere.jsonl", valid="x", test="y"))


def test_the_hash_is_of_the_rows_and_not_of_the_file(tmp_path: Path) -> None:
    rows = pair_rows(20, 5)
    first = load(tmp_path, rows).sha256("train")
    wider = [{"id": n, **row, "label": str(row["label"])} for n, row in enumerate(rows)]
    assert load(tmp_path, wider).sha256("train") == first
    assert load(tmp_path, rows[::-1]).sha256("train") != first


ROWS = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "text_a": st.sampled_from(["a", "b", "c", "", 3]),
            "text_b": st.sampled_from(["a", "b", "c", None]),
            "label": st.sampled_from([0, 1, "1", "x", None]),
        },
    ),
    max_size=25,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(train=ROWS, valid=ROWS, test=ROWS, drop=st.booleans())
def test_counts_reconcile_whatever_comes_in(
    tmp_path: Path, train: list[Any], valid: list[Any], test: list[Any], drop: bool
) -> None:
    # Rows that cannot be anything else keep every split alive with both classes.
    kept = {name: [pair(f"{name} 1", "p", 0), pair(f"{name} 2", "q", 1)] for name in ("train", "valid", "test")}
    rule = "drop" if drop else None
    splits = load(
        tmp_path,
        [*kept["train"], *train],
        [*kept["valid"], *valid],
        [*kept["test"], *test],
        bad_rows="reject",
        max_reject_share=1,
        duplicates=rule or "keep",
        leakage=rule or "report",
    )
    for name, rows in (("train", train), ("valid", valid), ("test", test)):
        report = splits.report.splits[name]
        assert report.read == len(rows) + 2
        assert report.read == report.used + report.rejected + report.dropped_duplicates + report.dropped_leaks
        assert report.used == len(splits.rows(name)) == sum(report.labels.values())
        assert report.rejected == sum(split == name for split, _ in splits.rejects)
    if drop:
        keys = [frozenset((row.text_a, row.text_b)) for name in ("train", "valid", "test") for row in splits.rows(name)]
        assert len(keys) == len(set(keys))
