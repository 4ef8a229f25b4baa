"""Client of the agent beside an engine: signed load, unload and index requests under this process's term."""

import itertools
import re
from collections.abc import Callable
from typing import Any

from services.server_manager.adapters.agent_requests import (
    FROM,
    HEALTH,
    INSTANCE,
    METHODS,
    TERM,
    Signer,
    digest,
)
from services.server_manager.domain.fencing import AgentRequest
from services.server_manager.domain.records import Leader
from services.server_manager.ports import AgentSilent, LeaseLost
from shared.serving.channels import Channels

_IS_TERM = re.compile(r"[0-9]{1,16}")


class AgentClient:
    """Calls to one agent; answers and errors are the engine's, unless the agent refuses."""

    def __init__(
        self,
        endpoint: str,
        signer: Signer,
        leader: Callable[[], Leader],
        note_superseded: Callable[[int], None],
    ) -> None:
        """Set up the calls.

        Args:
            endpoint: `host:port` of the agent's gRPC.
            signer: Signs as server-manager.
            leader: Returns this process and its term.
            note_superseded: Called with a higher term that supersedes this process's.
        """
        self._endpoint = endpoint
        self._signer = signer
        self._leader = leader
        self._note_superseded = note_superseded
        self._instance = ""
        self._sequence = itertools.count(1)
        self._channels = Channels()
        self._answers = True

    async def close(self) -> None:
        """Close the channel."""
        await self._channels.close()

    def is_answering(self) -> bool:
        """Return whether the agent or its engine answered the last request."""
        return self._answers

    async def check_life(self) -> None:
        """Raise AgentSilent unless the agent answers."""
        import grpc

        try:
            await self._channel_call(HEALTH, b"", 5.0, ())
        except grpc.RpcError as error:
            raise self._silent(error) from error

    async def ask(self, method: str, request: Any, timeout_s: float) -> Any:
        """Return the engine's answer to a repository request, such as `RepositoryModelLoad`.

        Raises:
            LeaseLost: another process has a higher term.
            AgentSilent: the agent does not answer, or refuses.
            grpc.RpcError: the engine's error.
        """
        import grpc
        from tritonclient.grpc import service_pb2

        content = request.SerializeToString()
        try:
            try:
                answer = await self._signed_call(METHODS[method], content, timeout_s)
            except grpc.RpcError as error:
                instance = _trailing(error).get(INSTANCE)
                if not isinstance(instance, str) or instance == self._instance:
                    raise
                self._instance = instance  # the agent has restarted
                answer = await self._signed_call(METHODS[method], content, timeout_s)
        except grpc.RpcError as error:
            self._raise_refusal(error)
            self._answers = True
            raise
        self._answers = True
        return getattr(service_pb2, f"{method}Response").FromString(answer)

    async def _signed_call(self, method: str, content: bytes, timeout_s: float) -> bytes:
        leader = self._leader()
        request = AgentRequest(
            method=method,
            instance=self._instance,
            sequence=next(self._sequence),
            holder=leader.holder,
            term=leader.term,
            digest=digest(content),
        )
        return await self._channel_call(method, content, timeout_s, self._signer.sign(request))

    async def _channel_call(self, method: str, content: bytes, timeout_s: float, metadata: Any) -> bytes:
        call = self._channels.get(self._endpoint).unary_unary(method)
        answer: bytes = await call(content, timeout=timeout_s, metadata=metadata)
        return answer

    def _raise_refusal(self, error: Any) -> None:
        """Raise LeaseLost or AgentSilent for an error of the agent; return for an error of the engine."""
        trailing = _trailing(error)
        if FROM in trailing:
            return
        term = trailing.get(TERM)
        higher = int(term) if isinstance(term, str) and _IS_TERM.fullmatch(term) else None
        self._answers = higher is not None or trailing.get(INSTANCE) == self._instance != ""
        if higher is not None:
            self._note_superseded(higher)
            raise LeaseLost(error.details()) from error
        raise self._silent(error) from error

    def _silent(self, error: Any) -> AgentSilent:
        reason = f"The agent at {self._endpoint} does not do it ({error.code().name}): {error.details()}"
        return AgentSilent("endpoint_unreachable", reason)


def _trailing(error: Any) -> dict[str, str | bytes]:
    return dict(error.trailing_metadata() or ())
