"""A student comes to agree with its teacher: by logits, vectors, states; stopped and resumed; and what is refused."""

from __future__ import annotations

import json
import os
import random
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import transformers
from transformers import TrainerCallback

from models import encoder
from runtime.backends.fake import VOCABULARY, write_fake_artifact
from runtime.contract import Pair
from runtime.errors import InvalidInput
from runtime.load import load_engine
from runtime.manifest import Kind, read_manifest
from tests.unit.training.tiny import WORDS, encoder_folder, pair_rows, write_jsonl
from training.checkpoint import adopt_folder, seal_checkpoint
from training.compression.command import main as compress
from training.compression.new_student import begin_words
from training.compression.probe import Probe
from training.compression.step import Context
from training.compression.student import Student
from training.data.pairs import LabelledPair
from training.distillation.settings import Distillation
from training.distillation.task import distilling
from training.distillation.teacher import Teacher, check_kinds
from training.loop import train_loop
from training.matching_task import prepare_matching
from training.progress import ProgressReport, TrainLog
from training.recipe import Recipe, Train
from training.task import Task

pytestmark = pytest.mark.integration
SETTINGS = Train(learning_rate=3e-3, steps=60, warmup_steps=3, batch_size=16, validate_every=30)
ROWS = [LabelledPair(str(r["text_a"]), str(r["text_b"]), str(r["label"]), "") for r in pair_rows(160, 1)]
HELD_OUT = [Pair(str(r["text_a"]), str(r["text_b"])) for r in pair_rows(80, 2)]
PAIRS = [Pair(row.text_a, row.text_b) for row in ROWS]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair model that has learnt what the marks of the rows mean."""
    folder = tmp_path_factory.mktemp("teacher")
    task = matching_student(encoder_folder(folder / "base", num_hidden_layers=3), folder / "work")
    run(task, folder / "run")
    return saved(task, folder / "artifact")


def matching_student(base: Path, work: Path, max_tokens: int = 64) -> Task:
    """The training of a cross-encoder on `base`."""
    work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe.model_validate(
        {
            "name": "student",
            "model": {"kind": "matching", "base": str(base), "max_tokens": max_tokens, "dropout": 0.0},
            "data": {"train": "a", "valid": "b", "test": "c"},
        }
    )
    torch.manual_seed(7)
    return prepare_matching(recipe.model, recipe.data, SETTINGS, base, (ROWS, ROWS[:32]), work)  # type: ignore[arg-type]


def run(task: Task, folder: Path, steps: int = SETTINGS.steps) -> None:
    """Train, `steps` of SETTINGS' own."""
    folder.mkdir(parents=True, exist_ok=True)
    report = ProgressReport(TrainLog(folder / "log.jsonl", 0), terminal=False)
    train_loop(task, SETTINGS.model_copy(update={"steps": steps}), 7, folder / "trainer", report)


def saved(task: Task, folder: Path) -> Path:
    """The task's model as an artifact."""
    (task.save or task.model.save_pretrained)(folder)  # type: ignore[operator]
    task.tokenizer.save_pretrained(folder)
    seal_checkpoint(folder)
    return folder


def log_odds(artifact: Path) -> np.ndarray:
    """Its answers (N,) on pairs that nobody was trained on."""
    engine = load_engine(artifact)
    logits = np.stack([each.logits for each in engine.score(HELD_OUT)])  # type: ignore[union-attr]
    engine.close()
    return logits[:, 1] - logits[:, 0]


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def distilled(task: Task, teacher: Path, work: Path, **lesson: Any) -> Task:
    """`task` with the teacher at `teacher`, and pairs that nobody labelled."""
    further = [Pair(b.text_a, a.text_b) for a, b in pairwise(PAIRS)]
    settings = Distillation.model_validate(lesson)
    return distilling(task, "matching", PAIRS, further, Teacher(teacher, work / "answers"), settings, max_tokens=64)


STATES = {"outputs": 1.0, "hidden": 1.0, "attention": 1.0, "values": 1.0}


@pytest.mark.parametrize(
    "lesson",
    [
        {"outputs": 1.0},
        STATES,
        {"outputs": 1.0, "labels": 0.1, "temperature": 1.0},
    ],
    ids=["logits", "states", "labels too"],
)
def test_a_student_of_two_layers_comes_to_agree_with_its_teacher(
    lesson: dict[str, Any], teacher: Path, tmp_path: Path
) -> None:
    task = matching_student(encoder_folder(tmp_path / "base", num_hidden_layers=2), tmp_path / "work")
    taught = distilled(task, teacher, tmp_path, **lesson)
    answers = log_odds(teacher)
    before = agreement(log_odds(saved(task, tmp_path / "before")), answers)
    run(taught, tmp_path / "run")
    after = agreement(log_odds(saved(taught, tmp_path / "after")), answers)
    assert after > max(0.8, before + 0.3)


def test_no_gradient_reaches_the_teacher_and_its_answers_are_asked_for_once(teacher: Path, tmp_path: Path) -> None:
    task = matching_student(encoder_folder(tmp_path / "base"), tmp_path / "work")
    taught = distilled(task, teacher, tmp_path, **STATES)
    inside = taught.loss.args[3]  # type: ignore[union-attr]
    batch = taught.collate(taught.train[:8])
    loss, _ = taught.loss(taught.model, batch)  # type: ignore[misc]
    assert loss is not None
    loss.backward()
    frozen = list(inside._network.parameters())
    assert frozen
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in frozen)
    assert not inside._network.training
    # The states and the projections to them are learnt from, down to the first layer.
    assert all(parameter.grad is not None for name, parameter in task.model.named_parameters() if ".layer.0." in name)

    said: list[str] = []
    again = Teacher(teacher, tmp_path / "answers").answers([*PAIRS, PAIRS[0]], said.append)
    assert said  # other inputs: asked
    Teacher(teacher, tmp_path / "answers").answers([*PAIRS, PAIRS[0]], lambda line: pytest.fail(line))
    assert np.array_equal(again[0], again[-1])


class Stopped(Exception):
    pass


class StopAfter(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 15:
            raise Stopped


def test_a_distillation_that_was_stopped_ends_as_one_that_was_not(teacher: Path, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"steps": 24, "validate_every": 12})

    def train(name: str, callbacks: tuple[TrainerCallback, ...] = ()) -> dict[str, torch.Tensor]:
        transformers.set_seed(7)
        base = encoder_folder(tmp_path / name / "base", hidden_size=16)
        taught = distilled(matching_student(base, tmp_path / name / "work"), teacher, tmp_path, **STATES)
        log = TrainLog(tmp_path / name / "log.jsonl", 0)
        trainer = tmp_path / name / "trainer"
        train_loop(taught, settings, 7, trainer, ProgressReport(log, terminal=False), callbacks=callbacks)
        return taught.model.state_dict()

    whole = train("whole")
    with pytest.raises(Stopped):
        train("stopped", (StopAfter(),))
    resumed = train("stopped")
    assert any(name.startswith("projections.") for name in whole)  # the widths differ
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


@pytest.mark.parametrize(
    ("lesson", "message"),
    [
        ({"similarity": 1.0}, "this student is a pair model"),
        ({"hidden": 1.0, "layer_map": [3, 2]}, "layer_map .3, 2.: the student has 2 layers"),
        ({"hidden": 1.0, "layer_map": [1]}, "give 2 of the teacher's 1 … 3"),
        ({"hidden": 1.0, "layer_map": [1, 4]}, "give 2 of the teacher's 1 … 3"),
        ({"values": 1.0, "relation_heads": 3}, "relation_heads 3 must divide the widths"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    lesson: dict[str, Any], message: str, teacher: Path, tmp_path: Path
) -> None:
    task = matching_student(encoder_folder(tmp_path / "base"), tmp_path / "work")
    with pytest.raises(InvalidInput, match=message):
        distilled(task, teacher, tmp_path, **lesson)


def test_states_need_the_same_tokens_and_a_torch_teacher(teacher: Path, tmp_path: Path) -> None:
    shorter = matching_student(encoder_folder(tmp_path / "base"), tmp_path / "work", max_tokens=12)
    with pytest.raises(InvalidInput, match="into different tokens"):
        distilled(shorter, teacher, tmp_path, hidden=1.0)
    distilled(shorter, teacher, tmp_path, outputs=1.0)  # answers alone need no common tokens
    write_fake_artifact(tmp_path / "fake", "matching")
    with pytest.raises(InvalidInput, match="of format fake"):
        distilled(matching_student(tmp_path / "base", tmp_path / "work"), tmp_path / "fake", tmp_path, hidden=1.0)


@pytest.mark.parametrize(
    ("kind", "student", "labels", "message"),
    [
        ("matching", "matching", ("0", "1"), "The teacher's labels are different, same"),
        ("matching", "embedding", (), "it has no vectors"),
        ("embedding", "matching", ("a", "b", "c"), "the student has 3 labels"),
    ],
)
def test_a_teacher_of_another_kind_or_labels(
    kind: Kind, student: Kind, labels: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=message):
        check_kinds(write_fake_artifact(tmp_path / "fake", kind), student, labels)


def test_a_bi_encoder_teaches_a_pair_model_by_its_cosines(tmp_path: Path) -> None:
    write_fake_artifact(tmp_path / "fake", "embedding")
    answers = Teacher(tmp_path / "fake", tmp_path / "answers").answers(PAIRS, lambda _: None)
    engine = load_engine(tmp_path / "fake")
    scores = np.array([each.score for each in engine.score(PAIRS)])  # type: ignore[union-attr]
    engine.close()
    assert answers.shape == (len(PAIRS), 2)
    assert ((answers[:, 1] > answers[:, 0]) == (scores > 0.5)).all()
    assert agreement(answers[:, 1] - answers[:, 0], scores) > 0.999


@pytest.mark.parametrize("architecture", ["bilstm", "textcnn"])
def test_a_new_encoder_makes_a_pair_classifier_that_comes_to_agree(
    architecture: str, teacher: Path, tmp_path: Path
) -> None:
    step = Student.model_validate({"encoder": {"architecture": architecture, "embedding": 16, "hidden": 16}})
    context = Context(teacher, cast(Probe, None), tmp_path / "work")
    done = step.apply(teacher, tmp_path / "made", context)
    assert done["tokens"] == VOCABULARY
    task = matching_student(tmp_path / "made", tmp_path / "work")
    answers = log_odds(teacher)
    before = agreement(log_odds(saved(task, tmp_path / "before")), answers)
    taught = distilled(task, teacher, tmp_path, outputs=1.0)
    run(taught, tmp_path / "run")
    after = agreement(log_odds(saved(taught, tmp_path / "after")), answers)
    assert after > max(0.8, before + 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing would change"),
        ({"encoder": {}, "hidden": 8}, "hidden: sizes of the source's own network"),
        ({"encoder": {"architecture": "bert"}}, "unknown encoder architecture"),
    ],
)
def test_a_student_is_narrower_or_another_network(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Student.model_validate(settings)


def test_words_begin_as_the_teachers_in_fewer_dimensions() -> None:
    torch.manual_seed(1)
    # Words of the teacher in three directions: as many dimensions keep how far apart any two are, but for the scale.
    known = torch.randn(50, 3) @ torch.randn(3, 20)
    network = encoder.create("textcnn", vocab_size=50, embedding_size=3, hidden_size=8, pad_token_id=0)
    begin_words(network, known)
    words = network.get_input_embeddings().weight.detach()
    assert (words[0] == 0).all()
    assert words.std().item() == pytest.approx(network.config.initializer_range, rel=0.05)
    ratio = torch.pdist(words[1:]) / torch.pdist(known[1:])
    assert ratio.std() / ratio.mean() < 1e-4


# ---------------------------------------------------------------- bi-encoders


def texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.sample(WORDS, 4)) for _ in range(count)]


def bi_encoder(folder: Path, **changed: Any) -> Path:
    """An artifact with random weights."""
    encoder_folder(folder / "plain", **changed)
    adopt_folder(folder / "plain", folder / "artifact", kind="embedding")
    return folder / "artifact"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run whose checkpoint, with random weights, is the teacher."""
    folder = tmp_path_factory.mktemp("embedding")
    bi_encoder(folder / "made", num_hidden_layers=3, initializer_range=0.1).rename(folder / "checkpoint")
    (folder / "runs").mkdir()
    (folder / "runs/tiny").mkdir()
    (folder / "checkpoint").rename(folder / "runs/tiny/checkpoint")
    for seed, split in enumerate(("train", "valid", "test")):
        rows = texts(60, seed)
        pairs = [{"text_a": a, "text_b": b, "label": place % 2} for place, (a, b) in enumerate(pairwise(rows))]
        write_jsonl(folder / f"{split}.jsonl", pairs)
    write_jsonl(folder / "groups.jsonl", [{"text": text, "group": text.split()[0]} for text in texts(150, 5)])
    write_jsonl(folder / "more.jsonl", [{"text": text} for text in texts(40, 6)])
    (folder / "recipe.yaml").write_text(
        f"name: tiny\nruns: {folder}/runs\nmodel: {{kind: embedding, max_tokens: 64}}\n"
        f"data: {{train: {folder}/train.jsonl, valid: {folder}/valid.jsonl, test: {folder}/test.jsonl,\n"
        f"  groups: {folder}/groups.jsonl}}\n"
        "train: {learning_rate: 3.0e-3, steps: 60, warmup_steps: 3, batch_size: 16, validate_every: 60}\n"
    )
    return folder / "recipe.yaml"


def vectors(artifact: Path) -> np.ndarray:
    """Unit vectors (N, D) of texts that nobody was trained on."""
    engine = load_engine(artifact)
    found = np.stack([each.vector for each in engine.embed(texts(50, 9))])  # type: ignore[union-attr]
    engine.close()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """How well the cosines between texts agree: what a rotation of the vectors does not change."""
    above = np.triu_indices(len(one), 1)
    return agreement((one @ one.T)[above], (other @ other.T)[above])


# A network from nothing learns at a higher rate than one that was trained before.
FAST = {"learning_rate": 1e-2, "steps": 150, "warmup_steps": 5, "batch_size": 16, "validate_every": 150}
LESSONS: dict[str, list[dict[str, Any]]] = {
    "all there is to learn": [
        {"step": "student", "hidden": 16, "intermediate": 32},
        {"step": "distill", "outputs": 10, "hidden": 0.1, "attention": 1, "values": 1, "labels": 0.1},
    ],
    "narrower, likeness alone": [
        {"step": "student", "hidden": 16, "start": "random"},
        {"step": "distill", "outputs": 0, "similarity": 30},
    ],
    "a convolution from nothing, on the teacher's words": [
        {"step": "student", "encoder": {"architecture": "textcnn", "embedding": 16, "hidden": 32}},
        {"step": "distill", "outputs": 10, "labels": 0.1, "train": FAST},
    ],
    "an LSTM from nothing, with a tokenizer of its own": [
        {"step": "student", "encoder": {"architecture": "bilstm", "embedding": 16, "hidden": 16, "vocab_size": 300}},
        {"step": "distill", "outputs": 10, "train": FAST},
    ],
}


@pytest.mark.parametrize("name", LESSONS)
def test_a_student_bi_encoder_comes_to_agree_with_the_checkpoint(name: str, recipe: Path) -> None:
    steps = LESSONS[name]
    assert compress([str(recipe), f"compress.steps={json.dumps(steps)}"]) == 0
    run = recipe.parent / "runs/tiny"
    made = {
        path.name[2:].rpartition("-")[0]: path
        for path in sorted((run / "compressed").glob("?-*"), key=os.path.getmtime)
    }
    answers = vectors(run / "checkpoint")
    before, after = (alike(vectors(made[step]), answers) for step in (steps[0]["step"], "distill"))
    assert after > max(0.7, before + 0.1)
    assert read_manifest(made["distill"]).size_bytes < read_manifest(run / "checkpoint").size_bytes
