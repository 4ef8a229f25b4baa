"""OpenAI API requests to targets on Triton: one gRPC stream per target carries requests and answers.

A message costs the receiver more than the tokens in it, so all requests of a stream get one response for each step of
the engine (`engine_tensors` of the backends).

A request is aborted by a message to the backend. The stream itself is not cancelled during answers: Triton may crash
when a call is cancelled near its end. Triton keeps models loaded while a stream that used them is open, so each target
has its own stream, closed when idle and replaced from time to time.
"""

import asyncio
import contextlib
import itertools
import secrets
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from shared.errors import SlipwayError, Transient
from shared.serving.inference import (
    Deadlines,
    classify_engine_error,
    classify_rpc_error,
    is_api_server,
    silence_error,
)
from shared.serving.openai_stream import ApiPiece, ApiRequest, FramedPiece, build_abort, build_message, read_pieces

WAITING_PIECES: Final = 4096
"""Limit of unread parts of one answer, above which its request is aborted."""
DRAIN_S: Final = 10.0
"""Time for the server to end a stream without requests before it is cancelled, in seconds: longer than the backend's
`openai_app.DISCONNECT_S`."""
CLOSE_S: Final = 2.0
"""The same at the end of this process, in seconds."""
IDLE_S: Final = 0.5
"""Idle time after which a stream ends, in seconds."""
AGE_S: Final = 5.0
"""Age after which a new stream takes new requests, in seconds."""


class Answer:
    """The parts of the answer to one request, put in by the reader of the stream.

    Attributes:
        request_id: the Triton request id.
        ended: no further part is accepted.
    """

    def __init__(self, triton_name: str, request_id: str, limits: Deadlines, on_silence: Callable[[], None]) -> None:
        """Start without parts; `on_silence` is called after too long a silence of the engine."""
        self.request_id = request_id
        self.ended = False
        self._name = triton_name
        self._error: SlipwayError | None = None
        self._pieces: deque[ApiPiece] = deque()
        self._early: dict[int, FramedPiece] = {}
        self._taken = 0
        self._has_tokens = False
        self._waiter: asyncio.Future[None] | None = None
        self._limits = limits
        self._on_silence = on_silence
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._watch = self._loop.call_later(limits.first_token_s, self._check_silence)

    def put(self, part: FramedPiece) -> None:
        """Append a part, or keep it until its predecessors arrived; set `ended` after the last part.

        Raises:
            ValueError: the part is a duplicate.
        """
        if part.number != self._taken:
            if part.number < self._taken or part.number in self._early:
                raise ValueError(f"part {part.number} of the answer to {part.request_id} came twice")
            self._early[part.number] = part  # and the silence goes on: the part before it may never come
            return
        self._heard_s = self._loop.time()
        self._append(part)
        while not self.ended and (later := self._early.pop(self._taken, None)) is not None:
            self._append(later)

    def _append(self, part: FramedPiece) -> None:
        self._taken += 1
        if part.error:
            self.end(classify_engine_error(part.error, self._name))
            return
        if not self._has_tokens and _count_tokens(part.piece) > 0:
            self._has_tokens = True
            self._watch.cancel()
            self._watch = self._loop.call_later(self._limits.inter_token_s, self._check_silence)
        self._pieces.append(part.piece)
        if part.is_last:
            self.end()
        else:
            self._wake()

    def count_waiting(self) -> int:
        """Return the number of unread parts."""
        return len(self._pieces) + len(self._early)

    def end(self, error: SlipwayError | None = None) -> None:
        """Mark the end, or the failure, after the present parts."""
        if not self.ended:
            self.ended, self._error = True, error
            self._watch.cancel()
            self._wake()

    async def get(self) -> ApiPiece | None:
        """Return the next part; None after the last.

        Raises:
            SlipwayError: the request failed.
        """
        if not self._pieces and not self.ended:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._pieces:
            return self._pieces.popleft()
        if self._error is not None:
            raise self._error
        return None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check_silence(self) -> None:
        """Report too long a silence, or schedule the next check."""
        limit_s = self._limits.inter_token_s if self._has_tokens else self._limits.first_token_s
        rest_s = self._heard_s + limit_s - self._loop.time()
        if rest_s <= 0.0:
            self._on_silence()
            self.end(silence_error(self._name, self._limits, has_started=self._has_tokens))
        else:
            self._watch = self._loop.call_later(rest_s, self._check_silence)


def _count_tokens(piece: ApiPiece) -> int:
    """Return the tokens that a part reports; the first parts of `/v1/responses` have none."""
    tokens = piece.record.get("output_tokens") if isinstance(piece.record, dict) else None
    return tokens if isinstance(tokens, int) else 0


@dataclass
class _ChannelStreams:
    """The streams of one channel.

    Attributes:
        newest: by Triton name; takes requests while it is open.
        running: all with a running call, also replaced ones.
    """

    newest: dict[str, "EngineStream"] = field(default_factory=dict)
    running: set["EngineStream"] = field(default_factory=set)


_streams: weakref.WeakKeyDictionary[Any, _ChannelStreams] = weakref.WeakKeyDictionary()


def find_stream(channel: Any, triton_name: str) -> "EngineStream":
    """Return the channel's open stream for requests to a target; open one if needed."""
    streams = _streams.setdefault(channel, _ChannelStreams())
    stream = streams.newest.get(triton_name)
    if stream is not None and stream.is_open and stream.is_old():
        stream.drain()
    if stream is None or not stream.is_open:
        stream = streams.newest[triton_name] = EngineStream(channel, triton_name, streams.running.discard)
        streams.running.add(stream)
    return stream


def count_streams(channel: Any) -> int:
    """Return the number of a channel's running streams."""
    return len(_streams[channel].running) if channel in _streams else 0


async def stream_api(
    channel: Any, triton_name: str, request: ApiRequest, *, deadlines: Deadlines | None = None
) -> AsyncGenerator[ApiPiece, None]:
    """Stream the answer to a request; leaving the iteration early (`aclose`) aborts it in the engine.

    Args:
        channel: from `Channels.get`.
        triton_name: `<model>.v<n>.<variant>`.
        request: the request.
        deadlines: time limits of the engine's silence.

    Raises:
        Transient: `endpoint_unreachable`, `engine_dead`, `engine_failed` or `no_first_token`. After the deadline of the
            request comes status 504, or an early end with an error in the record.
        Permanent: `bad_request`: the target cannot take the request.
    """
    if is_api_server(channel):
        async with contextlib.aclosing(channel.stream_api(triton_name, request, deadlines or Deadlines())) as pieces:
            async for part in pieces:
                yield part
        return
    stream = find_stream(channel, triton_name)
    answer = stream.send(request, deadlines or Deadlines())
    has_started = False
    try:
        while (piece := await answer.get()) is not None:
            has_started = has_started or piece.status is not None
            yield piece
    finally:
        stream.leave(answer)
    if not has_started:
        raise Transient("engine_dead", f"The stream of {triton_name} ended without an answer.")


async def ask_api(channel: Any, triton_name: str, request: ApiRequest) -> tuple[int, bytes]:
    """Return the status and the body of the whole answer to a request (see `stream_api`)."""
    silence_s = 2 * request.deadline_s  # the deadline of the request expires first, with an answer
    limits = Deadlines(silence_s, silence_s)
    pieces = [piece async for piece in stream_api(channel, triton_name, request, deadlines=limits)]
    status = next((piece.status for piece in pieces if piece.status is not None), 0)
    return status, b"".join(piece.body for piece in pieces)


async def close_streams(channel: Any) -> None:
    """End all streams of a channel, also replaced ones."""
    await asyncio.gather(*(stream.close() for stream in _streams.pop(channel, _ChannelStreams()).running))


class EngineStream:
    """One gRPC stream to a target, with its concurrent requests."""

    def __init__(self, channel: Any, triton_name: str, on_end: Callable[["EngineStream"], None]) -> None:
        """Start the call, which connects in the background; `on_end` is called after its end."""
        from tritonclient.grpc import service_pb2_grpc

        self.is_open = True
        self._has_debts = False
        self._name = triton_name
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._idle: asyncio.TimerHandle | None = None
        self._ending: asyncio.TimerHandle | None = None
        self._on_end = on_end
        self._call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._waiting: dict[str, Answer] = {}
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        # Cancelling a read or a write cancels the call: only these two tasks do either, and no caller cancels them.
        self._tasks = (asyncio.create_task(self._write()), asyncio.create_task(self._read()))

    def is_old(self) -> bool:
        """Return whether another stream should take the next request."""
        return self._loop.time() - self._began_s > AGE_S

    def send(self, request: ApiRequest, limits: Deadlines) -> Answer:
        """Send a request under a unique Triton id, and return its answer.

        Raises:
            Permanent: `bad_request`: the request cannot be encoded.
        """
        triton_id = f"{self._prefix}-{next(self._numbers)}"
        message = build_message(self._name, request, triton_id, self._prefix)
        answer = self._waiting[triton_id] = Answer(self._name, triton_id, limits, self.retire)
        self._outgoing.put_nowait(message)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        return answer

    def leave(self, answer: Answer) -> None:
        """Abort a request unless it has ended."""
        answer.end()
        if self._waiting.pop(answer.request_id, None) is not None and not self._call.done():
            self._outgoing.put_nowait(build_abort(self._name, answer.request_id))
            self._end_if_left()

    def drain(self) -> None:
        """Take no further requests, and end after the present ones."""
        self.is_open = False
        self._end_if_left()

    def retire(self) -> None:
        """Take no further requests after an unanswered one; Triton never ends requests of a dead process."""
        self.is_open = False
        self._has_debts = True
        self._end_if_left()

    async def close(self) -> None:
        """Fail the unanswered requests and end the call."""
        self.is_open = False
        self._has_debts = self._has_debts or bool(self._waiting)
        self._fail(None)
        self._end_if_left()
        await asyncio.wait(self._tasks, timeout=CLOSE_S)
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end_if_left(self) -> None:
        """End a stream without requests: when idle, at once if closed, by cancelling if answers are missing."""
        if self._waiting:
            return
        if self.is_open:
            self._idle = self._idle or self._loop.call_later(IDLE_S, self.drain)
        elif self._has_debts:
            self._call.cancel()
        elif self._ending is None:
            self._outgoing.put_nowait(None)
            self._ending = self._loop.call_later(DRAIN_S, self._call.cancel)

    async def _write(self) -> None:
        """Send the queued requests in order; the reader reports the end of the call."""
        import grpc

        try:
            while (request := await self._outgoing.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the call has ended
        except Exception:  # noqa: BLE001 - whatever it is, the requests that wait must not wait for silence
            structlog.get_logger().exception("a request could not be written; its stream ends", target=self._name)
            self._call.cancel()

    async def _read(self) -> None:
        """Assign each part to its request, until the call ends."""
        import grpc

        error: SlipwayError | None = None
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._deliver(response)
        except grpc.RpcError as failure:
            error = classify_rpc_error(failure, self._name)
        except (ValueError, RecursionError) as failure:
            self._call.cancel()
            message = f"The answers of {self._name} cannot be read: {failure}"
            error = Transient("engine_failed", message, target=self._name)
        finally:
            self.is_open = False
            self._fail(error)
            self._tasks[0].cancel()
            for timer in (self._idle, self._ending):
                if timer is not None:
                    timer.cancel()
            self._on_end(self)

    def _deliver(self, response: Any) -> None:
        """Put the parts in a response to their answers.

        Raises:
            ValueError: it is not valid.
        """
        if response.error_message:
            error = classify_engine_error(response.error_message, self._name)
            self._end(response.infer_response.id, error)
            if error.code == "endpoint_unreachable":
                self.drain()  # it is unloaded there, or ends
            return
        for part in read_pieces(response.infer_response):
            answer = self._waiting.get(part.request_id)
            if answer is None:
                continue  # it was left
            answer.put(part)
            if answer.ended:
                self._end(part.request_id)
            elif answer.count_waiting() > WAITING_PIECES:
                message = f"{WAITING_PIECES} pieces of an answer of {self._name} wait to be read."
                answer.end(Transient("internal_error", message))
                self.leave(answer)

    def _end(self, request_id: str, error: SlipwayError | None = None) -> None:
        answer = self._waiting.pop(request_id, None)
        if answer is not None:
            answer.end(error)
            self._end_if_left()

    def _fail(self, error: SlipwayError | None) -> None:
        """Fail every unanswered request, after the end of the call."""
        message = f"The stream to the endpoint of {self._name} ended before the answer."
        for answer in self._waiting.values():
            answer.end(error or Transient("endpoint_unreachable", message, target=self._name))
        self._waiting.clear()
