"""Generation on a GPU: vLLM's engine behind ours (docs/adr/0009-gpu-generation.md). The only module that imports vllm.

Who waits and who is refused is decided here, as on the CPU: vLLM gets a request once each of its sequences has a slot.
Batching, pages, prefix cache and sampling are vLLM's; text and stop strings are ours (`TokenPrinter`).
Written against vLLM's source, `vllm/v1/engine/async_llm.py` first. Not run on a GPU.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from runtime.backends.vllm_mapping import Strand, engine_arguments, read_scores, sampling_arguments, visible_gpu
from runtime.contract import Constrain, Event, Finish, Limits, Load, Observer, Sampling
from runtime.decoder import STEP_WEIGHT
from runtime.errors import BackendFailed, Cancelled, DeviceRefused, NotReady, SluiceError
from runtime.intake import Intake
from runtime.manifest import CausalShape, Manifest
from runtime.text import TokenPrinter
from runtime.ticket import Sink, Submission

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

logger = logging.getLogger(__name__)
INSTALL = (
    "In an environment of its own, since vLLM brings its own torch: `pip install -r requirements/gpu-generation.txt`; "
    "or generate on the CPU, with generation_engine onnx and device cpu."
)


class Job(Submission):
    """A request and its sequences."""

    def __init__(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        deadline: float | None,
        strands: Sequence[Strand],
        leave: Callable[[Job], None],
    ) -> None:
        super().__init__(prompt, sampling, sink, deadline)
        self.strands = strands
        self.task: asyncio.Task[None] | None = None  # once it runs
        self.error: SluiceError | None = None  # why it was ended
        self._leave = leave

    @property
    def unfinished(self) -> int:
        """Sequences that have not ended."""
        return sum(strand.reason is None for strand in self.strands)

    @property
    def left(self) -> int:
        """Tokens this request may still generate."""
        return sum(self.sampling.max_tokens - each.count for each in self.strands if each.reason is None)

    def cancel(self) -> None:
        """The caller left: vLLM is told at once."""
        if self.unfinished and not self.cancelled:
            super().cancel()
            self._leave(self)


class VllmEngine(Intake):
    """Generates with one artifact of format torch on one GPU; see `TextEngine`. Thread-safe.

    vLLM's client lives on an event loop in a thread of this engine's own, its model in a process of vLLM's.
    `constrain` refuses the schemas that the CPU's engine refuses; vLLM makes its own grammars.
    Raises DeviceRefused: no vLLM, no GPU, or a model that vLLM cannot load on it.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        shape: CausalShape,
        tokenizer: Tokenizer,
        *,
        device: str,
        slots: int,
        context: int,
        constrain: Constrain,
        kv_bytes: int | None = None,
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        require_vllm(device)
        gpu = visible_gpu(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        super().__init__(manifest, shape, tokenizer, slots=slots, context=context, limits=limits, observer=observer)
        self._constrain = constrain
        self._eos = frozenset(shape.eos_token_ids)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._closing = False
        self._step_s = 0.0  # between two tokens of a sequence, lately
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        arguments = engine_arguments(directory, slots=slots, context=context, kv_bytes=kv_bytes)
        try:
            self._llm = asyncio.run_coroutine_threadsafe(_open(arguments, gpu), self._loop).result()
        except Exception as error:
            self._end_thread()
            raise DeviceRefused(f"{directory} cannot be loaded on {device} by vLLM: {error}") from error

    # ------------------------------------------------------------ callers' side

    def submit(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        sink: Sink,
        *,
        n: int = 1,
        deadline: float | None = None,
    ) -> Job:
        """See `TextEngine`. The first sequence computes the prompt, the others find it in vLLM's cache."""
        self._check(prompt, sampling, n)
        if sampling.schema is not None:
            self._constrain(sampling.schema)
        strands = [self._strand(prompt, sampling, index) for index in range(n)]
        job = Job(prompt, sampling, sink, deadline, strands, self._leave)
        with self._changed:
            if self._closing:
                raise NotReady("The server is draining; retry on another one.")
            flying = [*self._running, *self._waiting]
            if sum(each.slots for each in flying) + job.slots > self.slots:
                self._admit(job, self._waiting, sum(each.left for each in flying) / self.slots * self._step_s)
            self._waiting.append(job)
            self._loop.call_soon_threadsafe(self._enter, job)
        return job

    def load(self) -> Load:
        """Sequences in flight, and the tokens that they hold or may come to need."""
        with self._changed:
            waiting, running = list(self._waiting), list(self._running)
        tokens = sum(len(each.prompt) + each.generated for each in running)
        return self._load(waiting, sum(each.slots for each in running), tokens)

    def warm_up(self) -> None:
        """Generate one token; vLLM has compiled and captured its graphs when it was loaded. Raises BackendFailed."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.submit([0], Sampling(max_tokens=1, temperature=0, ignore_eos=True), events.put)
        while not isinstance(event := events.get(), Finish):
            if isinstance(event, SluiceError):
                raise event

    def close(self) -> None:
        """Refuse new work, finish what runs and waits, end vLLM's process and the thread."""
        with self._changed:
            self._closing = True
            while self._waiting or self._running:
                self._changed.wait()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._llm.shutdown)
            self._end_thread()

    def _strand(self, prompt: Sequence[int], sampling: Sampling, index: int) -> Strand:
        printer = TokenPrinter(self.tokenizer, prompt, sampling.stop, min_tokens=sampling.min_tokens)
        return Strand(index, sampling, self._eos, printer)

    def _leave(self, job: Job) -> None:
        with suppress(RuntimeError):  # the loop has been closed: so has all that ran on it
            self._loop.call_soon_threadsafe(self._drop, job, job.stage)

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ------------------------------------------------------------ on the loop

    def _enter(self, job: Job) -> None:
        if job.deadline is not None:
            self._loop.call_at(job.deadline, self._drop, job, "expired")  # its clock is time.monotonic()
        self._advance()

    def _advance(self) -> None:
        """Hand over what has a slot for each of its sequences, in the order of arrival."""
        with self._changed:
            while self._waiting and self._waiting[0].slots + sum(each.slots for each in self._running) <= self.slots:
                job = self._waiting.popleft()
                job.admitted = time.monotonic()
                self._running.append(job)
                self._note("queue_s", job.admitted - job.submitted)
                job.task = self._loop.create_task(self._serve(job))
                job.task.add_done_callback(partial(self._ended, job))

    def _drop(self, job: Job, stage: str) -> None:
        """The caller left, or the deadline passed (`stage` "expired"). Does nothing to what has ended."""
        with self._changed:
            if job not in self._waiting and job not in self._running:
                return
        self._note("cancelled", 1, stage=stage)
        job.error = job.late() if stage == "expired" else Cancelled("The caller left.")
        if job.task is None:
            self._ended(job, None)
        else:
            job.task.cancel()  # which closes vLLM's streams, and so aborts what they stand for

    def _ended(self, job: Job, task: asyncio.Task[None] | None) -> None:
        error = job.error
        if error is None and task is not None and (raised := task.exception()) is not None:
            cause = raised.exceptions[0] if isinstance(raised, BaseExceptionGroup) else raised
            logger.error("vLLM failed", exc_info=cause)
            failed = BackendFailed(f"The model failed on this prompt ({type(cause).__name__}).")
            error = cause if isinstance(cause, SluiceError) else failed
        if error is not None:
            self._tell(job, error)
        with self._changed:
            (self._running if job in self._running else self._waiting).remove(job)
            self._changed.notify_all()
        self._advance()

    async def _serve(self, job: Job) -> None:
        first, *others = job.strands
        computed = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run(job, first, computed))
            if job.sampling.max_tokens:
                await computed.wait()
                for strand in others:
                    group.create_task(self._run(job, strand, computed))
        for strand in others:
            if strand.reason is None:  # the prompt was only scored
                self._finish(job, strand, "length")

    async def _run(self, job: Job, strand: Strand, computed: asyncio.Event) -> None:
        """One sequence, a request of vLLM's. Leaving its stream before the end aborts it there."""
        parameters = _parameters(sampling_arguments(job.sampling, self._eos, strand.index))
        last_at = 0.0
        async with aclosing(
            self._llm.generate({"prompt_token_ids": job.prompt}, parameters, uuid.uuid4().hex)
        ) as stream:
            async for output in stream:
                now = time.monotonic()
                if not job.first_token:
                    self._begin(job, output.num_cached_tokens or 0, now)
                if output.prompt_logprobs:
                    count = job.sampling.prompt_logprobs or 0
                    self._tell(job, read_scores(job.prompt, output.prompt_logprobs, count))
                computed.set()
                if not job.sampling.max_tokens:
                    return self._finish(job, strand, "length")
                if last_at:
                    self._note("inter_token_s", now - last_at)
                    self._step_s += STEP_WEIGHT * (now - last_at - self._step_s) if self._step_s else now - last_at
                last_at = now
                before = strand.count
                tokens, reason = strand.read(output.outputs[0])
                for token in tokens:
                    self._tell(job, token)
                job.generated += strand.count - before
                self._note("generated_tokens", len(tokens))
                if reason is not None:
                    return self._finish(job, strand, reason)

    def _begin(self, job: Job, cached: int, now: float) -> None:
        job.first_token, job.cached = now, cached
        self._note("prompt_tokens", len(job.prompt))
        self._note("prefix_tokens", cached)
        self._note("prefill_tokens", len(job.prompt) - cached)
        if job.sampling.max_tokens:
            self._note("ttft_s", now - job.submitted)

    def _finish(self, job: Job, strand: Strand, reason: str) -> None:
        text = strand.printer.flush()
        strand.reason = "stop" if strand.printer.stopped else reason
        self._note("finished", 1, reason=strand.reason)
        self._tell(job, job.finish(strand.index, strand.reason, text, strand.count))
        self._advance()

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.sink(event)
        except Exception:
            # The receiver is gone (its event loop has closed, say): that is a caller who left.
            logger.warning("a sink raised; its request is cancelled", exc_info=True)
            job.cancel()


def require_vllm(device: str) -> None:
    """Raises DeviceRefused where vLLM is not installed or sees no NVIDIA GPU."""
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise DeviceRefused(f"generation_engine is vllm, which cannot be imported here ({error}). {INSTALL}") from None
    if not current_platform.is_cuda():
        raise DeviceRefused(f"{device} was asked for, but vLLM finds no NVIDIA GPU on this machine. {INSTALL}")


async def _open(arguments: dict[str, Any], gpu: str) -> AsyncLLM:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    # vLLM takes the first GPU that its process sees. Spawned, because this process has threads.
    settings = {"CUDA_VISIBLE_DEVICES": gpu, "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
    with _environment(settings):
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))


def _parameters(arguments: dict[str, Any]) -> Any:
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    schema = arguments.pop("schema")
    structured = StructuredOutputsParams(json=schema) if schema is not None else None
    return SamplingParams(**arguments, structured_outputs=structured, output_kind=RequestOutputKind.DELTA)


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
