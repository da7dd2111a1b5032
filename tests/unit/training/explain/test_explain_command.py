"""The command on artifacts of every kind: a page that opens offline, JSON that reads back, clear errors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.load import load_engine
from runtime.manifest import verify
from tests.unit.training.explain.subject import CHINESE, pair_rows, write_run
from training.bootstrap import Range
from training.data.splits import TextSplits, load_splits
from training.evaluate import evaluate_generation
from training.explain import samples, speed
from training.explain.command import main
from training.explain.errors import describe
from training.explain.likelihood import TextLosses, text_losses
from training.explain.report import NAMES, page, read_explanation, topic
from training.explain.slices import Condition, Slice
from training.explain.words import Words
from training.pages.page import Page, Section
from training.recipe import Recipe
from training.run_folder import clear

pytestmark = pytest.mark.unit


def explained(folder: Path, *options: str, kind: str = "matching", **changed: Any) -> tuple[str, dict[str, Any]]:
    """The page and the JSON of a fake artifact."""
    artifact, recipe = write_run(folder, kind, **changed)
    assert main([str(artifact), "--recipe", str(recipe), *options]) == 0
    verify(artifact)  # nothing was put into it
    html = (folder / "explain-model.html").read_text(encoding="utf-8")
    return html, json.loads((folder / "explain-model.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", ["matching", "embedding", "generation"])
def test_every_topic_of_a_kind_is_there_and_the_page_fetches_nothing(tmp_path: Path, kind: str) -> None:
    html, found = explained(tmp_path, "--seconds", "0", kind=kind)
    expected = {name for name in NAMES if kind in topic(name).kinds} - {"training", "samples", "flips", "drift"}
    assert found["topics"].keys() == expected
    assert not re.search(r"(src|href)=[\"'](?!#)", html.replace('xlink:href="#', ""))
    assert "url(http" not in html
    assert "<script" not in html
    (timed,) = found["topics"]["inference"]["artifacts"]
    assert {(cell["batch"], cell["tokens"]) for cell in timed["cells"]} == {
        (batch, length) for batch in (1, 8, 32) for length in (16, 32, 64, 128)
    }
    assert all(cell["p50_ms"] > 0 and cell["items_per_s"] > 0 for cell in timed["cells"])


def test_an_artifact_that_cannot_be_timed_costs_only_its_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "LOADING_LIMIT_S", 0.01)
    html, found = explained(tmp_path, "--seconds", "0", "--skip", "behaviours")
    assert "quality" in found["topics"]
    inference = found["topics"]["inference"]
    assert inference["artifacts"] == []
    assert "measuring took more than 0.01 s" in inference["failed"][0]
    assert "measuring took more than 0.01 s" in html


def test_the_findings_are_the_page_and_the_page_speaks_chinese(tmp_path: Path) -> None:
    rows = pair_rows(120, 2, CHINESE, "")
    html, found = explained(tmp_path, "--skip", "inference", "--lang", "zh", rows=rows)
    assert '<html lang="zh">' in html
    assert "模型错误" in html
    assert CHINESE[0] in html
    assert {each["conditions"][0]["feature"] for each in found["topics"]["errors"]["slices"]} >= {"overlap", "numbers"}
    data = tmp_path / "explain-model.json"
    assert main([str(data), "--html", str(tmp_path / "again.html")]) == 0
    assert "Model errors" in (tmp_path / "again.html").read_text(encoding="utf-8")
    bare = [
        re.sub(r"<svg.*?</svg>", "", each, flags=re.DOTALL)
        for each in (html, page(read_explanation(data), "zh").html())
    ]
    assert bare[0] == bare[1]  # but for the ids within plots


def test_every_phrase_has_a_translation_with_the_same_places() -> None:
    import yaml

    table = yaml.safe_load(Path("training/explain/zh.yaml").read_text(encoding="utf-8"))
    for phrase, translated in table.items():
        assert set(re.findall(r"{\w+}", phrase)) == set(re.findall(r"{\w+}", translated)), phrase
    with pytest.raises(KeyError):
        Words("zh")("a phrase that nobody translated")
    assert Words("en")("given {label}", label="x") == "given x"
    assert Words("zh").known("COL price") == "COL price"
    to = Slice(
        conditions=(Condition(feature="word", value="to"), Condition(feature="negation", value="one")),
        rows=1, marked=1, rate=Range(value=1, low=0, high=1), rate_outside=0, p=1, q=1,
    )  # fmt: skip
    assert describe(to, Words("zh")) == "词: to + 否定: 一侧有"


def test_the_threshold_and_the_rows_follow_the_options(tmp_path: Path) -> None:
    options = ("--skip", "inference", "behaviours", "--cost-missed", "20", "--rows", "60", "--split", "test")
    _, found = explained(tmp_path, *options)
    quality = found["topics"]["quality"]
    assert (quality["rows"], found["split"]) == (60, "test")
    assert quality["choice"]["cost_missed"] == 20
    assert quality["choice"]["chosen"] <= quality["choice"]["current"]
    assert quality["calibration"]["fitted_on"] == "valid"
    assert np.sum(quality["confusion"]) == 60
    assert "behaviours" not in found["topics"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{folder}/nothing"], 1, "is not there; give a run folder"),
        (["{folder}"], 1, "has no checkpoint yet"),
        (["{artifact}"], 1, "add --recipe CONFIG"),
        (["{artifact}", "--recipe", "{folder}/none.yaml"], 2, "no such file"),
        (["{artifact}", "--recipe", "{recipe}", "data.valid=/nowhere.jsonl"], 1, "no such file"),
        (["{folder}/valid.json"], 1, "is no explanation"),
    ],
)
def test_what_cannot_be_explained_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    artifact, recipe = write_run(tmp_path)
    (tmp_path / "valid.json").write_text("{}")
    filled = [each.format(folder=tmp_path, artifact=artifact, recipe=recipe) for each in arguments]
    assert main(filled) == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("explain*"))


def test_a_recipe_for_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, _ = write_run(tmp_path)
    _, recipe = write_run(tmp_path / "other", "generation")
    assert main([str(artifact), "--recipe", str(recipe)]) == 1
    assert "is of kind matching" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(artifact), "--cost-missed", "-1"])


def losses_of(folder: Path) -> tuple[TextLosses, TextSplits, Any]:
    from records.document import read_document

    artifact, recipe = write_run(folder, "generation")
    splits = load_splits(read_document(recipe, Recipe))
    assert isinstance(splits, TextSplits)
    engine = load_engine(artifact)
    named = list(zip(splits.sources["valid"], splits.texts("valid"), strict=True))
    return text_losses(engine, named), splits, engine  # type: ignore[arg-type]


def test_losses_add_up_to_the_perplexity_of_an_evaluation(tmp_path: Path) -> None:
    found, splits, engine = losses_of(tmp_path)
    assert [Path(each.source).name for each in found.documents] == ["poem-0.txt", "poem-1.txt", "poem-2.txt"]
    expected = evaluate_generation(engine, splits.texts("valid")[0])["perplexity"]
    assert np.exp(found.documents[0].losses.mean()) == pytest.approx(expected, rel=1e-5)
    assert "".join(found.documents[0].texts) == splits.texts("valid")[0]
    assert found.windows[0] >= 3


def test_what_a_review_found_is_shown_in_both_languages(tmp_path: Path) -> None:
    suspect = {"row": "train:7", "where": "a/pairs.jsonl:7", "text_a": "a", "text_b": "b", "label": "1", "rank": 1}
    suspect |= {"suggested": "0", "suspicion": 0.9, "fingerprint": "r1"}
    reasons = [{"kind": "outlier", "text": "far"}]
    review = {"rows": {"train": 3}, "sha256": {}, "encoder": "e", "seed": 1, "counted_errors": {"train": 1}}
    (tmp_path / "review").mkdir()
    whole = review | {"suspects": [suspect | {"reasons": reasons}]}
    (tmp_path / "review" / "review.json").write_text(json.dumps(whole))
    found = samples.find(SimpleNamespace(run=tmp_path))  # type: ignore[arg-type]
    assert found is not None
    assert samples.find(SimpleNamespace(run=tmp_path / "other")) is None  # type: ignore[arg-type]
    phrases = {"en": ("count: train 1 / 3", "outlier"), "zh": ("标签错误数：train 1 / 3", "离群")}
    for language, (title, kind) in phrases.items():
        section = Section("samples")
        samples.show(found, section, Words(language))
        shown = Page("x", sections=[section]).html()
        assert title in shown
        assert kind in shown
        assert "pairs.jsonl:7" in shown
    assert samples.SampleFindings.model_validate_json(found.model_dump_json()) == found


def test_a_fresh_training_takes_the_pages_of_the_old_weights_away(tmp_path: Path) -> None:
    pages = ["explain.html", "explain.json", "explain-int8.html", "explain-int8.json"]
    for name in (*pages, "notes.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "review").mkdir()  # of the data, which are the same
    clear(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "review"]
