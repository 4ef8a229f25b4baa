"""Starts the registry: the only place where its parts are put together."""

import asyncio
from pathlib import PurePosixPath

from contracts.policy import ReleasePolicy
from contracts.routes import Route
from services.registry.adapters.inbox import StreamInbox
from services.registry.adapters.store import StoredArtifacts
from services.registry.app import SERVICE, build
from services.registry.domain.admission import Places
from services.registry.domain.announcements import Announcements
from services.registry.domain.record import Release
from services.registry.domain.versions import ModelRecord
from services.registry.ledger import Outside
from services.registry.settings import RegistrySettings
from shared.messaging.bus import Bus
from shared.messaging.event_log import LoggedPublisher
from shared.runtime.clock import SystemClock
from shared.runtime.service import connect_patiently, serve
from shared.runtime.settings import Connection, SourceSettings
from shared.runtime.telemetry import configure_logging
from shared.storage.blobs import Store
from shared.storage.kv import Bucket


async def run(connection: Connection, settings: RegistrySettings, sources: SourceSettings) -> None:
    """Connect, subscribe and serve until told to stop."""
    clock = SystemClock()
    bus = Bus(connection, SERVICE, clock)
    await connect_patiently(bus)
    js = bus.js
    artifacts = StoredArtifacts(Store(connection), sources.file_roots)
    outside = Outside(
        releases=Bucket(js, "releases", Release, service=SERVICE),
        models=Bucket(js, "releases", ModelRecord, service=SERVICE),
        announcements=Bucket(js, "releases", Announcements, service=SERVICE),
        inbox=StreamInbox(js),
        policies=Bucket(js, "policies", ReleasePolicy),
        routes=Bucket(js, "routes", Route),
        artifacts=artifacts,
        publisher=LoggedPublisher(bus),
        clock=clock,
    )
    roots = tuple(PurePosixPath(root) for root in sources.file_roots)
    places = Places(bucket=connection.s3_bucket, file_roots=roots, hub=sources.hf_endpoint is not None)
    registry = build(bus, outside, places, try_s=settings.admission_try_s, wait_s=settings.admission_wait_s)

    async def sweeping() -> None:
        await registry.keep_sweeping(settings.sweep_s)

    await serve(bus, connection, ready={"store": artifacts.check}, background=[sweeping])


def main() -> None:
    """Run the registry."""
    connection = Connection()
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, RegistrySettings(), SourceSettings()))


if __name__ == "__main__":
    main()
