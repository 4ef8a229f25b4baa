"""Starts the evaluator: `python -m services.evaluator.main`."""

import asyncio
from functools import partial

from services.evaluator.adapters.lingua_languages import recognise
from services.evaluator.adapters.store import StoredReports
from services.evaluator.adapters.triton import TritonEndpoint
from services.evaluator.app import SERVICE, build
from services.evaluator.evaluate import Asking
from services.evaluator.settings import EvaluatorSettings
from shared.messaging.bus import Bus
from shared.messaging.credentials import require_identity
from shared.provenance.envelopes import Attester, Trust
from shared.runtime.clock import SystemClock
from shared.runtime.program_imports import finish_imports
from shared.runtime.service import serve
from shared.runtime.settings import Connection, read_settings
from shared.runtime.telemetry import configure_logging
from shared.serving.channels import Channels
from shared.storage.blobs import Store
from shared.storage.credentials import require_store


async def run(connection: Connection, settings: EvaluatorSettings) -> None:
    """Build the service and serve until SIGTERM."""
    clock = SystemClock()
    bus, store, channels = Bus(connection, SERVICE, clock), Store(connection), Channels()
    build(
        bus,
        asking=Asking(
            TritonEndpoint(channels),
            recognise,
            together=settings.rows_at_once,
            timeout_s=settings.answer_timeout_s,
        ),
        reports=StoredReports(
            store, Attester.from_settings(connection, SERVICE, clock), Trust.from_settings(connection)
        ),
        settings=settings,
        clock=clock,
    )
    prepare = (store.check_create_only,)  # it does not start on a store that would overwrite commits
    try:
        await serve(bus, connection, ready={"store": partial(asyncio.to_thread, store.reachable)}, prepare=prepare)
    finally:
        await channels.close()


def main() -> None:
    """Read the settings from the environment and run the evaluator."""
    finish_imports()
    connection = require_store(require_identity(read_settings(Connection), SERVICE), SERVICE)
    configure_logging(SERVICE, connection.log_level)
    asyncio.run(run(connection, read_settings(EvaluatorSettings)))


if __name__ == "__main__":
    main()
