"""The answers to requests: a response for each of their parts, or frames that all requests of a gRPC stream share.

A message costs the receiver far more than the tokens in it. So the parts of all answers that appear in one turn of the
event loop, which are those of one step of the engine, are sent as one response: see `engine_tensors`. Nothing waits for
others to come. All calls come from the thread of that loop.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import triton_python_backend_utils as pb_utils
from engine_tensors import Ask, HttpAsk, HttpPiece, Piece, render, render_frame, render_http

FRAME_BYTES = 2**20
"""Bytes of bodies after which a frame is sent at once."""


class Reply:
    """The response stream of one request.

    Triton frees the state of a request when the final flag arrives, and crashes if it is asked afterwards whether that
    request was cancelled. So the stream is marked as ended before the final flag is sent, and an ended stream neither
    asks nor sends. All calls come from one thread.
    """

    def __init__(self, request: Any) -> None:
        """Take the response sender of a request."""
        self._sender = request.get_response_sender()
        self._ended = False
        self.request_id: str = request.request_id()

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled; False for a stream that has ended."""
        return not self._ended and self._sender.is_cancelled()

    def send(self, ask: Ask, piece: Piece) -> None:
        """Send a part; the one with a finish reason carries the final flag, as in Triton's vLLM backend."""
        if piece.finish_reason is None and not self._ended:
            self._sender.send(render(ask, piece))
        elif piece.finish_reason is not None:
            self._end(render(ask, piece))

    def send_http(self, piece: HttpPiece) -> None:
        """Send a part of an answer of the OpenAI API; the last one carries the final flag."""
        if piece.last:
            self._end(render_http(piece))
        elif not self._ended:
            self._sender.send(render_http(piece))

    def send_frame(self, response: Any) -> None:
        """Send parts of several answers."""
        if not self._ended:
            self._sender.send(response)

    def finish(self) -> None:
        """Close a stream that ends without a last part (the request was cancelled)."""
        self._end(None)

    def fail(self, code: str, message: str) -> None:
        """Send an error response and close the stream. The message starts with the stable code."""
        error = pb_utils.TritonError(f"{code}: {message}")
        self._end(pb_utils.InferenceResponse(output_tensors=[], error=error))

    def _end(self, response: Any) -> None:
        if self._ended:
            return
        self._ended = True
        last = () if response is None else (response,)
        self._sender.send(*last, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


class Frames:
    """The frames of all gRPC streams that have requests here."""

    def __init__(self) -> None:
        """Begin without requests."""
        self._open: dict[str, _Frame] = {}

    def join(self, ask: Ask | HttpAsk, reply: Reply) -> "Reply | FramedReply":
        """Return what the answer to a request is sent to: its reply, or one whose parts travel in frames."""
        if not isinstance(ask, HttpAsk) or ask.stream is None:
            return reply
        name = ask.stream
        frame = self._open.get(name)
        if frame is None:
            frame = self._open[name] = _Frame(lambda: self._open.pop(name))
        return FramedReply(reply, frame)


class FramedReply:
    """As `Reply`, for a request whose stream has frames."""

    def __init__(self, reply: Reply, frame: "_Frame") -> None:
        """Join the frame, until the last part was sent."""
        self.request_id = reply.request_id
        self.reply = reply
        self._frame = frame
        self._number = 0
        self._ended = False
        frame.answers += 1

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled; False for an answer that has ended."""
        return self.reply.is_cancelled()

    def send_http(self, piece: HttpPiece) -> None:
        """Send a part of an answer with the next frame."""
        row: dict[str, Any] = {"record": dict(piece.record)}
        if piece.status is not None:
            row |= {"status": piece.status, "headers": piece.headers}
        self._add(row, piece.body, last=piece.last)

    def finish(self) -> None:
        """End an answer that has no last part, at once."""
        self._end({"record": {}})

    def fail(self, code: str, message: str) -> None:
        """Send an error, which starts with the stable code, at once."""
        self._end({"error": f"{code}: {message}"})

    def _end(self, row: dict[str, Any]) -> None:
        if not self._ended:
            self._add(row, b"", last=True)
            self._frame.flush()

    def _add(self, row: dict[str, Any], body: bytes, *, last: bool) -> None:
        if self._ended:
            return
        self._ended = last
        self._frame.add(self, {"id": self.request_id, "number": self._number, "last": last, **row}, body)
        self._number += 1

    def drop(self, error: Exception) -> None:
        """Fail an answer that lacks a part now."""
        self._ended = True
        self.reply.fail("engine_failed", f"a frame could not be sent: {type(error).__name__}: {error}")


class _Frame:
    """The parts that one gRPC stream gets with the next response."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.answers = 0  # that have not ended
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._parts: list[tuple[FramedReply, dict[str, Any], bytes]] = []
        self._bytes = 0

    def add(self, reply: FramedReply, row: dict[str, Any], body: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append((reply, row, body))
        self._bytes += len(body)
        if self._bytes > FRAME_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is here through one of its requests, and end those whose last part it has."""
        if not self._parts:
            return
        parts, self._parts, self._bytes = self._parts, [], 0
        ending = [reply for reply, row, _ in parts if row["last"]]
        try:
            parts[0][0].reply.send_frame(render_frame([row for _, row, _ in parts], [body for _, _, body in parts]))
        except Exception as error:  # noqa: BLE001 - the answers that lack a part must not wait for it
            ending = list(dict.fromkeys(reply for reply, _, _ in parts))
            for reply in ending:
                reply.drop(error)
        for reply in ending:
            reply.reply.finish()
        self.answers -= len(ending)
        if ending and not self.answers:
            self._close()
