"""Pruning and vocabulary trimming as steps of a pipeline: smaller graphs, the same outputs, what is kept."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from models.bi_encoder import read_head, write_head
from records.document import read_document
from runtime.backends.fake import VOCABULARY, byte_tokenizer
from runtime.contract import Pair
from runtime.load import load_engine
from runtime.manifest import read_manifest, verify
from runtime.text import load_tokenizer
from tests.unit.training.tiny import encoder_folder, pair_rows, write_jsonl
from training.causal_graph import write_causal_graph
from training.checkpoint import adopt_folder, read_config, seal_checkpoint
from training.compression.command import main as compress
from training.compression.network import load_network
from training.compression.probe import Probe
from training.compression.quantization import quantize_encoder
from training.compression.registry import step_class
from training.compression.sparsify import share_of_zeros
from training.compression.step import Context
from training.data.splits import load_splits
from training.encoder_graph import write_encoder_graph
from training.recipe import Recipe

pytestmark = pytest.mark.integration
LAYERS, HEADS, WIDTH, NEURONS = 3, 4, 32, 64
SPLITS = ("train", "valid", "test")


def _recipe(folder: Path, checkpoint: Path, tokenizer: Any, rows: list[list[dict[str, Any]]]) -> Path:
    """A recipe whose run has the model in `checkpoint` for its checkpoint."""
    torch.manual_seed(3)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(checkpoint)
    adopt_folder(checkpoint, folder / "runs" / "tiny" / "checkpoint", max_tokens=48)
    files = {split: write_jsonl(folder / f"{split}.jsonl", part) for split, part in zip(SPLITS, rows, strict=True)}
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: tiny\nruns: {folder / 'runs'}\nmodel: {{kind: matching, max_tokens: 48, dropout: 0}}\n"
        f"data: {{{', '.join(f'{split}: {file}' for split, file in files.items())}}}\n"
        "train: {batch_size: 8, learning_rate: 0.001}\n"
    )
    return path


def _bert(folder: Path, vocabulary: int) -> BertForSequenceClassification:
    torch.manual_seed(3)
    shape = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    shape |= {"intermediate_size": NEURONS, "vocab_size": vocabulary, "max_position_embeddings": 60}
    model = BertForSequenceClassification(BertConfig(**shape))
    for parameter in model.parameters():
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return model


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Of a random model on a byte tokenizer."""
    _bert(tmp_path / "hub", VOCABULARY)
    return _recipe(tmp_path, tmp_path / "hub", byte_tokenizer(pairs=True), [pair_rows(40, seed) for seed in range(3)])


def _context(recipe: Path) -> Context:
    read = read_document(recipe, Recipe, [])
    checkpoint = read.run / "checkpoint"
    work = recipe.parent / "work"
    return Context(checkpoint, Probe(()), work, recipe=read, splits=load_splits(read), log=lambda _: None)


def _made(recipe: Path, *steps: dict[str, Any]) -> list[tuple[Path, dict[str, Any]]]:
    """The checkpoints that the steps make one of the other, and what each says that it did."""
    context = _context(recipe)
    made: list[tuple[Path, dict[str, Any]]] = []
    for place, settings in enumerate(steps):
        step = step_class(settings["step"]).model_validate(settings)
        source = made[-1][0] if made else context.checkpoint
        folder = recipe.parent / f"made-{place}"
        folder.mkdir()
        done = step.apply(source, folder, replace(context, work=context.work / str(place)))
        json.dumps(done)
        seal_checkpoint(
            folder, max_tokens=read_manifest(source).max_tokens, **step.changed(read_manifest(source), done)
        )
        made.append((folder, done))
    return made


def test_what_is_pruned_is_missing_from_the_graph(recipe: Path, tmp_path: Path) -> None:
    steps = {"step": "layers", "keep": 2}, {"step": "heads", "share": 0.5}, {"step": "ffn", "share": 0.6}
    (layers, first), (heads, second), (ffn, third) = _made(recipe, *steps)
    assert first["kept"] == [0, 2]
    assert load_network(layers).config.num_hidden_layers == 2
    kept = load_network(heads).config.layer_heads
    assert [len(each) for each in second["kept"]] == kept
    assert sum(kept) == HEADS
    assert min(kept) >= 1
    assert load_network(ffn).config.intermediate_size == third["width"] == 32  # 25.6, rounded up to a multiple of 8
    fused = write_encoder_graph(ffn, "matching", tmp_path / "model.onnx")
    assert fused.get("Attention", 0) + fused.get("MultiHeadAttention", 0) == 2
    shapes = {tuple(weight.dims) for weight in onnx.load(tmp_path / "model.onnx").graph.initializer}
    assert (WIDTH, 32) in shapes
    assert not {(WIDTH, NEURONS), (NEURONS, WIDTH)} & shapes
    ids = torch.randint(5, VOCABULARY, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    [logits] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), load_network(ffn)(**inputs).logits, atol=1e-4, rtol=1e-4)
    folders = (recipe.parent / "runs" / "tiny" / "checkpoint", layers, heads, ffn)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert sizes == sorted(set(sizes), reverse=True)
    quantize_encoder(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    [rounded] = onnxruntime.InferenceSession(tmp_path / "int8.onnx").run(
        None, {n: v.numpy() for n, v in inputs.items()}
    )
    assert abs(rounded - logits).max() < 0.5


def test_the_heads_that_matter_are_kept(tmp_path: Path) -> None:
    model = _bert(tmp_path / "hub", VOCABULARY)
    size = WIDTH // HEADS
    matter = [[1], [0, 3], [2]]
    with torch.no_grad():
        for layer, heads in zip(model.bert.encoder.layer, matter, strict=True):
            for head in set(range(HEADS)) - set(heads):
                layer.attention.output.dense.weight[:, head * size : (head + 1) * size] *= 0.01
    model.save_pretrained(tmp_path / "hub")
    rows = [pair_rows(40, seed) for seed in range(3)]
    recipe = _recipe(tmp_path, tmp_path / "hub", byte_tokenizer(pairs=True), rows)
    [(_, done)] = _made(recipe, {"step": "heads", "share": 1 - 4 / 12})
    assert done["kept"] == matter


def test_neurons_and_layers_that_do_nothing_go_first(tmp_path: Path) -> None:
    model = _bert(tmp_path / "hub", VOCABULARY)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight[:, 16:] *= 0.01
        # The second layer adds hardly anything to what comes in, which the norm behind it leaves as it is.
        for dense in (model.bert.encoder.layer[1].attention.output.dense, model.bert.encoder.layer[1].output.dense):
            dense.weight *= 1e-3
    model.save_pretrained(tmp_path / "hub")
    rows = [pair_rows(40, seed) for seed in range(3)]
    recipe = _recipe(tmp_path, tmp_path / "hub", byte_tokenizer(pairs=True), rows)
    steps = {"step": "layers", "keep": 2, "choose": "saliency"}, {"step": "ffn", "share": 0.75}
    (layers, first), (ffn, _) = _made(recipe, *steps)
    assert first["kept"] == [0, 2]
    before, after = load_network(layers).state_dict(), load_network(ffn).state_dict()
    for index in range(2):
        name = f"bert.encoder.layer.{index}.intermediate.dense.weight"
        assert torch.equal(after[name], before[name][:16])


@pytest.mark.parametrize("step", [{"step": "magnitude", "sparsity": 0.6}, {"step": "sparse-2-4"}])
def test_zeros_stay_zeros_in_the_recovery(recipe: Path, step: dict[str, Any]) -> None:
    recover = {"steps": 3, "learning_rate": 0.01}
    [(made, done)] = _made(recipe, {**step, "recover": recover})
    network = load_network(made)
    assert share_of_zeros(network) == pytest.approx(done["zeros"], abs=1e-4)
    assert done["zeros"] == pytest.approx(step.get("sparsity", 0.5), abs=1e-3)
    assert done["recovery"]["step"] == 3
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    before = load_network(recipe.parent / "runs" / "tiny" / "checkpoint").state_dict()[name]
    weight = network.state_dict()[name]
    assert ((weight != before) & (weight != 0)).any()  # it was trained
    if step["step"] == "sparse-2-4":
        assert ((weight.reshape(-1, 4) != 0).sum(1) == 2).all()


def test_recovery_trains_the_pruned_network(recipe: Path) -> None:
    step = {"step": "heads", "share": 0.5}
    [(cut, done)] = _made(recipe, step)
    shutil.move(cut, recipe.parent / "cut")
    [(recovered, again)] = _made(recipe, {**step, "recover": {"steps": 2, "learning_rate": 0.01}})
    assert again["kept"] == done["kept"]
    before, after = load_network(recipe.parent / "cut").state_dict(), load_network(recovered).state_dict()
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert before[name].shape == after[name].shape
    assert not torch.equal(before[name], after[name])
    assert load_tokenizer(recovered / "tokenizer.json").encode("a card").ids


def test_a_trimmed_vocabulary_leaves_the_scores_of_known_texts(tmp_path: Path, wordpiece: Tokenizer) -> None:
    _bert(tmp_path / "hub", wordpiece.get_vocab_size())
    chance = random.Random(1)
    rows = [
        [{"text_a": _sentence(chance), "text_b": _sentence(chance), "label": number % 2} for number in range(20)]
        for _ in SPLITS
    ]
    recipe = _recipe(tmp_path, tmp_path / "hub", wordpiece, rows)
    [(trimmed, done)] = _made(recipe, {"step": "vocabulary", "reserve": 3})
    checkpoint = tmp_path / "runs" / "tiny" / "checkpoint"
    assert done["tokens"] < done["tokens_before"] == wordpiece.get_vocab_size()
    assert load_network(trimmed).config.vocab_size == done["tokens"]
    assert verify(trimmed).size_bytes < read_manifest(checkpoint).size_bytes
    pairs = [Pair(row["text_a"], row["text_b"]) for row in rows[0]]
    engines = [load_engine(path) for path in (checkpoint, trimmed)]
    scores = [[result.score for result in engine.score(pairs)] for engine in engines]
    assert scores[1] == pytest.approx(scores[0], abs=1e-6)
    # Anything else can still be scored.
    [result] = engines[1].score([Pair("quite other words: zebra, 12.5", "☃")])
    assert 0 <= result.score <= 1
    for engine in engines:
        engine.close()
    reloaded = PreTrainedTokenizerFast.from_pretrained(trimmed)
    assert reloaded.get_vocab() == load_tokenizer(trimmed / "tokenizer.json").get_vocab()
    assert reloaded("card")["input_ids"] == load_tokenizer(trimmed / "tokenizer.json").encode("card").ids


def test_a_bi_encoder_is_cut_and_trained_as_one(tmp_path: Path) -> None:
    encoder_folder(tmp_path / "base")
    write_head(tmp_path / "base", ["mean"], WIDTH)
    adopt_folder(tmp_path / "base", tmp_path / "runs" / "tiny" / "checkpoint", max_tokens=24)
    files = [write_jsonl(tmp_path / f"{split}.jsonl", pair_rows(16, seed)) for seed, split in enumerate(SPLITS)]
    groups = [{"text": f"{word} {number}", "group": word} for word in ("card", "pin") for number in range(8)]
    write_jsonl(tmp_path / "groups.jsonl", groups)
    base = tmp_path / "base"
    (tmp_path / "recipe.yaml").write_text(
        f"name: tiny\nruns: {tmp_path / 'runs'}\nmodel: {{kind: embedding, base: {base}, max_tokens: 24}}\n"
        f"data: {{train: {files[0]}, valid: {files[1]}, test: {files[2]}, groups: {tmp_path / 'groups.jsonl'}}}\n"
        "train: {batch_size: 8}\n"
    )
    steps = {"step": "vocabulary", "reserve": 0}, {"step": "heads", "share": 0.5, "recover": {"steps": 2}}
    (_, done), (heads, _), (layers, _) = _made(tmp_path / "recipe.yaml", *steps, {"step": "layers", "keep": 1})
    assert done["tokens"] <= done["tokens_before"]
    assert load_network(heads).config.layer_heads == [1, 1]
    assert read_head(layers).poolings == ("mean",)
    engine = load_engine(layers)
    assert engine.embed(["card 3"])[0]
    engine.close()


WORDS = ("card", "carding", "paid", "payment", "transfer", "transferring", "bank", "banking", "account", "accounts")


def _sentence(chance: random.Random) -> str:
    return " ".join(chance.choice(WORDS[:6]) for _ in range(4))


@pytest.fixture
def wordpiece() -> Tokenizer:
    """A WordPiece tokenizer of more words than the pairs have."""
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=220, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator([*WORDS, "zebra quite other words 12.5, : again and again"] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", tokenizer.token_to_id("[CLS]")), ("[SEP]", tokenizer.token_to_id("[SEP]"))],
    )
    return tokenizer


def test_a_language_model_keeps_what_it_says_of_known_texts(tmp_path: Path) -> None:
    samples = Path("training/samples/stories260k")
    adopt_folder(samples, tmp_path / "runs" / "tiny" / "checkpoint")
    (tmp_path / "text.txt").write_text("Once upon a time, there was a little girl named Lily. " * 40)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: tiny\nruns: {tmp_path / 'runs'}\nmodel: {{kind: generation, base: {samples.absolute()}}}\n"
        f"data: {{train: {tmp_path / 'text.txt'}}}\ntrain: {{batch_size: 4}}\n"
    )
    steps = {"step": "vocabulary", "reserve": 10}, {"step": "ffn", "share": 0.3}, {"step": "layers", "keep": 4}
    (trimmed, done), (ffn, _), (layers, _) = _made(recipe, *steps)
    causal = read_manifest(trimmed).causal
    assert causal
    assert causal.vocab_size == done["tokens"] < done["tokens_before"] == 512
    assert causal.bos_token_id == 1
    text = "Once upon a time, there was a little girl"
    before, after = load_engine(tmp_path / "runs" / "tiny" / "checkpoint"), load_engine(trimmed)
    ids = before.encode(text), after.encode(text)
    assert len(ids[0]) == len(ids[1])
    # What the tokens that went had of the probability is divided among the others; their order stays.
    gained = np.subtract(after.log_probs(ids[1]), before.log_probs(ids[0]))
    assert gained.min() > -1e-4
    before.close()
    after.close()
    write_causal_graph(read_config(layers), _state(layers), tmp_path / "model.onnx")
    assert load_network(ffn).config.intermediate_size == 120  # of 172: 120.4
    last = read_manifest(layers).causal
    assert last
    assert last.layers == 4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert session.get_outputs()[0].shape[-1] == done["tokens"]
    assert len(session.get_outputs()) == 1 + 2 * 4


def _state(folder: Path) -> dict[str, Any]:
    return {name: value.numpy() for name, value in load_network(folder).state_dict().items()}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("{step: layers, keep: 3}", "layers: keep 3: the model has 3 layers; keep fewer."),
        ("{step: heads, share: 1.0}", "less than 1"),
        ("{step: ffn, share: 0}", "greater than 0"),
        ("{step: magnitude, sparsity: 1.5}", "less than 1"),
        ("{step: vocabulary, texts: nowhere.txt}", "vocabulary: texts nowhere.txt cannot be read"),
        ("{step: heads}", "share"),
    ],
)
def test_steps_that_cannot_be_are_refused(
    recipe: Path, step: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress([str(recipe), f"compress.steps=[{step}]"]) in (1, 2)
    assert message in capsys.readouterr().err
