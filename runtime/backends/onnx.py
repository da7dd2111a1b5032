"""ONNX Runtime: the backend that serves. Nothing else in the engine imports onnxruntime.

Graphs are made by `training compress`; their input and output names are the contract between the two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from runtime.contract import F32, I64
from runtime.errors import ArtifactRefused, DeviceRefused
from runtime.manifest import CausalShape

CPU = "cpu"
CUDA_PROVIDER = "CUDAExecutionProvider"
INSTALL = (
    "Install requirements/gpu.txt, which brings onnxruntime-gpu in place of onnxruntime, on a machine with an NVIDIA "
    "driver, or compute on the CPU."
)


def open_session(
    graph: Path, threads: int, device: str = CPU, *, spin: bool = False, patterns: bool = True
) -> ort.InferenceSession:
    """Load a graph with `threads` intra-op threads on `device`: "cpu", or "cuda:N" for the Nth GPU that is visible.
    `spin`: within a call the threads wait for their next piece awake. `patterns`: remember for every shape how its
    memory was laid out.

    Raises ArtifactRefused when the file is no graph we can run, and DeviceRefused when the GPU cannot be had: nothing
    falls back to the CPU. (Within a graph on a GPU, ONNX Runtime computes shapes on the CPU, by design.)
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that go on spinning after a call burn the core that the HTTP loop needs, and a container's CPU quota.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    options.enable_mem_pattern = patterns
    if device != CPU:
        return _open_on_gpu(graph, options, device)
    try:
        return ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's exception classes are private to its extension module
        raise ArtifactRefused(f"{graph} cannot be loaded by ONNX Runtime {ort.__version__}: {error}") from None


def require_cuda(device: str) -> None:
    """Raises DeviceRefused when the ONNX Runtime that is installed cannot use GPUs at all."""
    offered = ort.get_available_providers()
    if CUDA_PROVIDER not in offered:
        raise DeviceRefused(
            f"{device} was asked for, but ONNX Runtime {ort.__version__} here has no {CUDA_PROVIDER}, only "
            f"{', '.join(offered)}. {INSTALL}"
        )


def _open_on_gpu(graph: Path, options: ort.SessionOptions, device: str) -> ort.InferenceSession:
    require_cuda(device)
    ort.preload_dlls()  # CUDA and cuDNN where pip has put them; a system's own are found without
    # TF32 would round the products of an fp32 artifact to 10 bits: who wants that speed publishes fp16.
    settings = {"device_id": device.partition(":")[2] or "0", "use_tf32": "0"}
    try:
        # Without enable_fallback=0 a GPU that fails, now or in a later run, is silently replaced by the CPU.
        session = ort.InferenceSession(str(graph), options, providers=[(CUDA_PROVIDER, settings)], enable_fallback=0)
    except Exception as error:
        raise DeviceRefused(
            f"{graph} cannot be loaded on {device} by ONNX Runtime {ort.__version__}: {error}"
        ) from None
    if CUDA_PROVIDER not in session.get_providers():
        raise DeviceRefused(
            f"{device} was asked for, but its session has only {', '.join(session.get_providers())}: {CUDA_PROVIDER} "
            f"could not start (no such GPU, or no driver, CUDA or cuDNN that fits). {INSTALL}"
        )
    return session


class OnnxEncoder:
    """An encoder with its head: inputs input_ids, attention_mask[, token_type_ids]; one output of (B, N), which is
    `logits` in a matching graph and `embedding` in an embedding graph.

    One single-threaded session is shared by all callers: `run` computes on the calling thread, so N callers use N cores
    with one copy of the weights. A caller who is alone gets a second session, on `threads` cores, made in the
    background at the first such call. On a GPU there is one session only: what a second caller gains is that its batch
    is copied while the other's is computed.
    """

    def __init__(self, graph: Path, threads: int = 1, device: str = CPU) -> None:
        self._graph = graph
        self._threads = threads if device == CPU else 1
        self.clock = time.thread_time if device == CPU else time.monotonic
        self._session = open_session(graph, 1, device, patterns=False)
        self._wide: ort.InferenceSession | None = None
        self._widening = threading.Lock()
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._output = self._session.get_outputs()[0].name
        needed = {"input_ids", "attention_mask"}
        if not needed <= self._inputs <= needed | {"token_type_ids"}:
            raise ArtifactRefused(f"{graph} has inputs {sorted(self._inputs)}; an encoder graph has {sorted(needed)}.")

    def forward(self, input_ids: I64, attention_mask: I64, token_type_ids: I64, *, alone: bool = False) -> F32:
        """(B, T) each -> (B, N)."""
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        session = self._session
        if alone and self._threads > 1:
            if self._wide is not None:
                session = self._wide
            elif self._widening.acquire(blocking=False):  # once, and never released
                threading.Thread(target=self._widen, name="wide-session", daemon=True).start()
        return np.asarray(session.run([self._output], feeds)[0], np.float32)

    def _widen(self) -> None:
        self._wide = open_session(self._graph, self._threads, spin=True, patterns=False)


class OnnxGeneration:
    """A causal decoder over a slot cache: GroupQueryAttention appends to the bound buffers in place, nothing is copied.

    Inputs: input_ids (B, T), seqlens_k (B,) = tokens after this call - 1, total_sequence_length () = its largest + 1,
    first_logit (1,), position_ids (B, T) where positions are learned, past_key_values.L.key|value (B, H, context, D).
    Outputs: logits (B, T - first_logit, V) and present.L.key|value, which are the very same memory as the past.

    A graph may say that its kernels compute rows in pairs (`row_multiple` 2): the last of an odd number of rows would
    take another kernel and come out a rounding different, so it gets a companion, and the outcome of a row depends on
    no neighbour. A decode step's companion is the cache row before slot 0, a prefill's is the place after its tokens.
    """

    def __init__(self, graph: Path, shape: CausalShape, *, slots: int, context: int, threads: int) -> None:
        self.slots, self.context, self.vocab_size, self.whole_prompts = slots, context, shape.vocab_size, False
        # A step is some hundred short parallel loops: threads that sleep between them would be woken as often.
        self._session = open_session(graph, threads, spin=True)
        self._multiple = int(self._session.get_modelmeta().custom_metadata_map.get("row_multiple", 1))
        self._spare = self._multiple - 1  # cache rows before slot 0
        self._learned_positions = "position_ids" in {node.name for node in self._session.get_inputs()}
        self._names = [f"{layer}.{part}" for layer in range(shape.layers) for part in ("key", "value")]
        # The whole cache, known in advance: it never grows.
        size = (len(self._names), self._spare + slots, shape.kv_heads, context, shape.head_dim)
        self._cache = np.zeros(size, np.float32)
        self._bindings: dict[tuple[int, int], ort.IOBinding] = {}

    def prefill(self, slot: int, ids: Sequence[int], start: int = 0, all_logits: bool = False) -> F32:
        """Append `ids` to `slot`, which holds `start` tokens -> (1, V), or (T, V) with `all_logits`."""
        count = len(ids)
        # One token alone would take attention's kernel for decode steps. With a second one after it, how a prompt is
        # cut into calls changes nothing. Where the context ends there is no room for any.
        extra = max(2 - count, -count % self._multiple) if start + count < self.context else 0
        tokens = np.asarray([[*ids, *[0] * extra]], np.int64)  # (1, T)
        first = 0 if all_logits else max(0, min(count - 1, count + extra - self._multiple))
        last = np.asarray([start + count + extra - 1], np.int32)
        logits = self._run(tokens, last, self._spare + slot, first)[0, : count - first]
        return logits if all_logits else logits[-1:]

    def decode(self, tokens: I64, lengths: I64) -> F32:
        """Append one token to each of slots 0..n-1, which hold `lengths` tokens: (n,), (n,) -> (n, V)."""
        extra = -len(tokens) % self._multiple
        companions = np.zeros(extra, np.int64)
        last = np.concatenate([companions, lengths]).astype(np.int32)
        return self._run(np.concatenate([companions, tokens])[:, None], last, self._spare - extra, 0)[extra:, 0]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of slot `source` over slot `target`."""
        self._prefix(target, length)[:] = self._prefix(source, length)

    def swap(self, one: int, other: int, length: int) -> None:
        """Exchange the first `length` tokens of two slots; what lies after them is lost in both."""
        kept = self._prefix(one, length).copy()
        self.move(other, one, length)
        self._prefix(other, length)[:] = kept

    def _prefix(self, slot: int, length: int) -> F32:
        """(2 layers, H, length, D): a view of the first tokens of a slot."""
        return self._cache[:, self._spare + slot, :, :length]

    def _run(self, tokens: I64, last_positions: np.ndarray, row: int, first_logit: int) -> F32:
        """(B, T) tokens into cache rows row..row+B-1 -> (B, T - first_logit, V), new memory at every call.

        `last_positions` (B,): of the last token of each row.
        """
        rows, width = tokens.shape
        feeds = {
            "input_ids": tokens,
            "seqlens_k": last_positions,
            "total_sequence_length": np.asarray(last_positions.max() + 1, np.int32),
            "first_logit": np.asarray([first_logit], np.int64),
        }
        if self._learned_positions:
            steps = np.arange(width, dtype=np.int64) - (width - 1)
            feeds["position_ids"] = last_positions[:, None].astype(np.int64) + steps
        binding = self._binding(row, rows)
        for name, value in feeds.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        logits = np.empty((rows, width - first_logit, self.vocab_size), np.float32)
        binding.bind_output("logits", CPU, 0, np.float32, logits.shape, logits.ctypes.data)
        self._session.run_with_iobinding(binding)
        return logits

    def _binding(self, row: int, rows: int) -> ort.IOBinding:
        """A binding whose cache inputs and outputs are cache rows row..row+rows-1; made once for each such view."""
        if (row, rows) not in self._bindings:
            binding = self._session.io_binding()
            shape = (rows, *self._cache.shape[2:])
            for name, array in zip(self._names, self._cache, strict=True):
                pointer = array[row:].ctypes.data
                binding.bind_input(f"past_key_values.{name}", CPU, 0, np.float32, shape, pointer)
                binding.bind_output(f"present.{name}", CPU, 0, np.float32, shape, pointer)
            self._bindings[row, rows] = binding
        return self._bindings[row, rows]
