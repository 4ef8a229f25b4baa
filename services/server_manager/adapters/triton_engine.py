"""Engine adapter for Triton: gRPC model control, and a model repository on a shared disk."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, Field

from contracts.vocabulary import Digest, Runtime, ServingSettings
from services.server_manager.adapters.repository_files import read_runtime
from services.server_manager.domain.model_config import EngineConfig, plan_model_files, plan_target
from services.server_manager.ports import AgentSilent, Indexed, LeaseLost, Parts, Permit, RepositoryCalls, allow
from services.server_manager.references import KeptReferences
from shared.errors import SlipwayError, Transient, translate
from shared.runtime.exits import explain_codes
from shared.serving.channels import Channels
from shared.serving.inference import classify_rpc_error, first_token

SIDECAR = "slipway.json"
MEASURED = "slipway-memory.json"
READY = "READY"
GONE = frozenset({"UNAVAILABLE", ""})
UNLOAD_POLL_S = 0.25
"""Seconds between polls for the end of an unload."""
HEAL_WAIT_S = 5.0
"""Seconds that a reload waits for the unload, which may never end."""


class Sidecar(BaseModel):
    """The file beside a model's configuration: manifest digest, reserved bytes and runtime."""

    digest: Digest | None = None
    memory_bytes: Annotated[int, Field(ge=0)] = 0
    runtime: Runtime | None = None


class Measured(BaseModel):
    """The file with the measured peak memory, written by the backend (`deploy/backends/memory_report.py`)."""

    peak_bytes: Annotated[int, Field(ge=0, le=2**50)]


class TritonEngine:
    """One tritonserver in explicit model control mode (implements `ports.Engine`).

    Loads, unloads and indexes are sent one at a time: after concurrent loads, Triton 2.51 corrupted its memory under
    requests, and hung in its crash handler. Triton answers an unload at once; it counts as ended when the model is
    gone.
    """

    parts: Parts = "all"

    def __init__(
        self,
        endpoint: str,
        repository: Path,
        config: EngineConfig,
        *,
        advertised: str = "",
        agent: RepositoryCalls | None = None,
        load_timeout_s: float = 300.0,
        unload_wait_s: float = 30.0,
        superseded: Callable[[], bool] = lambda: False,
        runtime_file: Path | None = None,
        references: KeptReferences | None = None,
    ) -> None:
        """Set up the engine.

        Args:
            endpoint: `host:port` of Triton's gRPC.
            repository: Triton's model repository.
            config: the configuration of models.
            advertised: the address for gateways, if different.
            agent: Triton's agent; None if Triton's model control needs no key.
            load_timeout_s: time limit of a load.
            unload_wait_s: time limit of an unload.
            superseded: returns whether another process took the engine over.
            runtime_file: file with the engine's runtime.
            references: targets' answers at staging; None disables the comparison.
        """
        self._endpoint = endpoint
        self._advertised = advertised or endpoint
        self._repository = repository
        self._config = config
        self._agent = agent
        self._load_timeout_s = load_timeout_s
        self._unload_wait_s = unload_wait_s
        self._superseded = superseded
        self._runtime_file = runtime_file
        self._references = references if config.scores else None
        self._server_version = ""
        self._channels = Channels()
        self._control = asyncio.Lock()
        self._indexing = asyncio.Lock()
        self._changes = 0
        self._sent: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """The gRPC address for gateways, `host:port`."""
        return self._advertised

    def addresses(self, name: str) -> tuple[str, ...]:  # noqa: ARG002 - the same for all
        """Return the address for gateways, the same for all targets."""
        return (self._advertised,)

    def context_tokens(self, name: str) -> int | None:  # noqa: ARG002 - configured at the load
        """Return None: the context length follows from the files and settings."""
        return None

    @property
    def runtime(self) -> Runtime | None:
        """The runtime of the engine; None if unknown."""
        runtime = read_runtime(self._runtime_file)
        if runtime is None:
            return None
        engine = "toy" if self._config.kind == "toy" else runtime.engine
        return runtime.model_copy(update={"engine": engine, "server_version": self._server_version})

    async def close(self) -> None:
        """Cancel pending requests and close the channel."""
        sent = list(self._sent)
        for task in sent:
            task.cancel()
        await asyncio.gather(*sent, return_exceptions=True)
        await self._channels.close()

    async def index(self) -> Mapping[str, Indexed] | None:
        """Return Triton's models by name.

        None while this process loads or unloads a model, or the agent does not answer; then only Triton's liveness is
        checked. Concurrent calls wait for each other.
        """
        async with self._indexing:
            if self._changes:
                await self.check_life()
                return None
            async with self._control:  # free: no load, unload or index is pending
                try:
                    states = await self._states()
                except AgentSilent as error:
                    structlog.get_logger().warning("the agent does not answer", reason=error.reason)
                    await self.check_life()
                    return None
            if not self._server_version:
                self._server_version = await self._ask_version()
        return await asyncio.to_thread(self._read_index, states)

    async def _ask_version(self) -> str:
        from tritonclient.grpc import service_pb2

        answer = await self._ask("ServerMetadata", service_pb2.ServerMetadataRequest(), "the server", 10.0)
        return str(answer.version)

    async def check_life(self) -> None:
        """Raise Transient `endpoint_unreachable` unless Triton reports to be live."""
        from tritonclient.grpc import service_pb2

        answer = await self._ask("ServerLive", service_pb2.ServerLiveRequest(), "the server", 10.0)
        if not answer.live:
            raise Transient("endpoint_unreachable", f"{self._endpoint} says that it is not live; see Triton's log")

    def _read_index(self, states: Mapping[str, str]) -> dict[str, Indexed]:
        index = {}
        for name, state in states.items():
            note = read_sidecar(self._repository / name)
            settled = state == READY or state in GONE
            measured = read_measured(self._repository / name)
            index[name] = Indexed(state == READY, note.digest, note.memory_bytes, settled, note.runtime, measured)
        return index

    async def load(
        self,
        name: str,
        folder: Path,
        *,
        digest: Digest,
        memory_bytes: int,
        serving: ServingSettings | None = None,
        permit: Permit = allow,
    ) -> None:
        """Write the model's configuration and load it; return when Triton reports READY."""
        files = plan_model_files(name, str(folder), plan_target(self._config, name, digest, serving))
        note = Sidecar(digest=digest, memory_bytes=memory_bytes, runtime=self.runtime)
        files[SIDECAR] = note.model_dump_json()

        async def prepare() -> None:
            await permit()
            self._fence()
            await _to_the_end(asyncio.to_thread(_write_files, self._repository / name, files))
            await permit()

        async def request() -> None:
            try:
                await self._request("RepositoryModelLoad", "RepositoryModelLoadRequest", name, self._load_timeout_s)
            except Transient as error:
                if not _ran_out_of_time(error):
                    raise
                await self._wait_for(name, {READY, *GONE}, self._unload_wait_s)  # Triton continues loading
                reason = f"Triton did not load {name} within {self._load_timeout_s:g} s; see its log"
                raise Transient("load_failed", reason) from error

        await self._change(prepare, request)
        if self._references is not None:
            self._references.forget(self._endpoint, name)

    async def unload(self, name: str, *, wait: bool = True, permit: Permit = allow) -> None:
        """Unload a model and wait until it is gone, at most `unload_wait_s`.

        A model with a killed process and a request in flight stays UNLOADING for ever, but can be loaded again:
        without `wait`, before a reload, the limit is `HEAL_WAIT_S`.
        """
        limit_s = self._unload_wait_s if wait else min(self._unload_wait_s, HEAL_WAIT_S)

        async def request() -> None:
            await self._request("RepositoryModelUnload", "RepositoryModelUnloadRequest", name, 30.0)
            await self._wait_for(name, GONE, limit_s)

        await self._change(permit, request)

    async def _wait_for(self, name: str, awaited: Collection[str], limit_s: float) -> None:
        """Wait until a model's state is in `awaited`, at most `limit_s`; an unlisted model has the state ``""``."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while asyncio.get_running_loop().time() < deadline:
            if (await self._states()).get(name, "") in awaited:
                break
            await asyncio.sleep(UNLOAD_POLL_S)

    async def probe(self, name: str, deadline_s: float) -> str:
        """Return the first generated text; raise `logprobs_differ` if log-probabilities differ from the reference."""
        channel = self._channels.get(self._endpoint)
        token = await first_token(channel, name, deadline_s=deadline_s)
        if self._references is not None:
            note = await asyncio.to_thread(read_sidecar, self._repository / name)
            runtime = note.runtime and note.runtime.model_copy(update={"server_version": ""})  # unknown at some loads
            conditions = f"{note.digest}, {runtime}, {self._references.hardware}"
            await self._references.check(channel, name, self._endpoint, conditions, deadline_s)
        return token

    async def _states(self) -> dict[str, str]:
        from tritonclient.grpc import service_pb2

        answer = await self._ask_repository("RepositoryIndex", service_pb2.RepositoryIndexRequest(), "the index", 10.0)
        return {model.name: model.state for model in answer.models}

    async def _change(self, prepare: Permit, request: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Prepare and send a request once no other load or unload is in progress.

        A cancelled caller returns at once. Triton still completes a sent request, and later ones wait for it; an
        unsent request is dropped.
        """
        self._changes += 1
        try:
            await self._control.acquire()
        except BaseException:
            self._changes -= 1
            raise
        try:
            await prepare()
        except BaseException:
            self._end_change()
            raise
        sent = asyncio.create_task(request())
        self._sent.add(sent)
        sent.add_done_callback(self._end_sent)
        await asyncio.shield(sent)

    def _end_change(self) -> None:
        self._control.release()
        self._changes -= 1

    def _end_sent(self, sent: asyncio.Task[None]) -> None:
        self._sent.discard(sent)
        self._end_change()
        if not sent.cancelled():
            sent.exception()  # retrieved here if the caller has left

    async def _request(self, method: str, request: str, name: str, timeout_s: float) -> None:
        from tritonclient.grpc import service_pb2

        message = getattr(service_pb2, request)(model_name=name)
        self._fence()  # nothing is awaited between this and the request
        try:
            await self._ask_repository(method, message, name, timeout_s)
        except SlipwayError as error:
            if error.code == "endpoint_unreachable":
                raise
            # Triton answers a failed load with INVALID_ARGUMENT.
            raise Transient("load_failed", explain_codes(error.reason.split("\n", 1)[0].strip())) from error

    def _fence(self) -> None:
        """Raise LeaseLost if another process took this engine over."""
        if self._superseded():
            raise LeaseLost("another process took the engine over")

    async def _ask_repository(self, method: str, request: Any, name: str, timeout_s: float) -> Any:
        if self._agent is None:
            return await self._ask(method, request, name, timeout_s)
        return await self._answer_of(self._agent.ask(method, request, timeout_s), name)

    async def _ask(self, method: str, request: Any, name: str, timeout_s: float) -> Any:
        from tritonclient.grpc import service_pb2_grpc

        stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channels.get(self._endpoint))
        return await self._answer_of(getattr(stub, method)(request, timeout=timeout_s), name)

    async def _answer_of(self, call: Awaitable[Any], name: str) -> Any:
        import grpc

        try:
            return await call
        except grpc.RpcError as error:
            known = classify_rpc_error(error, name)
            if known.code == "endpoint_unreachable":
                self._server_version = ""  # may differ after a restart
            raise known from error


def _ran_out_of_time(error: Exception) -> bool:
    """Return whether an error is a request's timeout, after which Triton may still process it."""
    import grpc

    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Wait for uninterruptible work; a cancellation takes effect at its end."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def read_sidecar(folder: Path) -> Sidecar:
    """Return a model's sidecar; empty if the file is missing or damaged."""
    try:
        return Sidecar.model_validate_json((folder / SIDECAR).read_bytes())
    except (OSError, ValueError):
        return Sidecar()


def read_measured(folder: Path) -> int:
    """Return the peak memory in bytes of a model's processes, as written by its backend; 0 if unknown."""
    try:
        return Measured.model_validate_json((folder / MEASURED).read_bytes()).peak_bytes
    except (OSError, ValueError):
        return 0


def _write_files(folder: Path, files: Mapping[str, str]) -> None:
    """Replace a model's folder; Triton reads it only at a load.

    Raises:
        Transient: disk_full.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        known = translate(error)
        if known is None:
            raise
        reason = f"{known.reason.removesuffix('.')}: {folder.parent} is Triton's model repository."
        raise Transient("disk_full", reason) from error
