"""Runs the quantiser: `python -m services.quantiser.main`."""

import asyncio
from functools import partial

from services.quantiser.adapters.child import ChildProcess
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.adapters.releases import EndOfRelease
from services.quantiser.adapters.store import StoredArtifacts
from services.quantiser.app import SERVICE, Quantiser, build
from services.quantiser.domain import QuantiserDefaults, corpus_digest
from services.quantiser.ports import PackagedText
from services.quantiser.settings import QuantiserSettings
from shared.messaging.bus import Bus
from shared.runtime.clock import SystemClock
from shared.runtime.process import memory_bytes
from shared.runtime.service import serve
from shared.runtime.settings import Connection
from shared.runtime.telemetry import configure_logging
from shared.storage.blobs import STALE_UPLOAD, Store


async def run() -> None:
    """Wire everything up and serve until told to stop."""
    connection, settings, clock = Connection(), QuantiserSettings(), SystemClock()
    configure_logging(SERVICE, connection.log_level)
    work_dir = connection.work_dir(SERVICE)
    bus, store, text = Bus(connection, SERVICE, clock), Store(connection), packaged_split()
    artifacts = StoredArtifacts(store, work_dir)
    artifacts.rooms.sweep()
    quantiser = Quantiser(
        artifacts=artifacts,
        engine=ChildProcess(
            log_path=work_dir / "work.log",
            threads=settings.threads,
            memory_limit_bytes=settings.memory_limit_bytes or memory_bytes(),
            timeout_s=settings.timeout_s,
        ),
        packaged=PackagedText(calibration=corpus_digest(text.calibration), held_out=corpus_digest(text.held_out)),
        clock=clock,
        defaults=QuantiserDefaults(
            dtype=settings.serving_dtype,
            awq_engine=settings.awq_engine,
            smoothing_strength=settings.smoothing_strength,
            min_calibration_tokens=settings.min_calibration_tokens,
            held_out_windows=settings.held_out_windows,
            held_out_tokens=settings.held_out_tokens,
        ),
    )
    await asyncio.to_thread(store.check_create_only)  # a store that overwrites commits must stop us here
    await asyncio.to_thread(store.abort_stale_uploads, clock.now() - STALE_UPLOAD)
    build(bus, quantiser, find_end=partial(EndOfRelease, bus), progress_interval_s=settings.progress_interval_s)

    async def check_store() -> None:
        await asyncio.to_thread(store.reachable)

    await serve(bus, connection, ready={"store": check_store})


if __name__ == "__main__":
    asyncio.run(run())
