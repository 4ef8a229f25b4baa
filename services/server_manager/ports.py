"""Ports of server-manager."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from contracts.attachments import Attachment
from contracts.envelope import Event
from contracts.facts import WorkProgressed
from contracts.routes import Route
from contracts.runtimes import FleetRuntimes
from contracts.vocabulary import Deployable, Digest, Runtime, ServingSettings
from decisions.releases.provenance import Problem
from decisions.routes.edits import Edit
from services.server_manager.domain.description import Description
from shared.errors import Transient

Permit = Callable[[], Awaitable[None]]
"""Raises LeaseLost unless this process may send the request now."""


async def allow() -> None:
    """Return: the request may be sent."""


@dataclass(frozen=True)
class Indexed:
    """A model as the engine's index lists it; not settled while the engine loads or unloads it.

    `runtime` is what ran the engine when it loaded the model; None if that is not known. `measured_bytes` is the most
    memory that its processes have taken, 0 if it was not measured.
    """

    ready: bool
    digest: Digest | None
    memory_bytes: int
    settled: bool = True
    runtime: Runtime | None = None
    measured_bytes: int = 0


Parts = Literal["all", "texts", "adapter"]
"""All files of a target, those that describe it, or these and its LoRA, in a folder `ADAPTER`."""
ADAPTER: Final = "adapter"


class Engine(Protocol):
    """A serving engine that holds one model per target."""

    @property
    def endpoint(self) -> str:
        """Where gateways reach it."""

    @property
    def parts(self) -> Parts:
        """The parts of a version's files that the engine loads from."""

    @property
    def runtime(self) -> Runtime | None:
        """The runtime of the engine; None if unknown."""

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return where gateways reach a target that it holds."""

    def context_tokens(self, name: str) -> int | None:
        """Return a target's longest context in tokens, if the engine's differs from its files and settings."""

    async def index(self) -> Mapping[str, Indexed] | None:
        """Return the loaded models, None while one is loaded or unloaded; raise Transient `endpoint_unreachable`."""

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
        """Load a model with its serving settings, wait until the engine says it is ready; raise `load_failed`.

        `permit` is awaited when the request's turn has come; what it raises is raised, and nothing is requested.
        """

    async def unload(self, name: str, *, wait: bool = True, permit: Permit = allow) -> None:
        """Unload a model, loaded or not; return once it is gone, or after a timeout, shorter without `wait`.

        `permit` is awaited when the request's turn has come; what it raises is raised, and nothing is requested.
        """

    async def probe(self, name: str, deadline_s: float) -> str:
        """Return the first text that the model generates; raise when there is none."""


Groups = Mapping[str, tuple[str, ...]]
"""The addresses of the replicas of each group of attached servers, by its name."""


class AttachedGroups(Engine, Protocol):
    """The attached servers of a model: a load checks that they serve a target, and an unload only forgets that."""

    groups: Groups
    adapters: Path | None
    """The folder from which LoRAs are loaded into them, and unloaded again; None where versions are deployed there."""
    in_routes: Groups
    """The addresses of each target that routes name, the active one first: of its replicas one may be away."""

    def listed(self, url: str) -> frozenset[str] | None:
        """Return the names that a replica listed when it was last asked; None if it did not answer."""

    def may_have(self, name: str) -> bool:
        """Return whether a target may be loaded: all replicas of a group listed it when they were last asked."""


class Attachments(Protocol):
    """The records of attached servers."""

    async def all(self) -> Mapping[str, Attachment | None]:
        """Return the record of each attached model, None where it cannot be read.

        Raises:
            Transient: the bus is silent.
        """


Engines = Mapping[str, Engine]
"""The engines of a fleet by the name of their endpoint; each is asked, loaded and unloaded apart from the others."""


class Artifacts(Protocol):
    """Local copies of artifacts in the store."""

    async def materialise(self, deployable: Deployable, parts: Parts = "all") -> Path:
        """Return a folder with the target's files, or with these parts of them, every digest verified.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, malformed_event.
            Transient: store_unavailable, disk_full.
        """

    async def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic; None if everything that its version requires is attested.

        Raises:
            Transient: store_unavailable.
        """

    async def describe(self, deployable: Deployable) -> Description:
        """Return the description of a materialised target for gateways.

        Raises:
            Permanent: malformed_event.
        """

    async def keep_only(self, digests: Collection[Digest]) -> None:
        """Remove the folders of every other manifest."""


@dataclass(frozen=True)
class RouteListing:
    """The routes by model, and the models whose route is unreadable: their targets stay loaded."""

    routes: Mapping[str, Route]
    unreadable: frozenset[str] = frozenset()


class Routes(Protocol):
    """The desired production state of all models."""

    async def all(self) -> RouteListing:
        """Return every route that can be read, and the models of the others; raise Transient if the bus is silent."""

    async def edit(self, model: str, change: Callable[[Route], Edit]) -> Edit:
        """Apply one of the two functions that edit a route, by compare-and-set."""


class Extent(StrEnum):
    """The current permission of a process on the engine."""

    ALL = "all"
    RECYCLE = "recycle"  # the bus is silent, no other process is known to lead: nothing may be removed or replaced
    NOTHING = "nothing"  # another process leads


class LeaseLost(Exception):  # noqa: N818 - it is an answer, not a failure: another process does the work
    """Another process took the engine over; raised before the engine was asked."""


class AgentSilent(Transient):
    """The agent beside an engine does not answer, or refuses this process; the engine may be healthy."""


class RepositoryCalls(Protocol):
    """Sends an engine the requests about its repository, which need its key."""

    async def ask(self, method: str, request: Any, timeout_s: float) -> Any:
        """Return the engine's answer to a request of its protocol, `RepositoryModelLoad` and others.

        Raises:
            LeaseLost: another process has a higher term.
            AgentSilent: the agent does not answer, or refuses.
            grpc.RpcError: the engine's own.
        """


class RuntimesView(Protocol):
    """Where the runtimes of the fleet are stored for others to read."""

    async def write(self, runtimes: FleetRuntimes) -> None:
        """Store them; raise Transient when the bus does not answer."""


class ReportProgress(Protocol):
    """Publishes the progress of work; live only, never stored."""

    async def __call__(self, cause: Event[Any], progress: WorkProgressed) -> None:
        """Publish the progress of an order."""
