"""/v1/completions: prompts in; whole texts, or what is new of them event by event, out."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from runtime.contract import Finish, Piece, PromptScores, Token
from runtime.errors import InvalidInput
from serving.call import Call
from serving.generation import Running, sampling, submitted, tokenised
from serving.generation_schemas import CompletionRequest
from serving.logprobs import FIELDS, CompletionLogprobs
from serving.prompts import Prompts
from serving.room import Room
from serving.route import json_answer, to_json
from serving.sse import EventStream, Frame

MAX_TOKENS = 16  # OpenAI's default
ID, KIND = "cmpl-", "text_completion"


async def complete(room: Room, call: Call, request: CompletionRequest) -> Response:
    """Answer a request. Raises what `start` raises, and the error of a request that fails before its status line."""
    running = await start(room, call, request)
    texts = Texts(running, request)
    if not request.stream:
        return json_answer(await whole(running, texts))
    await running.opened(room.settings.stream_keep_alive_s)
    frame = Frame(running, ID, KIND, include_usage=request.include_usage)
    return EventStream(running, CompletionChunks(frame, texts), room.settings.stream_keep_alive_s)


async def start(room: Room, call: Call, request: CompletionRequest) -> Running:
    """Submit a completion. Raises what reading the prompts and the engine's `submit` raise, and InvalidInput for an
    echo where prompt and text are two things."""
    served = room.begin(call, ("generation",), request.model)
    if request.echo and (shape := served.engine.manifest.causal) and shape.has_source:
        raise InvalidInput(
            "echo is true; this model is an encoder-decoder, whose text does not go on with its prompt. Leave it out.",
            param="echo",
        )

    def encode(prompts: Prompts) -> list[list[int]]:
        return [prompts.ids(prompt) for prompt in request.prompt]

    characters = sum(len(prompt) for prompt in request.prompt)
    ids = await tokenised(room, call, served, characters, encode)
    most = MAX_TOKENS if request.max_tokens is None else request.max_tokens
    scored = request.logprobs if request.echo else None
    # A prompt that is only echoed is one that is only scored: the engine takes no other without a token to generate.
    settings = sampling(
        request, max_tokens=most, logprobs=request.logprobs, prompt_logprobs=scored if most else scored or 0
    )
    return await submitted(room, call, served, ids, settings, request.n or 1)


class Texts:
    """What a request's choices show: the prompt where it is echoed, tokens' texts, log-probabilities."""

    def __init__(self, running: Running, request: CompletionRequest) -> None:
        prompts = running.prompts
        self.n, self.ids = running.n, running.ids
        self.scored = request.logprobs is not None
        self.echoes = (
            [prompt if isinstance(prompt, str) else prompts.text(prompt) for prompt in request.prompt]
            if request.echo
            else [""] * len(request.prompt)
        )
        self._logprobs = [CompletionLogprobs(prompts.speller) for _ in range(len(self.ids) * self.n)]

    def choices(self, prompt: int) -> range:
        """The choices of a prompt."""
        return range(prompt * self.n, (prompt + 1) * self.n)

    def of_prompt(self, choice: int, scores: PromptScores) -> dict[str, list[Any]]:
        """Log-probabilities of a choice's echoed prompt."""
        prompt = choice // self.n
        tracker = self._logprobs[choice]
        return tracker.prompt(self.ids[prompt], self.echoes[prompt], scores.logprobs, scores.likeliest)

    def of_token(self, choice: int, token: Token) -> dict[str, list[Any]] | None:
        """Log-probabilities of a choice's next token, where they were asked for."""
        return self._logprobs[choice].token(token) if self.scored else None


async def whole(running: Running, texts: Texts) -> dict[str, Any]:
    """The answer of a completion that is not streamed."""
    count = len(running.ids) * running.n
    parts = [[texts.echoes[choice // running.n]] for choice in range(count)]
    logprobs: list[dict[str, list[Any]]] = [{name: [] for name in FIELDS} for _ in range(count)]
    reasons = [""] * count

    def extend(choice: int, entry: dict[str, list[Any]] | None) -> None:
        for name, values in (entry or {}).items():
            logprobs[choice][name] += values

    with running.call.watched(running.cancel):
        async with aclosing(running.batches()) as batches:
            async for batch in batches:
                for prompt, piece in batch:
                    if isinstance(piece, PromptScores):
                        for choice in texts.choices(prompt) if texts.scored else ():
                            extend(choice, texts.of_prompt(choice, piece))
                        continue
                    choice = prompt * running.n + piece.index
                    parts[choice].append(piece.text)
                    if isinstance(piece, Finish):
                        reasons[choice] = piece.reason
                    else:
                        extend(choice, texts.of_token(choice, piece))
    return {
        "id": ID + running.call.id,
        "object": KIND,
        "created": running.created,
        "model": running.served.id,
        "choices": [
            {
                "index": choice,
                "text": "".join(parts[choice]),
                "logprobs": logprobs[choice] if texts.scored else None,
                "finish_reason": reasons[choice],
            }
            for choice in range(count)
        ],
        "usage": running.usage(),
    }


class CompletionChunks:
    """A completion's stream."""

    def __init__(self, frame: Frame, texts: Texts) -> None:
        self.frame = frame
        self._texts = texts

    def opening(self) -> bytes:
        """The prompts, where they are echoed without log-probabilities; these are waited for."""
        texts = self._texts
        if texts.scored:
            return b""
        return b"".join(
            self._chunk(choice, echo)
            for prompt, echo in enumerate(texts.echoes)
            for choice in texts.choices(prompt)
            if echo
        )

    def chunk(self, prompt: int, piece: Piece) -> bytes:
        """One event a token that made text printable, or that has log-probabilities; one for the end."""
        texts = self._texts
        if isinstance(piece, PromptScores):
            if not texts.scored:
                return b""
            echo = texts.echoes[prompt]
            return b"".join(
                self._chunk(choice, echo, to_json(texts.of_prompt(choice, piece))) for choice in texts.choices(prompt)
            )
        choice = prompt * texts.n + piece.index
        if isinstance(piece, Finish):
            return self._chunk(choice, piece.text, reason=f'"{piece.reason}"')
        if texts.scored:
            return self._chunk(choice, piece.text, to_json(texts.of_token(choice, piece)))
        return self._chunk(choice, piece.text) if piece.text else b""

    def _chunk(self, choice: int, text: str, logprobs: str = "null", reason: str = "null") -> bytes:
        return self.frame.chunk(
            f'{{"index":{choice},"text":{to_json(text)},"logprobs":{logprobs},"finish_reason":{reason}}}'
        )
