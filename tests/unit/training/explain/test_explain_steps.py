"""What a step broke, for pairs and for texts, and how a training went: on cases whose answer is known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from runtime.backends.fake import write_fake_artifact
from tests.unit.training.explain.subject import pair_rows, scored
from training.explain import flips
from training.explain.contract import ScoredRows, Subject
from training.explain.course import convergence, series
from training.explain.drift import StepDrift, compare
from training.explain.flips import StepFindings
from training.explain.likelihood import DocumentLosses, TextLosses
from training.explain.quality import QualityFindings
from training.explain.quality import find as quality
from training.explain.slices import TERM
from training.explain.subject import related
from training.explain.words import Words
from training.pages.page import Page, Section

pytestmark = pytest.mark.unit
ROWS = pair_rows(400, 9)
TRUTH = np.asarray([row["label"] == 1 for row in ROWS])
RIGHT = np.where(TRUTH, 0.9, 0.1)


def subject(**given: object) -> Subject:
    return SimpleNamespace(seed=7, splits=SimpleNamespace(train=[]), **given)  # type: ignore[return-value]


def step(before: np.ndarray, after: np.ndarray, threshold: float = 0.5) -> StepFindings:
    both = scored(ROWS, before.tolist()), scored(ROWS, after.tolist(), threshold)
    return flips.compare(*both, subject(), "int8", "fp32", ("int8",))


def test_what_changes_no_decision_is_no_flip() -> None:
    found = step(RIGHT, np.where(TRUTH, 0.6, 0.4))
    assert (found.newly_wrong, found.newly_right, found.flips, found.by_slice) == (0, 0, (), ())
    assert (found.p_worse, found.near_share, found.mean_change) == (1.0, None, 0.3)
    assert found.f1_change is not None
    assert (found.f1_change.value, found.f1_change.low, found.f1_change.high) == (0, 0, 0)


def test_each_artifact_decides_by_its_own_threshold() -> None:
    moved = step(RIGHT, RIGHT - 0.45, threshold=0.05)
    assert (moved.newly_wrong, moved.newly_right) == (0, 0)
    assert step(RIGHT, RIGHT - 0.45).newly_wrong == TRUTH.sum()


def test_flips_are_counted_by_their_side_and_the_largest_come_first() -> None:
    before, after = RIGHT.copy(), RIGHT.copy()
    matches, others = np.flatnonzero(TRUTH), np.flatnonzero(~TRUTH)
    after[matches[:12]] = np.linspace(0.40, 0.18, 12)  # newly missed, the last one by most
    before[others[:3]], after[others[:3]] = 0.52, 0.48  # newly right
    found = step(before, after)
    assert (found.rows, found.newly_wrong, found.newly_right) == (400, 12, 3)
    assert found.flip_rate.value == pytest.approx(15 / 400)
    assert found.p_worse == pytest.approx(0.01758, abs=1e-4)  # 12 heads or more of 15
    assert [flip.where for flip in found.flips[:2]] == [f"rows.jsonl:{matches[at] + 1}" for at in (11, 10)]
    assert all(flip.newly_wrong and flip.label == "1" for flip in found.flips)
    assert found.f1_change is not None
    assert found.f1_change.high < 0
    assert found.near_share is not None


def test_flips_near_the_threshold_are_told_from_those_far_from_it() -> None:
    before = np.linspace(0.01, 0.99, 400)
    near, far = before.copy(), before.copy()
    near[190:210] = 1 - before[190:210]
    far[:10] = 0.9
    shares = [found.near_share for found in (step(before, near), step(before, far))]
    assert [share and share.value for share in shares] == [1.0, 0.0]


def test_flips_of_one_word_are_a_cluster_and_scattered_ones_are_none() -> None:
    held = np.asarray(["loan" in row["text_a"] + row["text_b"] for row in ROWS])
    chance = np.random.default_rng(2)
    found = step(RIGHT, np.where(held & (chance.random(400) < 0.5), 1 - RIGHT, RIGHT))
    assert (TERM, "loan") in [(one.feature, one.value) for one in found.clusters[0].conditions]
    scattered = step(RIGHT, np.where(chance.random(400) < 0.05, 1 - RIGHT, RIGHT))
    assert scattered.newly_wrong > 5
    assert scattered.clusters == ()
    section = Section("flips")
    flips.show(flips.FlipFindings(steps=(found, scattered)), section, Words("zh"))
    assert "loan" in Page("x", sections=[section]).html()


def test_a_run_is_its_results_and_a_searched_one_all_that_was_made(tmp_path: Path) -> None:
    places = [tmp_path / name for name in ("checkpoint", "compressed/1-export-a", "compressed/2-int8-b")]
    for number, place in enumerate(places):
        write_fake_artifact(place, "matching", latency_s=number)
    assert related(places[0], None) == places[:1]
    assert sorted(related(places[0], tmp_path)) == places
    write_fake_artifact(tmp_path / "int8", "matching", latency_s=9)
    assert sorted(related(places[0], tmp_path)) == [places[0], tmp_path / "int8"]


# ---------------------------------------------------------------- language models


def words(count: int) -> list[str]:
    return [f" w{number}" for number in range(count)]


def texts(*losses: list[float]) -> TextLosses:
    documents = [
        DocumentLosses(
            f"poem-{number}", np.arange(len(each)), np.asarray(each), [f" w{at}" for at in range(len(each))], 9
        )
        for number, each in enumerate(losses)
    ]
    return TextLosses(documents, np.zeros(3), np.zeros(3, np.int64))


def drift(before: TextLosses, after: TextLosses) -> StepDrift:
    return compare(before, after, "int8", "fp32", ("int8",), 7)


def test_a_document_that_got_worse_is_told_from_one_that_did_not() -> None:
    before = texts([2.0] * 200, [3.0] * 200)
    found = drift(before, texts([2.0] * 200, [3.0] * 160 + [3.5] * 40))
    assert found.ratio.value == pytest.approx(np.exp(40 * 0.5 / 400), abs=1e-4)
    assert found.perplexity.value == pytest.approx(found.perplexity_before.value * found.ratio.value, rel=1e-4)
    assert found.worse_share == pytest.approx(0.1)
    same, worse = found.by_source
    assert (same.name, same.ratio.value, same.ratio.low, same.ratio.high) == ("poem-0", 1.0, 1.0, 1.0)
    assert worse.ratio.value == pytest.approx(np.exp(0.1), abs=1e-4)
    assert (found.worst[0].source, found.worst[0].mean) == ("poem-1", 0.5)
    assert found.worst[0].tokens[0] == (" w160", 0.5)
    assert all(each.mean > 0 for each in found.worst)
    assert drift(before, before).worst == ()


def test_a_small_loss_of_every_token_counts_in_the_ratio_alone() -> None:
    before = texts([2.0] * 300)
    found = drift(before, texts([2.05] * 300))
    assert (found.worse_share, found.ratio.low > 1) == (0, True)
    assert [each.name for each in found.by_source][:2] == ["poem-0 0–10 %", "poem-0 10–20 %"]


# ---------------------------------------------------------------- the course of a training


def entries(name: str, *values: float) -> list[dict[str, float]]:
    return [{"step": 10.0 * place, "seconds": 2.0 * place, name: value} for place, value in enumerate(values, 1)]


@pytest.mark.parametrize(
    ("name", "values", "best", "step"),
    [
        ("f1", (0.5, 0.7, 0.896, 0.9, 0.85), 0.9, 30),  # 0.396 of 0.4 are there
        ("f1", (0.5, 0.7, 0.895, 0.9), 0.9, 40),
        ("loss", (4.0, 3.0, 2.03, 2.0), 2.0, 40),  # here less is better
        ("loss", (4.0, 2.015, 2.0), 2.0, 20),
        ("f1", (0.9, 0.8), 0.9, 10),  # never better than at first
        ("f1", (0.9,), 0.9, 10),
    ],
)
def test_converged_is_the_first_validation_with_nearly_all_of_the_gain(
    name: str, values: tuple[float, ...], best: float, step: int
) -> None:
    log = [{"step": 1.0, "seconds": 0.1, "loss": 9.0}, *entries(f"valid_{name}", *values)]
    assert convergence(log, {"metric": name, "value": best})["step"] == step
    assert convergence(log, {"metric": "other", "value": 1.0}) == {}
    assert convergence(log, {}) == {}


def test_series_hold_each_figure_at_its_own_steps() -> None:
    log = [{"step": 1, "seconds": 0.1, "loss": 2.0, "lr": 0.1}, {"step": 2, "seconds": 0.2, "valid_f1": 0.5}]
    log.append({"step": 3, "seconds": 0.3, "loss": 1.0, "lr": None})  # type: ignore[dict-item]
    found = {each.name: (each.steps, each.values) for each in series(log)}
    assert found == {"loss": ((1, 3), (2.0, 1.0)), "lr": ((1,), (0.1,)), "valid_f1": ((2,), (0.5,))}
    assert series([]) == ()


# ---------------------------------------------------------------- three labels


def three_labels(kind: str, classes: np.ndarray | None) -> QualityFindings:
    rows = [{"text_a": f"a{at}", "text_b": "b", "label": at % 3} for at in range(90)]
    scores = np.asarray([0.9 if row["label"] == 1 else 0.2 for row in rows])
    scores[1] = 0.3  # a match that is missed
    data = scored(rows, scores.tolist())
    data = ScoredRows(**{name: getattr(data, name) for name in data.__slots__} | {"classes": classes})
    recipe = SimpleNamespace(data=SimpleNamespace(labels=("0", "1", "2"), positive="1"))
    costs = SimpleNamespace(false_match=1.0, missed=1.0)
    given = subject(
        kind=kind, split="valid", recipe=recipe, costs=costs, artifact=Path("x"), scored=lambda *asked: data
    )
    return quality(given)


def test_three_labels_are_told_apart_by_the_largest_probability() -> None:
    classes = np.full((90, 3), 0.1)
    classes[np.arange(90), np.arange(90) % 3] = 0.8
    classes[2] = (0.7, 0.1, 0.2)  # a 2 that is given as 0
    found = three_labels("matching", classes)
    assert found.confusion == ((30, 0, 0), (0, 30, 0), (1, 0, 29))
    assert [(each.rows, round(each.recall, 4)) for each in found.by_label] == [(30, 1), (30, 1), (30, 0.9667)]
    assert found.metrics["recall"].value == pytest.approx(29 / 30, abs=1e-6)  # of the positive label, by the threshold


def test_a_bi_encoder_knows_matches_and_the_rest() -> None:
    found = three_labels("embedding", None)
    assert found.confusion == ((60, 0, 0), (1, 29, 0), (0, 0, 0))
