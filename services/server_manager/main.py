"""Composition root of server-manager: `python -m services.server_manager.main`."""

import asyncio
import uuid
from collections.abc import Callable, Mapping

import structlog

from contracts.attachments import Attachment
from contracts.routes import Route
from contracts.runtimes import DEFAULT_RUNTIME, FleetRuntimes
from services.server_manager.adapters.agent_client import AgentClient
from services.server_manager.adapters.agent_requests import Signer
from services.server_manager.adapters.artifact_cache import ArtifactCache
from services.server_manager.adapters.attached_engine import AttachedEngine
from services.server_manager.adapters.hardware import detect_cpu, detect_hardware
from services.server_manager.adapters.kv_state import KvAttachments, KvLeadership, KvRecords, KvRoutes, KvRuntimes
from services.server_manager.adapters.load_check import LoadCheck
from services.server_manager.adapters.repository_files import LeaseFile, LeaseFiles, RoutesFile
from services.server_manager.adapters.triton_engine import TritonEngine
from services.server_manager.app import SERVICE, build
from services.server_manager.attached_models import AttachedModels
from services.server_manager.domain.records import Leader, Servers
from services.server_manager.domain.references import References
from services.server_manager.domain.servable_variants import Hardware, parse_hardware
from services.server_manager.fleet_state import FleetState
from services.server_manager.known_routes import KnownRoutes
from services.server_manager.manager import Manager
from services.server_manager.metrics import FleetMetrics, show_agents
from services.server_manager.ports import Engine
from services.server_manager.references import KeptReferences
from services.server_manager.settings import ServerManagerSettings, ServingEndpoint
from shared.errors import SlipwayError
from shared.messaging.bus import Bus
from shared.messaging.credentials import read_seed, require_identity
from shared.messaging.records import RecordStore
from shared.provenance.envelopes import Trust
from shared.runtime.clock import SystemClock
from shared.runtime.program_imports import finish_imports
from shared.runtime.service import Check, serve
from shared.runtime.settings import Connection, read_settings
from shared.runtime.telemetry import configure_logging
from shared.serving.channels import Channels
from shared.serving.chat_templates import ChatTemplates
from shared.storage.blobs import Store
from shared.storage.credentials import require_store

METRICS_S = 15.0
"""Seconds between reads of the fleet's record for metrics."""


async def run(connection: Connection, settings: ServerManagerSettings) -> None:
    """Connect, subscribe and serve until stopped."""
    clock = SystemClock()
    bus = Bus(connection, SERVICE, clock)
    store = Store(connection)
    leases = KvRecords(lambda: bus.js, "servers", Leader)
    terms = LeaseFiles([LeaseFile(endpoint.repository) for endpoint in settings.all_endpoints.values()])
    lead = KvLeadership(leases, settings.fleet, uuid.uuid4().hex, clock, terms)
    signer = Signer(read_seed(connection))
    agents = {
        name: AgentClient(endpoint.agent_grpc, signer, lambda: lead.leader, lead.note_superseded)
        for name, endpoint in settings.all_endpoints.items()
    }
    hardware = await find_hardware(settings)
    references = KeptReferences(
        KvRecords(lambda: bus.js, "servers", References),
        settings.fleet,
        str(hardware),
        clock,
        settings.logprob_tolerance_nats,
    )
    engines = {
        name: _engine(endpoint, settings, agents[name], lead.superseded, references)
        for name, endpoint in settings.all_endpoints.items()
    }
    fleet: dict[str, Engine] = {**engines}
    channels, templates = Channels(connection.server_keys), ChatTemplates(clock)
    attached = AttachedModels(
        fleet,
        KvAttachments(KvRecords(lambda: bus.js, "attachments", Attachment)),
        lambda model: AttachedEngine(model, channels, templates, {}, references),
    )
    show_agents(bus.metrics, {name: agent.is_answering for name, agent in agents.items()}, lead.superseded)
    state = _fleet_state(bus, settings)
    routes = KvRecords(lambda: bus.js, "routes", Route, service=SERVICE)
    manager = build(
        bus,
        engines=fleet,
        attached=attached,
        artifacts=ArtifactCache(
            store,
            settings.artifacts or connection.state_dir / "artifacts",
            check=LoadCheck(store, Trust.from_settings(connection), settings.repository),
            max_model_len=settings.max_model_len,
        ),
        state=state,
        routes=KnownRoutes(KvRoutes(routes), RoutesFile(settings.repository)),
        lead=lead,
        view=KvRuntimes(KvRecords(lambda: bus.js, "servers", FleetRuntimes), settings.fleet),
        settings=settings,
        clock=clock,
        hardware=hardware,
    )
    try:
        await serve(
            bus,
            connection,
            ready=_checks(store, engines, agents),
            background=[manager.run, lambda: follow_routes(bus, routes, manager), lambda: read_for_metrics(state)],
        )
    finally:
        await asyncio.gather(
            *(engine.close() for engine in engines.values()),
            *(agent.close() for agent in agents.values()),
            channels.close(),
            templates.close(),
        )


def _checks(store: Store, engines: Mapping[str, TritonEngine], agents: Mapping[str, AgentClient]) -> dict[str, Check]:
    """Return the readiness checks by dependency; each raises while its dependency does not answer."""

    async def store_answers() -> None:
        await asyncio.to_thread(store.reachable)

    return {
        **{part_name(name): engine.check_life for name, engine in engines.items()},
        **{f"agent of {part_name(name)}": agent.check_life for name, agent in agents.items()},
        "store": store_answers,
    }


def _fleet_state(bus: Bus, settings: ServerManagerSettings) -> FleetState:
    records = RecordStore(
        "servers",
        KvRecords(lambda: bus.js, "servers", Servers, service=SERVICE),
        bus,
        service=SERVICE,
        decides_again=True,
        note=FleetMetrics(bus.metrics).note,
    )
    return FleetState(records, settings.fleet)


def _engine(
    endpoint: ServingEndpoint,
    settings: ServerManagerSettings,
    agent: AgentClient,
    superseded: Callable[[], bool],
    references: KeptReferences,
) -> TritonEngine:
    return TritonEngine(
        endpoint.triton_grpc,
        endpoint.repository,
        settings.engine_config(),
        advertised=endpoint.advertised_endpoint,
        agent=agent,
        superseded=superseded,
        runtime_file=endpoint.runtime_file,
        references=references,
    )


def part_name(endpoint: str) -> str:
    """Return the name of an endpoint's Triton in readiness checks: `triton`, `triton-next`."""
    if endpoint == DEFAULT_RUNTIME:
        return "triton"
    return endpoint if endpoint.startswith("triton-") else f"triton-{endpoint}"


async def find_hardware(settings: ServerManagerSettings) -> Hardware:
    """Return the serving hardware: from the settings, or detected on this machine.

    Raises:
        ValueError: the engine needs a GPU, and none is found.
    """
    if settings.hardware:
        return parse_hardware(settings.hardware)
    if settings.device == "cpu" or settings.engine == "toy":
        return detect_cpu()
    hardware = await detect_hardware()
    if hardware.capability is None:
        msg = "no GPU is found here: set SERVER_MANAGER_HARDWARE, such as cuda:8.9 for a GPU of this compute capability"
        raise ValueError(msg)
    return hardware


async def read_for_metrics(state: FleetState, every_s: float = METRICS_S) -> None:
    """Read the fleet's record every `every_s`, to keep metrics current in processes that do not lead."""
    while True:
        try:
            await state.read()
        except SlipwayError as error:
            structlog.get_logger().warning("the fleet's metrics are not current", code=error.code)
        await asyncio.sleep(every_s)


async def follow_routes(bus: Bus, routes: KvRecords[Route], manager: Manager) -> None:
    """Start a pass whenever a route changes."""

    async def wake(_model: str, _route: object, _revision: int) -> None:
        manager.wake()

    await routes.bucket().follow(bus.client, wake)


def main() -> None:
    """Read the settings and run server-manager."""
    finish_imports()
    connection = require_store(require_identity(read_settings(Connection), SERVICE), SERVICE)
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, read_settings(ServerManagerSettings)))


if __name__ == "__main__":
    main()
