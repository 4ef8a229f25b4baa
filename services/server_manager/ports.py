"""Ports of server-manager: engines, attached servers, artifacts, routes, views."""

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
    """Permit every request."""


@dataclass(frozen=True)
class Indexed:
    """A model in an engine's index.

    `settled` is False while the engine loads or unloads it. `runtime` is the engine's at the load, None if unknown.
    `measured_bytes` is the peak memory of its processes, 0 if not measured.
    """

    ready: bool
    digest: Digest | None
    memory_bytes: int
    settled: bool = True
    runtime: Runtime | None = None
    measured_bytes: int = 0


Parts = Literal["all", "texts", "adapter"]
"""All files of a target; its describing files; or these and its LoRA, in a folder `ADAPTER`."""
ADAPTER: Final = "adapter"


class Engine(Protocol):
    """A serving engine with one model per target."""

    @property
    def endpoint(self) -> str:
        """The engine's address for gateways."""

    @property
    def parts(self) -> Parts:
        """The files of a version that the engine needs."""

    @property
    def runtime(self) -> Runtime | None:
        """The runtime of the engine; None if unknown."""

    def addresses(self, name: str) -> tuple[str, ...]:
        """Return a target's addresses for gateways."""

    def context_tokens(self, name: str) -> int | None:
        """Return a target's longest context in tokens, if the engine overrides its files and settings."""

    async def index(self) -> Mapping[str, Indexed] | None:
        """Return the models by name, None while one loads or unloads; raise Transient `endpoint_unreachable`."""

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
        """Load a model with its serving settings, and wait until it is ready; raise `load_failed`.

        `permit` is awaited just before the request; its exception prevents the request.
        """

    async def unload(self, name: str, *, wait: bool = True, permit: Permit = allow) -> None:
        """Unload a model, loaded or not; return once it is gone, or after a timeout, shorter without `wait`.

        `permit`: as for `load`.
        """

    async def probe(self, name: str, deadline_s: float) -> str:
        """Return the first generated text; raise SlipwayError without one."""


Groups = Mapping[str, tuple[str, ...]]
"""Addresses of attached replicas, by the name of their group."""


class AttachedGroups(Engine, Protocol):
    """The attached servers of a model: loading checks that they serve a target, unloading drops that result."""

    groups: Groups
    adapters: Path | None
    """The folder of LoRAs to load into the servers; None if their operators deploy versions."""
    in_routes: Groups
    """Addresses in routes by target, the active first; for these targets one answering replica suffices."""

    def listed(self, url: str) -> frozenset[str] | None:
        """Return the model names that a replica last listed; None if it did not answer."""

    def may_have(self, name: str) -> bool:
        """Return whether a target may be loaded: all replicas of a group last listed it."""


class Attachments(Protocol):
    """The records of attached servers."""

    async def all(self) -> Mapping[str, Attachment | None]:
        """Return the record of each attached model; None if unreadable.

        Raises:
            Transient: the bus is silent.
        """


Engines = Mapping[str, Engine]
"""The engines of a fleet, by endpoint name."""


class Artifacts(Protocol):
    """Local, verified copies of artifacts in the store."""

    async def materialise(self, deployable: Deployable, parts: Parts = "all") -> Path:
        """Return a folder with the requested parts of a target's files, every digest verified.

        Raises:
            Permanent: artifact_not_found, digest_mismatch, malformed_event.
            Transient: store_unavailable, disk_full.
        """

    async def assess_traffic(self, deployable: Deployable) -> Problem | None:
        """Return why a target may not take traffic; None if all required attestations exist.

        Raises:
            Transient: store_unavailable.
        """

    async def describe(self, deployable: Deployable) -> Description:
        """Return the description of a materialised target for gateways.

        Raises:
            Permanent: malformed_event.
        """

    async def keep_only(self, digests: Collection[Digest]) -> None:
        """Remove the folders of all other manifests."""


@dataclass(frozen=True)
class RouteListing:
    """The routes by model, and the models with unreadable routes: their targets stay loaded."""

    routes: Mapping[str, Route]
    unreadable: frozenset[str] = frozenset()


class Routes(Protocol):
    """The desired production state of all models."""

    async def all(self) -> RouteListing:
        """Return all routes, and the models with unreadable ones; raise Transient if the bus is silent."""

    async def edit(self, model: str, change: Callable[[Route], Edit]) -> Edit:
        """Apply a route edit by compare-and-set; return its result."""


class Extent(StrEnum):
    """The permission of a process to act on the engines."""

    ALL = "all"
    RECYCLE = "recycle"  # no bus, no other known leader: unload only to load again
    NOTHING = "nothing"  # another process leads


class LeaseLost(Exception):  # noqa: N818 - no failure: another process does the work
    """Another process took the engine over; raised before the engine received the request."""


class AgentSilent(Transient):
    """An engine's agent does not answer, or refuses this process; the engine may be healthy."""


class RepositoryCalls(Protocol):
    """Sends repository requests to an engine, through the agent with its key."""

    async def ask(self, method: str, request: Any, timeout_s: float) -> Any:
        """Return the engine's answer to a repository request, such as `RepositoryModelLoad`.

        Raises:
            LeaseLost: another process has a higher term.
            AgentSilent: the agent does not answer, or refuses.
            grpc.RpcError: the engine's error.
        """


class RuntimesView(Protocol):
    """The published view of the fleet's runtimes."""

    async def write(self, runtimes: FleetRuntimes) -> None:
        """Store the view; raise Transient if the bus does not answer."""


class ReportProgress(Protocol):
    """Publishes live progress, never stored."""

    async def __call__(self, cause: Event[Any], progress: WorkProgressed) -> None:
        """Publish the progress of the order in `cause`."""
