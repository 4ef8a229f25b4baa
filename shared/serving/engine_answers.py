"""The answer to one request on a gRPC stream: its parts in order, its end, and the limits of its silence."""

import asyncio
from collections import deque
from collections.abc import Callable

from shared.errors import SlipwayError
from shared.serving.inference import Deadlines, classify_engine_error, silence_error
from shared.serving.openai_stream import ApiPiece, FramedPiece


class Answer:
    """The parts of the answer to one request. The reader of the stream puts them in and never waits.

    Attributes:
        request_id: the Triton request id.
        ended: nothing more is taken.
    """

    def __init__(self, triton_name: str, request_id: str, limits: Deadlines, on_silence: Callable[[], None]) -> None:
        """Begin without parts; `on_silence` is called when the engine was silent too long."""
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
        """Append a part, or keep one that came too early; `ended` is set after the last one.

        Raises:
            ValueError: the part came before.
        """
        if part.number is not None and part.number != self._taken:
            if part.number < self._taken or part.number in self._early:
                message = f"part {part.number} of the answer to {part.request_id} came twice"
                raise ValueError(message)
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
        """Return the number of parts that wait to be read."""
        return len(self._pieces) + len(self._early)

    def end(self, error: SlipwayError | None = None) -> None:
        """Mark the end, or the failure, after the parts before it."""
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
        """Report a silence that lasts too long; otherwise look again when it could."""
        limit_s = self._limits.inter_token_s if self._has_tokens else self._limits.first_token_s
        rest_s = self._heard_s + limit_s - self._loop.time()
        if rest_s <= 0.0:
            self._on_silence()
            self.end(silence_error(self._name, self._limits, has_started=self._has_tokens))
        else:
            self._watch = self._loop.call_later(rest_s, self._check_silence)


def _count_tokens(piece: ApiPiece) -> int:
    """Return the tokens that a part reports: a stream of `/v1/responses` begins before its first one."""
    tokens = piece.record.get("output_tokens") if isinstance(piece.record, dict) else None
    return tokens if isinstance(tokens, int) else 0
