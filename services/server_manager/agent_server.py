"""Passes repository calls on to one Triton, for server-manager alone, and none of a superseded term."""

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
"""How long a load or unload waits for another one; then its caller is told, and asks again."""
ANSWER_S: Final = 0.5
"""What is left of a caller's time limit when the engine has not answered: for saying so."""
LOG_EVERY_S: Final = 5.0
"""Least time between two log lines about requests that are not server-manager's: they must not fill a disk."""
UNLIMITED_S: Final = 600.0
"""The time limit of a call that has none; a caller's own is kept, because a large model may load for longer."""
SERVES: Final = b"\x08\x01"
"""A message whose first field is true or 1: the agent serves, the engine is live."""
GRPC_KEY: Final = "triton-grpc-protocol-admin-key"
"""Metadata in which Triton takes the key of its model control."""


class Refused(Exception):  # noqa: N818 - an answer to the caller
    """An answer in place of the engine's."""

    def __init__(self, status: grpc.StatusCode, reason: str, *metadata: tuple[str, str]) -> None:
        super().__init__(reason)
        self.status = status
        self.metadata = metadata


class Agent(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The only holder of an engine's key. Loads and unloads go to the engine one at a time, from all processes.

    A higher term is on disk before anything is done under it. What was sent under the term before ends first: a call
    of the next holder waits for it, so that nothing of an earlier holder reaches the engine later.
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
        """The process with the highest term."""
        return self._term.highest

    def service(self, handler_call_details: Any) -> Any:
        """Return the handler of a method; None for one that is not passed on."""
        return self._handlers.get(handler_call_details.method)

    async def engine_lives(self) -> bool:
        """Return whether the engine says that it is live."""
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
        """Return the request of a call; raise Refused unless server-manager signed it for this call and for no other.

        The instance is checked first: the refusal says which one it is, so that a caller can sign again.
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

        A caller may leave while its term is written: the write goes on, and a higher term that comes meanwhile counts.
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
        """Load or unload when no other load or unload is under way.

        The engine continues with what was sent when the caller leaves. So does the agent: the next one waits.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with self._alone():
            self._refuse_superseded(request)  # a higher term may have come while this one waited
            sent = asyncio.create_task(self._pass_on(request.method, content, left_s - (loop.time() - began)))
            self._sent.add(sent)
            sent.add_done_callback(self._end_act)
        return await asyncio.shield(sent)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Take the turn of a load or unload, which `_end_act` gives back; raise Refused if another one takes long."""
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
            sent.exception()  # retrieved here as well, for a caller that has left

    async def _pass_on(self, method: str, content: bytes, left_s: float) -> bytes:
        answer: bytes = await self._calls[method](content, timeout=max(left_s - ANSWER_S, 0.0), metadata=self._admin)
        return answer


async def _answer_health(_content: bytes, _context: Any) -> bytes:
    return SERVES
