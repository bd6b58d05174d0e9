"""The wire without the client: messages, or bytes, as a hostile peer would write them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import grpc
import numpy as np

from protos.scores import Scores
from protos.scores_codec import scores_from_proto
from protos.v1 import teacher_pb2 as pb

METHOD = "/" + pb.DESCRIPTOR.services_by_name["Teacher"].full_name + "/Score"
PROMPT, REQUEST = "prompt_id", "request_id"
CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


def ids_message(ids: Sequence[int] | np.ndarray) -> pb.Array:
    """Ids as they should be."""
    data = np.asarray(ids, dtype="<i4").tobytes()
    return pb.Array(data=data, dtype=pb.I32, shape=[len(ids)])


def put_message(
    prompt_id: int,
    mm_ids: Sequence[int] | np.ndarray,
    text_ids: Sequence[int] | np.ndarray | None = None,
    images: Iterable[bytes] = (),
    **changes: Any,
) -> pb.ClientMessage:
    """A prompt; without `text_ids` its two contexts are the same."""
    tokens = pb.TokenPrompt(
        mm_ids=ids_message(mm_ids), text_ids=ids_message(mm_ids if text_ids is None else text_ids)
    )
    parts = {"tokens": tokens, "media": [pb.Media(image=image) for image in images]} | changes
    return pb.ClientMessage(put_prompt=pb.PutPrompt(prompt_id=prompt_id, **parts))


def score_message(
    request_id: int, response: Sequence[int], k: int = 4, prompt_id: int = 1, **changes: Any
) -> pb.ScoreRequest:
    """A request about a prompt that was put."""
    parts = {"k": k, "dtype": pb.F32, "response_ids": ids_message(response)} | changes
    return pb.ScoreRequest(request_id=request_id, prompt_id=prompt_id, **parts)


class Answers:
    """What came back, by the item that it belongs to. Credit and notices are no answers."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[tuple[str, int], list[str]] = defaultdict(list)
        """(PROMPT or REQUEST, id) -> "OK" or the name of a status code, one for each answer."""
        self.errors: list[pb.ItemError] = []
        self.scores: dict[int, Scores] = {}
        """The last whole answer by request."""
        self.granted: list[int] = []
        self._chunks: defaultdict[int, list[Scores]] = defaultdict(list)

    def take(self, message: pb.ServerMessage) -> None:
        """Count one message."""
        match message.WhichOneof("message"):
            case "prompt_ack":
                self.outcomes[PROMPT, message.prompt_ack.prompt_id].append("OK")
            case "scores":
                self._take_chunk(message.scores)
            case "error":
                error = message.error
                kind = str(error.WhichOneof("item"))
                self.outcomes[kind, getattr(error, kind)].append(CODE_NAMES[error.code])
                self.errors.append(error)
            case "credit":
                self.granted.append(message.credit.granted_tokens)

    def _take_chunk(self, message: pb.Scores) -> None:
        chunks = self._chunks[message.request_id]
        assert message.first_row == sum(chunk.rows for chunk in chunks)
        chunks.append(scores_from_proto(message))
        if message.last:
            scores = Scores.join(self._chunks.pop(message.request_id))
            assert scores.rows == message.total_rows
            self.scores[message.request_id] = scores
            self.outcomes[REQUEST, message.request_id].append("OK")


class RawStream:
    """One Score call."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def __aenter__(self) -> "RawStream":
        self._channel = grpc.aio.insecure_channel(self._address)
        self._call = self._channel.stream_stream(
            METHOD,
            request_serializer=_serialized,
            response_deserializer=pb.ServerMessage.FromString,
        )()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._call.cancel()
        await self._channel.close()

    async def put(self, ids: list[int]) -> None:
        """A prompt without images, under id 1."""
        assert (await self.ask(put_message(1, ids))).prompt_ack.prompt_id == 1

    async def write(self, message: pb.ClientMessage | bytes) -> None:
        await self._call.write(message)

    async def ask(self, message: pb.ClientMessage | bytes) -> pb.ServerMessage:
        """The next answer that is not about credit."""
        await self._call.write(message)
        return await self.next_answer()

    async def next_answer(self) -> pb.ServerMessage:
        while True:
            answer = await self.read()
            assert answer is not None
            if answer.WhichOneof("message") != "credit":
                return answer

    async def read(self) -> pb.ServerMessage | None:
        """The next message, None at the end, whatever the status."""
        try:
            answer = await self._call.read()
        except grpc.aio.AioRpcError:
            return None
        return answer if isinstance(answer, pb.ServerMessage) else None

    async def half_close(self) -> None:
        """Say that nothing follows; what is left can still be read."""
        await self._call.done_writing()

    async def status(self) -> tuple[str, str]:
        """Name of the status code, and its text, once the call is over."""
        return (await self._call.code()).name, await self._call.details() or ""


def _serialized(message: pb.ClientMessage | bytes) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()
