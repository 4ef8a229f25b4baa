"""Forwards repository calls to one Triton, if server-manager signed them and their term is not superseded."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from services.server_manager.adapters.agent_requests import (
    FROM,
    HEALTH,
    INSTANCE,
    METHODS,
    TERM,
    Managers,
    NotAccepted,
    digest,
)
from services.server_manager.adapters.term_file import TermFile
from services.server_manager.domain.fencing import MOST, AgentRequest, Sequences, assess_term
from services.server_manager.domain.records import Leader
from shared.serving.channels import CHANNEL_OPTIONS

READS: Final = METHODS["RepositoryIndex"]
BUSY_S: Final = 2.0
"""Seconds that a load or unload waits for another one, before it is refused as UNAVAILABLE."""
ANSWER_S: Final = 0.5
"""Seconds of a caller's time limit reserved for reporting the engine's timeout."""
LOG_EVERY_S: Final = 5.0
"""Minimum seconds between log lines about unauthenticated requests, which must not fill the disk."""
UNLIMITED_S: Final = 600.0
"""Seconds for a call without a time limit; a caller's own limit may be longer, for large models."""
SERVES: Final = b"\x08\x01"
"""A protobuf message with field 1 = true: the agent serves, or the engine is live."""
GRPC_KEY: Final = "triton-grpc-protocol-admin-key"
"""Metadata name for Triton's model-control key."""


class Refused(Exception):  # noqa: N818 - an answer to the caller
    """The agent refuses a call; gRPC status, reason and trailing metadata for the caller."""

    def __init__(self, status: grpc.StatusCode, reason: str, *metadata: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.metadata = metadata


class Agent(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The gRPC server beside one engine: sends loads and unloads of all processes one at a time.

    A higher term is on disk before a request under it is sent. Requests of the earlier term end first, so that none
    reaches the engine after a request of the next holder.
    """

    def __init__(self, triton: str, admin_key: str, managers: Managers, term: TermFile) -> None:
        self._admin = ((GRPC_KEY, admin_key),)
        self._managers = managers
        self._term = term
        self._instance = secrets.token_hex(16)
        self._sequences = Sequences()
        self._logged_s = float("-inf")
        self._acting = asyncio.Lock()
        self._sent: set[asyncio.Task[bytes]] = set()
        self._channel = grpc.aio.insecure_channel(triton, options=(*CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)))
        self._calls = {name: self._channel.unary_unary(name) for name in METHODS.values()}
        self._live = self._channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        self._handlers = {name: grpc.unary_unary_rpc_method_handler(self._answering(name)) for name in self._calls}
        self._handlers[HEALTH] = grpc.unary_unary_rpc_method_handler(_answer_health)
        self._log = structlog.get_logger()

    @property
    def highest(self) -> Leader | None:
        """The process with the highest stored term; None before any request."""
        return self._term.highest

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a gRPC method; None for methods that are not forwarded."""
        return self._handlers.get(handler_call_details.method)

    async def engine_lives(self) -> bool:
        """Return whether the engine answers ServerLive within 3 s."""
        try:
            return bool(await self._live(b"", timeout=3.0) == SERVES)
        except grpc.aio.AioRpcError:
            return False

    async def close(self) -> None:
        """Close the channel to the engine."""
        await self._channel.close()

    def _answering(self, method: str) -> Callable[[bytes, Any], Any]:
        async def answer(content: bytes, context: Any) -> bytes:
            remaining_s = context.time_remaining()
            left_s = UNLIMITED_S if remaining_s is None else remaining_s
            try:
                request = self._authenticate(method, content, dict(context.invocation_metadata()))
                await self._admit(request)
                if method == READS:
                    return await self._pass_on(method, content, left_s)
                return await self._act(request, content, left_s)
            except Refused as refusal:
                await context.abort(refusal.status, str(refusal), refusal.metadata)
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "", ((FROM, "triton"),))
            raise AssertionError  # abort raises

        return answer

    def _authenticate(self, method: str, content: bytes, metadata: dict[str, Any]) -> AgentRequest:
        """Return the signed request of a call; raise Refused unless server-manager signed it for exactly this call.

        The instance is checked first: its refusal names the current instance, so that the caller can sign again.
        """
        try:
            request = self._managers.open(metadata)
        except NotAccepted as error:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._logged_s >= LOG_EVERY_S:
                self._logged_s = now_s
                self._log.warning("a request is refused", method=method, reason=str(error))
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, str(error)) from error
        if request.instance != self._instance:
            reason = "signature_invalid: The request is for another run of the agent; sign it for this one."
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, reason, (INSTANCE, self._instance))
        if (request.method, request.digest) != (method, digest(content)) or not 0 <= request.term < MOST:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "signature_invalid: Another call was signed.")
        if not self._sequences.take(request.holder, request.sequence):
            reason = f"signature_invalid: The number {request.sequence} of this process was used before."
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, reason)
        return request

    async def _admit(self, request: AgentRequest) -> None:
        """Store the term of a request if it is higher; raise Refused if it is superseded, or cannot be stored.

        The write continues if the caller disconnects; the term is compared again afterwards.
        """
        if assess_term(self._term.highest, request.leader) == "higher":
            try:
                await asyncio.to_thread(self._term.raise_to, request.leader)
            except OSError as error:
                self._log.exception("a higher term cannot be stored", term=request.term)
                reason = f"disk_full: The term {request.term} cannot be stored: {error}."
                raise Refused(grpc.StatusCode.UNAVAILABLE, reason) from error
            self._log.info("another process took the engine over", term=request.term, holder=request.holder)
        self._refuse_superseded(request)

    def _refuse_superseded(self, request: AgentRequest) -> None:
        """Raise Refused if the term of a request is superseded."""
        highest = self._term.highest
        if highest is None or assess_term(highest, request.leader) != "superseded":
            return
        reason = f"term_superseded: The term {request.term} of {request.holder} is superseded by {highest.term}."
        self._log.warning("a request is refused", method=request.method, code="term_superseded", reason=reason)
        raise Refused(grpc.StatusCode.FAILED_PRECONDITION, reason, (TERM, str(highest.term)))

    async def _act(self, request: AgentRequest, content: bytes, left_s: float) -> bytes:
        """Send a load or unload once no other one is in progress.

        If the caller disconnects, the engine still completes the request, and the next one waits for it.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self._alone():
            self._refuse_superseded(request)  # a higher term may have arrived meanwhile
            sent = asyncio.create_task(self._pass_on(request.method, content, left_s - (loop.time() - began)))
            self._sent.add(sent)
            sent.add_done_callback(self._end_act)
        return await asyncio.shield(sent)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Acquire the lock that `_end_act` releases; raise Refused after waiting `BUSY_S`."""
        try:
            async with asyncio.timeout(BUSY_S):
                await self._acting.acquire()
        except TimeoutError:
            reason = f"Another load or unload has not ended within {BUSY_S:g} s; ask again."
            raise Refused(grpc.StatusCode.UNAVAILABLE, reason, (INSTANCE, self._instance)) from None
        try:
            yield
        except BaseException:
            self._acting.release()
            raise

    def _end_act(self, sent: asyncio.Task[bytes]) -> None:
        self._sent.discard(sent)
        self._acting.release()
        if not sent.cancelled():
            sent.exception()  # retrieved here if the caller has left

    async def _pass_on(self, method: str, content: bytes, left_s: float) -> bytes:
        answer: bytes = await self._calls[method](content, timeout=max(left_s - ANSWER_S, 0.0), metadata=self._admin)
        return answer


async def _answer_health(_content: bytes, _context: Any) -> bytes:
    return SERVES
