"""What a job is, fixed before it starts: settings, shards, ids, and what may not change."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.errors import CannotStart, PlanDiffers
from batch.job import Columns, Generate, Job
from batch.plan import Plan, PlannedFile, PlannedModel, check_same, list_inputs, make_plan, plan_model, survey
from batch.progress import Progress
from batch.reading import Item, Reader, Reject
from records.document import read_document
from runtime.backends.fake import write_fake_artifact
from runtime.manifest import replace_manifest

pytestmark = pytest.mark.unit
JOBS = sorted(Path("batch/jobs").glob("*.yaml"))
DIGEST = "0" * 64


def job_of(folder: Path, **fields: Any) -> Job:
    return Job.model_validate({"input": str(folder / "in"), "output": str(folder / "out"), "model": "m", **fields})


def planned(job: Job, model: PlannedModel | None = None) -> Plan:
    model = model or PlannedModel(tag="m:1", digest=DIGEST, kind="matching", threshold=0.5, labels=("no", "yes"))
    found = survey(Reader(job, model.kind), list_inputs(job), Progress(io.StringIO()))
    return make_plan(job, model, found)


def put(folder: Path, name: str, *rows: object) -> None:
    path = folder / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


def pair(**more: object) -> dict[str, object]:
    return {"text_a": "a", "text_b": "b", **more}


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(1, 20))
def test_shards_cover_every_row_once_and_have_names_of_their_own(rows: list[int], size: int) -> None:
    files = tuple(PlannedFile(url=f"{n}.csv", size_bytes=1, version="v", rows=each) for n, each in enumerate(rows))
    model = PlannedModel(tag="m:1", digest=DIGEST, kind="matching")
    plan = Plan(files=files, model=model, settings={"shard_rows": size}, duplicate_ids=0, duplicates=())
    assert sum(plan.all_shards().values()) == plan.rows == sum(rows)
    assert sum(len(plan.shards(place)) for place in range(len(rows))) == len(plan.all_shards())
    assert all(0 < count <= size for count in plan.all_shards().values())
    assert list(plan.all_shards()) == sorted(plan.all_shards())


@given(st.integers(0, 30), st.integers(1, 8), st.sets(st.integers(0, 30)))
def test_the_reader_cuts_what_the_plan_says(rows: int, size: int, wanted: set[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        put(folder, "x.jsonl", *(pair(n=n) if n % 3 else "bad" for n in range(rows)))
        job = job_of(folder, shard_rows=size, max_error_share=1)
        plan = planned(job)
        shards = plan.shards(0)
        asked = {shard for place, shard in enumerate(shards) if place in wanted}
        cut = list(Reader(job, "matching").cut(0, plan.files[0].url, asked))
    assert [shard.name for shard in cut] == [shard for shard in shards if shard in asked]
    assert all(len(shard.rows) == shards[shard.name] for shard in cut)
    for shard in cut:
        first = list(shards).index(shard.name) * size
        assert [row.line for row in shard.rows] == list(range(first + 1, first + 1 + len(shard.rows)))


def test_ids_are_the_column_or_the_place(tmp_path: Path) -> None:
    put(tmp_path, "a/x.jsonl", pair(id="p"), pair(id=7), pair(), pair(id=""), pair(id=None))
    put(tmp_path, "b/x.jsonl", pair(), pair(id=True), pair(id="\ud800"), pair(id=[1]))
    job = job_of(tmp_path)
    reader = Reader(job, "matching")
    rows = [row for entry in list_inputs(job) for row in reader.rows(entry.url)]
    assert [row.id for row in rows] == [
        "p", "7", "a/x.jsonl#3", "a/x.jsonl#4", "a/x.jsonl#5", "b/x.jsonl#1", None, None, None,
    ]  # fmt: skip
    assert [row.reason for row in rows if isinstance(row, Reject)] == [
        "the id is neither text nor a whole number but bool",
        "id holds a lone surrogate (U+D800) at character 0; send well-formed Unicode",
        "the id is neither text nor a whole number but list",
    ]
    strict = Reader(job_of(tmp_path, columns={"id": "id"}), "matching")
    found = list(strict.rows(f"{tmp_path}/in/a/x.jsonl"))
    assert [isinstance(row, Item) for row in found] == [True, True, False, False, False]


def test_of_one_file_the_place_is_its_name(tmp_path: Path) -> None:
    put(tmp_path, "x.jsonl", pair())
    job = job_of(tmp_path, input=f"{tmp_path}/./in/x.jsonl")
    (row,) = Reader(job, "matching").rows(list_inputs(job)[0].url)
    assert row.id == "x.jsonl#1"


def test_duplicates_are_counted_and_named_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.jsonl", pair(id="p"), pair(id="q"), pair(id="p"))
    put(tmp_path, "b.jsonl", pair(id="p"), pair(id="r"))
    expected = (f"'p' at {tmp_path}/in/a.jsonl:1 and {tmp_path}/in/a.jsonl:3",
                f"'p' at {tmp_path}/in/a.jsonl:1 and {tmp_path}/in/b.jsonl:1")  # fmt: skip
    plan = planned(job_of(tmp_path))
    assert (plan.duplicate_ids, plan.duplicates) == (2, expected)
    # Keys that collide are suspects, no proof.
    monkeypatch.setattr("batch.plan._key", lambda text: 1)
    plan = planned(job_of(tmp_path))
    assert (plan.duplicate_ids, plan.duplicates) == (2, expected)


def test_a_plan_is_the_same_every_time_and_reads_back(tmp_path: Path) -> None:
    put(tmp_path, "x.jsonl", pair())
    plan = planned(job_of(tmp_path))
    assert plan.to_bytes() == planned(job_of(tmp_path, workers=3, max_error_share=0.5)).to_bytes()
    assert Plan.model_validate_json(plan.to_bytes()) == plan
    assert planned(job_of(tmp_path, shard_rows=3)).digest != plan.digest


def test_a_mapping_that_fits_no_row_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "x.jsonl", pair(), pair())
    with pytest.raises(CannotStart, match=r"none of the 2 rows .*/x\.jsonl:1: no column 'q'; it has"):
        planned(job_of(tmp_path, columns={"text_a": "q"}))
    assert planned(job_of(tmp_path, columns={"text_a": "q"}, max_error_share=1)).rows == 2


def test_what_may_change_between_runs_and_what_may_not(tmp_path: Path) -> None:
    put(tmp_path, "x.jsonl", pair())
    job = job_of(tmp_path)
    plan = planned(job)
    check_same(
        plan, job_of(tmp_path, workers=2, max_error_share=1, input=f"{tmp_path}/in/"), list_inputs(job), plan.model
    )
    (tmp_path / "in/x.jsonl").unlink()
    put(tmp_path, "y.jsonl", pair())
    model = plan.model.model_copy(update={"tag": "m:2", "digest": "1" * 64, "labels": ("no", "maybe")})
    with pytest.raises(PlanDiffers) as caught:
        check_same(plan, job_of(tmp_path, encoding="cp1252", generate={"seed": 3}), list_inputs(job), model)
    assert str(caught.value).splitlines()[1:-1] == [
        "  model: it was m:1 (000000000000), now m:2 (111111111111)",
        "  encoding: it was 'utf-8-sig', now 'cp1252'",
        "  generate.seed: it was 7, now 3",
        "  labels: it was ('no', 'yes'), now ('no', 'maybe')",
        f"  input: {tmp_path}/in/x.jsonl is gone",
        f"  input: {tmp_path}/in/y.jsonl is new",
    ]


def test_a_threshold_that_changes_in_the_manifest_is_another_plan(tmp_path: Path) -> None:
    # The digest is over files; the manifest's threshold is not among them, and decides what a match is.
    manifest = write_fake_artifact(tmp_path / "m", "matching")
    changed = manifest.model_copy(update={"threshold": 0.9})
    replace_manifest(tmp_path / "m", changed)
    job = job_of(tmp_path)
    put(tmp_path, "x.jsonl", pair())
    before, after = (plan_model(job, "m:1", each) for each in (manifest, changed))
    assert before.digest == after.digest
    with pytest.raises(PlanDiffers, match=r"threshold: it was 0\.5, now 0\.9"):
        check_same(planned(job, before), job, list_inputs(job), after)
    fixed = job_of(tmp_path, threshold=0.7)
    before, after = (plan_model(fixed, "m:1", each) for each in (manifest, changed))
    check_same(planned(fixed, before), fixed, list_inputs(fixed), after)


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        ("generation", {"truncate": True, "threshold": 0.5}, "threshold, truncate"),
        ("generation", {"columns": {"text_a": "q"}}, "columns.text_a"),
        ("matching", {"generate": {"seed": 1}}, "generate"),
        ("matching", {"columns": {"prompt": "q"}}, "columns.prompt"),
        ("embedding", {"generate": {"seed": 1}, "columns": {"prompt": "q"}}, r"generate, columns\.prompt"),
    ],
)
def test_settings_that_mean_nothing_for_the_model_are_refused(
    tmp_path: Path, kind: Any, fields: dict[str, Any], named: str
) -> None:
    manifest = write_fake_artifact(tmp_path / "m", kind)
    with pytest.raises(CannotStart, match=f"is a model of kind {kind}, for which {named} mean nothing"):
        plan_model(job_of(tmp_path, **fields), "m:1", manifest)
    plan_model(job_of(tmp_path, columns={"id": "key"}), "m:1", manifest)


@pytest.mark.parametrize("url", ["out", "out/", "out/x", "."])
def test_an_output_among_the_input_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="overlap"):
        Job(input="./out" if url == "." else "out", output=url, model="m")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_jobs_that_ship_are_valid(path: Path) -> None:
    read_document(path, Job)


def test_the_reference_table_has_every_setting_with_its_default() -> None:
    text = Path("docs/batch.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| `")]
    told = {name.strip(" `"): default.strip() for name, default in rows}
    declared: dict[str, object] = {}
    for name, field in Job.model_fields.items():
        section = field.default
        if isinstance(section, Columns | Generate):
            declared |= {f"{name}.{each}": value for each, value in section.model_dump().items()}
        else:
            declared[name] = "needed" if field.is_required() else section
    assert told == {name: default if default == "needed" else shown(default) for name, default in declared.items()}


def shown(default: object) -> str:
    return "" if default is None else f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"
