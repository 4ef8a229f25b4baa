"""Entry point of the merger: `python -m services.merger.main`."""

import asyncio
from functools import partial

from services.merger.adapters.engine import WorkerEngine
from services.merger.adapters.store import StoredArtifacts
from services.merger.app import SERVICE, build
from services.merger.settings import MergerSettings
from shared.messaging.bus import Bus
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import SystemClock
from shared.runtime.process import memory_bytes
from shared.runtime.service import check_sandbox, run_service, serve
from shared.runtime.settings import Connection
from shared.serving.chat_templates import ChatTemplates
from shared.storage.blobs import STALE_UPLOAD, Store
from shared.storage.sources import Sources

TEMPLATE_LIMIT_S = 10.0
"""CPU seconds for one rendering, which normally takes milliseconds."""


async def run(connection: Connection, settings: MergerSettings) -> None:
    """Connect, build the merger and serve until SIGTERM."""
    await check_sandbox(connection)
    clock, work_dir = SystemClock(), connection.work_dir(SERVICE)
    bus, store = Bus(connection, SERVICE, clock), Store(connection)
    attester = Attester.from_settings(connection, SERVICE, clock)
    artifacts = StoredArtifacts(store, work_dir, Sources(settings.sources), attester, Trust.from_settings(connection))
    artifacts.scratch_dirs.remove_stale()
    engine = WorkerEngine(
        store,
        log_path=work_dir / "work.log",
        threads=settings.threads,
        memory_limit_bytes=settings.memory_limit_bytes or memory_bytes(),
        timeout_s=settings.timeout_s,
    )
    templates = ChatTemplates(clock, limit_s=TEMPLATE_LIMIT_S)
    build(bus, artifacts=artifacts, engine=engine, templates=templates, settings=settings, clock=clock)

    prepare = (
        store.check_create_only,  # refuses a store that would overwrite commits
        partial(store.abort_stale_uploads, clock.now() - STALE_UPLOAD),
    )
    try:
        await serve(bus, connection, ready={"store": partial(asyncio.to_thread, store.reachable)}, prepare=prepare)
    finally:
        await templates.close()


def main() -> None:
    """Read the settings from the environment and run the merger."""
    run_service(SERVICE, MergerSettings, run)


if __name__ == "__main__":
    main()
