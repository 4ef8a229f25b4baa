"""Starts the mirror: `python -m services.mirror.main`."""

import asyncio
from functools import partial

from services.mirror.adapters.bus import BusChanges
from services.mirror.adapters.mlflow import MlflowRegistry
from services.mirror.adapters.store import StoredVersions
from services.mirror.app import SERVICE, build, build_sweeper
from services.mirror.ports import Registry
from services.mirror.settings import MirrorSettings
from shared.messaging.bus import Bus
from shared.messaging.credentials import require_identity
from shared.provenance.envelopes import Trust
from shared.runtime.clock import SystemClock
from shared.runtime.service import serve
from shared.runtime.settings import Connection
from shared.runtime.telemetry import configure_logging
from shared.storage.blobs import Store
from shared.storage.credentials import require_store
from shared.storage.mlflow import MlflowAccess, MlflowApi


async def run(connection: Connection, settings: MirrorSettings) -> None:
    """Build the service and serve until SIGTERM."""
    clock, store = SystemClock(), Store(connection)
    bus = Bus(connection, SERVICE, clock)
    registries: list[Registry] = []
    apis: list[MlflowApi] = []
    if settings.mlflow_url is not None:
        access = MlflowAccess(settings.mlflow_url, settings.mlflow_token_file, settings.mlflow_ca, settings.call_s)
        apis.append(MlflowApi(access))
        registries.append(MlflowRegistry(apis[-1], prefix=settings.mlflow_prefix))
    mirror = build(
        bus,
        registries=registries,
        versions=StoredVersions(store, Trust.from_settings(connection)),
        changes=BusChanges(bus),
        settings=settings,
        clock=clock,
    )
    sweeper = build_sweeper(mirror, settings)
    try:
        ready = {"store": partial(asyncio.to_thread, store.reachable)}  # no registry: one that is down is no reason
        await serve(bus, connection, ready=ready, background=[sweeper.run])
    finally:
        for api in apis:
            await api.close()


def main() -> None:
    """Read the settings from the environment and run the mirror."""
    connection = require_store(require_identity(Connection(), SERVICE), SERVICE)
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, MirrorSettings().require_registry()))


if __name__ == "__main__":
    main()
