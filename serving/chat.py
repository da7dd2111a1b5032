"""/v1/chat/completions: messages in; the assistant's answers, whole or piece by piece, out."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from runtime.contract import Finish, Piece, PromptScores, Token
from runtime.errors import InvalidInput
from serving.call import Call
from serving.chat_schemas import ChatRequest
from serving.generation import Running, generator, sampling, submitted, tokenised
from serving.logprobs import chat_logprob
from serving.prompts import Prompts
from serving.room import Room
from serving.route import json_answer, to_json
from serving.sse import EventStream, Frame

ID, KIND, CHUNK_KIND = "chatcmpl-", "chat.completion", "chat.completion.chunk"


async def chat(room: Room, call: Call, request: ChatRequest) -> Response:
    """Answer a request. Raises what `start` raises, and the error of a request that fails before its status line."""
    running = await start(room, call, request)
    if not request.stream:
        return json_answer(await whole(running, scored=bool(request.logprobs)))
    await running.opened(room.settings.stream_keep_alive_s)
    frame = Frame(running, ID, CHUNK_KIND, include_usage=request.include_usage)
    chunks = ChatChunks(frame, running, scored=bool(request.logprobs))
    return EventStream(running, chunks, room.settings.stream_keep_alive_s)


async def start(room: Room, call: Call, request: ChatRequest) -> Running:
    """Submit a chat. Raises what rendering it and the engine's `submit` raise, naming the chat's fields."""
    served = room.begin(call, ("generation",), request.model)

    def encode(prompts: Prompts) -> list[list[int]]:
        return [prompts.chat(request.messages)]

    try:
        characters = sum(len(message.content) for message in request.messages)
        ids = await tokenised(room, call, served, characters, encode)
        room_left = max(1, generator(served).room(len(ids[0])))
        settings = sampling(
            request,
            max_tokens=request.max_completion_tokens or request.max_tokens or room_left,
            logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        )
        return await submitted(room, call, served, ids, settings, request.n or 1)
    except InvalidInput as error:
        error.param = "messages" if error.param == "prompt" else error.param
        raise


async def whole(running: Running, *, scored: bool) -> dict[str, Any]:
    """The answer of a chat that is not streamed."""
    parts: list[list[str]] = [[] for _ in range(running.n)]
    logprobs: list[list[dict[str, Any]]] = [[] for _ in range(running.n)]
    reasons = [""] * running.n
    speller = running.prompts.speller
    with running.call.watched(running.cancel):
        async with aclosing(running.batches()) as batches:
            async for batch in batches:
                for _, piece in batch:
                    if isinstance(piece, PromptScores):
                        continue
                    parts[piece.index].append(piece.text)
                    if isinstance(piece, Finish):
                        reasons[piece.index] = piece.reason
                    elif scored:
                        logprobs[piece.index].append(chat_logprob(speller, piece))
    return {
        "id": ID + running.call.id,
        "object": KIND,
        "created": running.created,
        "model": running.served.id,
        "choices": [
            {
                "index": choice,
                "message": {"role": "assistant", "content": "".join(parts[choice]), "refusal": None},
                "logprobs": {"content": logprobs[choice], "refusal": None} if scored else None,
                "finish_reason": reasons[choice],
            }
            for choice in range(running.n)
        ],
        "usage": running.usage(),
    }


class ChatChunks:
    """A chat's stream."""

    def __init__(self, frame: Frame, running: Running, *, scored: bool) -> None:
        self.frame = frame
        self._n, self._speller, self._scored = running.n, running.prompts.speller, scored

    def opening(self) -> bytes:
        """Who speaks."""
        return b"".join(self._chunk(choice, '{"role":"assistant","content":""}') for choice in range(self._n))

    def chunk(self, prompt: int, piece: Piece) -> bytes:
        """One event a token that made text printable, or that has log-probabilities; for the end, what was held back
        and then why."""
        if isinstance(piece, Token):
            if self._scored:
                scores = {"content": [chat_logprob(self._speller, piece)], "refusal": None}
                return self._chunk(piece.index, f'{{"content":{to_json(piece.text)}}}', to_json(scores))
            return self._chunk(piece.index, f'{{"content":{to_json(piece.text)}}}') if piece.text else b""
        if isinstance(piece, Finish):
            rest = self._chunk(piece.index, f'{{"content":{to_json(piece.text)}}}') if piece.text else b""
            return rest + self._chunk(piece.index, "{}", reason=f'"{piece.reason}"')
        return b""

    def _chunk(self, choice: int, delta: str, logprobs: str = "null", reason: str = "null") -> bytes:
        return self.frame.chunk(f'{{"index":{choice},"delta":{delta},"logprobs":{logprobs},"finish_reason":{reason}}}')
