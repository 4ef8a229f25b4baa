"""One gRPC stream per target carries its requests of the OpenAI API: a call for each costs much of its time.

A gRPC stream cannot cancel a single request, so that is a message to the backend (see `engine_tensors`). The stream is
not cancelled while requests are answered on it: Triton may crash when a call is cancelled that is about to end. As long
as a stream is open, Triton keeps the models that were asked on it, even if they are unloaded or it is told to end: so a
target has its own, which is closed when it is idle, and replaced now and then.
"""

import asyncio
import contextlib
import itertools
import json
import secrets
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

from shared.errors import SlipwayError, Transient
from shared.serving.inference import (
    Deadlines,
    begins_at_once,
    classify_engine_error,
    classify_rpc_error,
    silence_error,
)
from shared.serving.tensors import build_request

WAITING_PIECES: Final = 4096
"""Responses to one request that may wait to be read; a request that has more is aborted."""
CLOSE_S: Final = 1.0
"""Time for a stream without requests to end, in seconds, before it is cancelled."""

IDLE_S: Final = 0.5
"""Time without requests after which a stream ends, in seconds."""
AGE_S: Final = 5.0
"""Time after which another stream takes the new requests, in seconds."""

_streams: weakref.WeakKeyDictionary[Any, dict[str, "EngineStream"]] = weakref.WeakKeyDictionary()


def find_stream(channel: Any, triton_name: str) -> "EngineStream":
    """Return the stream of a channel that takes requests for a target; open one if there is none."""
    streams = _streams.setdefault(channel, {})
    stream = streams.get(triton_name)
    if stream is not None and stream.is_open and stream.is_old():
        stream.drain()
    if stream is None or not stream.is_open:
        stream = streams[triton_name] = EngineStream(channel, triton_name)
    return stream


async def stream_shared(
    channel: Any, request: Any, limits: Deadlines, begins: Callable[[Any], bool] = begins_at_once
) -> AsyncGenerator[Any, None]:
    """Stream the responses (ModelInferResponse) to a request of the OpenAI API, among others on one gRPC stream.

    Arguments as of `inference.stream_responses`.

    Raises:
        SlipwayError: as `inference.stream_responses`, in whose place this can be used.
    """
    stream = find_stream(channel, request.model_name)
    responses = stream.send(request)
    has_started = False
    try:
        while response := await responses.get(limits.inter_token_s if has_started else limits.first_token_s):
            has_started = has_started or begins(response)
            yield response
    except TimeoutError:
        stream.retire()
        raise silence_error(request.model_name, limits, has_started=has_started) from None
    finally:
        stream.leave(responses)


async def close_streams(channel: Any) -> None:
    """End the streams of a channel."""
    await asyncio.gather(*(stream.close() for stream in _streams.pop(channel, {}).values()))


class Responses:
    """The responses to one request, in order. The reader of the stream puts them in and never waits."""

    def __init__(self, request_id: str) -> None:
        """Begin without responses."""
        self.request_id = request_id
        self.ended = False
        self._error: SlipwayError | None = None
        self._pieces: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, response: Any) -> bool:
        """Append a response (ModelInferResponse); return False if too many wait to be read."""
        self._pieces.append(response)
        self._wake()
        return len(self._pieces) <= WAITING_PIECES

    def end(self, error: SlipwayError | None = None) -> None:
        """Mark the end, or the failure, after the responses before it."""
        if not self.ended:
            self.ended, self._error = True, error
            self._wake()

    async def get(self, silence_s: float) -> Any:
        """Return the next response; None after the last.

        Raises:
            TimeoutError: none came in that time.
            SlipwayError: the request failed.
        """
        if not self._pieces and not self.ended:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(silence_s):
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


class EngineStream:
    """The requests that a target answers at the same time, each with its responses."""

    def __init__(self, channel: Any, triton_name: str) -> None:
        """Start the call; it connects in the background."""
        from tritonclient.grpc import service_pb2_grpc

        self.is_open = True
        self._has_debts = False
        self._name = triton_name
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._idle: asyncio.TimerHandle | None = None
        self._call = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer()
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._waiting: dict[str, Responses] = {}
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        # Cancelling a read or a write cancels the call: only these two tasks do either, and no caller cancels them.
        self._tasks = (asyncio.create_task(self._write()), asyncio.create_task(self._read()))

    def is_old(self) -> bool:
        """Return whether another stream should take the next request."""
        return self._loop.time() - self._began_s > AGE_S

    def send(self, request: Any) -> Responses:
        """Send a request (ModelInferRequest) under an id that no other has, and return its responses."""
        request.id = f"{self._prefix}-{next(self._numbers)}"
        responses = self._waiting[request.id] = Responses(request.id)
        self._outgoing.put_nowait(request)
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        return responses

    def leave(self, responses: Responses) -> None:
        """Abort a request unless it has ended."""
        if self._waiting.pop(responses.request_id, None) is not None and not self._call.done():
            order = build_request(self._name, {"http_request": json.dumps({"abort": responses.request_id})}, ())
            order.id = f"{responses.request_id}-abort"
            self._outgoing.put_nowait(order)
            self._end_if_left()

    def drain(self) -> None:
        """Take no further requests, and end after those that are here."""
        self.is_open = False
        self._end_if_left()

    def retire(self) -> None:
        """Take no further requests: one of them had no answer, and Triton keeps what a dead process owes for ever."""
        self.is_open = False
        self._has_debts = True
        self._end_if_left()

    async def close(self) -> None:
        """Fail what is not answered and end the call."""
        self.is_open = False
        self._has_debts = self._has_debts or bool(self._waiting)
        self._fail(None)
        self._end_if_left()
        await asyncio.wait(self._tasks, timeout=CLOSE_S)
        self._call.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _end_if_left(self) -> None:
        """End a stream without requests, now or when it was idle: from this side, unless the server owes answers."""
        if self._waiting:
            return
        if self.is_open:
            self._idle = self._idle or self._loop.call_later(IDLE_S, self.drain)
        elif self._has_debts:
            self._call.cancel()
        else:
            self._outgoing.put_nowait(None)

    async def _write(self) -> None:
        """Send what waits to be sent, in order; the reader reports a call that has ended."""
        import grpc

        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while (request := await self._outgoing.get()) is not None:
                await self._call.write(request)
            await self._call.done_writing()

    async def _read(self) -> None:
        """Assign each response to its request, until the call ends."""
        import grpc

        error: Any = None
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                self._deliver(response)
        except grpc.RpcError as failure:
            error = failure
        finally:
            self.is_open = False
            self._fail(error)
            self._tasks[0].cancel()
            if self._idle is not None:
                self._idle.cancel()

    def _deliver(self, response: Any) -> None:
        answer = response.infer_response
        responses = self._waiting.get(answer.id)
        if responses is None:
            return  # it was left, or is the answer to an abort
        if response.error_message:
            self._end(responses, classify_engine_error(response.error_message, self._name))
            return
        if answer.outputs and not responses.put(answer):
            message = f"{WAITING_PIECES} pieces of an answer of {self._name} wait to be read."
            responses.end(Transient("internal_error", message))
            self.leave(responses)
        elif answer.parameters["triton_final_response"].bool_param:
            self._end(responses, None)

    def _end(self, responses: Responses, error: SlipwayError | None) -> None:
        self._waiting.pop(responses.request_id)
        responses.end(error)
        self._end_if_left()

    def _fail(self, error: Any) -> None:
        """Fail every request that is not answered: the call has ended."""
        message = f"The stream to the endpoint of {self._name} ended before the answer."
        for responses in self._waiting.values():
            failure = Transient("endpoint_unreachable", message, target=self._name)
            responses.end(failure if error is None else classify_rpc_error(error, self._name))
        self._waiting.clear()
