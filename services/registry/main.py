"""Entry point and composition root of the registry."""

from collections.abc import Callable
from functools import partial
from pathlib import PurePosixPath
from typing import TypeVar

from contracts.attachments import Attachment
from contracts.facts.ops import RECORDS
from contracts.policy import ReleasePolicy
from contracts.provenance.audit import AuditTail
from contracts.records import OutboxRecord
from contracts.routes import Route
from contracts.teams import Team
from services.registry.adapters.audit import LoggedMessages, StoreAlerts, StoredSegments, segment_retention
from services.registry.adapters.inbox import StreamInbox, count_dead_letters
from services.registry.adapters.store import StoredArtifacts
from services.registry.adapters.upload_requests import UploadRequests
from services.registry.adapters.uploads import StagedUploads
from services.registry.app import SERVICE, build
from services.registry.audit import AuditWriter
from services.registry.domain.admission import AllowedLocations
from services.registry.domain.announcements import Announcements
from services.registry.domain.record import Release
from services.registry.domain.versions import ModelRecord
from services.registry.metrics import RegistryMetrics
from services.registry.ports import Artifacts, Ports
from services.registry.settings import RegistrySettings
from services.registry.uploads import ABORT_EVERY_S, Intake
from shared.messaging.bus import Bus
from shared.messaging.bus_clock import BusClock
from shared.messaging.records import Note, RecordStore
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import SystemClock
from shared.runtime.service import connect_with_retries, run_service, serve
from shared.runtime.settings import Connection
from shared.runtime.sweeper import Sweeper
from shared.runtime.team_list import TeamList
from shared.storage.blobs import Store
from shared.storage.kv import Bucket

R = TypeVar("R", bound=OutboxRecord)


def connect_ports(
    bus: Bus,
    artifacts: Artifacts,
    teams: Callable[[], tuple[Team, ...]] = tuple,
    note: Note[Release] | None = None,
) -> Ports:
    """Return the registry's ports on a connected bus; `note` is called with each release record."""

    def store(record: type[R], note: Note[R] | None = None) -> RecordStore[R]:
        bucket = Bucket(bus.js, "releases", record, service=SERVICE)
        return RecordStore("releases", bucket, bus, service=SERVICE, note=note)

    return Ports(
        releases=store(Release, note),
        models=store(ModelRecord),
        announcements=store(Announcements),
        inbox=StreamInbox(bus.js),
        policies=Bucket(bus.js, "policies", ReleasePolicy),
        attachments=Bucket(bus.js, "attachments", Attachment),
        ordered={kind: Bucket(bus.js, *where, service=SERVICE) for kind, where in RECORDS.items()},
        routes=Bucket(bus.js, "routes", Route),
        artifacts=artifacts,
        teams=teams,
    )


async def run(connection: Connection, settings: RegistrySettings) -> None:
    """Connect, subscribe and serve until SIGTERM."""
    clock, sources = BusClock(SystemClock(), lambda: bus.js, "releases"), settings.sources
    teams = TeamList(connection.teams, clock).require()
    attester = Attester.from_settings(connection, SERVICE, clock)
    bus = Bus(connection, SERVICE, clock)
    await connect_with_retries(bus)
    await clock.try_comparing()  # before the first order: by a clock that is ahead, it has expired
    trust = Trust.from_settings(connection)
    store = Store(connection)
    artifacts = StoredArtifacts(store, attester, trust, sources.file_roots)
    roots = tuple(PurePosixPath(root) for root in sources.file_roots)
    locations = AllowedLocations(bucket=connection.s3_bucket, file_roots=roots, hub=sources.hf_endpoint is not None)
    metrics = RegistryMetrics(bus.metrics)
    ports = connect_ports(bus, artifacts, teams.read, metrics.note)
    registry = build(bus, ports=ports, locations=locations, settings=settings, clock=clock)
    tail = Bucket(bus.js, "audit", AuditTail, service=SERVICE)
    segments = StoredSegments(store, attester, trust, partial(segment_retention, store, settings, clock))
    audit = AuditWriter(LoggedMessages(lambda: bus.js), tail, segments, StoreAlerts(bus, artifacts), clock)
    auditor = Sweeper("audit", audit.keys, audit.sweep, every_s=settings.audit_s)

    staged = StagedUploads(connection, settings.upload_endpoint, settings.upload_url_s, clock)
    intake = Intake(staged, artifacts.sizes, teams.read)
    uploads = UploadRequests(bus.client, intake)
    aborter = Sweeper("uploads", intake.keys, intake.sweep, every_s=ABORT_EVERY_S)
    sweepers = (*registry.sweepers, auditor, aborter)

    async def count() -> None:
        await metrics.keep_counting(lambda: count_dead_letters(bus.js))

    try:
        await serve(
            bus,
            connection,
            ready={"store": artifacts.check},
            background=[*(sweeper.run for sweeper in sweepers), uploads.run, count, clock.keep_comparing],
        )
    finally:
        await registry.admissions.stop()


def main() -> None:
    """Read the settings from the environment and run the registry."""
    run_service(SERVICE, RegistrySettings, run)


if __name__ == "__main__":
    main()
