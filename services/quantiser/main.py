"""Entry point of the quantiser: `python -m services.quantiser.main`."""

import asyncio
from functools import partial

from services.quantiser.adapters.engine import WorkerEngine
from services.quantiser.adapters.packaged_text import packaged_split
from services.quantiser.adapters.release_watch import LoggedRelease
from services.quantiser.adapters.store import StoredArtifacts
from services.quantiser.app import SERVICE, build
from services.quantiser.domain import corpus_digest
from services.quantiser.ports import PackagedText
from services.quantiser.settings import QuantiserSettings
from shared.messaging.bus import Bus
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import SystemClock
from shared.runtime.process import memory_bytes
from shared.runtime.service import check_sandbox, run_service, serve
from shared.runtime.settings import Connection
from shared.storage.blobs import STALE_UPLOAD, Store


async def run(connection: Connection, settings: QuantiserSettings) -> None:
    """Connect, build the quantiser and serve until SIGTERM."""
    await check_sandbox(connection)
    clock, work_dir = SystemClock(), connection.work_dir(SERVICE)
    bus, store, text = Bus(connection, SERVICE, clock), Store(connection), packaged_split()
    attester, trust = Attester.from_settings(connection, SERVICE, clock), Trust.from_settings(connection)
    artifacts = StoredArtifacts(store, work_dir, attester, trust)
    artifacts.scratch_dirs.remove_stale()
    engine = WorkerEngine(
        log_path=work_dir / "work.log",
        threads=settings.threads,
        memory_limit_bytes=settings.memory_limit_bytes or memory_bytes(),
        timeout_s=settings.timeout_s,
        device=settings.device,
    )
    build(
        bus,
        artifacts=artifacts,
        engine=engine,
        packaged=PackagedText(calibration=corpus_digest(text.calibration), held_out=corpus_digest(text.held_out)),
        watch_release=partial(LoggedRelease, bus),
        settings=settings,
        clock=clock,
    )

    prepare = (
        store.check_create_only,  # refuses a store that would overwrite commits
        partial(store.abort_stale_uploads, clock.now() - STALE_UPLOAD),
    )
    await serve(bus, connection, ready={"store": partial(asyncio.to_thread, store.reachable)}, prepare=prepare)


def main() -> None:
    """Read the settings from the environment and run the quantiser."""
    run_service(SERVICE, QuantiserSettings, run)


if __name__ == "__main__":
    main()
