"""Writes the ONNX graph of a GPT-2 or Llama model around GroupQueryAttention, from a state dict.

Why by hand: exporters give a graph whose cache is concatenated (copied) at every step. Here the cache is a buffer that
ONNX Runtime's GroupQueryAttention appends to in place, rows of different length side by side, which is what continuous
batching needs (docs/adr/0004). Shapes: B rows, T new tokens, E hidden, H heads, K key-value heads, D head size in the
cache, S cache length, V vocabulary.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

Array = npt.NDArray[np.float32]
MS = "com.microsoft"
# ONNX Runtime's CPU kernel takes head sizes that are multiples of 16; smaller heads are padded with zeros, exactly.
HEAD_MULTIPLE = 16
# Kinds of rotary frequencies that do not change with the length of a text.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# FastGelu is the approximation by tanh that OpenAI's GPT-2 has.
ACTIVATIONS = {
    "gelu_new": ("FastGelu", MS),
    "gelu_pytorch_tanh": ("FastGelu", MS),
    "gelu": ("Gelu", MS),
    "relu": ("Relu", ""),
}
# A protobuf file ends at 2 GB; the weights of a larger graph lie in a file beside it.
LARGEST_FILE_BYTES = 1_900_000_000


def write_causal_graph(config: Any, state: Mapping[str, Array], path: Path) -> int:
    """Write the fp32 graph of a model to `path`, from its transformers configuration and its weights.

    Returns the head size of its key-value cache, which may be padded.

    Raises ValueError for another model type, or for a setting that the graph does not carry.
    """
    if config.model_type not in GRAPH_WRITERS:
        raise ValueError(f"model type {config.model_type!r} has no graph writer; {', '.join(GRAPH_WRITERS)} have.")
    return GRAPH_WRITERS[config.model_type](config, state).write(path)


def as_model(graph: onnx.GraphProto) -> onnx.ModelProto:
    """A model of ONNX's and ONNX Runtime's own operators."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MS, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Save a model, its weights in `path`.data where one file cannot hold them."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    outside = size > LARGEST_FILE_BYTES
    onnx.save(model, path, save_as_external_data=outside, location=f"{path.name}.data" if outside else None)


class GraphNodes:
    """A graph that grows in order of computation, from a configuration and a state dict. `head_dim`: of the model;
    `padded` is the cache's."""

    head_dim: int

    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        self.config = config
        self.state = state
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    @property
    def padded(self) -> int:
        return math.ceil(self.head_dim / HEAD_MULTIPLE) * HEAD_MULTIPLE

    def node(self, op: str, inputs: Sequence[str], domain: str = "", outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; returns the name of its only output, or the list of them."""
        names = [f"{op}_{len(self.nodes)}" + (f".{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, domain=domain, name=names[0], **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, name: str, value: npt.NDArray[Any]) -> str:
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def linear(self, x: str, name: str, matrix: Array, bias: Array | None = None) -> str:
        """x (…, in) @ matrix (in, out) [+ bias (out,)]."""
        y = self.node("MatMul", [x, self.weight(f"{name}.weight", matrix)])
        return y if bias is None else self.node("Add", [y, self.weight(f"{name}.bias", bias)])

    def pad_columns(self, matrix: Array, heads: int, *, halves: bool) -> Array:
        """(in, heads x head_dim) -> (in, heads x padded). `halves`: pad each half, as rotary pairs i with i + D/2."""
        rows = matrix.shape[0]
        split = (2, self.head_dim // 2) if halves else (1, self.head_dim)
        extra = self.padded // split[0] - split[1]
        return np.pad(matrix.reshape(rows, heads, *split), [(0, 0)] * 3 + [(0, extra)]).reshape(rows, -1)


class _Decoder(GraphNodes, ABC):
    """What both families share: inputs, cache, attention, head."""

    heads: int
    kv_heads: int
    layers: int
    hidden: int

    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state)
        self.extra_inputs: list[onnx.ValueInfoProto] = []
        self.rotary: list[str] = []

    def attention(self, qkv: str, layer: int) -> str:
        """Packed (B, T, (H + 2K) D) -> (B, T, H D); appends this call's keys and values to the cache."""
        past = [f"past_key_values.{layer}.{part}" for part in ("key", "value")]
        present = [f"present.{layer}.{part}" for part in ("key", "value")]
        inputs = [qkv, "", "", *past, "seqlens_k", "total_sequence_length", *self.rotary]
        output = f"attention_{layer}"
        self.nodes.append(
            helper.make_node(
                "GroupQueryAttention",
                inputs,
                [output, *present],
                domain=MS,
                name=output,
                num_heads=self.heads,
                kv_num_heads=self.kv_heads,
                scale=1 / math.sqrt(self.head_dim),  # of the unpadded head
                do_rotary=int(bool(self.rotary)),
            )
        )
        return output

    def logits(self, x: str, head: Array) -> None:
        """x (B, T, E) from `first_logit` on, times head (E, V)."""
        end = self.weight("axis_end", np.asarray([np.iinfo(np.int64).max], np.int64))
        axis = self.weight("axis_time", np.asarray([1], np.int64))
        tail = self.node("Slice", [x, "first_logit", end, axis])
        self.nodes.append(helper.make_node("MatMul", [tail, self.weight("lm_head.weight", head)], ["logits"]))

    def write(self, path: Path) -> int:
        """Build the nodes, save the model, return the cache's head size."""
        self.build()
        value = helper.make_tensor_value_info
        cache = ("B", self.kv_heads, "S", self.padded)
        inputs = [
            value("input_ids", TensorProto.INT64, ("B", "T")),
            value("seqlens_k", TensorProto.INT32, ("B",)),
            value("total_sequence_length", TensorProto.INT32, ()),
            value("first_logit", TensorProto.INT64, (1,)),
            *self.extra_inputs,
        ]
        outputs = [value("logits", TensorProto.FLOAT, ("B", "L", self.config.vocab_size))]
        for layer in range(self.layers):
            for part in ("key", "value"):
                inputs.append(value(f"past_key_values.{layer}.{part}", TensorProto.FLOAT, cache))
                outputs.append(value(f"present.{layer}.{part}", TensorProto.FLOAT, cache))
        graph = helper.make_graph(self.nodes, self.config.model_type, inputs, outputs, self.weights)
        save_graph(as_model(graph), path)
        return self.padded

    @abstractmethod
    def build(self) -> None:
        """Append the nodes of one forward pass, from input_ids to logits."""


class _Llama(_Decoder):
    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state)
        rope = config.rope_parameters["rope_type"]
        if rope not in ROPE_TYPES:
            raise ValueError(
                f"Llama rope type {rope!r} is not supported by the graph writer; {', '.join(ROPE_TYPES)} are."
            )
        if config.hidden_act != "silu":
            raise ValueError(f"Llama activation {config.hidden_act!r} is not supported by the graph writer; 'silu' is.")
        window, longest = getattr(config, "sliding_window", None), config.max_position_embeddings
        if window is not None and window < longest:
            raise ValueError(
                f"A sliding window of {window} tokens in a context of {longest} is not supported by the graph writer; "
                f"set max_position_embeddings to at most {window}."
            )
        self.layers, self.hidden = config.num_hidden_layers, config.hidden_size
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or self.hidden // self.heads

    def rotary_tables(self) -> None:
        """cos and sin (S, D/2); columns past the model's own head size turn zeros and may hold anything."""
        embedding = LlamaRotaryEmbedding(self.config)
        frequencies = np.pad(embedding.inv_freq.double().numpy(), (0, (self.padded - self.head_dim) // 2))
        angles = np.outer(np.arange(self.config.max_position_embeddings), frequencies)
        scale = embedding.attention_scaling
        self.rotary = [
            self.weight("rotary.cos", (scale * np.cos(angles)).astype(np.float32)),
            self.weight("rotary.sin", (scale * np.sin(angles)).astype(np.float32)),
        ]

    def norm(self, x: str, skip: str | None, name: str) -> tuple[str, str]:
        """RMS norm of x [+ skip] -> (normed, the sum)."""
        gamma = self.weight(name, self.state[name])
        epsilon = float(self.config.rms_norm_eps)
        if skip is None:
            return self.node("SimplifiedLayerNormalization", [x, gamma], epsilon=epsilon, axis=-1, stash_type=1), x
        # Outputs 1 and 2 are for training and absent on CPU; the fourth is x + skip.
        name = f"norm_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                "SkipSimplifiedLayerNormalization",
                [x, skip, gamma],
                [name, "", "", f"{name}.sum"],
                domain=MS,
                name=name,
                epsilon=epsilon,
            )
        )
        return name, f"{name}.sum"

    def packed_qkv(self, prefix: str) -> tuple[Array, Array | None]:
        """Query, key and value weights (in, (H + 2K) D) side by side, and their biases where the model has them."""
        heads = {"q": self.heads, "k": self.kv_heads, "v": self.kv_heads}

        def packed(part: str) -> Array:
            rows = {name: np.atleast_2d(self.state[f"{prefix}{name}_proj.{part}"].T) for name in heads}
            return np.concatenate(
                [self.pad_columns(rows[name], count, halves=name != "v") for name, count in heads.items()], axis=1
            )

        return packed("weight"), packed("bias")[0] if f"{prefix}q_proj.bias" in self.state else None

    def build(self) -> None:
        state = self.state
        self.rotary_tables()
        stream: str = self.node("Gather", [self.weight("embed", state["model.embed_tokens.weight"]), "input_ids"])
        branch: str | None = None
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            x, stream = self.norm(stream, branch, f"{prefix}input_layernorm.weight")
            x = self.attention(self.linear(x, f"{prefix}qkv", *self.packed_qkv(f"{prefix}self_attn.")), layer)
            out = self.pad_columns(state[f"{prefix}self_attn.o_proj.weight"], self.heads, halves=False).T
            x = self.linear(x, f"{prefix}out", out, state.get(f"{prefix}self_attn.o_proj.bias"))
            x, stream = self.norm(stream, x, f"{prefix}post_attention_layernorm.weight")
            gate, up, down = (state[f"{prefix}mlp.{name}_proj.weight"].T for name in ("gate", "up", "down"))
            biases = [state.get(f"{prefix}mlp.{name}_proj.bias") for name in ("gate", "up")]
            bias = None if biases[0] is None else np.concatenate(biases)
            both = self.linear(x, f"{prefix}gate_up", np.concatenate([gate, up], axis=1), bias)
            gated, raised = self.node("Split", [both], outputs=2, axis=-1, num_outputs=2)
            active = self.node("QuickGelu", [gated], domain=MS, alpha=1.0)  # x * sigmoid(1 x) is SiLU
            x = self.node("Mul", [active, raised])
            branch = self.linear(x, f"{prefix}down", down, state.get(f"{prefix}mlp.down_proj.bias"))
        x, _ = self.norm(stream, branch, "model.norm.weight")
        self.logits(x, state.get("lm_head.weight", state["model.embed_tokens.weight"]).T)


class _Gpt2(_Decoder):
    def __init__(self, config: Any, state: Mapping[str, Array]) -> None:
        super().__init__(config, state)
        if config.activation_function not in ACTIVATIONS:
            raise ValueError(
                f"GPT-2 activation {config.activation_function!r} is not supported by the graph writer; "
                f"{', '.join(ACTIVATIONS)} are."
            )
        if config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights or config.add_cross_attention:
            raise ValueError(
                "GPT-2 with unscaled, layer-scaled or cross attention is not supported by the graph writer."
            )
        self.layers, self.hidden = config.n_layer, config.n_embd
        self.heads = self.kv_heads = config.n_head
        self.head_dim = self.hidden // self.heads
        self.extra_inputs = [helper.make_tensor_value_info("position_ids", TensorProto.INT64, ("B", "T"))]

    def norm(self, x: str, skip: str | None, name: str) -> tuple[str, str]:
        """Layer norm of x [+ skip] -> (normed, the sum)."""
        gamma, beta = (self.weight(f"{name}.{part}", self.state[f"{name}.{part}"]) for part in ("weight", "bias"))
        epsilon = float(self.config.layer_norm_epsilon)
        if skip is None:
            return self.node("LayerNormalization", [x, gamma, beta], epsilon=epsilon, axis=-1), x
        output = f"norm_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                "SkipLayerNormalization",
                [x, skip, gamma, beta],
                [output, "", "", f"{output}.sum"],
                domain=MS,
                name=output,
                epsilon=epsilon,
            )
        )
        return output, f"{output}.sum"

    def conv1d(self, x: str, name: str) -> str:
        """transformers' Conv1D: weights already lie (in, out)."""
        return self.linear(x, name, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def build(self) -> None:
        state = self.state
        words = self.node("Gather", [self.weight("wte", state["transformer.wte.weight"]), "input_ids"])
        places = self.node("Gather", [self.weight("wpe", state["transformer.wpe.weight"]), "position_ids"])
        stream: str = self.node("Add", [words, places])
        branch: str | None = None
        for layer in range(self.layers):
            prefix = f"transformer.h.{layer}."
            x, stream = self.norm(stream, branch, f"{prefix}ln_1")
            parts = []
            for name in ("weight", "bias"):
                packed = state[f"{prefix}attn.c_attn.{name}"].reshape(-1, 3 * self.hidden)
                parts.append(self.pad_columns(packed, 3 * self.heads, halves=False))
            qkv = self.linear(x, f"{prefix}attn.c_attn", parts[0], parts[1][0])
            x = self.attention(qkv, layer)
            out = self.pad_columns(state[f"{prefix}attn.c_proj.weight"].T, self.heads, halves=False).T
            x = self.linear(x, f"{prefix}attn.c_proj", out, state[f"{prefix}attn.c_proj.bias"])
            x, stream = self.norm(stream, x, f"{prefix}ln_2")
            operator, domain = ACTIVATIONS[self.config.activation_function]
            x = self.node(operator, [self.conv1d(x, f"{prefix}mlp.c_fc")], domain=domain)
            branch = self.conv1d(x, f"{prefix}mlp.c_proj")
        x, _ = self.norm(stream, branch, "transformer.ln_f")
        self.logits(x, state.get("lm_head.weight", state["transformer.wte.weight"]).T)


# Mistral is Llama where its window is no shorter than the context; Qwen 2 is Llama with biases of query, key and value.
GRAPH_WRITERS: dict[str, type[_Decoder]] = {"gpt2": _Gpt2, "llama": _Llama, "mistral": _Llama, "qwen2": _Llama}
