"""The answers to requests: as text a response for each part, of the OpenAI API in frames.

A message costs the receiver far more than the tokens in it. So the parts of all answers on a gRPC stream in one turn of
the event loop, or one step of the engine, are one response (`engine_tensors`). Nothing waits for later parts. All calls
come from the thread of that loop.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

import triton_python_backend_utils as pb_utils
from engine_tensors import Ask, HttpAsk, HttpPiece, Piece, render, render_frame

FRAME_BYTES = 2**20
"""Bytes of bodies after which a frame is sent at once."""
CARRIERS = 3
"""Number of requests tried as carriers of a frame before its answers fail."""


class Reply:
    """The response stream of one request.

    Triton frees a request at its final flag, and crashes if asked afterwards whether it was cancelled. So a stream is
    marked as ended before the final flag is sent, and an ended stream neither asks nor sends.
    """

    def __init__(self, request: Any) -> None:
        """Use the response sender of a request."""
        self._sender = request.get_response_sender()
        self._ended = False
        self.request_id: str = request.request_id()

    def is_cancelled(self) -> bool:
        """Return whether the client cancelled; False after the end, or if Triton cannot be asked."""
        try:
            return not self._ended and self._sender.is_cancelled()
        except Exception:  # noqa: BLE001 - the loop that asks for all requests must go on
            return False

    def send(self, ask: Ask, piece: Piece) -> None:
        """Send a part of an answer as text; the one with a finish reason carries the final flag."""
        if piece.finish_reason is None and not self._ended:
            self._sender.send(render(ask, piece))
        elif piece.finish_reason is not None:
            self._end(render(ask, piece))

    @property
    def has_ended(self) -> bool:
        """Whether the final flag was sent."""
        return self._ended

    def send_frame(self, response: Any) -> None:
        """Send a frame; the stream must not have ended."""
        self._sender.send(response)

    def finish(self) -> None:
        """Close the stream of a cancelled request, without a last part."""
        self._end(None)

    def fail(self, code: str, message: str) -> None:
        """Send an error response, which starts with the stable code, and close the stream."""
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
        """Return the reply for an answer: the request's own for text, else one that shares frames."""
        if not isinstance(ask, HttpAsk):
            return reply
        name = ask.stream
        frame = self._open.get(name)
        if frame is None:
            frame = self._open[name] = _Frame(lambda: self._open.pop(name, None))
        return FramedReply(reply, frame)


class FramedReply:
    """The answer to a request of the OpenAI API, sent in frames."""

    def __init__(self, reply: Reply, frame: "_Frame") -> None:
        """Join the frame, until the last part was sent."""
        self.request_id = reply.request_id
        self.reply = reply
        self._frame = frame
        self._number = 0
        self._ended = False
        self._lacks_part = False
        frame.answers += 1

    def is_cancelled(self) -> bool:
        """Return whether to stop generating: the client cancelled, or a part was lost; False after the end."""
        return self._lacks_part or self.reply.is_cancelled()

    def send_http(self, piece: HttpPiece) -> None:
        """Send a part of an answer with the next frame."""
        row: dict[str, Any] = {"record": dict(piece.record)}
        if piece.status is not None:
            row |= {"status": piece.status, "headers": piece.headers}
        self._add(row, piece.body, last=piece.last)

    def finish(self) -> None:
        """End an answer without a last part, at once."""
        self._end({"record": {}})

    def fail(self, code: str, message: str) -> None:
        """Send an error, which starts with the stable code, at once."""
        self._end({"error": f"{code}: {message}"})

    def _end(self, row: dict[str, Any]) -> None:
        if not self._ended:
            self._add(row, b"", last=True)
            self._frame.flush()

    def _add(self, row: dict[str, Any], body: bytes, *, last: bool) -> None:
        """Put a part into the frame; a part that cannot be encoded fails its own answer only."""
        if self._ended:
            return
        head = {"id": self.request_id, "number": self._number}
        try:
            encoded = json.dumps({**head, "last": last, **row})
        except (TypeError, ValueError, RecursionError) as error:
            self._lacks_part = last = True
            message = f"engine_failed: a part could not be encoded: {type(error).__name__}: {error}"
            encoded, body = json.dumps({**head, "last": True, "error": message}), b""
        self._ended = last
        self._number += 1
        self._frame.add(self, encoded, body, last=last)

    def close(self, lost: Exception | None) -> None:
        """End the response stream, with an error if a part was lost."""
        self._ended = True
        try:
            if lost is None:
                self.reply.finish()
            else:
                self._lacks_part = True
                self.reply.fail("engine_failed", f"a frame could not be sent: {type(lost).__name__}: {lost}")
        except Exception as error:  # noqa: BLE001 - the other answers of the frame must end, too
            pb_utils.Logger.log_error(f"the answer to {self.request_id} could not be ended: {error!r}")


class _Frame:
    """The parts in the next response of one gRPC stream."""

    def __init__(self, close: Callable[[], Any]) -> None:
        self.answers = 0  # that have not ended
        self._close = close
        self._loop = asyncio.get_running_loop()
        self._parts: list[tuple[FramedReply, str, bytes]] = []
        self._ending: list[FramedReply] = []
        self._bytes = 0

    def add(self, reply: FramedReply, row: str, body: bytes, *, last: bool) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append((reply, row, body))
        self._bytes += len(body)
        if last:
            self._ending.append(reply)
        if self._bytes > FRAME_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send the waiting parts, and end the requests that are complete."""
        if not self._parts:
            return
        parts, self._parts, self._bytes = self._parts, [], 0
        ending, self._ending = self._ending, []
        replies = list(dict.fromkeys(reply for reply, _, _ in parts))
        lost = self._send(replies, [row for _, row, _ in parts], [body for _, _, body in parts])
        if lost is not None:
            ending = replies
        try:
            for reply in ending:
                reply.close(lost)
        finally:
            self.answers -= len(ending)
            if ending and not self.answers:
                self._close()

    def _send(self, replies: Sequence[FramedReply], rows: Sequence[str], bodies: Sequence[bytes]) -> Exception | None:
        """Send a frame through one of its requests; return the last error if none can."""
        lost: Exception | None = RuntimeError("all of its requests have ended")
        carriers = [reply.reply for reply in replies if not reply.reply.has_ended]
        for carrier in carriers[:CARRIERS]:
            try:
                carrier.send_frame(render_frame(rows, bodies))
            except Exception as error:  # noqa: BLE001 - another may be able to; otherwise the answers fail
                lost = error
            else:
                return None
        return lost
