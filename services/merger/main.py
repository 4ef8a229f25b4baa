"""Runs the merger: `python -m services.merger.main`."""

import asyncio

from services.merger.adapters.child import ChildProcess
from services.merger.adapters.store import StoredArtifacts
from services.merger.app import SERVICE, Merger, build
from services.merger.domain import ParityLimits
from services.merger.settings import MergerSettings
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.process import memory_bytes
from shared.runtime.service import serve
from shared.runtime.settings import Connection, SourceSettings
from shared.runtime.telemetry import configure_logging
from shared.storage.blobs import STALE_UPLOAD, Store
from shared.storage.sources import Sources


async def run() -> None:
    """Wire everything up and serve until told to stop."""
    connection, settings, clock = Connection(), MergerSettings(), SystemClock()
    configure_logging(SERVICE, connection.log_level)
    work_dir = connection.work_dir(SERVICE)
    bus, store = Bus(connection, SERVICE, clock), Store(connection)
    artifacts = StoredArtifacts(store, work_dir, Sources(SourceSettings()))
    artifacts.rooms.sweep()
    merger = Merger(
        artifacts=artifacts,
        engine=ChildProcess(
            log_path=work_dir / "work.log",
            threads=settings.threads,
            memory_limit_bytes=settings.memory_limit_bytes or memory_bytes(),
            timeout_s=settings.timeout_s,
        ),
        clock=clock,
        dtype=settings.save_dtype,
        limits=ParityLimits(
            max_mean_kl=settings.max_mean_kl,
            min_top1_agreement_ratio=settings.min_top1_agreement_ratio,
            max_lost_ratio=settings.max_lost_ratio,
        ),
    )
    await asyncio.to_thread(store.check_create_only)  # a store that overwrites commits must stop us here
    await asyncio.to_thread(store.abort_stale_uploads, clock.now() - STALE_UPLOAD)
    build(bus, merger, progress_interval_s=settings.progress_interval_s)

    async def check_store() -> None:
        await asyncio.to_thread(store.reachable)

    await serve(bus, connection, ready={"store": check_store})


if __name__ == "__main__":
    asyncio.run(run())
